"""Campaigns: long work on a profile, in an order that is written down, some hours at a time.

`records/PROFILE/campaign.yaml` lists tables with their options, and says why each is wanted:

    - page: headroom
      blocks: llm-pruner:50
      budget: wide
      why: without a gain of LoRA over the pruned model there is nothing that ranks could win

A campaign computes what neither the records nor its own ledger hold. What it found is added to the records, also when
it is interrupted or its time is over; weights stay in its ledger, and are made again on another machine where they are
needed.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rankadaptor.errors import BadInput, StageFailed, check_name
from rankadaptor.experiments.block_table import BlockTable
from rankadaptor.experiments.paths import records_folder
from rankadaptor.experiments.plan import stage_kind, stage_seconds
from rankadaptor.experiments.skeleton import Run
from rankadaptor.machine import computing_with
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.records import (
    MODEL_STAGES,
    RESULTS,
    add_records,
    recorded_hours,
    recorded_searches,
    unpack_records,
)
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import load_profile
from rankadaptor.reporting import pages

CAMPAIGN = "campaign.yaml"


class TimeOver(Exception):
    """The next stage would end after the time that a campaign was given."""


@dataclass(frozen=True)
class Item:
    """One table that is wanted."""

    page: str  # of `pages.PAGES`; its work is a table over blocks
    options: Mapping[str, Any]
    why: str

    def __str__(self) -> str:
        return " ".join([self.page, *(f"{name}={value}" for name, value in self.options.items())])


@dataclass(frozen=True)
class State:
    """How far an item is.

    Attributes:
        done: Results that are there.
        left: Results that are missing; models and adapters that they need are not counted.
        seconds: Estimate of what is missing, models included.
    """

    item: Item
    done: int
    left: int
    seconds: float

    def __str__(self) -> str:
        if not self.left:
            return f"{self.item}: done, {self.done} results"
        return f"{self.item}: {self.done} results, {self.left} left, about {self.seconds / 3600:.1f} hours"


@dataclass
class _Clock:
    """Time that is left, and how this machine's speed compares with the profile's costs."""

    seconds: float  # from the start
    started: float = field(default_factory=time.monotonic)
    measured: float = 0.0  # seconds of finished stages
    estimated: float = 0.0  # what the profile's costs say of the same stages

    @property
    def factor(self) -> float:
        """What estimates are multiplied by; 1 before a stage has finished."""
        return self.measured / self.estimated if self.estimated else 1.0

    def require(self, estimate: float) -> None:
        """Raises TimeOver where a stage of so many estimated seconds would not end in time."""
        if time.monotonic() - self.started + estimate * self.factor > self.seconds:
            raise TimeOver


@dataclass
class _TimedRun(Run):
    """A run that begins no stage which would end too late, and says what it finished."""

    clock: _Clock = field(kw_only=True)
    say: Callable[[str], None] = field(kw_only=True)
    table: BlockTable = field(kw_only=True)

    def compute(self, steps: Sequence[Step]) -> None:
        """Compute a batch, a stage at a time."""
        for step in steps:
            missing = [link for link in step.chain() if not self.runner.is_settled(link)]
            for link in missing if not self.runner.is_settled(step) else []:
                self._compute(link)
        super().compute(steps)

    def _compute(self, link: Step) -> None:
        estimate = stage_seconds(stage_kind(link), self.table.cost)
        self.clock.require(estimate)
        started = time.monotonic()
        super().compute([link])
        seconds = time.monotonic() - started
        self.clock.measured += seconds
        self.clock.estimated += estimate
        self.say(f"{time.strftime('%H:%M')}  {link.stage} {self.runner.key(link)[:12]}  {seconds:,.0f} s")


def campaign_items(profile: str) -> list[Item]:
    """What is wanted of a profile, in order.

    Raises:
        BadInput: if there is no campaign, or it names what does not exist.
    """
    path = records_folder(load_profile(profile).name) / CAMPAIGN
    if not path.is_file():
        raise BadInput(f"no campaign {path}: write one, a list of pages with their options and why they are wanted")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, list) or not all(isinstance(entry, dict) and
                                                {"page", "why"} <= entry.keys() for entry in content):
        raise BadInput(f"{path} is no list of entries with `page` and `why`: mend it")
    items = []
    for entry in content:
        options = {name: value for name, value in entry.items() if name not in ("page", "why")}
        check_name("page", entry["page"], pages.PAGES)
        for name in options:
            check_name(f"option of {entry['page']}", name, pages.PAGES[entry["page"]].options)
        items.append(Item(entry["page"], options, str(entry["why"])))
    return items


def work_off(profile: str, hours: float, folder: Path, say: Callable[[str], None]) -> list[State]:
    """Work off a profile's campaign for some hours.

    Args:
        profile: Name of the profile.
        hours: No stage begins that would end later, by its estimate.
        folder: Of the campaign's ledger. It is filled from the records first, so that nothing is computed twice.
        say: Called with each line that is to be shown.

    Returns:
        How far every item is in the end.

    Raises:
        BadInput: as `campaign_items` does, and on an item that is no table over blocks.
    """
    name = load_profile(profile).name
    items, records = campaign_items(profile), records_folder(name)
    if (records / RESULTS).is_file():
        unpack_records(records, folder, with_models=False)
    tables = [_table(item, profile, folder) for item in items]
    clock = _Clock(3600 * hours)
    for table in tables:
        _prune(table)
    for state in _states(items, tables, clock):
        say(str(state))
    try:
        for item, table in zip(items, tables, strict=True):
            if _state(item, table, clock).left:
                say(f"-- {item}: {item.why}")
                _drive(table, clock, say, records)
    except TimeOver:
        say("the time is over: the next call goes on from here")
    states = list(_states(items, tables, clock))
    for state in states:
        say(str(state))
    if (records / RESULTS).is_file():
        say(f"computed so far, in all: {recorded_hours(records):.1f} hours; left, about"
            f" {sum(state.seconds for state in states) / 3600:.1f}")
    return states


def _table(item: Item, profile: str, folder: Path) -> BlockTable:
    given = dict(item.options) | {"profile": profile, "ledger": str(folder)}
    work = pages.work(item.page, given)
    if not isinstance(work, BlockTable):
        raise BadInput(f"{item.page} is no table over blocks: a campaign works off main tables and rivals")
    return work


def _prune(table: BlockTable) -> None:
    """Make the pruned models of a table, whose layers the keys of its recoveries name."""
    runner = Runner(table.inputs, table.ledger)
    for block in table.blocks:
        runner.run(table.prune(block))
    runner.release()


def _states(items: Sequence[Item], tables: Sequence[BlockTable], clock: _Clock) -> Iterator[State]:
    for item, table in zip(items, tables, strict=True):
        yield _state(item, table, clock)


def _state(item: Item, table: BlockTable, clock: _Clock) -> State:
    plan = table.plan()
    needed, missing = (sum(count for kind, count in kinds.items() if kind.stage not in MODEL_STAGES)
                       for kinds in (plan.needed, plan.missing))
    # Of models and adapters the plan counts those of recorded results, too, which nobody makes again.
    estimates = {kind: stage_seconds(kind, table.cost) * (min(count, missing) if kind.stage in MODEL_STAGES else count)
                 for kind, count in plan.missing.items()}
    return State(item, needed - missing, missing, sum(estimates.values()) * clock.factor)


def _drive(table: BlockTable, clock: _Clock, say: Callable[[str], None], records: Path) -> None:
    """Compute what a table lacks, and record it, also where the run ends early."""
    run = _TimedRun(Runner(table.inputs, table.ledger), clock=clock, say=say, table=table)
    try:
        with computing_with(table.inputs.threads):
            for piece in table.pieces(run.runner):
                if isinstance(failure := run.drive(piece), StageFailed):
                    say(str(failure))
    finally:
        run.runner.release()
        _record(table.ledger, [key for _, key in run.computed], records)


def _record(ledger: Ledger, computed: Sequence[str], records: Path) -> None:
    """Add what a run computed to the records, with the rounds of its searches."""
    if keys := [key for key in computed if ledger.find(key) is not None]:
        add_records(ledger, keys, recorded_searches(ledger), records)
