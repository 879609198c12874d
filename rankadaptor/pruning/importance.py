"""Importance of heads, MLP channels and blocks.

The dependency groups of Eq. 1, block-wise: rows of q, k, v with columns of o; rows of gate, up with columns of down.
What is removed from one tensor of a group goes from all; residual width, norms and embeddings are in no group. A KV
head is in one group with the query heads that it owns, so it owns their importance too. A test holds the groups against
those that torch-pruning finds by tracing.
Source: LLM-Pruner `TaylorImportance`, `MagnitudeImportance`, `RandomImportance`; Shortened LLaMA.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from rankadaptor.architecture import ATTENTION_PROJECTIONS, MLP_PROJECTIONS, PROJECTIONS, module_name
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.models.patching import restricted_to_layers
from rankadaptor.pruning.salience import Reduction, reduce_saliences
from rankadaptor.pruning.spec import BlockCriterion, GroupReduction, UnitCriterion

_REDUCE: dict[GroupReduction, Callable[[torch.Tensor], torch.Tensor]] = {
    "sum": lambda scores: scores.sum(0),
    "mean": lambda scores: scores.mean(0),
    "max": lambda scores: scores.amax(0),
    "prod": lambda scores: scores.prod(0),
}
_BY_COLUMN = ("o_proj", "down_proj")  # pruned by column, the others by row


@dataclass(frozen=True)
class UnitImportance:
    """Scores of one layer's units, float32. A KV head is scored together with the query heads it owns."""

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

    Every tensor of a group gives one score a channel; `group_reduction` makes one of them, and a head's score is the
    sum over its channels. Query channels are first added to the KV channels that own them.

    Args:
        model: A LLaMA, dense or pruned; left as it was.
        windows: Calibration token ids; not read by l1, l2 and random.  # (samples, tokens)
        seed: Of the random criterion.
    """
    architecture = architecture_of(model)
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        return [UnitImportance(*(torch.rand(units, generator=generator) for units in (s.kv_heads, s.mlp_width)))
                for s in architecture.layers]
    scores = _channel_scores(model, windows, criterion)
    reduce = _REDUCE[group_reduction]
    importance = []
    for layer, shape in enumerate(architecture.layers):
        attention = reduce(torch.stack(
            [_owned(scores[_name(layer, p)], shape.kv_heads, architecture.head_dim) for p in ATTENTION_PROJECTIONS]))
        channels = reduce(torch.stack([scores[_name(layer, p)] for p in MLP_PROJECTIONS]))
        heads = attention.view(shape.kv_heads, -1).sum(1)
        check_finite(heads, f"heads of layer {layer}")
        check_finite(channels, f"channels of layer {layer}")
        importance.append(UnitImportance(heads, channels))
    return importance


def check_finite(scores: torch.Tensor, what: str) -> None:
    """Raises BadInput if a score is not a finite number: nothing could be ranked by it."""
    if not bool(torch.isfinite(scores).all()):
        raise BadInput(f"the importance of {what} is not finite: use float32 or bfloat16 weights, or other calibration")


def _channel_scores(model: PreTrainedModel, windows: torch.Tensor, criterion: UnitCriterion) -> dict[str, torch.Tensor]:
    """Score of every prunable row or column of the seven projections, by parameter name, on the CPU."""
    names = {_name(layer, projection): 0 if projection in _BY_COLUMN else 1
             for layer in range(len(model.model.layers)) for projection in PROJECTIONS}
    if criterion in ("l1", "l2"):
        parameters, power = dict(model.named_parameters()), 1 if criterion == "l1" else 2
        return {name: parameters[name].detach().float().abs().pow(power).sum(dim).cpu() for name, dim in names.items()}
    signed = criterion == "vector"
    reductions = {name: _sum_over(dim, signed) for name, dim in names.items()}
    return reduce_saliences(model, windows, criterion, reductions)  # type: ignore[arg-type]


def _sum_over(dim: int, signed: bool) -> Reduction:
    return (lambda salience: salience.sum(dim).abs()) if signed else (lambda salience: salience.abs().sum(dim))


def _owned(scores: torch.Tensor, kv_heads: int, head_dim: int) -> torch.Tensor:
    """Scores of query channels, added up over the query heads of each KV head; those of KV channels as they are.

    Query heads g*j .. g*j+g-1 belong to KV head j, g = heads / kv_heads.

    Args:
        scores: (heads * head_dim,) or (kv_heads * head_dim,)

    Returns:
        (kv_heads * head_dim,)
    """
    return scores.view(kv_heads, -1, head_dim).sum(1).flatten()


def block_importance(
    model: PreTrainedModel, windows: torch.Tensor, criterion: BlockCriterion = "taylor"
) -> torch.Tensor:
    """Score of every decoder block; the lowest goes first.

    taylor: sum of abs(W G) over the block's nine weights. magnitude: sum of abs(W) over them. perplexity: that of the
    calibration windows without the block.

    Returns:
        float64.  # (layers,)
    """
    count = len(model.model.layers)
    if criterion == "perplexity":
        scores = torch.tensor([_perplexity_without(model, windows, i) for i in range(count)], dtype=torch.float64)
        check_finite(scores, "blocks")
        return scores
    named = {name: parameter for name, parameter in model.named_parameters() if name.startswith("model.layers.")}
    if criterion == "magnitude":
        sums = {name: parameter.detach().float().abs().sum().cpu() for name, parameter in named.items()}
    else:
        sums = reduce_saliences(model, windows, "element1", dict.fromkeys(named, lambda salience: salience.abs().sum()))
    scores = torch.zeros(count, dtype=torch.float64)
    for name, total in sums.items():
        scores[int(name.split(".")[2])] += total.double()
    check_finite(scores, "blocks")
    return scores


def _perplexity_without(model: PreTrainedModel, windows: torch.Tensor, block: int) -> float:
    """exp of the mean next-token loss over all windows, one block left out."""
    batch = windows.to(model.device)
    remaining = [layer for layer in range(len(model.model.layers)) if layer != block]
    with torch.no_grad(), restricted_to_layers(model, remaining):
        losses = [
            functional.cross_entropy(model(input_ids=one[None], use_cache=False).logits[0, :-1].float(), one[1:])
            for one in batch
        ]
    return float(torch.stack(losses).mean().exp())


def _name(layer: int, projection: str) -> str:
    return f"{module_name(layer, projection)}.weight"
