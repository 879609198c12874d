"""Scores a question's choices together: what they have in common is computed once, and the head only where needed.

Choices are laid out as trees (`layout`). Their tokens go through the layers as one row without padding; attention
divides them into segments. The output head computes only the positions that predict a scored token, a part of the
vocabulary at a time.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from rankadaptor.evaluation.layout import Batch, Limits, SegmentGroup, TokenisedPair, lay_out
from rankadaptor.evaluation.tokenisation import PlainLM
from rankadaptor.models.kernels.fast_layers import quick_layers
from rankadaptor.models.kernels.products import packed_products, quick_products
from rankadaptor.models.patching import attending

# On a CPU 1,024 tokens were 4 % slower, 1,792 1 %; on an H200 16,384 were 8 %, and a call costs more than padding.
_LIMITS = {"cpu": Limits(1536), "cuda": Limits(32_768, 64, 0.25)}
_HEAD_COLUMNS = {"cpu": 2048, "cuda": 16_384}  # tokens of the vocabulary whose logits are in memory at a time
_TREES = "rankadaptor_trees"  # name of `_attention` in transformers' registry


@torch.inference_mode()
def score(model: PreTrainedModel, batches: Sequence[Batch], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihoods of choices, and whether greedy decoding would give each of them.

    Args:
        model: A LLaMA, pruned or not, in any floating-point type; log-probabilities are taken in float32, attention is
            PyTorch's own whatever the model's configuration names.
        batches: As `lay_out` gives them.
        count: How many choices the batches hold.

    Returns:
        Log-likelihoods in nats, and booleans.  # (choices,) each
    """
    total, greedy = torch.zeros(count), torch.ones(count, dtype=torch.bool)
    with quick_products(model.model, pack=True), quick_layers(model.model), attending(model, _TREES):
        head = _Head(model.lm_head.weight)
        for batch in batches:
            device = model.device
            hidden = model.model(
                input_ids=batch.tokens[None].to(device), position_ids=batch.positions[None].to(device), use_cache=False,
                segments=_Segments(batch, model),
            ).last_hidden_state[0]  # (tokens, width)
            scores, likeliest = head.predicted(hidden[batch.predictors.to(device)], batch)
            total.index_add_(0, batch.choice_of_target, scores)
            greedy[batch.choice_of_target[~likeliest]] = False
    return total, greedy


class _GroupIndices(NamedTuple):
    """Indices into (tokens x kv heads) from which attention gathers the tensors of one group, and the mask of the
    group."""

    queries: torch.Tensor  # (segments, kv heads, queries)
    keys: torch.Tensor  # (segments, kv heads, keys)
    mask: torch.Tensor  # (segments or 1, 1, queries * query heads per KV head, keys), added to the scores


class _Segments:
    """Indices of a batch's segments for attention, on a model's device."""

    def __init__(self, batch: Batch, model: PreTrainedModel):
        self._batch, self._device, self._dtype = batch, model.device, model.dtype
        self._cache: dict[tuple[int, int], tuple[list[_GroupIndices], torch.Tensor]] = {}

    def indices(self, kv_heads: int, shared_by: int) -> tuple[list[_GroupIndices], torch.Tensor]:
        """For layers with so many kv heads, each shared by so many query heads, whose queries are stacked.

        Returns:
            Indices of each group; and for tokens x kv heads the row in the results of all groups, which are in the
            order of the queries.
        """
        if (kv_heads, shared_by) not in self._cache:
            self._cache[kv_heads, shared_by] = self._computed(kv_heads, shared_by)
        return self._cache[kv_heads, shared_by]

    def _computed(self, kv_heads: int, shared_by: int) -> tuple[list[_GroupIndices], torch.Tensor]:
        heads = torch.arange(kv_heads, device=self._device)
        indices, result_rows, row_count = [], [], 0
        for group in self._batch.groups:
            group = SegmentGroup(*(tensor.to(self._device) for tensor in group))
            keys = torch.cat([group.ancestors, group.queries], -1)
            query_indices, key_indices = (
                places[:, None] * kv_heads + heads[:, None] for places in (group.queries, keys))
            indices.append(_GroupIndices(query_indices, key_indices, self._mask(group, shared_by)))
            rows = row_count + torch.arange(query_indices.numel(), device=self._device).view_as(query_indices)
            result_rows.append(rows.transpose(1, 2).flatten(0, 1))  # (queries, kv heads)
            row_count += rows.numel()
        return indices, torch.cat(result_rows)[self._batch.order.to(self._device)].flatten()

    def _mask(self, group: SegmentGroup, shared_by: int) -> torch.Tensor:
        counts = group.ancestor_counts
        if bool((counts == counts[0]).all()):
            counts = counts[:1]
        width, length = group.ancestors.shape[1], group.queries.shape[1]
        above = torch.arange(width, device=self._device) < counts[:, None]  # (segments or 1, ancestors)
        causal = torch.ones(length, length, dtype=torch.bool, device=self._device).tril()
        visible = torch.cat([above[:, None].expand(-1, length, -1), causal.expand(len(above), -1, -1)], -1)
        mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device).masked_fill_(~visible, -torch.inf)
        return mask.repeat_interleave(shared_by, 1)[:, None]


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    segments: _Segments,
    scaling: float,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a batch, group by group.

    Args:
        query, key, value: (1, heads, tokens, head width).

    Returns:
        (1, tokens, heads, head width).
    """
    kv_heads, tokens, width = key.shape[1:]
    shared_by = query.shape[1] // kv_heads
    queries, keys, values = (tensor[0].transpose(0, 1).reshape(tokens * kv_heads, -1) for tensor in (query, key, value))
    groups, order = segments.indices(kv_heads, shared_by)
    outputs = []
    for group in groups:
        group_queries = queries.index_select(0, group.queries.flatten()).view(*group.queries.shape[:2], -1, width)
        group_keys, group_values = (
            tensor.index_select(0, group.keys.flatten()).view(*group.keys.shape, width) for tensor in (keys, values))
        output = functional.scaled_dot_product_attention(
            group_queries, group_keys, group_values, group.mask, scale=scaling)
        outputs.append(output.reshape(-1, shared_by * width))
    return torch.cat(outputs).index_select(0, order).view(1, tokens, -1, width), None


AttentionInterface.register(_TREES, _attention)


class _Head:
    """A model's output head, a part of the vocabulary at a time, so that logits stay in the processor's caches."""

    def __init__(self, weight: torch.Tensor):
        """
        Args:
            weight: (vocabulary, width).
        """
        step = _HEAD_COLUMNS.get(weight.device.type, _HEAD_COLUMNS["cpu"])
        self.starts = range(0, len(weight), step)
        self.parts = packed_products([weight[start : start + step] for start in self.starts])

    def predicted(self, states: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of every target, and whether no other token is likelier.  # (targets,) each

        Args:
            states: (predictors, width).
        """
        device = states.device
        order = torch.argsort(batch.targets)
        bounds = torch.searchsorted(batch.targets[order], torch.tensor([*self.starts, 2**62])).tolist()
        order, predictor, targets = (tensor.to(device) for tensor in (order, batch.predictor_of_target, batch.targets))
        scores = torch.empty(len(targets), device=device)
        totals, maxima = [], []
        for start, part, (first, last) in zip(self.starts, self.parts, pairwise(bounds), strict=True):
            logits = part(states).float()  # (predictors, tokens of the part)
            in_part = order[first:last]
            scores[in_part] = logits[predictor[in_part], targets[in_part] - start]
            maxima.append(logits.amax(-1, keepdim=True))
            totals.append(logits.sub_(maxima[-1]).exp_().sum(-1, keepdim=True).log_().add_(maxima[-1]))
        total, maximum = torch.cat(totals, -1).logsumexp(-1), torch.cat(maxima, -1).amax(-1)  # (predictors,) each
        return (scores - total[predictor]).cpu(), (scores >= maximum[predictor]).cpu()


def limits_of(device: torch.device) -> Limits:
    """Sizes of batches that are fast on a device."""
    return _LIMITS.get(device.type, _LIMITS["cpu"])


class SharedContextLM(PlainLM):
    """lm-eval's backend of a loaded LLaMA, with log-likelihoods computed by `score`; all else is PlainLM's own."""

    def _loglikelihood_tokens(
        self, requests: list[TokenisedPair], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        batches = lay_out(requests, self.max_length, limits_of(self.model.device))
        total, greedy = score(self.model, batches, len(requests))
        return list(zip(total.tolist(), greedy.tolist(), strict=True))
