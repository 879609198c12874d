"""Checkpoints in folders, dense or pruned: their shapes and their models."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput
from rankadaptor.models.pruned_llama import PrunedLlamaConfig

transformers_logging.disable_progress_bar()  # one bar a checkpoint, for a second each, would hide this project's own


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Shapes of a model in memory, dense or pruned."""
    return Architecture.from_config(model.config.to_dict())


def default_device() -> torch.device:
    """The device that models are loaded to: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_architecture(folder: Path) -> Architecture:
    """Shapes of a checkpoint, dense or pruned, from its `config.json`.

    Raises:
        BadInput: if there is none, or it lacks shapes.
    """
    return _shapes(folder, _read_config(folder))


def check_llama(folder: Path, pruned: bool = False) -> Architecture:
    """Shapes of a LLaMA checkpoint, from its `config.json`.

    Args:
        pruned: Whether a pruned checkpoint is accepted.

    Raises:
        BadInput: on another architecture, on biases in the projections, or on a pruned one that is not accepted.
    """
    config = _read_config(folder)
    kind = config.get("model_type")
    if kind not in ("llama", PrunedLlamaConfig.model_type):
        raise BadInput(f"the model in {folder} is of type {kind!r}, and only llama models are read: give one")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise BadInput(f"the model in {folder} has biases in its projections: give a LLaMA without them")
    if not pruned and (kind != "llama" or "original_layers" in config):
        raise BadInput(f"the model in {folder} is pruned already: give the dense one")
    return _shapes(folder, config)


def _shapes(folder: Path, config: dict[str, Any]) -> Architecture:
    try:
        return Architecture.from_config(config)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise BadInput(f"{folder / 'config.json'} does not say the shapes of a LLaMA ({reason}): restore it") from None


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise BadInput(f"no model in {folder}: name a folder with config.json and safetensors files")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise BadInput(f"{path} is not a JSON object: restore it")
    return config


def check_weights(folder: Path) -> None:
    """Raise BadInput unless a folder has safetensors files and a tokenizer."""
    if not any(folder.glob("*.safetensors")):
        raise BadInput(f"no safetensors files in {folder}: other weights are never read, convert them")
    if not any(folder.glob("tokenizer*")):
        raise BadInput(f"no tokenizer in {folder}: put its files beside the model")


def load_model(folder: Path, device: torch.device | None = None, dtype: str = "saved") -> PreTrainedModel:
    """A checkpoint, dense or pruned, in evaluation mode.

    Args:
        device: Default: `default_device()`.
        dtype: "saved" for the dtype of its files, or "bfloat16".

    Raises:
        BadInput: if the folder holds no model.
    """
    _read_config(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto" if dtype == "saved" else torch.bfloat16, use_safetensors=True, trust_remote_code=False,
        local_files_only=True,
    )
    return model.to(device or default_device()).eval()


def random_weights(config: LlamaConfig) -> PreTrainedModel:
    """A model of the given shape with the same random weights every time, in bfloat16, on the default device."""
    torch.manual_seed(0)
    with default_device():
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
