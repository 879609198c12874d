"""The stage that measures a model's perplexity on text."""

from typing import Any

from rankadaptor.data.text import perplexity_identity, perplexity_texts
from rankadaptor.evaluation.perplexity import perplexity
from rankadaptor.evaluation.spec import PerplexitySpec
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages.stage import Stage, Task

_ALL_WINDOWS = 2_700  # of 128 tokens in WikiText-2's test text, under LLaMA's tokenizer; for estimates only


class Perplexity(Stage):
    name = "perplexity"
    spec_type = PerplexitySpec

    def revisions(self, inputs: Inputs) -> dict[str, str]:
        return inputs.item_revisions() | {"text": perplexity_identity(inputs.benchmarks)}

    def compute(self, task: Task) -> dict[str, Any]:
        spec, inputs = task.step.spec, task.models.inputs
        assert isinstance(spec, PerplexitySpec)
        if task.diverged:
            return {"diverged": task.diverged}
        texts = perplexity_texts(inputs.benchmarks, *inputs.protection)
        with task.models.ready(task.step.parent) as model:
            return perplexity(model, task.models.tokenizer, texts, spec)

    def size(self, spec: PerplexitySpec) -> int | None:
        return spec.max_windows

    def seconds(self, size: int | None, cost: Cost) -> float:
        return (size or _ALL_WINDOWS) * cost.perplexity_seconds_per_window

    def describe(self, size: int | None) -> str:
        return f"perplexity ({size or 'all'} windows)"
