"""Results of a ledger beside the records of the same keys, number by number."""

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.keys import canonical_json
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_files import Entry
from rankadaptor.pipeline.records import FILES, RESULTS, read_table

_REPLAYS = "replays.parquet"  # the file of a replay, whose result itself is only its number of rows


@dataclass(frozen=True)
class Comparison:
    """Recomputed results beside the recorded ones.

    Attributes:
        compared: How many results have both.
        equal: How many of these have equal numbers.
        largest: The largest absolute difference of two numbers.
        where: Key and name of the numbers that differ most; empty where nothing differs.
        without_record: How many results have no record.
    """

    compared: int
    equal: int
    largest: float
    where: str
    without_record: int = 0

    def __str__(self) -> str:
        if not self.compared:
            return "no recomputed result has a committed record"
        text = (f"{self.equal} of {self.compared} recomputed results equal the committed records (largest difference"
                f" {self.largest:.3g}{f', {self.where}' if self.where else ''})")
        have = "result has" if self.without_record == 1 else "results have"
        return text + (f"; {self.without_record} {have} no committed record" if self.without_record else "")


def compare_with_records(ledger: Ledger, keys: Iterable[str], folder: Path) -> Comparison:
    """Compare results of a ledger with the records of the same keys, number by number.

    Args:
        keys: Of the results that a run computed; those that the ledger lacks are passed over.
        folder: Of the records.

    Raises:
        BadInput: if the records are missing or damaged.
    """
    recorded = dict(read_table(folder, RESULTS)[["key", "result"]].itertuples(index=False, name=None))
    wanted = dict.fromkeys(keys)
    replays: dict[str, bytes] = {}
    if any((ledger.folder / key / _REPLAYS).is_file() for key in wanted):
        files = read_table(folder, FILES)
        replays = dict(files.loc[files["name"] == _REPLAYS, ["key", "content"]].itertuples(index=False, name=None))
    compared, equal, without_record, largest, where = 0, 0, 0, 0.0, ""
    for key in wanted:
        if (entry := ledger.find(key)) is None:
            continue
        if key not in recorded:
            without_record += 1
            continue
        compared += 1
        differences = _entry_differences(entry, recorded[key], replays.get(key))
        equal += not differences
        for name, difference in differences:
            if difference > largest:
                largest, where = difference, f"{key[:12]} {name}"
    return Comparison(compared, equal, largest, where, without_record)


def _entry_differences(entry: Entry, recorded: str, replays: bytes | None) -> list[tuple[str, float]]:
    """`_differences` of a result to its record, and of the table of a replay to the recorded one.

    Args:
        recorded: The result as canonical JSON.
        replays: The recorded file; None where there is none.
    """
    stored = entry.result
    computed = canonical_json(stored["result"])  # as the record was written: nearly all are equal as text
    differences = [] if computed == recorded else list(
        _differences(json.loads(computed), json.loads(recorded), stored["stage"]))
    path = entry.path(_REPLAYS)
    if replays is None or not path.is_file() or path.read_bytes() == replays:
        return differences
    first, second = (pd.read_parquet(source).to_dict("list") for source in (path, io.BytesIO(replays)))
    return differences + list(_differences(first, second, _REPLAYS))


def _differences(first: Any, second: Any, name: str) -> Iterator[tuple[str, float]]:
    """Names of the numbers that differ, with their absolute difference; infinite where anything else differs.

    Fields that one side lacks are passed over: earlier versions stored fewer.
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for key in first.keys() & second.keys():
            yield from _differences(first[key], second[key], f"{name}.{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            yield from _differences(*pair, f"{name}[{index}]")
    elif first != second and (first == first or second == second):  # two NaN are no difference
        are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (first, second))
        yield name, abs(first - second) if are_numbers else float("inf")
