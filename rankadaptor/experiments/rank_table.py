"""A table to replay searches on: many allocations of some blocks, each really recovered under two training seeds and
scored on the search split and on the report split.

    table = rank_table(profile="tiny").run()     # hours at first, resumes; one row an allocation and seed

A search that is replayed sees scores of one seed on the search split, and is scored by the other seed on the report
split.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.allocation import (
    LORA_STAR_RANKS,
    RankAllocation,
    SolutionSpace,
    proportional_allocation,
    quarters_allocation,
    trainable_parameters,
    uniform_allocation,
)
from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.experiments.methods import DAMAGE, LORA_STAR, MIRROR
from rankadaptor.experiments.parameters import DEFAULT_LEDGER
from rankadaptor.experiments.skeleton import ProfileExperiment, Run
from rankadaptor.experiments.table_rows import final_loss
from rankadaptor.files import scratch_beside
from rankadaptor.pipeline.execution import Batches
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Budget, load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable.meta_records import ORIGINS
from rankadaptor.recovery.recipe import Scaling
from rankadaptor.search.damage import damage_allocation

_DRAW_SEED = 11  # of the allocations
_MUTATED = 20
UNIFORM_RANKS = (1, 2, 4, 6, 8, 10, 12, 16)


@dataclass(frozen=True)
class Part:
    """Rows of one block and scaling."""

    block: Block
    scaling: Scaling
    counts: tuple[int, int, int]  # of random, mutant and uneven allocations, see `drawn_allocations`


# Methods are developed on the first block; the others are looked at once, when nothing changes any more.
PARTS = (
    Part(Block("llm-pruner", 50), "fixed_alpha", (64, 16, 16)),
    Part(Block("llm-pruner", 50), "constant", (64, 16, 16)),
    Part(Block("shortened", 50), "fixed_alpha", (32, 8, 8)),
    Part(Block("shortened", 50), "constant", (32, 8, 8)),
    Part(Block("llm-pruner", 30), "fixed_alpha", (32, 8, 8)),
    Part(Block("llm-pruner", 30), "constant", (32, 8, 8)),
)


def rank_table(
    profile: str = "tiny",
    budget: str = "standard",
    parts: Sequence[Part] = PARTS,
    ledger: Path | str = DEFAULT_LEDGER,
) -> "RankTable":
    """The table of a profile.

    Args:
        budget: Name of the profile's budget that gives the training recipe (the first of its learning rates) and the
            number of evaluation items.

    Raises:
        BadInput: on an unknown profile, budget or block, or where a profile scores other tasks than the table has.
    """
    source = load_profile(profile)
    if set(source.tasks) != set(TASKS):
        raise BadInput(f"a rank table has columns of {', '.join(TASKS)}, and profile {source.name} scores"
                       f" {', '.join(source.tasks)}: leave evaluation.tasks away")
    return RankTable(Ledger(ledger), source, budget, tuple(parts))


@dataclass(frozen=True)
class RankTable(ProfileExperiment):
    """See `rank_table`."""

    budget_name: str
    table_parts: tuple[Part, ...]

    @property
    def budget(self) -> Budget:
        """The budget that gives the training recipe and the number of evaluation items."""
        return self.profile.budget(self.budget_name)

    @property
    def seeds(self) -> tuple[int, int]:
        """Training seeds: the search's, and the next one."""
        return self.profile.search.training_seed, self.profile.search.training_seed + 1

    @property
    def title(self) -> str:
        """Title of the plan."""
        return "Rank table"

    def details(self) -> tuple[str, ...]:
        """Parts, budget and seeds."""
        parts = ", ".join(f"{part.block} with {part.scaling}" for part in self.table_parts)
        return f"{parts} · budget {self.budget_name} · training seeds {', '.join(map(str, self.seeds))}",

    def pieces(self, runner: Runner) -> list[Batches]:
        """One a part."""
        return [self._part(runner, part) for part in self.table_parts]

    def _part(self, runner: Runner, part: Part) -> Batches:
        yield [self.prune(part.block)]
        yield [step for allocation in self.allocations(runner, part) for seed in self.seeds
               for step in self.measured(part, allocation, seed)]

    def measured(self, part: Part, allocation: RankAllocation, seed: int) -> list[Step]:
        """A recovery's evaluations on the search and the report split, and its perplexity."""
        rate = self.budget.learning_rates[0]
        spec = self.profile.lora_spec(self.budget, allocation, rate, seed, part.scaling)
        recovered = Step("recover", spec, self.prune(part.block))
        return [
            Step("evaluate", self.profile.evaluation_spec(self.budget, "search"), recovered),
            Step("evaluate", self.profile.evaluation_spec(self.budget, "report"), recovered),
            Step("perplexity", self.profile.evaluation.perplexity, recovered),
        ]

    def space(self, runner: Runner, block: Block) -> SolutionSpace:
        """S of one block."""
        return self.profile.solution_space(block, runner.results.architecture(self.prune(block)))

    def allocations(self, runner: Runner, part: Part) -> dict[RankAllocation, str]:
        """Allocation -> origin: how it was drawn, or the name of a rule of thumb. An allocation has one origin."""
        space, pruned = self.space(runner, part.block), self.prune(part.block)
        files = (runner.results.read_json(pruned, name) for name in ("importance.json", "kept.json"))
        rules = {DAMAGE: damage_allocation(space, *files)} | named_allocations(space)
        origins = {allocation: name for name, allocation in rules.items()}
        return origins | drawn_allocations(space, part.counts, _DRAW_SEED, origins)

    def collect(self, run: Run, outcomes: Sequence[Any]) -> pd.DataFrame:
        """One row an allocation and seed; see "Schemas" in the documentation."""
        for outcome in outcomes:
            if isinstance(outcome, StageFailed):
                raise outcome
        return pd.DataFrame([
            self._row(run.runner, part, space, allocation, origin, seed)
            for part in self.table_parts
            for space in [self.space(run.runner, part.block)]
            for allocation, origin in self.allocations(run.runner, part).items()
            for seed in self.seeds
        ])

    def _row(
        self, runner: Runner, part: Part, space: SolutionSpace, allocation: RankAllocation, origin: str, seed: int
    ) -> dict[str, Any]:
        search, report, text = self.measured(part, allocation, seed)
        assert search.parent is not None
        row: dict[str, Any] = {
            "block": str(part.block),
            "scaling": part.scaling,
            "origin": origin,
            "within_budget": space.contains(allocation),
            "seed": seed,
            "allocation": " ".join(map(str, allocation)),
            "trainable_parameters": trainable_parameters(allocation, space.architecture),
            "recovery_seconds": None,
            "recovery_key": runner.key(search.parent),
        }
        try:
            recovery = runner.run(search.parent).result
            row["recovery_seconds"] = recovery["provenance"]["seconds"]
            row |= {"training_loss": final_loss([recovery["result"].get("losses", [])]),
                    "held_out_loss": float(np.log(runner.results.perplexity(text)))}
            for split, step in (("search", search), ("report", report)):
                metrics = runner.results.metrics(step)
                for task in TASKS:
                    row[f"{split}_{task}_accuracy"] = metrics[task][BENCHMARKS[task].metric]
                    row[f"{split}_{task}_gold_probability"] = metrics[task]["gold_probability"]
        except StageFailed:
            pass  # a row without scores
        return row


def write_rank_table(table: pd.DataFrame, path: Path | str) -> Path:
    """Write a table as Parquet, whole or not at all. Equal ledgers give equal bytes."""
    target = Path(path)
    with scratch_beside(target) as scratch:
        table.to_parquet(scratch / target.name, index=False, compression="zstd")
        os.replace(scratch / target.name, target)
    return target


def named_allocations(space: SolutionSpace) -> dict[str, RankAllocation]:
    """Allocations that need no search: each of `UNIFORM_RANKS` on all layers; LoRA*, whose ranks rise by quarters of
    the depth; LoRA* with its ranks in reverse order. Some exceed the budget.
    """
    architecture = space.architecture
    rising = quarters_allocation(architecture)
    named = {f"uniform {rank}": uniform_allocation(rank, architecture) for rank in UNIFORM_RANKS}
    return named | {LORA_STAR: rising, MIRROR: quarters_allocation(architecture, LORA_STAR_RANKS[::-1])}


def drawn_allocations(
    space: SolutionSpace, counts: Sequence[int], seed: int, excluded: Mapping[RankAllocation, str]
) -> dict[RankAllocation, str]:
    """Distinct allocations within budget that are not excluded, by origin. A larger count begins with those of a
    smaller one.

    Args:
        counts: How many are to be random (uniform over S), mutant (one to three layers of one of the first 20 random
            allocations changed) and uneven (the whole budget, shared out by gamma-distributed weights of shape 1/2).
    """
    origins: dict[RankAllocation, str] = {}
    for number, (origin, count) in enumerate(zip(ORIGINS, counts, strict=True)):
        generator = np.random.default_rng([seed, number])
        bases = list(origins)[:_MUTATED]
        tries = 0
        while sum(drawn == origin for drawn in origins.values()) < count:
            if (tries := tries + 1) > 1000 + 100 * count:
                raise BadInput(f"hardly more than {len(origins)} distinct allocations in {tries} draws of {count}"
                               f" {origin} ones: widen the candidates, or ask for fewer")
            if origin == "random":
                allocation = space.sample(1, generator)[0]
            elif origin == "uneven":
                allocation = proportional_allocation(space, generator.gamma(0.5, size=len(space.free_layers)))
            else:
                base = bases[generator.integers(len(bases))]
                allocation = space.near(base, 1, generator, layers=3)[0]
            if allocation not in excluded:
                origins.setdefault(allocation, origin)
    return origins
