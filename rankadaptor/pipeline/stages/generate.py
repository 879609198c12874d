"""Stage `generate`: a model's continuations of prompts."""

from typing import Any, ClassVar

from rankadaptor.evaluation.generation import continuations
from rankadaptor.evaluation.spec import GenerationSpec
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages.stage import Stage, Task


class Generate(Stage):
    """Continues prompts, greedily and sampled; writes them to `continuations.parquet`."""

    name = "generate"
    spec_type = GenerationSpec
    result_fields: ClassVar = {"tokens": int}

    def revisions(self, inputs: Inputs) -> dict[str, str]:
        """None: the prompts are part of the spec."""
        return {}

    def compute(self, task: Task) -> dict[str, Any]:
        """Returns {"tokens": number of generated tokens}."""
        spec = task.step.spec
        assert isinstance(spec, GenerationSpec)
        if task.diverged:
            return {"diverged": task.diverged}
        with task.models.ready(task.step.parent) as model:
            table = continuations(model, task.models.model(None), task.models.tokenizer, spec)
        table.to_parquet(task.folder / "continuations.parquet", index=False)
        return {"tokens": int(table["tokens"].sum())}

    def size(self, spec: GenerationSpec) -> int:
        """Generated tokens, at most."""
        return len(spec.prompts) * (1 + spec.samples) * spec.max_new_tokens

    def seconds(self, size: int | None, cost: Cost) -> float:
        """Proportional to the tokens."""
        return (size or 0) * cost.generation_seconds_per_token

    def describe(self, size: int | None) -> str:
        """Names the tokens."""
        return f"generate ({size} tokens)"
