"""Base models by their source: hub, folder, GGUF file or the embedded model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from rankadaptor import testbed
from rankadaptor.bounds import check_line
from rankadaptor.data.hub import checkpoint_folder, is_here
from rankadaptor.data.locations import check_member
from rankadaptor.data.sources import Source, is_cached, source_folder, source_identity
from rankadaptor.errors import BadInput, shown
from rankadaptor.files import cache_folder, file_digest
from rankadaptor.keys import sha256_text
from rankadaptor.models.checkpoints import check_report, load_model
from rankadaptor.models.gate import check_checkpoint
from rankadaptor.sealed import cached_folder, is_there

_NUMERICS_VERSION = 1  # of the weights that are read from a source; part of every key


@dataclass(frozen=True)
class BaseModel:
    """An unpruned model: its source, and how it is loaded."""

    label: str  # its name in every report
    source: Source
    gguf: str | None  # the GGUF file among the source's files; null for a folder that transformers loads
    dtype: Literal["saved", "bfloat16"]  # it is loaded in; saved: the dtype of the files

    def __post_init__(self) -> None:
        check_line("label of the base model", self.label)
        if self.gguf is not None:
            check_member("gguf", self.gguf)
            if self.source.kind not in ("wheel", "dir"):
                raise BadInput(f"gguf {shown(self.gguf)} was given with a source of kind {self.source.kind}: it goes"
                               " with a wheel or a folder")
        if self.dtype != "saved" and (self.gguf is not None or self.source.kind == "testbed"):
            # Keys do not hold the dtype of these two, which are float32.
            raise BadInput(f"dtype is {self.dtype}, and a GGUF file and the embedded model are read as float32: set"
                           " dtype to saved")


def base_model_identity(base: BaseModel) -> str:
    """The text that stands for a base model in a key. Reads the files of a folder once a run, see `file_digest`."""
    if base.gguf is not None:
        return f"{source_identity(base.source)}:{base.gguf}:float32:v{_NUMERICS_VERSION}"
    if base.source.kind == "testbed":
        _check_embedded(base.source)
        return f"{source_identity(base.source)}:v{_NUMERICS_VERSION}"
    suffix = f":v{_NUMERICS_VERSION}" if base.dtype == "saved" else f":{base.dtype}:v{_NUMERICS_VERSION}"
    if base.source.kind == "hub":
        return f"{source_identity(base.source)}{suffix}"
    folder = source_folder(base.source, lambda _: True)
    files = [path.name for path in folder.glob("*") if path.suffix in (".json", ".model", ".safetensors", ".txt")]
    return f"{source_identity(base.source, files)}{suffix}"


def _check_embedded(source: Source) -> None:
    """Raise BadInput unless the weights of this package are those that the profile pins."""
    weights = testbed.MODEL / "model.safetensors"
    digest = file_digest(weights) if weights.is_file() else "none"
    if digest != source.sha256:
        raise BadInput(f"the embedded model has SHA-256 {digest}, the profile pins {source.sha256}: restore"
                       f" {weights.name}, or pin the one that is there")


def base_model_is_cached(base: BaseModel) -> bool:
    """Whether the base model is on this machine, converted where it has to be."""
    if base.source.kind == "hub":
        return is_here(base.source.location)
    return is_cached(base.source, lambda _: True) if base.gguf is None else is_there(_converted_folder(base))


def base_model(base: BaseModel) -> PreTrainedModel:
    """The base model, in evaluation mode, in its `dtype`, on the default device."""
    return load_model(base_model_folder(base), dtype=base.dtype)


def base_model_folder(base: BaseModel) -> Path:
    """A folder with the base model as safetensors and its tokenizer; a GGUF file is converted once into the cache.

    Raises:
        BadInput: if a hub checkpoint is no dense LLaMA, or lacks safetensors files or a tokenizer.
    """
    if base.source.kind == "testbed":
        return testbed.MODEL
    if base.gguf is None:
        is_hub = base.source.kind == "hub"
        folder = checkpoint_folder(base.source.location) if is_hub else source_folder(base.source, lambda _: True)
        check_checkpoint(folder, pruned=not is_hub)  # a folder may be a user's model, which was pruned already
        return folder
    name = base.gguf

    def convert(target: Path) -> None:
        _convert_gguf(source_folder(base.source, lambda member: member == name) / name, target)

    return cached_folder(_converted_folder(base), convert)


def _converted_folder(base: BaseModel) -> Path:
    return cache_folder() / "models" / sha256_text(base_model_identity(base))[:16]


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise to float32, without the quantisation entry: transformers refuses to save a model that has one.

    Raises:
        BadInput: on a file that transformers cannot read, another architecture than LLaMA, or a tensor that is missing.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of missing tensors is an error below
    try:
        kind = AutoConfig.from_pretrained(gguf.parent, gguf_file=gguf.name).model_type
        if kind != "llama":
            raise BadInput(f"the model in {gguf} is of type {kind!r}, and only llama models are read: give one")
        quantised, report = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True)
    except BadInput:
        raise
    except Exception as error:  # of whatever the readers raise on a damaged file
        raise BadInput(f"transformers cannot read {gguf} ({' '.join(str(error).split())[:100]}): give a whole GGUF file"
                       " of a LLaMA") from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    check_report(report, gguf)
    settings: dict[str, Any] = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
