"""Importance of heads, MLP channels and whole decoder layers.

The dependency groups of Eq. 1, within a layer: rows of q, k, v with columns of o; rows of gate, up with columns of
down. What is removed from one tensor of a group goes from all; residual width, norms and embeddings are in no group. A
KV head is in one group with its query heads, so its score includes theirs. A test compares the groups with those that
torch-pruning finds by tracing.
Source: LLM-Pruner `TaylorImportance`, `MagnitudeImportance`, `RandomImportance`; Shortened LLaMA.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from rankadaptor.architecture import ATTENTION_PROJECTIONS, MLP_PROJECTIONS, PROJECTIONS, module_name
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.models.layers import layers_kept
from rankadaptor.pruning.salience import Reduction, reduce_saliences
from rankadaptor.pruning.spec import GroupReduction

UnitCriterion = Literal["element1", "element2", "mixed", "vector", "l1", "l2", "random"]
LayerCriterion = Literal["taylor", "perplexity", "magnitude"]
_REDUCE: dict[GroupReduction, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda scores: scores.sum(0),
    "mean": lambda scores: scores.mean(0),
    "max": lambda scores: scores.amax(0),
    "prod": lambda scores: scores.prod(0),
}
_BY_COLUMN = ("o_proj", "down_proj")  # pruned by column, the others by row


@dataclass(frozen=True)
class UnitImportance:
    """Scores of one layer's units, float32. A KV head is scored together with its query heads."""

    kv_heads: torch.Tensor  # (kv_heads,)
    channels: torch.Tensor  # (mlp_width,)


def unit_importance(
    model: PreTrainedModel,
    windows: torch.Tensor,
    criterion: UnitCriterion = "element1",
    group_reduction: GroupReduction = "sum",
    seed: int = 0,
) -> list[UnitImportance]:
    """Importance of every KV head (with its query heads) and MLP channel, by layer.

    Every tensor of a group gives one score a channel; `group_reduction` combines them into one, and a head's score is
    the sum over its channels. Scores of query channels are first added up over the query heads of each KV head.

    Args:
        model: A LLaMA, dense or pruned; left as it was.
        windows: Calibration token ids; not read by l1, l2 and random.  # (samples, tokens)
        criterion: `salience` defines the first four; l1 and l2 are sums of abs(W) and of W^2; random is uniform.
        group_reduction: Over the tensors of a group.
        seed: Of the random criterion.

    Raises:
        BadInput: if a score is not finite.
    """
    architecture = architecture_of(model)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return [UnitImportance(*(torch.rand(units, generator=generator) for units in (shape.kv_heads, shape.mlp_width)))
                for shape in architecture.layers]
    scores = _channel_scores(model, windows, criterion)
    reduce = _REDUCE[group_reduction]
    importance = []
    for layer, shape in enumerate(architecture.layers):
        attention = reduce(torch.stack(
            [_by_kv_head(scores[_name(layer, projection)], shape.kv_heads, architecture.head_dim)
             for projection in ATTENTION_PROJECTIONS]))  # (kv_heads * head_dim,)
        channels = reduce(torch.stack([scores[_name(layer, projection)] for projection in MLP_PROJECTIONS]))
        heads = attention.view(shape.kv_heads, -1).sum(1)
        check_finite(heads, f"heads of layer {layer}")
        check_finite(channels, f"channels of layer {layer}")
        importance.append(UnitImportance(heads, channels))
    return importance


def check_finite(scores: torch.Tensor, what: str) -> None:
    """Raise BadInput if a score is not a finite number: nothing could be ranked by it."""
    if not bool(torch.isfinite(scores).all()):
        raise BadInput(f"the importance of {what} is not finite: use float32 or bfloat16 weights, or other calibration")


def _channel_scores(model: PreTrainedModel, windows: torch.Tensor, criterion: UnitCriterion) -> dict[str, torch.Tensor]:
    """Score of every prunable row or column of the seven projections, on the CPU.

    Returns:
        Parameter name -> scores.  # (rows,) or (columns,)
    """
    summed_dims = {_name(layer, projection): 0 if projection in _BY_COLUMN else 1
                   for layer in range(len(model.model.layers)) for projection in PROJECTIONS}
    if criterion in ("l1", "l2"):
        parameters, power = dict(model.named_parameters()), 1 if criterion == "l1" else 2
        return {name: parameters[name].detach().float().abs().pow(power).sum(dim).cpu()
                for name, dim in summed_dims.items()}
    signed = criterion == "vector"
    reductions = {name: _sum_over(dim, signed) for name, dim in summed_dims.items()}
    return reduce_saliences(model, windows, criterion, reductions)  # type: ignore[arg-type]


def _sum_over(dim: int, signed: bool) -> Reduction:
    return (lambda salience: salience.sum(dim).abs()) if signed else (lambda salience: salience.abs().sum(dim))


def _by_kv_head(scores: torch.Tensor, kv_heads: int, head_dim: int) -> torch.Tensor:
    """Scores of query channels added up over the query heads of each KV head; those of KV channels unchanged.

    Query heads g*j .. g*j+g-1 belong to KV head j, g = heads / kv_heads.

    Args:
        scores: (heads * head_dim,) or (kv_heads * head_dim,)

    Returns:
        (kv_heads * head_dim,)
    """
    return scores.view(kv_heads, -1, head_dim).sum(1).flatten()


def layer_importance(
    model: PreTrainedModel, windows: torch.Tensor, criterion: LayerCriterion = "taylor"
) -> torch.Tensor:
    """Score of every decoder layer; the lowest goes first.

    Args:
        model: A LLaMA, dense or pruned; left as it was.
        windows: Calibration token ids; not read by magnitude.  # (samples, tokens)
        criterion: taylor: sum of abs(W G) over the layer's nine weights. magnitude: sum of abs(W) over them.
            perplexity: of the calibration windows, without the layer.

    Returns:
        float64.  # (layers,)

    Raises:
        BadInput: if a score is not finite.
    """
    count = len(model.model.layers)
    if criterion == "perplexity":
        scores = torch.tensor(
            [_perplexity_without(model, windows, layer) for layer in range(count)], dtype=torch.float64)
        check_finite(scores, "layers")
        return scores
    named = {name: parameter for name, parameter in model.named_parameters() if name.startswith("model.layers.")}
    if criterion == "magnitude":
        sums = {name: parameter.detach().float().abs().sum().cpu() for name, parameter in named.items()}
    else:
        sums = reduce_saliences(model, windows, "element1", dict.fromkeys(named, lambda salience: salience.abs().sum()))
    scores = torch.zeros(count, dtype=torch.float64)
    for name, total in sums.items():
        scores[int(name.split(".")[2])] += total.double()
    check_finite(scores, "layers")
    return scores


def _perplexity_without(model: PreTrainedModel, windows: torch.Tensor, removed: int) -> float:
    """exp of the mean next-token loss over all windows, with one layer left out."""
    batch = windows.to(model.device)
    with torch.no_grad(), layers_kept(model, [layer for layer in range(len(model.model.layers)) if layer != removed]):
        losses = [
            functional.cross_entropy(model(input_ids=window[None], use_cache=False).logits[0, :-1].float(), window[1:])
            for window in batch
        ]
    return float(torch.stack(losses).mean().exp())


def _name(layer: int, projection: str) -> str:
    return f"{module_name(layer, projection)}.weight"
