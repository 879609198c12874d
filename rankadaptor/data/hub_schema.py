"""Rows in the schemas of the hub's data sets: where the right choice stands, and what of a row is text."""

from typing import Any

from rankadaptor.testbed import Row

# Fields that are bookkeeping, not text a model sees.
_NOT_TEXT = {"id", "idx", "ind", "source_id", "split", "split_type", "label", "answer", "answerKey"}


def gold_from_label(row: Row) -> int:
    """0-based index of the right choice of BoolQ, PIQA and HellaSwag, which store it as `label`."""
    return int(row["label"])


def gold_from_answer(row: Row) -> int:
    """0-based index of the right choice of WinoGrande, which counts options from 1."""
    return int(row["answer"]) - 1


def gold_from_answer_key(row: Row) -> int:
    """0-based index of the right choice of ARC and OpenBookQA, which give each choice a letter or a number."""
    return row["choices"]["label"].index(row["answerKey"].strip())


def row_text(value: Any) -> str:
    """All text of a row, joined by spaces."""
    if isinstance(value, dict):
        return " ".join(row_text(field) for name, field in value.items() if name not in _NOT_TEXT)
    if isinstance(value, list):
        return " ".join(map(row_text, value))
    return str(value)
