"""Taylor importance of heads, MLP channels and blocks: the first-order term of Eq. 2, |dL/dW * W|.

Each parameter's gradient is reduced to its few sums as soon as it arrives and is dropped at once, so a model costs its
weights and one gradient. Sums are taken in float32 whatever the model's dtype.
Source: LLM-Pruner `param_first` with group reduction `sum` (Element^1); Shortened LLaMA `taylor`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from transformers import PreTrainedModel

from rankadaptor.architecture import MLP_PROJECTIONS, PROJECTIONS
from rankadaptor.models import architecture_of


@dataclass(frozen=True)
class UnitImportance:
    """Scores of one layer's units. A KV head is scored together with the query heads it owns."""

    kv_heads: torch.Tensor  # (kv_heads,)
    channels: torch.Tensor  # (mlp_width,)


def salience_sums(
    model: PreTrainedModel, windows: torch.Tensor, reductions: dict[str, Callable[[torch.Tensor], torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Reduce |W * G| of some parameters, G the gradient of the mean next-token loss over all windows at once.

    Args:
        model: In evaluation mode; its parameters are left without gradients.
        windows: Token ids.  # (samples, tokens)
        reductions: Parameter name -> what to make of its |W * G| (float32, the parameter's shape).

    Returns:
        Parameter name -> the reduction's result, on the CPU.
    """
    sums: dict[str, torch.Tensor] = {}
    parameters = dict(model.named_parameters())
    wanted = {name: parameter.requires_grad for name, parameter in parameters.items()}

    def reduce_on_arrival(name: str) -> Callable[[torch.Tensor], None]:
        def hook(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            salience = (parameter.detach().float() * parameter.grad.float()).abs_()
            sums[name] = reductions[name](salience).cpu()
            parameter.grad = None

        return hook

    model.requires_grad_(False)
    hooks = []
    for name in reductions:
        parameters[name].requires_grad_(True)
        hooks.append(parameters[name].register_post_accumulate_grad_hook(reduce_on_arrival(name)))
    try:
        batch = windows.to(model.device)
        model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
    finally:
        for handle in hooks:
            handle.remove()
        for name, parameter in parameters.items():
            parameter.requires_grad_(wanted[name])
    return sums


def unit_importance(model: PreTrainedModel, windows: torch.Tensor) -> list[UnitImportance]:
    """Element^1 importance of every KV head (with its query heads) and MLP channel, by layer.

    The dependency groups of Eq. 1, block-wise: rows of q, k, v with columns of o; rows of gate, up with columns of
    down. All tensors of a group count alike. Residual width, norms and embeddings are in no group.
    """
    architecture = architecture_of(model)
    rows = {"o_proj": 0, "down_proj": 0}  # these are pruned by column: sum over rows
    reductions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        _name(layer, projection): partial(torch.sum, dim=rows.get(projection, 1))
        for layer in range(len(architecture.layers))
        for projection in PROJECTIONS
    }
    sums = salience_sums(model, windows, reductions)
    importance = []
    for layer, shape in enumerate(architecture.layers):
        by_projection = {projection: sums[_name(layer, projection)] for projection in PROJECTIONS}
        # Query heads g*j .. g*j+g-1 belong to KV head j, so both foldings put the owner first.
        heads = sum(by_projection[p].view(shape.kv_heads, -1).sum(1) for p in ("q_proj", "k_proj", "v_proj", "o_proj"))
        channels = sum(by_projection[p] for p in MLP_PROJECTIONS)
        assert isinstance(heads, torch.Tensor)
        assert isinstance(channels, torch.Tensor)
        importance.append(UnitImportance(heads, channels))
    return importance


def block_importance(model: PreTrainedModel, windows: torch.Tensor) -> torch.Tensor:
    """Taylor score of every decoder block: the sum of |W * G| over its nine weights.  # (layers,)"""
    count = len(architecture_of(model).layers)
    names = [name for name, _ in model.named_parameters() if name.startswith("model.layers.")]
    sums = salience_sums(model, windows, dict.fromkeys(names, torch.sum))
    scores = torch.zeros(count, dtype=torch.float64)
    for name in names:
        scores[int(name.split(".")[2])] += sums[name].double()
    return scores


def _name(layer: int, projection: str) -> str:
    part = "mlp" if projection in MLP_PROJECTIONS else "self_attn"
    return f"model.layers.{layer}.{part}.{projection}.weight"
