"""What searches are replayed on: the measured allocations of one block of the table, no model touched.

    replay = Replay.of(table, profile, "llm-pruner:50")
    jobs = [Job("RankAdaptor", settings), Job("TPE", settings, rival="TPE")]
    curves = run_replays(replay, jobs, seeds=range(20))     # of `replayed_searches`; one search per method and seed

A replayed search sees the scores of one training seed on the search split. The allocation that it selects is scored by
the other training seed on the report split, so that neither a lucky training nor a lucky item counts.
"""

from dataclasses import dataclass
from typing import Self

import pandas as pd

from rankadaptor.allocation import RankAllocation, SolutionSpace, parse_allocation
from rankadaptor.errors import BadInput
from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.gate import read_architecture
from rankadaptor.profiles import Profile
from rankadaptor.pruning import pruned_shapes
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable.meta_records import SIGNALS, records_beside, rows_of, task_scores
from rankadaptor.recovery.recipe import Scaling
from rankadaptor.search.pool import MeasuredPool
from rankadaptor.search.rounds import Record, Scores, mean_score
from rankadaptor.search.settings import SearchSettings


@dataclass(frozen=True)
class Replay:
    """One block of the table: a pool of allocations within budget, and all their scores."""

    pool: MeasuredPool
    seeds: tuple[int, int]  # of training
    scores: dict[tuple[int, str, str], dict[RankAllocation, Scores]]  # (seed, split, signal) -> allocation -> scores
    records: dict[tuple[int, str], tuple[Record, ...]]  # (seed, signal) -> that training's scores of the other blocks

    @classmethod
    def of(cls, table: pd.DataFrame, profile: Profile, block: str, scaling: Scaling = "fixed_alpha") -> Self:
        """Read a block of a table.

        Args:
            table: As `meta_records.read_table` gives it.
            profile: Whose base model the table is of.
            block: Such as llm-pruner:50.

        Raises:
            BadInput: if the table has no rows of the block, another number of training seeds than two, or allocations
                of another model or other candidates.
        """
        rows = rows_of(table, block, scaling)
        rows = rows[rows["within_budget"]]
        allocations = [parse_allocation(text) for text in rows["allocation"]]
        seeds = sorted(set(rows["seed"]))
        if len(seeds) != 2:
            raise BadInput(f"the table has training seeds {seeds} of {block}: a replay needs two, one to search and one"
                           " to score")
        first, second = seeds
        space = block_space(profile, block, allocations[0])
        if strange := [allocation for allocation in allocations if not space.contains(allocation)]:
            raise BadInput(f"{block} of the table has allocation {' '.join(map(str, strange[0]))}, which is none of"
                           f" profile {profile.name}: replay a table with the profile that it was made of")
        scores: dict[tuple[int, str, str], dict[RankAllocation, Scores]] = {}
        for allocation, (_, row) in zip(allocations, rows.iterrows(), strict=True):
            for split in ("search", "report"):
                for signal in SIGNALS:
                    scores.setdefault((row["seed"], split, signal), {})[allocation] = task_scores(row, split, signal)
        both = set.intersection(*(set(scores[seed, "search", SIGNALS[0]]) for seed in (first, second)))
        pool = MeasuredPool(space, tuple(sorted(both)))
        records = {(int(seed), signal): records_beside(table, block, scaling, signal, seed)
                   for seed in seeds for signal in SIGNALS}
        return cls(pool, (int(first), int(second)), scores, records)

    @property
    def other_blocks(self) -> list[str]:
        """Labels of the blocks that there are records of."""
        return [record.label for record in next(iter(self.records.values()))]

    def searched(self, seed: int, signal: str) -> dict[RankAllocation, Scores]:
        """The scores that a search sees: of one training seed on the search split."""
        return self.scores[seed, "search", signal]

    def truth(self, seed: int, metric: str = "gold_probability") -> dict[RankAllocation, float]:
        """The scores that judge a search which saw `seed`: of the other seed on the report split, means over tasks."""
        other_seed = self.seeds[1 - self.seeds.index(seed)]
        scores = self.scores[other_seed, "report", metric]
        return {allocation: mean_score(scores[allocation]) for allocation in self.pool.allocations}


@dataclass(frozen=True)
class Job:
    """Searches of one method on one block, one per seed. A part of the key of cached replays."""

    label: str  # as figures name the method
    settings: SearchSettings  # whose seed is replaced
    rival: str = ""  # a name in `rivals.RIVALS`; empty for the performance model
    signal: str = "gold_probability"
    records: bool = True  # whether offline meta-learning uses the table's other blocks


def block_space(profile: Profile, block: str, allocation: RankAllocation) -> SolutionSpace:
    """S of a block, from configuration alone.

    Args:
        allocation: Any of the block's in the table: its zeros show which layers were removed.

    Raises:
        BadInput: if the allocation is of a model with another number of layers than the profile's.
    """
    dense = read_architecture(base_model_folder(profile.base_model))
    if len(allocation) != dense.original_layer_count:
        raise BadInput(f"allocations of {block} in the table have {len(allocation)} entries, the model of profile"
                       f" {profile.name} has {dense.original_layer_count} layers: replay it with its own profile")
    removed = tuple(layer for layer, rank in enumerate(allocation) if not rank)
    parsed = Block.parse(block)
    shapes = dense.depth_pruned(removed) if removed else pruned_shapes(dense, profile.prune_spec(parsed))
    return profile.solution_space(parsed, shapes)
