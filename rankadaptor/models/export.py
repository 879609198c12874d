"""Checkpoints that other releases of transformers read as this one does."""

import json
from pathlib import Path

from transformers import PreTrainedModel


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Write a LLaMA as safetensors and a `config.json` that holds the older spellings of its entries as well.

    transformers 5 writes `rope_parameters` and `dtype`. Version 4 reads `rope_theta`, `rope_scaling` and `torch_dtype`,
    takes 10,000 for a theta that it does not find, and says nothing. With both spellings, version 5 reads what it reads
    without the older ones.

    Args:
        folder: Made where it is not there.
    """
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    scaling = dict(config["rope_parameters"])
    config["rope_theta"] = scaling.pop("rope_theta")
    # Version 5 prefers `rope_scaling` where it is not null; then it adds `rope_theta` and finds the same mapping.
    config["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    if scaling["rope_type"] == "longrope":  # version 4 looks for this entry outside
        config["original_max_position_embeddings"] = scaling["original_max_position_embeddings"]
    config["torch_dtype"] = config["dtype"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
