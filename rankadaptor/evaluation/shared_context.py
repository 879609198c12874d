"""Scoring a question's choices together: what they have in common is computed once, and the head only where needed.

A question becomes one row: the tokens that all its choices begin with, then a branch a choice. A branch's positions go
on from the common part, and its tokens see that part and themselves, so every log-probability is the one that the
choice alone would have, to rounding. Choices of one token need no branch at all. Rows follow one another without
padding; attention alone takes them apart, into segments of about one length.

Source: the tree mask of SpecInfer (Miao et al. 2024, section 4.2), over choices in place of drafts.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from lm_eval.models.huggingface import HFLM
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rankadaptor.errors import BadInput
from rankadaptor.products import packed, quick_products

_TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16_384}  # more is slower on a CPU, whose caches it outgrows
_HEAD_COLUMNS = {"cpu": 2048, "cuda": 16_384}  # tokens of the vocabulary that logits are held of at a time
_ALIKE = 0.7  # segments whose attention is one call have at least this share of the longest one's tokens
_COMMON = 4  # a choice joins its neighbours if they share at least one token in so many, ...
_MOST = 16  # ... and as long as they are fewer: attention grows with the square of a row
_PACKED = "rankadaptor_packed"  # what transformers knows `_packed_attention` as

# (context, continuation), the context's tokens, the continuation's: what lm-eval's backends score.
TokenisedPair = tuple[tuple[str, str], list[int], list[int]]


@dataclass
class Row:
    """Choices that begin alike."""

    common: list[int]  # tokens
    branches: list[list[int]] = field(default_factory=list)  # tokens that follow, without the last of each choice
    targets: list[tuple[int, int, int]] = field(default_factory=list)  # (place that predicts it, token, choice)

    def __len__(self) -> int:
        return len(self.common) + sum(map(len, self.branches))


class Part(NamedTuple):
    """Segments whose attention is one call. Numbers are places in the batch; short segments repeat their last one."""

    queries: torch.Tensor  # (segments, queries)
    keys: torch.Tensor  # (segments, keys)
    seen: torch.Tensor | None  # (segments, 1, queries, keys): which keys a query sees; None is causal order


class Batch(NamedTuple):
    """Rows one after another; every tensor holds whole numbers."""

    tokens: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,)
    parts: tuple[Part, ...]
    order: torch.Tensor  # (tokens,): place of each token among the queries of all parts
    read: torch.Tensor  # (places,): tokens whose states something is predicted from
    of_place: torch.Tensor  # (targets,): which of those places
    targets: torch.Tensor  # (targets,): token that is scored there
    choices: torch.Tensor  # (targets,): whose it is


def lay_out(
    pairs: Sequence[TokenisedPair], max_length: int, tokens_per_batch: int = _TOKENS_PER_BATCH["cpu"]
) -> list[Batch]:
    """Batches that score every pair. They depend on no model, and serve all of one tokenizer and context length.

    Args:
        pairs: Choices; those of one question next to each other.
        max_length: Tokens that the model reads; longer choices lose tokens on the left, as with lm-eval's own backend.
        tokens_per_batch: A row that is longer goes alone.

    Raises:
        BadInput: on a choice without a context or a continuation, or whose continuation alone is too long.
    """
    for _, context, continuation in pairs:
        if not (context and 0 < len(continuation) <= max_length):
            raise BadInput(f"a choice has {len(context)} tokens of context and {len(continuation)} of continuation:"
                           f" give at least one of both, and at most {max_length}, which the model reads")
    rows = sorted(_rows(pairs, max_length), key=lambda row: (-len(row.common), -len(row)))
    batches: list[Batch] = []
    held: list[Row] = []
    for row in rows:
        if held and sum(map(len, held)) + len(row) > tokens_per_batch:
            batches.append(_batch(held))
            held = []
        held.append(row)
    return [*batches, _batch(held)] if held else batches


def _rows(pairs: Sequence[TokenisedPair], max_length: int) -> Iterator[Row]:
    """Neighbours of one context, or of one continuation, that share enough of their beginnings, together."""
    wholes = [(context + continuation)[-(max_length + 1) :] for _, context, continuation in pairs]
    start, common = 0, len(wholes[0]) - 1 if wholes else 0
    for end in range(1, len(wholes)):
        kin = pairs[end][1] == pairs[start][1] or pairs[end][2] == pairs[start][2]
        shared = _shared(wholes[start][:common], wholes[end][:-1]) if kin and end - start < _MOST else 0
        if shared * _COMMON >= len(wholes[end]):
            common = shared
        else:
            yield _row(pairs, wholes, range(start, end), common)
            start, common = end, len(wholes[end]) - 1
    if wholes:
        yield _row(pairs, wholes, range(start, len(wholes)), common)


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(place for place in range(length) if first[place] != second[place])


def _row(pairs: Sequence[TokenisedPair], wholes: Sequence[list[int]], choices: range, common: int) -> Row:
    row = Row(wholes[choices.start][:common])
    for choice in choices:
        whole, scored = wholes[choice], len(pairs[choice][2])
        offset = len(row) - common  # from a place in the choice to that in the row, within the branch
        row.branches.append(whole[common:-1])
        for place in range(len(whole) - scored, len(whole)):
            before = place - 1
            row.targets.append((before if before < common else before + offset, whole[place], choice))
    return row


def _batch(rows: Sequence[Row]) -> Batch:
    tokens: list[int] = []
    positions: list[int] = []
    commons: list[_Segment] = []
    branches: list[_Segment] = []
    places: dict[int, int] = {}
    of_place, targets, choices = [], [], []
    for row in rows:
        start, common = len(tokens), len(row.common)
        commons.append(_Segment(start, common))
        tokens += row.common
        positions += range(common)
        for branch in row.branches:
            if branch:
                branches.append(_Segment(len(tokens), len(branch), start, common))
            tokens += branch
            positions += range(common, common + len(branch))
        for place, token, choice in row.targets:
            of_place.append(places.setdefault(start + place, len(places)))
            targets.append(token)
            choices.append(choice)
    parts, order = _parts([*_alike(commons), *_alike(branches)], len(tokens))
    return Batch(torch.tensor(tokens), torch.tensor(positions), parts, order, torch.tensor(list(places)),
                 torch.tensor(of_place), torch.tensor(targets), torch.tensor(choices))


class _Segment(NamedTuple):
    """Tokens that follow one another, and those that they go on from: a row's common part has none."""

    start: int
    length: int
    before: int = 0
    before_length: int = 0


def _alike(segments: Sequence[_Segment]) -> list[list[_Segment]]:
    """Segments in groups whose lengths, and the lengths before, are alike."""
    groups: list[list[_Segment]] = []
    for one in sorted(segments, key=lambda one: (-one.before_length, -one.length)):
        head = groups[-1][0] if groups else None
        if head and one.before_length >= _ALIKE * head.before_length and one.length >= _ALIKE * head.length:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _parts(groups: Sequence[Sequence[_Segment]], tokens: int) -> tuple[tuple[Part, ...], torch.Tensor]:
    parts, before = [], 0
    order = torch.empty(tokens, dtype=torch.int64)
    for group in groups:
        start, length, before_start, before_length = torch.tensor(group).T
        queries, is_own = _places(start, length)
        keys, seen = queries, None
        if before_length.any():
            common, is_common = _places(before_start, before_length)
            own = torch.ones(queries.shape[1], queries.shape[1], dtype=torch.bool).tril()
            keys = torch.cat([common, queries], -1)
            seen = torch.cat([is_common[:, None].expand(-1, len(own), -1), own.expand(len(group), -1, -1)], -1)[:, None]
        order[queries[is_own]] = before + torch.arange(queries.numel()).view_as(queries)[is_own]
        parts.append(Part(queries, keys, seen))
        before += queries.numel()
    return tuple(parts), order


def _places(starts: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places of each segment's tokens, its last one repeated to the longest's length, and which are its own."""
    steps = torch.arange(int(lengths.max()))
    return starts[:, None] + torch.minimum(steps, lengths[:, None] - 1), steps < lengths[:, None]


@torch.inference_mode()
def score(model: PreTrainedModel, batches: Sequence[Batch], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihoods of `count` choices, in nats, and whether each is what greedy decoding would write.  # (choices,)

    Args:
        model: A LLaMA, pruned or not, in any floating-point type; log-probabilities are taken in float32, attention is
            PyTorch's own whatever the model's configuration asks for.
    """
    total, greedy = torch.zeros(count), torch.ones(count, dtype=torch.bool)
    with quick_products(model.model, pack=True), _packed(model):
        head = _Head(model.lm_head.weight)
        for batch in batches:
            device, parts = model.device, _moved(batch.parts, model)
            hidden = model.model(
                input_ids=batch.tokens[None].to(device), position_ids=batch.positions[None].to(device), use_cache=False,
                parts=parts, order=batch.order.to(device),
            ).last_hidden_state[0]  # (tokens, width)
            found, likeliest = head.predicted(hidden[batch.read.to(device)], batch)
            total.index_add_(0, batch.choices, found)
            greedy[batch.choices[~likeliest]] = False
    return total, greedy


@contextlib.contextmanager
def _packed(model: PreTrainedModel) -> Iterator[None]:
    """Let a model's layers compute `_packed_attention`, under no mask of transformers' own."""
    own = model.config._attn_implementation
    model.config._attn_implementation = _PACKED
    try:
        yield
    finally:
        model.config._attn_implementation = own


def _packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    parts: Sequence[Part],
    order: torch.Tensor,
    **settings: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a batch, part by part; of (1, heads, tokens, head width), but the result has tokens first."""
    found = []
    for part in parts:
        asks, looked_at, said = (_segments(tensor, places) for tensor, places in
                                 ((query, part.queries), (key, part.keys), (value, part.keys)))
        answers, _ = sdpa_attention_forward(module, asks, looked_at, said, part.seen, **settings)
        found.append(answers.flatten(0, 1))  # (segments x queries, heads, head width)
    return torch.cat(found).index_select(0, order)[None], None


AttentionInterface.register(_PACKED, _packed_attention)


def _segments(tensor: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(1, heads, tokens, head width) -> (segments, heads, tokens of a segment, head width)"""
    chosen = tensor[0].transpose(0, 1).index_select(0, places.flatten())
    return chosen.unflatten(0, places.shape).transpose(1, 2)


def _moved(parts: Sequence[Part], model: PreTrainedModel) -> list[Part]:
    """Parts on a model's device; masks in its type, as what is added to attention's scores."""
    moved = []
    for part in parts:
        mask = None
        if part.seen is not None:
            seen = part.seen.to(model.device)
            mask = torch.zeros_like(seen, dtype=model.dtype).masked_fill_(~seen, torch.finfo(model.dtype).min)
        moved.append(Part(part.queries.to(model.device), part.keys.to(model.device), mask))
    return moved


class _Head:
    """A model's output head, a piece of the vocabulary at a time, so that logits stay in the caches."""

    def __init__(self, weight: torch.Tensor):
        """
        Args:
            weight: (vocabulary, width).
        """
        step = _HEAD_COLUMNS.get(weight.device.type, _HEAD_COLUMNS["cpu"])
        self.starts = range(0, len(weight), step)
        self.pieces = packed([weight[start : start + step] for start in self.starts])

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
            totals.append(logits.logsumexp(-1))
            most.append(logits.amax(-1))
        total, likeliest = torch.stack(totals).logsumexp(0), torch.stack(most).amax(0)  # (places,) each
        return (scores - total[of_place]).cpu(), (scores >= likeliest[of_place]).cpu()


def tokens_per_batch(device: torch.device) -> int:
    """How many tokens a device is given at a time."""
    return _TOKENS_PER_BATCH.get(device.type, _TOKENS_PER_BATCH["cpu"])


class SharedContextLM(HFLM):
    """lm-eval's backend of a loaded LLaMA whose log-likelihoods are computed as above; all else is HFLM's own."""

    def _loglikelihood_tokens(
        self, requests: list[TokenisedPair], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        batches = lay_out(requests, self.max_length, tokens_per_batch(self.model.device))
        total, greedy = score(self.model, batches, len(requests))
        return list(zip(total.tolist(), greedy.tolist(), strict=True))
