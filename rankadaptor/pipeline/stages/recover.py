"""Stage `recover`: trains an adapter on a pruned model."""

from collections.abc import Mapping
from typing import Any, ClassVar

from rankadaptor.data.instruction_rows import counted_recovery_rows, recovery_identity
from rankadaptor.errors import RecoveryDiverged
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages.stage import Stage, Task
from rankadaptor.recovery.adapters import save_adapter
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec, adapter_method
from rankadaptor.recovery.training import train


class Recover(Stage):
    """Trains an adapter on instruction rows; writes it to `adapter/`."""

    name = "recover"
    spec_type = RecoverySpec
    result_fields: ClassVar = {"losses": list, "realised_ranks": dict, "trainable_parameters": int, "tokens": int}

    def revisions(self, inputs: Inputs) -> dict[str, str]:
        """Identities of the rows, and of the items that they keep clear of."""
        return inputs.item_revisions() | {"rows": recovery_identity(inputs.recovery_data)}

    def compute(self, task: Task) -> dict[str, Any]:
        """Returns losses, realised ranks, trainable parameters, tokens, rows that were read and how many of them were
        left out because they share text with scored items; or why the recovery diverged.
        """
        spec, inputs = task.step.spec, task.models.inputs
        assert isinstance(spec, RecoverySpec)
        data = counted_recovery_rows(inputs.recovery_data, inputs.benchmarks, *inputs.protection)
        steps = spec.recipe.steps
        with task.models.loaded(task.step.parent) as loaded, loaded.attached(spec) as adapted:
            try:
                training = train(
                    adapted, task.models.tokenizer, data.rows, spec, lambda done, loss: task.report(done / (steps + 1))
                )
            except RecoveryDiverged as error:
                return {"diverged": error.reason}
            save_adapter(adapted, task.folder / "adapter")
        return {
            "losses": training.losses,
            "realised_ranks": training.ranks,
            "trainable_parameters": training.trainable_parameters,
            "tokens": training.tokens,
            "rows_read": data.read,
            "rows_left_out": data.left_out,
        }

    def size(self, spec: RecoverySpec) -> int:
        """Rows trained on."""
        return spec.recipe.steps * spec.recipe.batch_rows

    def seconds(self, size: int | None, cost: Cost) -> float:
        """Proportional to the rows."""
        return (size or 0) * cost.recovery_seconds_per_row

    def megabytes(self, cost: Cost) -> float:
        """The adapter."""
        return cost.adapter_megabytes

    def describe(self, size: int | None) -> str:
        """Names the rows."""
        return f"recover ({size} rows)"

    def current_version(self, spec: Mapping[str, Any]) -> int:
        """By method and recipe: dropout is drawn in other ways than it was.

        Raises:
            BadInput: if the method is not registered.
            TypeError: if the recipe has fields that this code's does not have.
        """
        return adapter_method(spec["method"]).numerics_version(Recipe(**spec["recipe"]))
