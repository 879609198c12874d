"""Stage `prune`: prunes the base model in width or in depth."""

from typing import Any, ClassVar

from rankadaptor.data.text import calibration_texts
from rankadaptor.models.base_model import base_model, base_model_folder
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.models.gate import read_architecture
from rankadaptor.models.tokenizers import copy_tokenizer
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.stages.stage import Stage, Task
from rankadaptor.pruning import prune
from rankadaptor.pruning.calibration import tokenised_windows
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
        source = base_model_folder(inputs.base_model)
        windows = tokenised_windows(texts, tokenizer, spec, read_architecture(source).vocab_size)
        task.models.release()
        dense = base_model(inputs.base_model)
        pruned = prune(dense, spec, windows)
        save_pruned(pruned, task.folder / "model")
        copy_tokenizer(tokenizer, source, task.folder / "model")
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
