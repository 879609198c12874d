"""Stage `prune`: prunes the base model in width or in depth."""

from typing import Any, ClassVar

import torch

from rankadaptor.data.text import calibration_texts, calibration_windows
from rankadaptor.models.base_model import base_model
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages.stage import Stage, Task
from rankadaptor.pruning import prune
from rankadaptor.pruning.checkpoints import save_pruned
from rankadaptor.pruning.spec import PruneSpec


class Prune(Stage):
    """Prunes the base model; writes the checkpoint `model/`, `kept.json` and `importance.json`."""

    name = "prune"
    spec_type = PruneSpec
    result_fields: ClassVar = {"parameters": dict, "decoder_parameters": dict, "layer_shapes": list,
                               "original_layers": list}

    def revisions(self, inputs: Inputs) -> dict[str, str]:
        """Identity of the items that calibration text keeps clear of."""
        return inputs.item_revisions()

    def compute(self, task: Task) -> dict[str, Any]:
        """Returns parameters before and after, the shapes of the layers, and the original layers that remain."""
        spec, inputs, tokenizer = task.step.spec, task.models.inputs, task.models.tokenizer
        assert isinstance(spec, PruneSpec)
        texts = calibration_texts(inputs.benchmarks, *inputs.protection)
        windows = calibration_windows(
            texts,
            lambda text: tokenizer(text, add_special_tokens=False).input_ids,
            spec.calibration_samples,
            spec.calibration_tokens,
            spec.seed,
        )
        task.models.release()
        dense = base_model(inputs.base_model)
        pruned = prune(dense, spec, torch.tensor(windows))
        save_pruned(pruned, task.folder / "model")
        tokenizer.save_pretrained(task.folder / "model")
        for name in ("kept.json", "importance.json"):
            (task.folder / "model" / name).rename(task.folder / name)
        before, after = architecture_of(dense), architecture_of(pruned.model)
        return {
            "parameters": {"base": before.parameters(), "pruned": after.parameters()},
            "decoder_parameters": {"base": before.decoder_parameters(), "pruned": after.decoder_parameters()},
            "layer_shapes": [[shape.heads, shape.kv_heads, shape.mlp_width] for shape in after.layers],
            "original_layers": list(after.original_layers),
        }

    def seconds(self, size: int | None, cost: Cost) -> float:
        """The same for every pruning."""
        return cost.prune_seconds

    def megabytes(self, cost: Cost) -> float:
        """The pruned checkpoint."""
        return cost.pruned_model_megabytes
