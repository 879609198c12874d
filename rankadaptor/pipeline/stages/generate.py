"""The stage that lets a model continue prompts."""

from typing import Any

from rankadaptor.evaluation.generation import continuations
from rankadaptor.evaluation.spec import GenerationSpec
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages.stage import Stage, Task


class Generate(Stage):
    name = "generate"
    spec_type = GenerationSpec

    def revisions(self, inputs: Inputs) -> dict[str, str]:
        return {}

    def compute(self, task: Task) -> dict[str, Any]:
        spec = task.step.spec
        assert isinstance(spec, GenerationSpec)
        if task.diverged:
            return {"diverged": task.diverged}
        with task.models.ready(task.step.parent) as model:
            written = continuations(model, task.models.model(None), task.models.tokenizer, spec)
        written.to_parquet(task.folder / "continuations.parquet", index=False)
        return {"tokens": int(written["tokens"].sum())}

    def size(self, spec: GenerationSpec) -> int:
        return len(spec.prompts) * (1 + spec.samples) * spec.max_new_tokens

    def seconds(self, size: int | None, cost: Cost) -> float:
        return (size or 0) * cost.generation_seconds_per_token

    def describe(self, size: int | None) -> str:
        return f"generate ({size} tokens)"
