"""How good an instrument a profile's regime is: what pruning costs, what recovery wins back, and whether allocations
of equal size differ by more than training noise. No method is compared with another here.

    for line in regime(workshop, ...): ...      # margins over chance by block
    signal(workshop, block, "fixed_alpha", ...)  # spread over noise
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation, SolutionSpace, trainable_parameters, uniform_allocation
from rankadaptor.evaluation.items import METRIC
from rankadaptor.ledger import Entry
from rankadaptor.profiles import Budget
from rankadaptor.specs import TASKS, Block, EvaluationSpec, RecoverySpec, Scaling
from rankadaptor.stages import Step, Workshop
from rankadaptor.statistics import VarianceComponents, variance_components

# Accuracy of a guess: one over the number of choices.
CHANCE = {"boolq": 1 / 2, "piqa": 1 / 2, "hellaswag": 1 / 4, "winogrande": 1 / 2, "arc_easy": 1 / 4,
          "arc_challenge": 1 / 4, "openbookqa": 1 / 4}


@dataclass(frozen=True)
class Scored:
    """Means of one evaluation: accuracy by task, and gold probability by task."""

    accuracy: dict[str, float]
    gold_probability: dict[str, float]

    @property
    def margin(self) -> float:
        """Mean over tasks of accuracy over chance."""
        return float(np.mean([self.accuracy[task] - CHANCE[task] for task in TASKS]))


class Instrument:
    """Measurements of one profile and budget on one split."""

    def __init__(self, workshop: Workshop, budget: Budget, split: str, scaling: Scaling | None = None):
        self.workshop, self.budget = workshop, budget
        self.scaling: Scaling = scaling or workshop.profile.adapters.scaling
        settings = workshop.profile.evaluation
        self._evaluation = EvaluationSpec(
            TASKS, split, budget.report_items, settings.item_seed, settings.batch_size  # type: ignore[arg-type]
        )

    def dense(self) -> Scored:
        return self._scored(Step("evaluate", self._evaluation))

    def pruned(self, block: Block) -> Scored:
        return self._scored(Step("evaluate", self._evaluation, self._prune(block)))

    def recovered(self, block: Block, allocation: RankAllocation | None, seed: int) -> Scored:
        """Scores after one recovery; None stands for LoRA's uniform rank."""
        return self._scored(self.trial(block, allocation, seed))

    def trial(self, block: Block, allocation: RankAllocation | None, seed: int) -> Step:
        adapters, pruned = self.workshop.profile.adapters, self._prune(block)
        architecture = self.workshop.architecture(pruned)
        ranks = uniform_allocation(adapters.lora_rank, architecture) if allocation is None else allocation
        recipe = self.budget.training.recipe(self.budget.learning_rates[0])
        spec = RecoverySpec("lora", ranks, self.scaling, adapters.alpha, recipe, seed)
        return Step("evaluate", self._evaluation, Step("recover", spec, pruned))

    def allocations(self, space: SolutionSpace, count: int, seed: int) -> list[RankAllocation]:
        """Distinct random allocations with the trainable parameters of uniform LoRA, within the space's tolerance."""
        generator = np.random.default_rng(seed)
        assert space.budget_params is not None
        found: dict[RankAllocation, None] = {}
        while len(found) < count:
            for allocation in space.sample(256, generator):
                size = trainable_parameters(allocation, space.architecture)
                if abs(size / space.budget_params - 1) <= space.tolerance:
                    found[allocation] = None
        return list(found)[:count]

    def _prune(self, block: Block) -> Step:
        return Step("prune", self.workshop.profile.prune_spec(block))

    def _scored(self, step: Step) -> Scored:
        metrics = _result(self.workshop.run(step))["metrics"]
        return Scored(
            {task: metrics[task][METRIC[task]] for task in TASKS},
            {task: metrics[task]["gold_probability"] for task in TASKS},
        )


def _result(entry: Entry) -> dict:
    return entry.result["result"]


def regime_table(instrument: Instrument, blocks: Sequence[Block], seeds: Sequence[int]) -> pd.DataFrame:
    """Accuracy by task and the margin over chance: dense, and each block before and after LoRA.

    Returns:
        One row a model: block, model, tasks, mean, margin (proportions), `lost` (share of the dense margin that
        pruning took) and `won back` (share of the loss that LoRA returned, mean over seeds).
    """
    dense = instrument.dense()
    rows = [_row("", "Dense", [dense])]
    for block in blocks:
        pruned = instrument.pruned(block)
        recovered = [instrument.recovered(block, None, seed) for seed in seeds]
        lost = dense.margin - pruned.margin
        won = float(np.mean([one.margin for one in recovered])) - pruned.margin
        rows.append(_row(str(block), "No recovery", [pruned]) | {"lost": lost / dense.margin})
        rows.append(_row(str(block), "LoRA", recovered) | {"won back": won / lost if lost > 0 else float("nan")})
    return pd.DataFrame(rows)


def _row(block: str, model: str, scored: Sequence[Scored]) -> dict[str, object]:
    by_task = {task: float(np.mean([one.accuracy[task] for one in scored])) for task in TASKS}
    return {
        "block": block, "model": model, **by_task,
        "mean": float(np.mean(list(by_task.values()))),
        "margin": float(np.mean([one.margin for one in scored])),
        "gold probability": float(np.mean([list(one.gold_probability.values()) for one in scored])),
    }


def allocation_scores(
    instrument: Instrument, block: Block, allocations: Sequence[RankAllocation], seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """Mean over tasks of accuracy and of gold probability, and the training loss at the end, (allocations, seeds)."""
    scored = [[instrument.recovered(block, one, seed) for seed in seeds] for one in allocations]
    return {
        "gold probability": np.array([[np.mean(list(s.gold_probability.values())) for s in row] for row in scored]),
        "accuracy": np.array([[np.mean(list(s.accuracy.values())) for s in row] for row in scored]),
    }


def signal_table(scores: dict[str, np.ndarray]) -> dict[str, VarianceComponents]:
    """Spread between allocations and noise of training, by signal."""
    return {name: variance_components(values) for name, values in scores.items()}


def with_learning_rate(budget: Budget, rate: float) -> Budget:
    return replace(budget, learning_rates=[rate])
