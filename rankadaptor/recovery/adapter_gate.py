"""The gate that every adapter passes before PEFT reads it: its configuration is whole, its tensors are finite."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file

from rankadaptor.allocation import MOST_RANK
from rankadaptor.errors import BadInput
from rankadaptor.sealed import given_object

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_KINDS = {"LORA": LoraConfig, "ADALORA": AdaLoraConfig}  # by PEFT's `peft_type`
_MOST_BYTES = 2**20  # of the configuration; real ones have 2 KiB


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter by name, after a check of its configuration and of every value.

    Raises:
        BadInput: if the folder holds no safetensors adapter (PEFT would go on to load a pickle); on a configuration
            that is not LoRA's or AdaLoRA's, or that holds entries which PEFT would pass over; on a damaged file; on
            NaN.
    """
    path = folder / WEIGHTS
    if not path.is_file() or not (folder / CONFIG).is_file():
        raise BadInput(f"no {WEIGHTS} and {CONFIG} in {folder}: name a folder written by a recovery")
    _check_config(folder / CONFIG)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is no whole safetensors file ({' '.join(str(error).split())[:100]}): restore it"
                       ) from None
    if not tensors:
        raise BadInput(f"{path} holds no tensor: the adapter is empty, name another folder")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not torch.isfinite(tensor.float()).all():
            kind = "NaN or infinity" if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")
            raise BadInput(f"{name} in {path} holds {kind}: recover the adapter again, or restore it")
    return tensors


def _check_config(path: Path) -> None:
    config = given_object(path, _MOST_BYTES)
    kind = _KINDS.get(str(config.get("peft_type")))
    if kind is None:
        raise BadInput(f"the adapter of {path} is of type {config.get('peft_type')!s:.40}: only"
                       f" {' and '.join(_KINDS)} are read")
    known = {field.name for field in dataclasses.fields(kind)}
    for name, value in config.items():
        if name not in known and value not in (None, False, [], {}):
            raise BadInput(f"{path} has the entry {name[:40]}, which the installed PEFT does not know and would pass"
                           " over: remove it, or recover the adapter again")
    _check_rank(path, "r", config.get("r"))
    _check_alpha(path, "lora_alpha", config.get("lora_alpha"))
    for entry, check in (("rank_pattern", _check_rank), ("alpha_pattern", _check_alpha)):
        patterns = config.get(entry) or {}
        if not isinstance(patterns, dict):
            raise BadInput(f"{path} has {entry} {patterns!r:.40}: restore it as a mapping from names to numbers")
        for name, value in patterns.items():
            _check_pattern(path, entry, name)
            if not isinstance(value, list):  # AdaLoRA keeps a mask there
                check(path, f"{entry} of {name[:60]}", value)


def _check_rank(path: Path, name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= MOST_RANK:
        raise BadInput(f"{path} has {name} {value!r:.40}: ranks are whole numbers of 1 to {MOST_RANK}, restore it")


def _check_alpha(path: Path, name: str, value: Any) -> None:
    if type(value) not in (int, float) or not (math.isfinite(value) and value > 0):
        raise BadInput(f"{path} has {name} {value!r:.40}: a scaling is a number above 0, restore it")


def _check_pattern(path: Path, entry: str, name: str) -> None:
    try:
        re.compile(name)
    except re.error as error:
        raise BadInput(f"{path} has {entry} for {name!r:.60}, which is no pattern of module names ({error}): restore it"
                       ) from None
