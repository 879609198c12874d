"""Adapter configurations that every PEFT from 0.11 on reads as this one does."""

import dataclasses
import json
import re
from pathlib import Path

from peft import PEFT_TYPE_TO_CONFIG_MAPPING, LoraConfig

# What PEFT 0.11 knows of LoRA and AdaLoRA. Before 0.14 PEFT refuses a file with any other entry, so others are written
# only where they are not at their default.
_OLD_ENTRIES = frozenset("""
    alpha_pattern auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights
    layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout megatron_config
    megatron_core modules_to_save peft_type r rank_pattern revision target_modules task_type use_dora use_rslora
    beta1 beta2 deltaT init_r orth_reg_weight target_r tfinal tinit total_step
""".split())


def pattern_key(module: str) -> str:
    """Key of `rank_pattern` and `alpha_pattern` that every PEFT from 0.11 on matches to one module, and to no other.

    Before 0.15 PEFT asks for a dot before what a key matches, so the full name of a module matched nothing, and every
    module got the largest rank. Without its first part, "model.", the name is matched by both rules.

    Args:
        module: Its full name in a LLaMA, such as model.layers.1.mlp.up_proj.
    """
    return re.escape(module.removeprefix("model."))


def save_config(config: LoraConfig, folder: Path) -> None:
    """Write `adapter_config.json`, see `make_portable`."""
    config.save_pretrained(str(folder))
    make_portable(folder / "adapter_config.json")


def make_portable(path: Path) -> None:
    """Rewrite a configuration that PEFT wrote; equal ones become equal files, without paths of this machine.

    Args:
        path: Of `adapter_config.json`.
    """
    config = json.loads(path.read_text())
    defaults = {field.name: field.default for field in dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[
        config["peft_type"]])}
    newer = [name for name, value in config.items()
             if name not in _OLD_ENTRIES and (value == defaults[name] or name == "peft_version")]
    for name in newer:
        del config[name]
    config["base_model_name_or_path"] = None  # PEFT writes the folder that the model was loaded from
    config["target_modules"] = sorted(config["target_modules"])  # a set, in another order in every process
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
