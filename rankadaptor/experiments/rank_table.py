"""A table to replay searches on: many allocations of some blocks, each really recovered under two training seeds and
scored on the search split and on the report split.

    table = rank_table(profile="tiny")
    table.compute(workers=2)     # hours at first, resumes; then nothing
    table.frame()                # one row an allocation and seed

A search that is replayed sees scores of one seed on the search split, and is scored by the other seed on the report
split.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.allocation import (
    LORA_STAR_RANKS,
    RankAllocation,
    SolutionSpace,
    quarters_allocation,
    trainable_parameters,
    uniform_allocation,
)
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.evaluation.items import METRIC
from rankadaptor.experiments.methods import DAMAGE, LORA_STAR, MIRROR
from rankadaptor.experiments.parameters import DEFAULT_LEDGER
from rankadaptor.experiments.plan import missing_steps, steps_cost, steps_seconds
from rankadaptor.experiments.progress import ProgressBar
from rankadaptor.experiments.table_rows import final_loss
from rankadaptor.files import scratch_beside
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.local_pool import run_in_processes
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable.meta_records import ORIGINS
from rankadaptor.recovery.spec import Scaling
from rankadaptor.search.rivals import damage_allocation

_DRAW_SEED = 11  # of the allocations
_MUTATED = 20
UNIFORM_RANKS = (1, 2, 4, 6, 8, 10, 12, 16)


@dataclass(frozen=True)
class Part:
    """Rows of one block and scaling."""

    block: Block
    scaling: Scaling
    counts: tuple[int, int, int]  # of random, mutant and uneven allocations


# Methods are developed on the first block; the others are looked at once, when nothing changes any more.
PARTS = (
    Part(Block("llm-pruner", 50), "fixed_alpha", (180, 60, 60)),
    Part(Block("shortened", 30), "fixed_alpha", (60, 20, 20)),
    Part(Block("llm-pruner", 30), "fixed_alpha", (60, 20, 20)),
    Part(Block("llm-pruner", 50), "constant", (36, 12, 12)),
)


def rank_table(
    profile: str = "tiny",
    budget: str = "standard",
    parts: Sequence[Part] = PARTS,
    ledger: Path | str = DEFAULT_LEDGER,
) -> "RankTable":
    """The table of a profile.

    Args:
        budget: Whose recipe, first learning rate and items are used.

    Raises:
        BadInput: on an unknown profile, budget or block.
    """
    return RankTable(load_profile(profile), budget, tuple(parts), Ledger(ledger))


class RankTable:
    """See `rank_table`."""

    def __init__(self, profile: Profile, budget_name: str, parts: tuple[Part, ...], ledger: Ledger):
        self.profile, self.budget, self.parts, self.ledger = profile, profile.budget(budget_name), parts, ledger
        self.seeds = (profile.search.training_seed, profile.search.training_seed + 1)
        self._bar = ProgressBar(profile.cost)
        self._runner = Runner(profile.inputs(), ledger, self._bar.on_progress)
        self._spaces: dict[Block, SolutionSpace] = {}
        self._drawn: dict[Part, dict[RankAllocation, str]] = {}

    def plan(self) -> str:
        """What would run, and for how long; the pruned models are made for it if they are missing."""
        return steps_cost(missing_steps(self._runner, self._steps()), self.profile.cost)

    def compute(self, workers: int) -> None:
        """Run what the ledger lacks, and show progress."""
        groups = [group for group in self._groups() if missing_steps(self._runner, group)]
        missing = missing_steps(self._runner, (step for group in groups for step in group))
        with self._bar.over(steps_seconds(missing, self.profile.cost)):
            run_in_processes(self.profile.inputs(), self.ledger, groups, workers, self._bar.on_progress)

    def _groups(self) -> list[list[Step]]:
        return [self._scored(part, allocation, seed)
                for part in self.parts for allocation in self.allocations(part) for seed in self.seeds]

    def _steps(self) -> Iterator[Step]:
        for group in self._groups():
            yield from group

    def _prune(self, block: Block) -> Step:
        return Step("prune", self.profile.prune_spec(block))

    def _scored(self, part: Part, allocation: RankAllocation, seed: int) -> list[Step]:
        """A recovery's evaluations on the search and the report split, and its perplexity."""
        rate = self.budget.learning_rates[0]
        spec = self.profile.lora_spec(self.budget, allocation, rate, seed, part.scaling)
        recovered = Step("recover", spec, self._prune(part.block))
        return [
            Step("evaluate", self.profile.evaluation_spec(self.budget, "search"), recovered),
            Step("evaluate", self.profile.evaluation_spec(self.budget, "report"), recovered),
            Step("perplexity", self.profile.evaluation.perplexity, recovered),
        ]

    def space(self, block: Block) -> SolutionSpace:
        """S of one block; prunes it if that is missing."""
        if block not in self._spaces:
            self._runner.run(self._prune(block))
            architecture = self._runner.results.architecture(self._prune(block))
            self._spaces[block] = self.profile.solution_space(block, architecture)
        return self._spaces[block]

    def allocations(self, part: Part) -> dict[RankAllocation, str]:
        """Allocation -> origin: how it was drawn, or the name of a rule of thumb. An allocation has one origin."""
        if part not in self._drawn:
            space, pruned = self.space(part.block), self._prune(part.block)
            files = (self._runner.results.read_json(pruned, name) for name in ("importance.json", "kept.json"))
            named = {DAMAGE: damage_allocation(space, *files)} | named_allocations(space)
            found = {allocation: name for name, allocation in named.items()}
            self._drawn[part] = found | drawn_allocations(space, part.counts, _DRAW_SEED, found)
        return self._drawn[part]

    def frame(self) -> pd.DataFrame:
        """One row an allocation and seed; see README, Schemas."""
        return pd.DataFrame([
            self._row(part, allocation, origin, seed)
            for part in self.parts
            for allocation, origin in self.allocations(part).items()
            for seed in self.seeds
        ])

    def write(self, path: Path | str) -> Path:
        """Write `frame` as Parquet, whole or not at all. Equal ledgers give equal bytes."""
        target = Path(path)
        with scratch_beside(target) as scratch:
            self.frame().to_parquet(scratch / target.name, index=False, compression="zstd")
            os.replace(scratch / target.name, target)
        return target

    def _row(self, part: Part, allocation: RankAllocation, origin: str, seed: int) -> dict[str, Any]:
        search, report, text = self._scored(part, allocation, seed)
        assert search.parent is not None
        space = self.space(part.block)
        row: dict[str, Any] = {
            "block": str(part.block),
            "scaling": part.scaling,
            "origin": origin,
            "within_budget": space.contains(allocation),
            "seed": seed,
            "allocation": " ".join(map(str, allocation)),
            "trainable_parameters": trainable_parameters(allocation, space.architecture),
            "recovery_seconds": None,
            "recovery_key": self._runner.key(search.parent),
        }
        try:
            recovery = self._runner.run(search.parent).result
            row["recovery_seconds"] = recovery["provenance"]["seconds"]
            row |= {"training_loss": final_loss([recovery["result"].get("losses", [])]),
                    "held_out_loss": float(np.log(self._runner.results.perplexity(text)))}
            for split, step in (("search", search), ("report", report)):
                metrics = self._runner.results.metrics(step)
                for task in TASKS:
                    row[f"{split}_{task}_accuracy"] = metrics[task][METRIC[task]]
                    row[f"{split}_{task}_gold_probability"] = metrics[task]["gold_probability"]
        except StageFailed:
            pass  # a row without scores
        return row


def named_allocations(space: SolutionSpace) -> dict[str, RankAllocation]:
    """Rules of thumb: LoRA with one rank, LoRA* and its mirror image. Some exceed the budget."""
    architecture = space.architecture
    rising = quarters_allocation(architecture)
    named = {f"uniform {rank}": uniform_allocation(rank, architecture) for rank in UNIFORM_RANKS}
    return named | {LORA_STAR: rising, MIRROR: quarters_allocation(architecture, LORA_STAR_RANKS[::-1])}


def drawn_allocations(
    space: SolutionSpace, counts: Sequence[int], seed: int, known: Mapping[RankAllocation, str]
) -> dict[RankAllocation, str]:
    """Distinct allocations within budget that are not known yet, by origin. Fewer are the first of more.

    Args:
        counts: How many are to be random (uniform over S), mutant (one to three layers of one of the first 20 random
            ones changed) and uneven (the whole budget, shared out by gamma-distributed weights of shape 1/2).
    """
    found: dict[RankAllocation, str] = {}
    for number, (origin, count) in enumerate(zip(ORIGINS, counts, strict=True)):
        generator = np.random.default_rng([seed, number])
        bases = list(found)[:_MUTATED]
        tries = 0
        while sum(its == origin for its in found.values()) < count:
            if (tries := tries + 1) > 1000 + 100 * count:
                raise BadInput(f"hardly more than {len(found)} distinct allocations in {tries} draws of {count}"
                               f" {origin} ones: widen the candidates, or ask for fewer")
            if origin == "random":
                allocation = space.sample(1, generator)[0]
            elif origin == "uneven":
                allocation = space.proportional(generator.gamma(0.5, size=len(space.free_layers)))
            else:
                base = bases[generator.integers(len(bases))]
                allocation = space.near(base, 1, generator, layers=3)[0]
            if allocation not in known:
                found.setdefault(allocation, origin)
    return found
