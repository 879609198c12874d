"""What a table costs before it starts, and how far it is: counts of stages times the profile's measured costs."""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tqdm import tqdm

from rankadaptor.errors import StageFailed
from rankadaptor.profiles import Cost, Profile
from rankadaptor.specs import TASKS, Block, EvaluationSpec, GenerationSpec, PerplexitySpec, RecoverySpec
from rankadaptor.stages import Step, Workshop

# A full report split, for estimates only: the seven benchmarks have 20,465 report items.
_ALL_ITEMS_PER_TASK = 20_465 / len(TASKS)
_ALL_WINDOWS = 2_700  # of 128 tokens in WikiText-2's test text, under LLaMA's tokenizer


class StageKind(NamedTuple):
    """Stages of one kind and size cost alike."""

    stage: str
    size: int | None  # recover: rows trained on; evaluate: items a task; perplexity: windows; generate: tokens


def stage_kind(step: Step) -> StageKind:
    if isinstance(step.spec, RecoverySpec):
        return StageKind("recover", step.spec.recipe.steps * step.spec.recipe.batch_rows)
    if isinstance(step.spec, EvaluationSpec):
        return StageKind("evaluate", step.spec.items_per_task)
    if isinstance(step.spec, PerplexitySpec):
        return StageKind("perplexity", step.spec.max_windows)
    if isinstance(step.spec, GenerationSpec):
        continued = len(step.spec.prompts) * (1 + step.spec.samples)
        return StageKind("generate", continued * step.spec.max_new_tokens)
    return StageKind("prune", None)


def stage_seconds(kind: StageKind, cost: Cost) -> float:
    """Estimate for the machine that the profile's costs were measured on."""
    if kind.stage == "recover":
        return (kind.size or 0) * cost.recovery_seconds_per_row
    if kind.stage == "evaluate":
        return len(TASKS) * (kind.size or _ALL_ITEMS_PER_TASK) * cost.evaluation_seconds_per_item
    if kind.stage == "perplexity":
        return (kind.size or _ALL_WINDOWS) * cost.perplexity_seconds_per_window
    if kind.stage == "generate":
        return (kind.size or 0) * cost.generation_seconds_per_token
    return cost.prune_seconds


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
        each = {"prune": cost.pruned_model_megabytes, "recover": cost.adapter_megabytes}
        return sum(count * each.get(kind.stage, 0.1) for kind, count in self.missing.items())

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
            lines.append(f"{_describe(kind):<28}{count:>9}{count - lacking:>11}{lacking:>8}{seconds:>9}")
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


def _describe(kind: StageKind) -> str:
    if kind.stage == "recover":
        return f"recover ({kind.size} rows)"
    if kind.stage == "evaluate":
        return f"evaluate ({kind.size or 'all'} items a task)"
    if kind.stage == "generate":
        return f"generate ({kind.size} tokens)"
    if kind.stage == "perplexity":
        return f"perplexity ({kind.size or 'all'} windows)"
    return kind.stage


def missing_steps(workshop: Workshop, steps: Iterable[Step]) -> list[Step]:
    """What the ledger lacks of some steps and what they are computed from, parents first, each once."""
    links = {workshop.key(link): link for step in steps for link in step.chain()}
    return [link for link in links.values() if workshop.find(link) is None]


def steps_cost(missing: Sequence[Step], cost: Cost) -> str:
    """What a plan says of steps that are all known."""
    return f"to run: {len(missing)} stages, about {steps_seconds(missing, cost) / 60:,.0f} minutes on {cost.machine}"


def steps_seconds(steps: Sequence[Step], cost: Cost) -> float:
    return sum(stage_seconds(stage_kind(step), cost) for step in steps)


class ProgressBar:
    """A bar over estimated seconds; its remaining time follows the speed really seen."""

    def __init__(self, cost: Cost):
        self._cost = cost
        self._bar: tqdm | None = None
        self._finished = self._total = 0.0

    @contextlib.contextmanager
    def over(self, seconds: float) -> Iterator[None]:
        """Show a bar of so many estimated seconds while the body runs; none if there is nothing to do."""
        if not seconds:
            yield
            return
        layout = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed} gone, {remaining} to go"
        self._finished, self._total = 0.0, seconds
        with tqdm(total=seconds, file=sys.stderr, bar_format=layout, mininterval=5, ncols=100) as self._bar:
            yield
            self._bar.set_description_str("done", refresh=False)
            self._bar.update(max(0.0, seconds - self._bar.n))
        self._bar = None

    def on_progress(self, step: Step, share: float) -> None:
        """A `Workshop` reports here."""
        if self._bar is None:
            return
        seconds = stage_seconds(stage_kind(step), self._cost)
        self._bar.set_description_str(f"{_label(step):<34}", refresh=False)
        reached = min(self._finished + share * seconds, self._total)
        self._bar.update(max(0.0, reached - self._bar.n))
        if share >= 1:
            self._finished += seconds


def _label(step: Step) -> str:
    """What a bar says of a step, such as `recover llm-pruner:20 lora`."""
    of = {link.stage: link.spec for link in step.chain()}
    block = f"{of['prune'].method}:{of['prune'].rate_percent}" if "prune" in of else "dense"  # type: ignore[union-attr]
    method = f" {of['recover'].method}" if "recover" in of else ""  # type: ignore[union-attr]
    split = f" {step.spec.split}" if isinstance(step.spec, EvaluationSpec) else ""
    return f"{step.stage} {block}{method}{split}"


def run_missing(workshop: Workshop, bar: ProgressBar, steps: Iterable[Step], cost: Cost) -> None:
    """Run what the ledger lacks of some steps, under a bar."""
    missing = missing_steps(workshop, steps)
    with bar.over(steps_seconds(missing, cost)):
        for step in missing:
            with contextlib.suppress(StageFailed):  # told by what asks for it
                workshop.run(step)
