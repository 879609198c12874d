"""Base models by their source, and reading checkpoints, dense or pruned."""

import json
import tempfile
from pathlib import Path
from typing import Any, TypeAlias

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rankadaptor import testbed
from rankadaptor.architecture import Architecture
from rankadaptor.corpora.downloads import (
    cache_folder,
    file_digest,
    is_cached,
    settle,
    source_folder,
    source_identity,
)
from rankadaptor.corpora.hub import checkpoint_folder, is_here
from rankadaptor.errors import BadInput
from rankadaptor.profiles import BaseModel, Source
from rankadaptor.pruned_llama import PrunedLlamaConfig
from rankadaptor.specs import NUMERICS_VERSION, sha256_text

Tokenizer: TypeAlias = PreTrainedTokenizerBase


transformers_logging.disable_progress_bar()  # a bar for every checkpoint of a second would drown ours


def architecture_of(model: PreTrainedModel) -> Architecture:
    return Architecture.from_config(model.config.to_dict())


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_architecture(folder: Path) -> Architecture:
    """Shapes of a checkpoint, dense or pruned, from its `config.json`.

    Raises:
        BadInput: if there is none.
    """
    return _shapes(folder, _read_config(folder))


def check_llama(folder: Path, pruned: bool = False) -> Architecture:
    """Shapes of a LLaMA checkpoint, from its `config.json`.

    Args:
        pruned: Whether a pruned one is meant as well.

    Raises:
        BadInput: on another architecture, on biases in the projections, or on a pruned one that is not meant.
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
    """Raises BadInput unless a folder has safetensors files and a tokenizer."""
    if not any(folder.glob("*.safetensors")):
        raise BadInput(f"no safetensors files in {folder}: other weights are never read, convert them")
    if not any(folder.glob("tokenizer*")):
        raise BadInput(f"no tokenizer in {folder}: put its files beside the model")


def load_model(folder: Path, device: torch.device | None = None, dtype: str = "saved") -> PreTrainedModel:
    """A checkpoint of this project, dense or pruned, ready to be evaluated.

    Args:
        dtype: "saved" for the one it was saved in, or "bfloat16".
    """
    _read_config(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto" if dtype == "saved" else torch.bfloat16, use_safetensors=True, trust_remote_code=False,
        local_files_only=True,
    )
    return model.to(device or default_device()).eval()


def random_weights(config: LlamaConfig) -> PreTrainedModel:
    """A model of some shape in bfloat16, always with the same weights, on the device that models are loaded to."""
    torch.manual_seed(0)
    with default_device():
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def load_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if tokenizer.pad_token_id is None:  # LLaMA has none; what stands on padding is masked anyway
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def base_model_identity(base: BaseModel) -> str:
    """What stands for a base model in a key. Reads all of a folder's weights: ask once."""
    if base.gguf is not None:
        return f"{source_identity(base.source)}:{base.gguf}:float32:v{NUMERICS_VERSION['base']}"
    if base.source.kind == "testbed":
        _check_embedded(base.source)
        return f"{source_identity(base.source)}:v{NUMERICS_VERSION['base']}"
    suffix = f":v{NUMERICS_VERSION['base']}" if base.dtype == "saved" else f":{base.dtype}:v{NUMERICS_VERSION['base']}"
    if base.source.kind == "hub":
        return f"{source_identity(base.source)}{suffix}"
    folder = source_folder(base.source, lambda _: True)
    files = [path.name for path in folder.glob("*") if path.suffix in (".json", ".model", ".safetensors", ".txt")]
    return f"{source_identity(base.source, files)}{suffix}"


def _check_embedded(source: Source) -> None:
    """The weights that this package ships are the ones that the profile pins."""
    weights = testbed.MODEL / "model.safetensors"
    found = file_digest(weights) if weights.is_file() else "none"
    if found != source.sha256:
        raise BadInput(f"the embedded model has SHA-256 {found}, the profile pins {source.sha256}: restore"
                       f" {weights.name}, or pin the one that is there")


def base_model_is_cached(base: BaseModel) -> bool:
    if base.source.kind == "hub":
        return is_here(base.source.location)
    return is_cached(base.source) if base.gguf is None else _converted_folder(base).is_dir()


def base_model(base: BaseModel) -> PreTrainedModel:
    """The base model, in the dtype that the profile says."""
    return load_model(base_model_folder(base), dtype=base.dtype)


def base_model_folder(base: BaseModel) -> Path:
    """A folder with the base model as safetensors and its tokenizer; a GGUF file is converted once into the cache."""
    if base.source.kind == "testbed":
        return testbed.MODEL
    if base.gguf is None:
        hub = base.source.kind == "hub"
        folder = checkpoint_folder(base.source.location) if hub else source_folder(base.source, lambda _: True)
        if hub:
            check_llama(folder)
            check_weights(folder)
        return folder
    target = _converted_folder(base)
    if not target.is_dir():
        gguf = source_folder(base.source, lambda name: name == base.gguf) / base.gguf
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch:
            converted = Path(scratch) / "model"
            _convert_gguf(gguf, converted)
            settle(converted, target)
    return target


def _converted_folder(base: BaseModel) -> Path:
    return cache_folder() / "models" / sha256_text(base_model_identity(base))[:16]


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """De-quantise to float32. The quantisation entry must go: transformers refuses to save a model that has one."""
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings: dict[str, Any] = quantised.config.to_dict()
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(quantised.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
