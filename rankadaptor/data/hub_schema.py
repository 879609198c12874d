"""Rows in the schemas of the hub's data sets: what a row must hold, where the right choice stands, and what is text.

A schema is a function from a row as a file holds it to the row in the hub's form. It raises BadInput that names the
field, the value and the remedy; whoever reads the file adds the place. Benchmarks from outside may use the checks.
"""

import json
from typing import Any

from rankadaptor.errors import BadInput
from rankadaptor.testbed import Row

# Fields that are bookkeeping, not text a model sees.
_NOT_TEXT = {"id", "idx", "ind", "source_id", "split", "split_type", "label", "answer", "answerKey"}
_MOST_SHOWN = 60  # characters of a value in an error


def boolq_row(row: Row) -> Row:
    """BoolQ's row as SuperGLUE has it."""
    if "label" not in row and isinstance(row.get("answer"), bool):
        raise BadInput(f"answer is {shown(row['answer'])} and there is no label, as in google/boolq: give label 0 or 1,"
                       " and a passage that begins with its title, as SuperGLUE's do")
    check_texts(row, "question", "passage")
    if isinstance(row.get("label"), bool):
        return row | {"label": int(row["label"])}
    return with_index(row, "label", 2)


def piqa_row(row: Row) -> Row:
    """PIQA's row."""
    check_texts(row, "goal")
    check_choices(row, "sol1", "sol2")
    return with_index(row, "label", 2)


def hellaswag_row(row: Row) -> Row:
    """HellaSwag's row."""
    check_texts(row, "activity_label", "ctx_a", "ctx_b")
    check_choice_list("endings", field(row, "endings"))
    return with_index(row, "label", len(row["endings"]), as_text=True)


def winogrande_row(row: Row) -> Row:
    """WinoGrande's row, whose sentence has one blank, and words after it: these are what is scored."""
    check_texts(row, "sentence")
    check_choices(row, "option1", "option2")
    parts = row["sentence"].split("_")
    if len(parts) != 2:
        raise BadInput(f"sentence is {shown(row['sentence'])}, which has {len(parts) - 1} blanks: give one _ in place"
                       " of the option")
    if not parts[1].strip():
        raise BadInput(f"sentence is {shown(row['sentence'])}, where nothing follows the blank: give the words that are"
                       " scored")
    return with_index(row, "answer", 2, first=1, as_text=True)


def arc_row(row: Row) -> Row:
    """The row of ARC-easy or ARC-challenge."""
    if isinstance(row.get("question"), dict):
        raise BadInput(f"question is {shown(row['question'])}, the form of AI2's own files: give question as text, and"
                       ' choices as {"text": [...], "label": [...]}')
    check_texts(row, "question")
    return with_answer_key(row)


def openbookqa_row(row: Row) -> Row:
    """OpenBookQA's row."""
    check_texts(row, "question_stem")
    return with_answer_key(row)


def field(row: Row, name: str) -> Any:
    """Value of a field.

    Raises:
        BadInput: if there is none.
    """
    if name not in row:
        raise BadInput(f"there is no field {name} among {shown(list(row))}: give it")
    return row[name]


def check_texts(row: Row, *names: str) -> None:
    """Raises BadInput unless each field is text, which may be empty."""
    for name in names:
        if type(row.get(name)) is not str:
            raise BadInput(f"{name} is {shown(field(row, name))}: give text")


def check_choices(row: Row, *names: str) -> None:
    """Raises BadInput unless each field is the text of a choice, which must not be blank."""
    for name in names:
        if type(choice := row.get(name)) is not str or not choice.strip():
            raise BadInput(f"{name} is {shown(field(row, name))}: give the text of the choice")


def check_choice_list(name: str, choices: Any) -> None:
    """Raises BadInput unless `choices`, the value of a field, is a list of the texts of two or more choices."""
    if not isinstance(choices, list) or len(choices) < 2:
        raise BadInput(f"{name} is {shown(choices)}: give a list of two or more choices")
    for choice in choices:
        if type(choice) is not str or not choice.strip():
            raise BadInput(f"{name} holds {shown(choice)}: give the text of each choice")


def with_index(row: Row, name: str, count: int, first: int = 0, as_text: bool = False) -> Row:
    """The row with the number of its right choice in the hub's type.

    Args:
        name: Of the field; a whole number, or text that is one.
        count: How many choices the row has.
        first: Number of the first choice.
        as_text: Whether the hub stores the number as text.

    Raises:
        BadInput: if the field is missing, or is no number of a choice.
    """
    value = field(row, name)
    number = int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 9 else value
    if type(number) is not int or not first <= number < first + count:
        numbers = " or ".join(str(first + choice) for choice in range(count))
        raise BadInput(f"{name} is {shown(value)}: give {numbers}, the number of the right choice; rows that have none"
                       " cannot be scored")
    stored = str(number) if as_text else number
    return row if value == stored else row | {name: stored}


def with_answer_key(row: Row) -> Row:
    """The row with `answerKey` as one of its choices' labels, as ARC and OpenBookQA have it.

    Raises:
        BadInput: if choices are not two lists of texts and labels, or not one label is the key.
    """
    choices, key = field(row, "choices"), field(row, "answerKey")
    if not isinstance(choices, dict) or not isinstance(labels := choices.get("label"), list):
        raise BadInput(f'choices is {shown(choices)}: give {{"text": [...], "label": [...]}}')
    check_choice_list("choices.text", choices.get("text"))
    if len(labels) != len(choices["text"]) or set(map(type, labels)) != {str} or len(set(labels)) != len(labels):
        raise BadInput(f"choices.label is {shown(labels)}: give a text of its own to each of the"
                       f" {len(choices['text'])} choices")
    if type(key) is not str or key.strip() not in labels:
        raise BadInput(f"answerKey is {shown(key)}: give one of {shown(labels)}; rows without a right choice cannot be"
                       " scored")
    return row if key in labels else row | {"answerKey": key.strip()}


def shown(value: Any) -> str:
    """A value as JSON for the one line of an error, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


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
        return " ".join(row_text(member) for name, member in value.items() if name not in _NOT_TEXT)
    if isinstance(value, list):
        return " ".join(map(row_text, value))
    return str(value)
