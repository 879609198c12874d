"""Stage `evaluate`: scores a model on benchmarks, zero-shot."""

from typing import Any, ClassVar

from rankadaptor.errors import NotFinite
from rankadaptor.evaluation import evaluate
from rankadaptor.evaluation.items import task_metrics
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages.stage import Stage, Task

# For estimates only.
REPORT_ITEMS = 20_465  # of the paper's seven benchmarks
_TASKS = 7
_ALL_ITEMS_PER_TASK = REPORT_ITEMS / _TASKS


class Evaluate(Stage):
    """Scores a model on benchmarks; writes one row an item to `items.parquet`."""

    name = "evaluate"
    spec_type = EvaluationSpec
    result_fields: ClassVar = {"metrics": dict}

    def revisions(self, inputs: Inputs) -> dict[str, str]:
        """Identity of the benchmarks."""
        return inputs.benchmark_revisions()

    def compute(self, task: Task) -> dict[str, Any]:
        """Returns {"metrics": task -> metric -> mean}; or why the model's scores are not finite, as of a recovery that
        diverged: one model of a table then has no score, and the others do.
        """
        spec = task.step.spec
        assert isinstance(spec, EvaluationSpec)
        if task.diverged:
            return {"diverged": task.diverged}
        with task.models.ready(task.step.parent) as model:
            try:
                items = evaluate(model, task.models.tokenizer, spec, task.models.requests(spec))
            except NotFinite as error:
                return {"diverged": str(error)}
        items.to_parquet(task.folder / "items.parquet", index=False)
        return {"metrics": task_metrics(items)}

    def size(self, spec: EvaluationSpec) -> int | None:
        """Items a task; None: all."""
        return spec.items_per_task

    def seconds(self, size: int | None, cost: Cost) -> float:
        """Seven tasks of this many items."""
        return _TASKS * (size or _ALL_ITEMS_PER_TASK) * cost.evaluation_seconds_per_item

    def describe(self, size: int | None) -> str:
        """Names the items per task."""
        return f"evaluate ({size or 'all'} items a task)"
