"""Scoring a question's choices together: what they have in common is computed once, and the head only where needed.

Choices come laid out as trees (`layout`). Rows of tokens without padding go through the layers; attention takes them
apart, and the output head sees the tokens that something is predicted from, a piece of the vocabulary at a time.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from rankadaptor.evaluation.layout import Batch, Limits, Part, TokenisedPair, lay_out
from rankadaptor.models.kernels.fast_layers import quick_layers
from rankadaptor.models.kernels.products import packed_products, quick_products
from rankadaptor.models.patching import attending

# On a CPU 1,024 tokens were 4 % slower, 1,792 1 %; on an H200 16,384 were 8 %, and a call costs more than filling up.
_LIMITS = {"cpu": Limits(1536), "cuda": Limits(32_768, 64, 0.25)}
_HEAD_COLUMNS = {"cpu": 2048, "cuda": 16_384}  # tokens of the vocabulary that logits are held of at a time
_TREES = "rankadaptor_trees"  # what transformers knows `_attention` as


@torch.inference_mode()
def score(model: PreTrainedModel, batches: Sequence[Batch], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihoods of `count` choices, in nats, and whether each is what greedy decoding would write.  # (choices,)

    Args:
        model: A LLaMA, pruned or not, in any floating-point type; log-probabilities are taken in float32, attention is
            PyTorch's own whatever the model's configuration asks for.
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
            found, likeliest = head.predicted(hidden[batch.read.to(device)], batch)
            total.index_add_(0, batch.choices, found)
            greedy[batch.choices[~likeliest]] = False
    return total, greedy


class _Segments:
    """Where attention finds a batch's segments, on a model's device."""

    def __init__(self, batch: Batch, model: PreTrainedModel):
        self.batch, self.device, self.dtype = batch, model.device, model.dtype
        self.known: dict[tuple[int, int], tuple[list[tuple[torch.Tensor, ...]], torch.Tensor]] = {}

    def of(self, kv_heads: int, group: int) -> tuple[list[tuple[torch.Tensor, ...]], torch.Tensor]:
        """For layers of so many heads of keys, and heads of queries a head of keys, whose queries are stacked.

        Returns:
            Of each part the places of queries and of keys, (segments, kv heads, tokens) of tokens x kv heads, and the
            mask that is added, (segments or 1, 1, queries x group, keys); and of tokens x kv heads the places among the
            results of all parts, which are in the order of the queries.
        """
        if (kv_heads, group) not in self.known:
            self.known[kv_heads, group] = self._made(kv_heads, group)
        return self.known[kv_heads, group]

    def _made(self, kv_heads: int, group: int) -> tuple[list[tuple[torch.Tensor, ...]], torch.Tensor]:
        heads = torch.arange(kv_heads, device=self.device)
        parts, places_of_results, before = [], [], 0
        for part in (Part(*(one.to(self.device) for one in part)) for part in self.batch.parts):
            keys = torch.cat([part.above, part.queries], -1)
            places = [one[:, None] * kv_heads + heads[:, None] for one in (part.queries, keys)]
            parts.append((*places, self._mask(part, group)))
            results = before + torch.arange(places[0].numel(), device=self.device).view_as(places[0])
            places_of_results.append(results.transpose(1, 2).flatten(0, 1))  # (queries, kv heads)
            before += results.numel()
        return parts, torch.cat(places_of_results)[self.batch.order.to(self.device)].flatten()

    def _mask(self, part: Part, group: int) -> torch.Tensor:
        lengths = part.above_lengths
        if bool((lengths == lengths[0]).all()):
            lengths = lengths[:1]
        above = torch.arange(part.above.shape[1], device=self.device) < lengths[:, None]  # (segments or 1, keys above)
        own = torch.ones(part.queries.shape[1], part.queries.shape[1], dtype=torch.bool, device=self.device).tril()
        seen = torch.cat([above[:, None].expand(-1, len(own), -1), own.expand(len(above), -1, -1)], -1)
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device).masked_fill_(~seen, -torch.inf)
        return mask.repeat_interleave(group, 1)[:, None]


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
    """Attention of a batch, part by part; of (1, heads, tokens, head width), but the result has tokens first."""
    kv_heads, tokens, width = key.shape[1:]
    group = query.shape[1] // kv_heads
    asked, kept, said = (one[0].transpose(0, 1).reshape(tokens * kv_heads, -1) for one in (query, key, value))
    parts, order = segments.of(kv_heads, group)
    found = []
    for asking, looked_at, mask in parts:
        queries = asked.index_select(0, asking.flatten()).view(*asking.shape[:2], -1, width)  # stacked
        keys, values = (one.index_select(0, looked_at.flatten()).view(*looked_at.shape, width) for one in (kept, said))
        answers = functional.scaled_dot_product_attention(queries, keys, values, mask, scale=scaling)
        found.append(answers.reshape(-1, group * width))
    return torch.cat(found).index_select(0, order).view(1, tokens, -1, width), None


AttentionInterface.register(_TREES, _attention)


class _Head:
    """A model's output head, a piece of the vocabulary at a time, so that logits stay in the caches."""

    def __init__(self, weight: torch.Tensor):
        """
        Args:
            weight: (vocabulary, width).
        """
        step = _HEAD_COLUMNS.get(weight.device.type, _HEAD_COLUMNS["cpu"])
        self.starts = range(0, len(weight), step)
        self.pieces = packed_products([weight[start : start + step] for start in self.starts])

    def predicted(self, states: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of every target, and whether no other token is likelier.  # (targets,) each

        Args:
            states: (places, width).
        """
        device = states.device
        order = torch.argsort(batch.targets)
        bounds = torch.searchsorted(batch.targets[order], torch.tensor([*self.starts, 2**62])).tolist()
        order, of_place, targets = (tensor.to(device) for tensor in (order, batch.of_place, batch.targets))
        scores = torch.empty(len(targets), device=device)
        totals, most = [], []
        for start, piece, (first, last) in zip(self.starts, self.pieces, pairwise(bounds), strict=True):
            logits = piece(states).float()  # (places, tokens of the piece)
            chosen = order[first:last]
            scores[chosen] = logits[of_place[chosen], targets[chosen] - start]
            most.append(logits.amax(-1, keepdim=True))
            totals.append(logits.sub_(most[-1]).exp_().sum(-1, keepdim=True).log_().add_(most[-1]))
        total, likeliest = torch.cat(totals, -1).logsumexp(-1), torch.cat(most, -1).amax(-1)  # (places,) each
        return (scores - total[of_place]).cpu(), (scores >= likeliest[of_place]).cpu()


def limits_of(device: torch.device) -> Limits:
    return _LIMITS.get(device.type, _LIMITS["cpu"])


class SharedContextLM(HFLM):
    """lm-eval's backend of a loaded LLaMA whose log-likelihoods are computed as above; all else is HFLM's own."""

    def _loglikelihood_tokens(
        self, requests: list[TokenisedPair], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        batches = lay_out(requests, self.max_length, limits_of(self.model.device))
        total, greedy = score(self.model, batches, len(requests))
        return list(zip(total.tolist(), greedy.tolist(), strict=True))
