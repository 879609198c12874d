"""What a table measures of every model, and the rows that are read from the results."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation
from rankadaptor.architecture import PROJECTIONS, Architecture
from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.evaluation.spec import Split
from rankadaptor.experiments.methods import DENSE, NO_RECOVERY
from rankadaptor.experiments.results import Row
from rankadaptor.experiments.tables import Contents
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Budget, Profile
from rankadaptor.pruning.spec import Block
from rankadaptor.recovery.spec import RecoverySpec


class TableRows:
    """Steps and rows of one table."""

    def __init__(
        self, runner: Runner, profile: Profile, budget: Budget, seeds: tuple[int, ...], contents: Contents,
        split: Split = "report",
    ):  # fmt: skip
        self._runner, self._contents, self._seeds = runner, contents, seeds
        self.split = split
        self._evaluation = profile.evaluation_spec(budget, split)
        self.tasks = self._evaluation.tasks
        self._perplexity, self._generation = profile.evaluation.perplexity, profile.evaluation.generation

    def report_step(self, parent: Step | None) -> Step:
        """The evaluation of a model."""
        return Step("evaluate", self._evaluation, parent)

    def unrecovered_steps(self, parent: Step | None) -> list[Step]:
        """All that is measured of a model without an adapter."""
        report = self.report_step(parent)
        texts = [] if self._contents.methods else [self._text_step(parent)]
        return [report, *texts, *self.continued([report])]

    def report_steps(self, pruned: Step, specs: Sequence[RecoverySpec]) -> list[Step]:
        """The evaluations of some recoveries."""
        return [self.report_step(Step("recover", spec, pruned)) for spec in specs]

    def final_steps(self, pruned: Step, specs: Sequence[RecoverySpec]) -> list[Step]:
        """All that is measured of reported recoveries."""
        reports = self.report_steps(pruned, specs)
        return reports + self.continued(reports)

    def continued(self, reports: Sequence[Step]) -> list[Step]:
        """Continuations of prompts by the models that some steps score, where the table asks for them."""
        return [Step("generate", self._generation, step.parent) for step in reports] if self._contents.generates else []

    def _text_step(self, parent: Step | None) -> Step:
        return Step("perplexity", self._perplexity, parent)

    def dense(self) -> Row:
        """The unpruned model."""
        return self._row(DENSE, DENSE, [self.report_step(None)], None, ())

    def unrecovered(self, block: Block, pruned: Step) -> Row:
        """A pruned model as it is."""
        return self._row(str(block), NO_RECOVERY, [self.report_step(pruned)], None, ())

    def recovered(self, block: Block, method: str, pruned: Step, specs: Sequence[RecoverySpec]) -> Row:
        """A method on a block. Raises StageFailed if one of the recoveries has no result."""
        steps = self.report_steps(pruned, specs)
        allocations = tuple(dict.fromkeys(spec.allocation for spec in specs))
        return self._row(str(block), method, steps, specs[0].recipe.learning_rate, allocations)

    def per_task(self, block: Block, method: str, pruned: Step, specs: dict[str, list[RecoverySpec]]) -> Row:
        """The paper's Table 7 reading: each task is scored on the model recovered with its own allocation."""
        by_task = {task: self.recovered(block, method, pruned, specs[task]) for task in self.tasks}
        return dataclasses.replace(
            by_task[self.tasks[0]],
            outcomes={task: by_task[task].outcomes[task] for task in self.tasks},
            gold_probability={task: by_task[task].gold_probability[task] for task in self.tasks},
            trainable_parameters=max(row.trainable_parameters for row in by_task.values()),
            training_loss=None,  # seven models, seven losses
            realised_ranks={},
            allocations=tuple(by_task[task].allocations[0] for task in self.tasks),
            keys=tuple(sorted({key for row in by_task.values() for key in row.keys})),
        )

    def _row(
        self, block: str, method: str, steps: list[Step], rate: float | None, allocations: tuple[RankAllocation, ...]
    ) -> Row:
        tables = [self._runner.results.items(step) for step in steps]
        parent = steps[0].parent
        recovered = parent if parent is not None and parent.stage == "recover" else None
        recoveries = [self._runner.run(s.parent).result["result"] for s in steps if s.parent] if recovered else []
        recovery = recoveries[0] if recoveries else None
        architecture = self._runner.results.architecture(recovered.parent if recovered else parent)
        texts = [] if self._contents.methods else [self._text_step(parent)]
        return Row(
            block=block,
            method=method,
            outcomes={task: _stack(tables, task, BENCHMARKS[task].metric) for task in self.tasks},
            gold_probability={task: _stack(tables, task, "gold_probability") for task in self.tasks},
            subjects=self._subjects,
            parameters=architecture.parameters(),
            trainable_parameters=recovery["trainable_parameters"] if recovery else 0,
            learning_rate=rate,
            perplexity=self._runner.results.perplexity(texts[0]) if texts else None,
            training_loss=final_loss([result["losses"] for result in recoveries]) if recoveries else None,
            allocations=allocations,
            realised_ranks=_by_projection(recovery["realised_ranks"], architecture) if recovery else {},
            keys=tuple(map(self._runner.key, [*steps, *texts, *self.continued(steps)])),
            continuations=self._continuations(steps),
        )

    @cached_property
    def _subjects(self) -> dict[str, np.ndarray]:
        return self._runner.results.subjects(self._evaluation)

    def _continuations(self, steps: Sequence[Step]) -> pd.DataFrame | None:
        continued = self.continued(steps)
        if not continued:
            return None
        seeds = self._seeds if len(steps) > 1 else self._seeds[:1]
        return pd.concat([self._runner.results.continuations(step).assign(seed=seed)
                          for seed, step in zip(seeds, continued, strict=True)], ignore_index=True)


def final_loss(losses: Sequence[Sequence[float]]) -> float:
    """Mean loss over runs and the last quarter of their steps."""
    return float(np.mean([np.mean(run[-max(1, len(run) // 4) :]) for run in losses]))


def _by_projection(by_module: dict[str, int], architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Realised ranks of each projection by layer of the unpruned model, from those of modules `model.layers.N...`."""
    ranks = {projection: [0] * architecture.original_layer_count for projection in PROJECTIONS}
    for name, rank in by_module.items():
        parts = name.split(".")
        ranks[parts[-1]][architecture.original_layers[int(parts[2])]] = rank
    return {projection: tuple(by_layer) for projection, by_layer in ranks.items()}


def _stack(tables: Sequence[pd.DataFrame], task: str, column: str) -> np.ndarray:
    """(seeds, items) of one column of one task."""
    return np.stack([table.loc[table["task"] == task, column].to_numpy(dtype=float) for table in tables])
