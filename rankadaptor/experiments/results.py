"""What a table is made of: rows of outcomes by seed and item, searches, and the specs that identify them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation
from rankadaptor.architecture import Architecture
from rankadaptor.evaluation.spec import Split
from rankadaptor.experiments.methods import RANKADAPTOR
from rankadaptor.experiments.tables import Contents
from rankadaptor.profiles import Budget, Profile
from rankadaptor.search.rounds import SearchResult


@dataclass(frozen=True)
class Row:
    """One line of a table: a method on a block, over training seeds.

    Outcomes are arrays of (seeds, items) by task: 0 or 1 under the task's metric, and the gold probability.
    """

    block: str
    method: str
    outcomes: dict[str, np.ndarray]
    gold_probability: dict[str, np.ndarray]
    subjects: dict[str, np.ndarray]  # by task: the number of each item's subject, where items share subjects
    parameters: int  # of the model, adapters left out
    trainable_parameters: int  # of the adapter; 0 without one
    learning_rate: float | None
    perplexity: float | None  # where a table asks for it
    training_loss: float | None  # mean over seeds and the last quarter of steps; rows of one seed see equal batches
    allocations: tuple[RankAllocation, ...]  # one, one per task, or one per independent search
    realised_ranks: Mapping[str, tuple[int, ...]]  # projection -> by original layer, first seed; 0 without an adapter
    keys: tuple[str, ...]  # of the evaluations in the ledger, of the perplexity and of the continuations
    continuations: pd.DataFrame | None = None  # where a table asks for them; a column `seed` beside generation's own


class FinishedSearch(NamedTuple):
    """A search and the key of its trace."""

    result: SearchResult
    key: str


@dataclass(frozen=True)
class BlockResult:
    """The rows of one block, and its searches."""

    architecture: Architecture
    rows: tuple[Row, ...]
    searches: Mapping[str, Sequence[FinishedSearch]] = field(default_factory=dict)  # method -> independent searches
    rivals: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # their searches: recoveries, key
    failed: Mapping[str, str] = field(default_factory=dict)  # methods without a row: what became of them

    @property
    def search(self) -> SearchResult | None:
        """The first search of the profile's scaling; None where nothing is searched."""
        searches = self.searches.get(RANKADAPTOR)
        return searches[0].result if searches else None

    @property
    def search_key(self) -> str:
        """The key of that search; empty where nothing is searched."""
        searches = self.searches.get(RANKADAPTOR)
        return searches[0].key if searches else ""

    def row(self, method: str) -> Row | None:
        """The row of a method; None where it has no result."""
        return next((row for row in self.rows if row.method == method), None)


@dataclass(frozen=True, eq=False)  # hashed as the thing it is: what is drawn of it is computed once
class TableResult:
    """Results of a table: one row per block and method."""

    contents: Contents
    profile: Profile
    budget_name: str
    budget: Budget
    seeds: tuple[int, ...]
    base: Architecture
    dense: Row
    blocks: dict[str, BlockResult]
    computed: tuple[tuple[str, str], ...]  # (stage, key) of what this run computed
    stages: tuple[str, ...] = ()  # keys of all that the table is made of, the recoveries of its searches included
    unfinished: Mapping[str, str] = field(default_factory=dict)  # blocks without any row: what became of them
    split: Split = "report"  # whose questions the rows answer

    def failures(self) -> list[str]:
        """Steps without a result, and the reasons."""
        whole = [f"{name}: {why}" for name, why in self.unfinished.items()]
        return whole + [f"{method} on {name}: {why}" for name, block in self.blocks.items()
                        for method, why in block.failed.items()]

    @property
    def recovered(self) -> bool:
        """Whether models are recovered, or measured as pruning left them."""
        return bool(self.contents.methods)

    @property
    def searched(self) -> bool:
        """Whether an allocation was searched on some block."""
        return any(block.search for block in self.blocks.values())

    @property
    def decided(self) -> bool:
        """Whether a verdict may be drawn: never from one training seed."""
        return self.budget.decided and len(self.seeds) > 1

    def rows(self) -> Iterator[Row]:
        """All rows: the dense model, then block by block."""
        yield self.dense
        for block in self.blocks.values():
            yield from block.rows
