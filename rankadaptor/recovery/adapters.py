"""Adapters on a pruned model: attached, saved and loaded."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import PreTrainedModel

from rankadaptor.allocation import validate_allocation
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.recovery.adapter_gate import read_adapter
from rankadaptor.recovery.merging import check_mergeable
from rankadaptor.recovery.portable import make_portable
from rankadaptor.recovery.spec import RecoverySpec, adapter_method


def attach_adapter(model: PreTrainedModel, spec: RecoverySpec) -> PeftModel:
    """Add a fresh adapter; the base weights are frozen. Initialisation is a function of `spec.seed` alone.

    Raises:
        BadInput: if the allocation does not fit the model.
    """
    architecture = architecture_of(model)
    validate_allocation(spec.allocation, architecture)
    method = adapter_method(spec.method)
    config = method.peft_config(spec, architecture)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(spec.seed)  # PEFT initialises from the global generator
        with _quiet_peft():
            adapted = get_peft_model(model, config)
    method.initialise(adapted, spec)
    return adapted


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Write an adapter as safetensors and its configuration, see `portable`; equal adapters give equal files."""
    with _quiet_peft():
        adapted.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    make_portable(folder / "adapter_config.json")


@contextlib.contextmanager
def _quiet_peft() -> Iterator[None]:
    """Silence four warnings that PEFT raises whatever its caller does.

    AdaLoRA's ranks of 0 are no unsaved shards; its `rank_pattern` names parameters, not modules; PEFT reads an
    attribute of transformers by its old name; and it recommends that EVA begin on a device without memory.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*is_gradient_checkpointing.*")
        warnings.filterwarnings("ignore", message=r".*lora with eva initialization used with low_cpu_mem_usage.*")
        warnings.filterwarnings("ignore", message=r"(?s).*LoRA tensor\(s\) have invalid shape.*")
        warnings.filterwarnings("ignore", message=r"(?s).*rank_pattern keys did not match.*lora_E.*")
        yield


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """A trained adapter on its pruned model, in evaluation mode.

    Raises:
        BadInput: on an adapter that `adapter_gate` refuses, or the adapter of another model: the loaded tensors are not
            exactly those of the file.
    """
    stored = read_adapter(folder)
    check_mergeable(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of keys that are missing or unknown: these are refused below
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise BadInput(f"the adapter in {folder} does not fit the model ({' '.join(str(error).split())[:100]}): name"
                       " the model that it was recovered on") from None
    for name, parameter in adapted.named_parameters():
        # PEFT loads AdaLoRA's factors in the dtype of the base: undo the rounding of half precision.
        tensor = stored.get(name.replace(".default", "")) if ".lora_" in name else None
        if tensor is not None and tensor.shape == parameter.shape and torch.equal(
            tensor.to(model.dtype), parameter.data.cpu().to(model.dtype)
        ):
            parameter.data = tensor.to(parameter.device, torch.float32)
    with _quiet_peft():
        # "auto" would look up the base model that the configuration names, on the hub if need be.
        on_embeddings = any(".lora_" in name and ("embed_tokens" in name or "lm_head" in name) for name in stored)
        loaded = get_peft_model_state_dict(adapted, save_embedding_layers=on_embeddings)
    # With an adapter of the embeddings, PEFT saves the weights under it or leaves them to the model.
    left_out = {name for name in loaded.keys() - stored.keys() if name.endswith(".base_layer.weight")}
    if stored.keys() != loaded.keys() - left_out or any(
        not torch.equal(tensor.to(loaded[name].dtype), loaded[name].cpu()) for name, tensor in stored.items()
    ):
        raise BadInput(f"the adapter in {folder} does not fit the model, {len(stored)} tensors stored, {len(loaded)}"
                       " in the model: name the model that it was recovered on")
    return adapted.eval()
