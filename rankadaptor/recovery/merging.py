"""Adapters merged into the weights of their model, which is how they are scored.

An adapter that the weights of a LLaMA cannot hold is refused: it would be scored as another model.
"""

import dataclasses
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.adalora import SVDLinear
from peft.tuners.lora.layer import Embedding, Linear, LoraLayer, ParamWrapper
from peft.tuners.lora.variants import DoraEmbeddingVariant, DoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.models.tied import is_tied
from rankadaptor.sealed import given_object

_LAYERS = (Linear, Embedding, ParamWrapper, SVDLinear)
_VARIANTS = (DoraLinearVariant, DoraEmbeddingVariant)
# Values of `init_lora_weights` under which the weights that an adapter was trained on are known: the model's own, or
# what PEFT computes from them alone whenever it loads the adapter.
_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "olora", "pissa")
_UNFIT = {
    "layer_replication": "repeats layers of the model",
    "lora_bias": "has biases of its own, and a LLaMA's projections have none",
} | {field.name: "does more than add a product to weights"
     for field in dataclasses.fields(LoraConfig) if field.metadata.get("is_lora_variant") and field.name != "use_dora"}


def check_mergeable(folder: Path) -> None:
    """Check by its configuration that an adapter is one of weights alone: LoRA, with its variants rsLoRA and DoRA, or
    AdaLoRA, on any modules, beside modules or tokens that were trained whole.

    Raises:
        BadInput: on any other.
    """
    path = folder / "adapter_config.json"
    config = given_object(path)
    for name, reason in _UNFIT.items():
        if config.get(name):
            raise BadInput(f"the adapter in {folder} {reason} ({name} in {path.name}), so no weights of the model hold"
                           " it: recover one without")
    start = config.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in _STARTS:  # PEFT reads OLoRA as olora
        raise BadInput(f"the adapter in {folder} began with init_lora_weights {start!r:.40}, from weights that it does"
                       " not hold: save it with PEFT's path_initial_model_for_weight_conversion")


def merged(adapted: PeftModel) -> PreTrainedModel:
    """The base model with the adapter added to its weights: computed in float32, and then cast to their dtype.

    Embeddings and output head that are one tensor become two if the adapter is on either of them.

    Raises:
        BadInput: on an adapter that `check_mergeable` would refuse, or weights that are not finite.
    """
    _check_layers(adapted)
    _untie(adapted.get_base_model())
    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            _merge(name, module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of layers that are merged already, which are all of LoRA's
        return adapted.merge_and_unload()


def _check_layers(adapted: PeftModel) -> None:
    config = adapted.peft_config["default"]
    if not isinstance(config, LoraConfig):  # as AdaLoRA's is
        kind = str(config.peft_type).rpartition(".")[2]
        raise BadInput(f"the adapter is of PEFT's type {kind}: only LORA and ADALORA are read")
    if config.layer_replication:
        raise BadInput("the adapter repeats layers of the model, so no weights of it hold the adapter: recover one"
                       " without layer_replication")
    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            variants = list(module.lora_variant.values())
            if not isinstance(module, _LAYERS) or not all(isinstance(variant, _VARIANTS) for variant in variants):
                kind = type(variants[0] if variants else module).__name__
                raise BadInput(f"the adapter on {name} is a {kind}, which no weights of the model hold: recover one"
                               " of plain LoRA")
            if any(module.lora_bias.values()):
                raise BadInput(f"the adapter on {name} has a bias of its own, and a LLaMA's projections have none:"
                               " recover one without lora_bias")


def _untie(base: PreTrainedModel) -> None:
    """Give the output head a tensor of its own if an adapter is on it or on the embeddings: one must not change both.
    """
    head, embeddings = base.get_output_embeddings(), base.get_input_embeddings()
    if is_tied(base) and (isinstance(head, LoraLayer) or isinstance(embeddings, LoraLayer)):
        layer = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False


def _merge(name: str, module: LoraLayer) -> None:
    weight = module.get_base_layer().weight
    dtype = weight.dtype
    weight.data = weight.data.float()  # the same memory where it is float32 already
    module.merge()
    weight.data = weight.data.to(dtype)
    if not torch.isfinite(weight).all():
        raise BadInput(f"the adapter makes {name} exceed what {dtype} holds, or is not finite itself: recover it again")
