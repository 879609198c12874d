"""The gate that every checkpoint passes before any of its weights is read.

`config.json` and the headers of the safetensors files must describe the same LLaMA: each tensor of the architecture is
there once, in its shape, and nothing else is. Transformers would draw a missing tensor at random and drop one that it
does not know, each with no more than a warning, and add an adapter that lies in the folder.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from rankadaptor.architecture import Architecture, module_name
from rankadaptor.errors import BadInput
from rankadaptor.models.tied import tied_by_fact
from rankadaptor.models.weight_files import INDEX, SINGLE, weight_files, weight_map
from rankadaptor.sealed import given_object

PRUNED_TYPE = "pruned_llama"  # the `model_type` of width-pruned checkpoints

_CONFIG_BYTES = 2**20  # most that is read of `config.json`; real ones have 1 KiB
_MOST = 2**24  # of any size in a configuration: far beyond every LLaMA, and no sum of shapes overflows
_MOST_LAYERS = 1024
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "max_position_embeddings", "original_layer_count")
_NUMBERS = ("rms_norm_eps", "rope_theta", "initializer_range")
_ROTATIONS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")  # kinds of `rope_parameters`
_DTYPES = {"F32", "F16", "BF16"}  # as safetensors spells them
_CONFIG_DTYPES = (None, "float32", "float16", "bfloat16")
# Entries of config.json with which transformers would read something else than the plain weights of the folder.
_FOREIGN = {
    "quantization_config": "its weights are quantised: give the model that was quantised",
    "compression_config": "its weights are compressed: give the model that was compressed",
    "auto_map": "it names code of its own, which is never run: remove the entry if the weights are a plain LLaMA's",
    "transformers_weights": f"it names another weight file: rename that to {SINGLE}, and remove the entry",
}
# Files with which transformers, or another tool, would take the folder for something else than a plain model.
_BESIDE = {
    "adapter_config.json": "an adapter lies beside the model, and transformers would add it: move it to a folder of"
                           " its own",
    "quantize_config.json": "its weights are quantised: give the model that was quantised",
    "quant_config.json": "its weights are quantised: give the model that was quantised",
}
_PREFIXES = {
    "_orig_mod.": "saved from a model that torch.compile wrapped",
    "module.": "saved from a model that DistributedDataParallel wrapped",
    "base_model.model.": "saved from a model that PEFT wrapped",
}

Shape = tuple[int, ...]


def check_checkpoint(folder: Path, pruned: bool = False) -> Architecture:
    """Check a LLaMA checkpoint with its tokenizer. Reads `config.json` and the headers of the weights alone.

    Args:
        folder: With `config.json`, safetensors and a tokenizer.
        pruned: Whether a pruned checkpoint is accepted.

    Returns:
        Its shapes.

    Raises:
        BadInput: if it is not exactly one LLaMA; the first difference is named.
    """
    architecture = check_llama(folder, pruned)
    check_weights(folder, architecture)
    if not any(folder.glob("tokenizer*")):
        raise BadInput(f"no tokenizer in {folder}: put its files beside the model")
    return architecture


def check_llama(folder: Path, pruned: bool = False) -> Architecture:
    """Shapes of a LLaMA checkpoint, from its `config.json`; the weights do not have to be there.

    Args:
        pruned: Whether a pruned checkpoint is accepted.

    Raises:
        BadInput: on another architecture, on biases in the projections, on a pruned one that is not accepted, or on
            sizes that no LLaMA has.
    """
    config = read_config(folder)
    kind = config.get("model_type")
    if kind not in ("llama", PRUNED_TYPE):
        raise BadInput(f"the model in {folder} is of type {kind!r}, and only llama models are read: give one")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise BadInput(f"the model in {folder} has biases in its projections: give a LLaMA without them")
    for entry, remedy in _FOREIGN.items():
        if config.get(entry):
            raise BadInput(f"{folder / 'config.json'} has the entry {entry}, {remedy}")
    if not pruned and (kind != "llama" or "original_layers" in config):
        raise BadInput(f"the model in {folder} is pruned already: give the dense one")
    return _shapes(folder, config)


def read_architecture(folder: Path) -> Architecture:
    """Shapes of a checkpoint, dense or pruned, from its `config.json`.

    Raises:
        BadInput: if there is none, or it lacks shapes, or these are no LLaMA's.
    """
    return _shapes(folder, read_config(folder))


def _shapes(folder: Path, config: dict[str, Any]) -> Architecture:
    try:
        _check_sizes(config)
        architecture = Architecture.from_config(config)
        _check_layers(config, architecture)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())[:200]
        raise BadInput(f"{folder / 'config.json'} does not say the shapes of a LLaMA ({reason}): restore it") from None
    return replace(architecture, tied_embeddings=tied_by_fact(folder, architecture.tied_embeddings))


def _check_sizes(config: dict[str, Any]) -> None:
    """Raise ValueError or KeyError on a number that no LLaMA has."""
    for name in (*_SIZES, *_OPTIONAL_SIZES):
        value = config[name] if name in _SIZES else config.get(name)
        most = _MOST_LAYERS if name in ("num_hidden_layers", "original_layer_count") else _MOST
        if value is not None and not (type(value) is int and 1 <= value <= most):
            raise ValueError(f"{name} is {value!r:.40}, not a whole number of 1 to {most}")
        if value is None and name in _SIZES:
            raise ValueError(f"{name} is null")
    for name in _NUMBERS:
        value = config.get(name)
        if value is not None and not (type(value) in (int, float) and 0 < value < math.inf):
            raise ValueError(f"{name} is {value!r:.40}, not a number above 0")
    for name in ("rope_parameters", "rope_scaling"):
        _check_rotations(name, config.get(name))
    if not isinstance(config.get("tie_word_embeddings", False), bool):
        raise ValueError(f"tie_word_embeddings is {config['tie_word_embeddings']!r:.40}, not true or false")
    for name in ("dtype", "torch_dtype"):
        if config.get(name) not in _CONFIG_DTYPES:
            raise ValueError(f"{name} is {config[name]!r:.40}, not float32, float16 or bfloat16")


def _check_rotations(name: str, settings: Any) -> None:
    """Raise ValueError on settings of the rotations that transformers does not know, or would compute NaN from."""
    if settings is None:
        return
    if not isinstance(settings, dict):
        raise ValueError(f"{name} is {settings!r:.40}, not a mapping")
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in _ROTATIONS:
        raise ValueError(f"{name} are of type {kind!r:.40}, not {', '.join(_ROTATIONS)}")
    for key, value in settings.items():
        for number in value if isinstance(value, list) else [value]:
            is_fine = number is None or type(number) is bool or (type(number) in (int, float) and 0 < number < math.inf)
            if key not in ("rope_type", "type") and not is_fine:
                raise ValueError(f"{key} of {name} is {number!r:.40}, not a number above 0")


def _check_layers(config: dict[str, Any], architecture: Architecture) -> None:
    """Raise ValueError where the layers are not as many as `num_hidden_layers`, or one of them cannot be."""
    count, originals = config["num_hidden_layers"], architecture.original_layers
    if len(architecture.layers) != count or len(originals) != count:
        raise ValueError(f"num_hidden_layers is {count}, layer_shapes has {len(architecture.layers)} and"
                         f" original_layers {len(originals)}")
    for position, shape in enumerate(architecture.layers):
        sizes = shape.heads, shape.kv_heads, shape.mlp_width
        if not all(type(size) is int and 1 <= size <= _MOST for size in sizes) or shape.heads % shape.kv_heads:
            raise ValueError(f"layer {position} has {sizes[0]} heads, {sizes[1]} KV heads and {sizes[2]} channels")
    known = all(type(layer) is int and 0 <= layer < architecture.original_layer_count for layer in originals)
    if not known or sorted(set(originals)) != list(originals):
        raise ValueError(f"original_layers are not ascending and below {architecture.original_layer_count}")


def read_config(folder: Path) -> dict[str, Any]:
    """The content of `config.json`.

    Raises:
        BadInput: if there is none, or it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise BadInput(f"no model in {folder}: name a folder with config.json and safetensors files")
    return given_object(path, _CONFIG_BYTES)


def check_weights(folder: Path, architecture: Architecture) -> None:
    """Check that the safetensors files of a folder hold exactly the tensors that its `config.json` describes.

    Args:
        architecture: As `config.json` describes it, from `read_architecture` or `check_llama`.

    Raises:
        BadInput: on a missing shard, a damaged header, an adapter beside the model, a name that the architecture does
            not have, a tensor that is missing, or one of another shape or dtype.
    """
    for name, remedy in _BESIDE.items():
        if (folder / name).exists():
            raise BadInput(f"{folder} holds {name}: {remedy}")
    stored = stored_shapes(folder)
    for prefix, reason in _PREFIXES.items():
        if any(name.startswith(prefix) for name in stored):
            raise BadInput(f"names of tensors in {folder} begin with {prefix}, {reason}: take it off the names")
    expected = tensor_shapes(architecture)
    required = expected.keys() - (_tied(architecture, stored))
    if missing := sorted(required - stored.keys()):
        raise BadInput(f"{folder} lacks {_several(missing)} of the model that its config.json describes: restore it")
    allowed = expected.keys() | set(_buffers(architecture))
    if unknown := sorted(stored.keys() - allowed):
        raise BadInput(f"{folder} holds {_several(unknown)} which the model of its config.json does not have: give the"
                       " weights and the configuration of one model")
    for name, shape in expected.items():
        if name in stored and stored[name] != shape:
            raise BadInput(f"{folder}: config.json gives {name} the shape {list(shape)}, its tensor has"
                           f" {list(stored[name])}: give the weights and the configuration of one model")


def _several(names: list[str]) -> str:
    return f"tensor {names[0]}" if len(names) == 1 else f"{len(names)} tensors, such as {names[0]},"


def tensor_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Shape of each tensor of a LLaMA by its name; of a tied pair, both names.  # (out, in) or (width,)"""
    table = architecture.vocab_size, architecture.hidden_size
    shapes: dict[str, Shape] = {"model.embed_tokens.weight": table}
    for position in range(len(architecture.layers)):
        for projection, shape in architecture.weight_shapes(position).items():
            shapes[f"{module_name(position, projection)}.weight"] = shape
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{position}.{norm}.weight"] = (architecture.hidden_size,)
    return shapes | {"model.norm.weight": (architecture.hidden_size,), "lm_head.weight": table}


def _tied(architecture: Architecture, stored: dict[str, Shape]) -> set[str]:
    """Which of a tied pair may be missing: one of them, where the other is there."""
    pair = {"lm_head.weight", "model.embed_tokens.weight"}
    return pair - stored.keys() if architecture.tied_embeddings and pair & stored.keys() else set()


def _buffers(architecture: Architecture) -> Iterator[str]:
    """Tensors that older exports hold and that are computed from the configuration: frequencies of the rotations."""
    yield "model.rotary_emb.inv_freq"
    for position in range(len(architecture.layers)):
        yield f"model.layers.{position}.self_attn.rotary_emb.inv_freq"


def stored_shapes(folder: Path) -> dict[str, Shape]:
    """Shape of every tensor of a folder's model by name, from the headers of its safetensors files.

    Raises:
        BadInput: on files as `weight_files` refuses them, a header that cannot be read, a tensor that two files hold,
            an index that is not of these files, or a dtype other than float32, float16 and bfloat16.
    """
    shapes: dict[str, Shape] = {}
    places: dict[str, str] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, "np") as file:
                for name in file.keys():  # noqa: SIM118
                    tensor = file.get_slice(name)
                    if name in places:
                        raise BadInput(f"{path.name} and {places[name]} of {folder} both hold {name}: remove one")
                    if (dtype := tensor.get_dtype()) not in _DTYPES:
                        raise BadInput(f"{name} in {path} has the dtype {dtype}: convert it to float32, float16 or"
                                       " bfloat16")
                    shapes[name], places[name] = tuple(tensor.get_shape()), path.name
        except (SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())[:100]
            raise BadInput(f"{path} is no whole safetensors file ({reason}): restore it") from None
    if (folder / INDEX).exists() and (mapped := weight_map(folder)) != places:
        name = min(name for name in mapped.keys() | places.keys() if mapped.get(name) != places.get(name))
        raise BadInput(f"{folder / INDEX} puts {name} into {mapped.get(name, 'no file')}, it is in"
                       f" {places.get(name, 'none')}: restore the index")
    return shapes
