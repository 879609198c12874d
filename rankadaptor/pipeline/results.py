"""Reads the results of steps; computes those that the ledger lacks."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.architecture import Architecture
from rankadaptor.data.benchmarks import evaluation_rows, item_subjects
from rankadaptor.errors import RecoveryDiverged
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.gate import read_architecture
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger_files import Entry
from rankadaptor.pipeline.step import Step


class Results:
    """Results of one runner's steps. Every method may compute a step, and raises as `Runner.run` does."""

    def __init__(self, inputs: Inputs, run: Callable[[Step], Entry]):
        self._inputs, self._run = inputs, run

    def metrics(self, step: Step) -> dict[str, dict[str, float]]:
        """Scores of an evaluation: task -> metric -> mean over items.

        Raises:
            RecoveryDiverged: if the evaluated model is a recovery that diverged.
        """
        return self._scored(step)["metrics"]

    def perplexity(self, step: Step) -> float:
        """Perplexity that a step measured. Raises as `metrics` does."""
        return self._scored(step)["perplexity"]

    def items(self, step: Step) -> pd.DataFrame:
        """Outcomes of an evaluation, one row an item. Raises as `metrics` does."""
        self._scored(step)
        return pd.read_parquet(self._run(step).path("items.parquet"))

    def continuations(self, step: Step) -> pd.DataFrame:
        """Texts of a generate step, see `evaluation.generation`. Raises as `metrics` does."""
        self._scored(step)
        return pd.read_parquet(self._run(step).path("continuations.parquet"))

    def read_json(self, step: Step, name: str) -> Any:
        """Content of a JSON file beside a step's result."""
        return json.loads(self._run(step).path(name).read_text())

    def architecture(self, step: Step | None) -> Architecture:
        """Shapes of the base model (None) or of a pruning step."""
        folder = base_model_folder(self._inputs.base_model) if step is None else self._run(step).path("model")
        return read_architecture(folder)

    def subjects(self, spec: EvaluationSpec) -> dict[str, np.ndarray]:
        """Subjects of the items of an evaluation.

        Returns:
            Task -> number of each item's subject, in the items' order, shape (items,); without tasks whose items share
            no subjects.
        """
        source, subjects = self._inputs.benchmarks, {}
        for task in spec.tasks:
            rows = evaluation_rows(source, task, spec.split, spec.items_per_task, spec.item_seed,
                                   self._inputs.search_pool)
            if (names := item_subjects(source, task, rows)) is not None:
                subjects[task] = np.unique(names, return_inverse=True)[1]
        return subjects

    def _scored(self, step: Step) -> dict[str, Any]:
        result = self._run(step).result["result"]
        if "diverged" in result:
            raise RecoveryDiverged(result["diverged"])
        return result
