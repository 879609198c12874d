"""What a table costs before it starts, and how far it is: counts of stages times the profile's measured costs."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.stages import STAGES
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile
from rankadaptor.pruning.spec import Block


class StageKind(NamedTuple):
    """Stages of one kind and size cost alike."""

    stage: str
    size: int | None  # in the unit of the stage


def stage_kind(step: Step) -> StageKind:
    return StageKind(step.stage, STAGES[step.stage].size(step.spec))


def stage_seconds(kind: StageKind, cost: Cost) -> float:
    """Estimate for the machine that the profile's costs were measured on."""
    return STAGES[kind.stage].seconds(kind.size, cost)


class Plan:
    """What will run. `print` it, or read the counters."""

    def __init__(
        self,
        title: str,
        profile: Profile,
        budget_name: str,
        blocks: tuple[Block, ...],
        seeds: tuple[int, ...],
        needed: "Counter[StageKind]",
        missing: "Counter[StageKind]",
        downloads: bool,
    ):
        """
        Args:
            title: What is planned, such as "Table 2".
            needed: Stages that the table takes at most; a search may end early.
            missing: Those of them that the ledger lacks.
            downloads: Whether base model or data are not in the cache yet.
        """
        self.title = title
        self.profile, self.budget_name, self.blocks, self.seeds = profile, budget_name, blocks, seeds
        self.needed, self.missing, self.downloads = needed, missing, downloads

    def missing_seconds(self) -> float:
        return sum(count * stage_seconds(kind, self.profile.cost) for kind, count in self.missing.items())

    def missing_disk_megabytes(self) -> float:
        cost = self.profile.cost
        return sum(count * STAGES[kind.stage].megabytes(cost) for kind, count in self.missing.items())

    def __str__(self) -> str:
        cost = self.profile.cost
        lines = [
            f"{self.title} · profile {self.profile.name} ({self.profile.base_model.label})",
            f"blocks {', '.join(map(str, self.blocks))} · budget {self.budget_name} ·"
            f" training seeds {', '.join(map(str, self.seeds))}",
            "",
            f"{'stage':<28}{'at most':>9}{'in ledger':>11}{'to run':>8}{'each':>9}",
        ]
        for kind, count in sorted(self.needed.items(), key=str):
            seconds = f"{stage_seconds(kind, cost):,.0f} s"
            lacking = self.missing[kind]
            name = STAGES[kind.stage].describe(kind.size)
            lines.append(f"{name:<28}{count:>9}{count - lacking:>11}{lacking:>8}{seconds:>9}")
        if self.downloads:
            lines.append(f"downloads: {cost.download_megabytes:,.0f} MB, once, into the user cache")
        minutes = self.missing_seconds() / 60
        hours = "hours" if cost.accelerator_gigabytes is None else "GPU-hours"
        duration = f"{minutes:,.0f} minutes" if minutes < 120 else f"{minutes / 60:,.0f} {hours}"
        if cost.accelerator_gigabytes is not None:
            lines.append(f"memory: one GPU of {cost.accelerator_gigabytes} GB; several share out the recoveries")
        lines.append(
            f"to run: {sum(self.missing.values())} stages, about {duration} on {cost.machine},"
            f" {self.missing_disk_megabytes():,.0f} MB of disk"
            if self.missing
            else "to run: nothing, every result is in the ledger"
        )
        return "\n".join(lines)


def missing_steps(runner: Runner, steps: Iterable[Step]) -> list[Step]:
    """What the ledger lacks of some steps and what they are computed from, parents first, each once."""
    links = {runner.key(link): link for step in steps for link in step.chain()}
    return [link for link in links.values() if runner.find(link) is None]


def steps_cost(missing: Sequence[Step], cost: Cost) -> str:
    """What a plan says of steps that are all known."""
    return f"to run: {len(missing)} stages, about {steps_seconds(missing, cost) / 60:,.0f} minutes on {cost.machine}"


def steps_seconds(steps: Sequence[Step], cost: Cost) -> float:
    return sum(stage_seconds(stage_kind(step), cost) for step in steps)
