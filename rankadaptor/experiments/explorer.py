"""Exploring allocations by hand: what ranks cost, their predicted score, and what was measured.

    explorer = Explorer("tiny")
    explorer.costs("llm-pruner:50", ranks)       # parameters against the budget
    explorer.predicted("llm-pruner:50", ranks)   # by the performance model, from the table of measured allocations
    explorer.measured("llm-pruner:50", ranks)    # results of exactly these ranks in the ledger
    explorer.nearest("llm-pruner:50", ranks)     # the measured allocations most like them
    explorer.recover("llm-pruner:50", ranks)     # trains and evaluates
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation, SolutionSpace, trainable_parameters, validate_allocation
from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.errors import StageFailed
from rankadaptor.experiments.parameters import DEFAULT_LEDGER, named_ledger, named_profile, text
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable.meta_records import COMMITTED, read_table, record, rows_of
from rankadaptor.search.predictors import make_predictor
from rankadaptor.search.rounds import mean_score
from rankadaptor.statistics import Interval, bootstrap_macro_mean


class Costs(NamedTuple):
    """Trainable parameters of an allocation against the budget."""

    parameters: int  # that the adapters train
    budget: int  # of LoRA with one rank
    within: bool  # the budget and its tolerance, and every rank a candidate


class Explorer:
    """Allocations on the blocks of one profile, with the results of one ledger."""

    def __init__(self, profile: str = "tiny", budget: str = "standard", ledger: Path | str = DEFAULT_LEDGER):
        """
        Args:
            profile: Name of a profile, or path of a YAML file.
            budget: Whose recipe, items and training seeds are used.
            ledger: Folder of finished results.

        Raises:
            BadInput: on an unknown profile or budget.
        """
        self.profile = named_profile(profile)
        self.budget = self.profile.budget(text("budget", budget, "standard"))
        self._runner = Runner(self.profile.inputs(), named_ledger(ledger))
        self._spaces: dict[str, SolutionSpace] = {}
        self._table_scores: dict[str, pd.DataFrame] = {}

    def space(self, block: str) -> SolutionSpace:
        """The solution space S of a block (Section 4.1); prunes the block if the ledger lacks that."""
        if block not in self._spaces:
            parsed = Block.parse(block)
            architecture = self._runner.results.architecture(Step("prune", self.profile.prune_spec(parsed)))
            self._spaces[block] = self.profile.solution_space(parsed, architecture)
        return self._spaces[block]

    def costs(self, block: str, ranks: Sequence[int]) -> Costs:
        """Parameters of an allocation against the budget.

        Args:
            ranks: One a layer of the unpruned model, 0 where pruning removed the layer.

        Raises:
            BadInput: if the ranks do not fit the pruned model.
        """
        space, allocation = self.space(block), self._checked(block, ranks)
        parameters = trainable_parameters(allocation, space.architecture)
        return Costs(parameters, space.budget_params or 0, space.contains(allocation))

    def table_scores(self, block: str) -> pd.DataFrame:
        """The block's allocations in the committed rank table.

        Returns:
            Columns allocation and gold probability (a proportion, mean over two trainings, search split); no row where
            the table has nothing of the block, or is of another model.
        """
        if block not in self._table_scores:
            table, layers = read_table(COMMITTED), self.space(block).architecture.original_layer_count
            scores: dict[RankAllocation, float] = {}
            if block in set(table["block"]):
                measured = record(rows_of(table, block, self.profile.adapters.scaling), block, "gold_probability")
                if len(measured.allocations[0]) == layers:
                    scores = dict(zip(measured.allocations, map(mean_score, measured.scores), strict=True))
            self._table_scores[block] = pd.DataFrame(
                {"allocation": list(scores), "gold probability": list(scores.values())})
        return self._table_scores[block]

    def predicted(self, block: str, ranks: Sequence[int]) -> tuple[float, float] | None:
        """Gold probability on the search split by the profile's predictor, trained on `table_scores`.

        Returns:
            Mean and spread over the predictor's members, proportions; None where `table_scores` has no row.
        """
        table, space = self.table_scores(block), self.space(block)
        if table.empty:
            return None
        method = self.profile.search.method
        predictor = make_predictor(method.predictor, 0)
        scores = table["gold probability"].to_numpy()[:, None]  # (allocations, 1)
        predictor.fit(space.encode(list(table["allocation"]), method.inputs), scores)
        prediction = predictor.predict(space.encode([self._checked(block, ranks)], method.inputs))
        return float(prediction.mean[0]), float(prediction.spread[0])

    def nearest(self, block: str, ranks: Sequence[int], count: int = 5) -> pd.DataFrame:
        """The rows of `table_scores` nearest to an allocation.

        Returns:
            Its columns, and distance: the sum over layers of how often a rank must double or halve.
        """
        table, target = self.table_scores(block), np.log2(np.maximum(1, self._checked(block, ranks)))
        distance = [float(np.abs(np.log2(np.maximum(1, allocation)) - target).sum())
                    for allocation in table["allocation"]]
        return table.assign(distance=distance).sort_values("distance", kind="stable").head(count).reset_index(drop=True)

    def measured(self, block: str, ranks: Sequence[int]) -> pd.DataFrame:
        """Results of exactly these ranks on the report split, as far as the ledger has them.

        Returns:
            One row per training seed: seed, accuracy with its 95 % interval over items, gold probability; proportions.
        """
        lines = []
        search = self.profile.search.training_seed
        for seed in dict.fromkeys([*self.budget.training_seeds, search, search + 1]):
            step = self._step(block, ranks, seed)
            if self._runner.find(step) is not None:
                lines.append({"seed": seed, **self._scores(step)})
        return pd.DataFrame(lines, columns=["seed", "accuracy", "low", "high", "gold probability"])

    def recover(self, block: str, ranks: Sequence[int], seed: int = 0) -> pd.DataFrame:
        """Recover with these ranks and evaluate, unless the ledger has it; returns `measured`.

        Raises:
            StageFailed: if the recovery or the evaluation fails.
        """
        self._runner.run(self._step(block, ranks, seed))
        return self.measured(block, ranks)

    def _checked(self, block: str, ranks: Sequence[int]) -> RankAllocation:
        return validate_allocation(tuple(ranks), self.space(block).architecture)

    def _step(self, block: str, ranks: Sequence[int], seed: int) -> Step:
        allocation, rate = self._checked(block, ranks), self.budget.learning_rates[0]
        pruned = Step("prune", self.profile.prune_spec(Block.parse(block)))
        recovered = Step("recover", self.profile.lora_spec(self.budget, allocation, rate, seed), pruned)
        return Step("evaluate", self.profile.evaluation_spec(self.budget, "report"), recovered)

    def _scores(self, step: Step) -> dict[str, float]:
        try:
            items = self._runner.results.items(step)
        except StageFailed:
            return dict.fromkeys(("accuracy", "low", "high", "gold probability"), float("nan"))
        outcomes = {task: items.loc[items["task"] == task, BENCHMARKS[task].metric].to_numpy(dtype=float)[None]
                    for task in self.profile.tasks}
        interval: Interval = bootstrap_macro_mean(outcomes)
        gold = items.groupby("task")["gold_probability"].mean().mean()
        return {"accuracy": interval.value, "low": interval.low, "high": interval.high, "gold probability": float(gold)}
