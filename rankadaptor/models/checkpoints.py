"""Models in memory, from checkpoints in folders that passed the gate (`gate`)."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput
from rankadaptor.models.gate import check_llama, check_weights
from rankadaptor.models.tied import is_tied

transformers_logging.disable_progress_bar()  # one bar a checkpoint, for a second each, would hide this project's own


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Shapes of a model in memory, dense or pruned."""
    return Architecture.from_config(model.config.to_dict())


def default_device() -> torch.device:
    """The device that models are loaded to: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_model(folder: Path, device: torch.device | None = None, dtype: str = "saved") -> PreTrainedModel:
    """A checkpoint, dense or pruned, in evaluation mode.

    Args:
        device: Default: `default_device()`.
        dtype: "saved" for the dtype of its files, or "bfloat16".

    Raises:
        BadInput: if the folder does not hold exactly one LLaMA, see `gate`, or a weight of it is not finite.
    """
    check_weights(folder, check_llama(folder, pruned=True))
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto" if dtype == "saved" else torch.bfloat16, use_safetensors=True, trust_remote_code=False,
            local_files_only=True, output_loading_info=True,
        )
    except (KeyError, TypeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(f"transformers does not read {folder / 'config.json'} ({reason}): restore it") from None
    check_report(report, folder)
    model.config.tie_word_embeddings = is_tied(model)
    model = model.to(device or default_device()).eval()
    check_finite(model, folder)
    return model


def check_report(report: Mapping[str, Any], folder: Path) -> None:
    """Raise BadInput where transformers itself says that a model was not loaded whole: a second fence.

    Args:
        report: `output_loading_info` of `from_pretrained`.
    """
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if report.get(fault):
            example = " ".join(str(min(map(str, report[fault]))).split())[:100]
            raise BadInput(f"transformers did not load {folder} whole, {fault.replace('_', ' ')}: {example}; restore"
                           " the folder")


def check_finite(model: PreTrainedModel, folder: Path) -> None:
    """Raise BadInput if a weight is NaN or infinite: every score of such a model would be one of chance."""
    for name, weight in model.named_parameters():
        low, high = weight.detach().aminmax()  # one pass; NaN if any is NaN
        if not (math.isfinite(low) and math.isfinite(high)):
            raise BadInput(f"{name} in {folder} holds NaN or infinity: restore the weights")


def random_weights(config: LlamaConfig) -> PreTrainedModel:
    """A model of the given shape with the same random weights every time, in bfloat16, on the default device."""
    torch.manual_seed(0)
    with default_device():
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
