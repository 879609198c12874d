"""What targets cost: the measured costs in `records/costs.yaml`, and durations as people say them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from rankadaptor.errors import BadInput, did_you_mean
from rankadaptor.experiments.paths import costs_file
from rankadaptor.reporting.labels import count_word

_PHRASES = {0.5: "half a minute", 1: "a minute", 1.5: "a minute and a half", 15: "a quarter of an hour",
            30: "half an hour", 60: "an hour", 90: "an hour and a half"}
_FIELDS = {"target", "minutes", "machine", "date"}


@dataclass(frozen=True)
class Cost:
    """What a target took."""

    target: str  # of make, with its options: `reproduce-table2 BUDGET=standard`
    minutes: tuple[float, float]  # the fastest and the slowest run
    machine: str
    date: str  # ISO 8601

    def __str__(self) -> str:
        return duration(*self.minutes)


def measured_costs() -> dict[str, Cost]:
    """Target -> its cost; none where there is no checkout.

    Raises:
        BadInput: on a line that is no cost.
    """
    path = costs_file()
    return _read(path, path.stat().st_mtime_ns) if path.is_file() else {}


@cache
def _read(path: Path, changed: int) -> dict[str, Cost]:
    """The costs of a file, once for each time that it was changed (in nanoseconds)."""
    costs: dict[str, Cost] = {}
    for line in yaml.safe_load(path.read_text(encoding="utf-8")):
        if not isinstance(line, dict) or line.keys() != _FIELDS or line["target"] in costs:
            raise BadInput(f"{path} has the line {line!r}: give each target once, with {', '.join(sorted(_FIELDS))}")
        minutes = line["minutes"] if isinstance(line["minutes"], list) else [line["minutes"]] * 2
        costs[line["target"]] = Cost(line["target"], (minutes[0], minutes[1]), line["machine"], str(line["date"]))
    return costs


def measured_cost(target: str) -> Cost:
    """The cost of a target.

    Raises:
        BadInput: if nobody measured it.
    """
    costs = measured_costs()
    if target not in costs:
        raise BadInput(f"{costs_file()} has no cost of {target!r}: measure it{did_you_mean(target, costs)}")
    return costs[target]


def duration(least: float, most: float | None = None) -> str:
    """Minutes as people say them: `a quarter of an hour`, `7 to 12 minutes`, `two hours`."""
    if most is not None and most != least:
        return f"{least:g} to {most:g} minutes"
    if least in _PHRASES:
        return _PHRASES[least]
    return f"{count_word(int(least / 60))} hours" if least % 60 == 0 else f"{least:g} minutes"
