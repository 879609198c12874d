"""Stage `perplexity`: a model's perplexity on text."""

import math
from typing import Any, ClassVar

from rankadaptor.data.text import perplexity_identity, perplexity_texts
from rankadaptor.evaluation.perplexity import perplexity
from rankadaptor.evaluation.spec import PerplexitySpec
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages.stage import Stage, Task

_ALL_WINDOWS = 2_700  # for estimates only: windows of 128 LLaMA tokens in the test text of WikiText-2


class Perplexity(Stage):
    """Measures perplexity on windows of held-out text."""

    name = "perplexity"
    spec_type = PerplexitySpec
    result_fields: ClassVar = {"perplexity": float}

    def revisions(self, inputs: Inputs) -> dict[str, str]:
        """Identities of the text, and of the items that it keeps clear of."""
        return inputs.item_revisions() | {"text": perplexity_identity(inputs.benchmarks)}

    def compute(self, task: Task) -> dict[str, Any]:
        """Returns what `evaluation.perplexity.perplexity` does; or that it is NaN, as of a recovery that diverged."""
        spec, inputs = task.step.spec, task.models.inputs
        assert isinstance(spec, PerplexitySpec)
        if task.diverged:
            return {"diverged": task.diverged}
        texts = perplexity_texts(inputs.benchmarks, *inputs.protection)
        with task.models.ready(task.step.parent) as model:
            result = perplexity(model, task.models.tokenizer, texts, spec)
        if math.isnan(result["perplexity"]):
            return {"diverged": "perplexity is NaN: check the model's weights, or give it a type of wider range"}
        return result

    def size(self, spec: PerplexitySpec) -> int | None:
        """Windows; None: all."""
        return spec.max_windows

    def seconds(self, size: int | None, cost: Cost) -> float:
        """Proportional to the windows."""
        return (size or _ALL_WINDOWS) * cost.perplexity_seconds_per_window

    def describe(self, size: int | None) -> str:
        """Names the windows."""
        return f"perplexity ({size or 'all'} windows)"
