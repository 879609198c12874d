"""A batch as the layers read it, piece by piece: rows side by side, or one after another without padding.

Of random rows a seventh of the tokens is padding, even of rows sorted and cut by length. Where nothing but attention
looks at more than one token, rows may follow one another, and attention takes them apart: row by row on a CPU; on a GPU
side by side in one call, where padding costs attention alone.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from rankadaptor.models.kernels.patching import attending
from rankadaptor.recovery.prompts import IGNORED, Example, collate, micro_batches
from rankadaptor.recovery.spec import Recipe

# Of rows that follow one another, at most. On a CPU twice as many were 8 % slower, half as many 4 %; on an H200, in
# SmolLM2, 4,096 tokens were slower than 8,192 and 2,048 much slower: what a pass costs beside its products is the same.
_TOKENS = {"cpu": 1024, "cuda": 8192}
_ROWS = "rankadaptor_rows"  # what transformers knows `_attention` as


@dataclass(frozen=True)
class Rows:
    """Rows that follow one another, as attention takes them apart."""

    lengths: list[int]
    places: torch.Tensor  # of each token, were the rows side by side and as long as the longest  # (tokens,)


@dataclass(frozen=True)
class Piece:
    """What one forward pass reads, and where the output head looks."""

    ids: torch.Tensor  # (rows, tokens), or (1, tokens) of rows that follow one another
    positions: torch.Tensor | None  # as ids; None: each row's own
    rows: Rows | None  # those that follow one another
    read: torch.Tensor  # places, of all positions in turn, that a supervised token is predicted from  # (targets,)
    targets: torch.Tensor  # those tokens  # (targets,)

    def to(self, device: torch.device) -> "Piece":
        """The same, read on a device."""
        return Piece(
            self.ids.to(device), None if self.positions is None else self.positions.to(device),
            None if self.rows is None else Rows(self.rows.lengths, self.rows.places.to(device)),
            self.read.to(device), self.targets.to(device),
        )


@contextlib.contextmanager
def packing(model: PreTrainedModel, recipe: Recipe) -> Iterator[bool]:
    """Let a model take rows apart that follow one another, where that pays; yields whether it does.

    It does under PyTorch's own attention, for random batches: those of one length have next to no padding.
    """
    packs = _pays(model, recipe)
    with attending(model, _ROWS if packs else model.config._attn_implementation):
        yield packs


def _pays(model: PreTrainedModel, recipe: Recipe) -> bool:
    return (
        recipe.length_grouping == "micro_batches"
        and model.device.type in _ATTENTION
        and model.config._attn_implementation == "sdpa"
    )


def pieces(
    batch: Sequence[Example], recipe: Recipe, packs: bool, pad_token_id: int, device: torch.device
) -> list[Piece]:
    """A batch in pieces that fit one forward pass.

    On a CPU they have `micro_batch_rows` rows at most; on a GPU about as many tokens as so many rows of full length,
    and in attention, padding included, about twice as many.
    """
    if not packs:
        return [padded(examples, pad_token_id) for examples in micro_batches(batch, recipe)]
    lengths = [len(example.input_ids) for example in batch]
    if device.type == "cpu":
        count = max(ceil(sum(lengths) / _TOKENS["cpu"]), ceil(len(batch) / recipe.micro_batch_rows))
    else:
        most = min(_TOKENS[device.type], recipe.micro_batch_rows * recipe.max_length_tokens)
        count = max(ceil(sum(lengths) / most), ceil(len(batch) * max(lengths) / (2 * most)))
    ordered = sorted(batch, key=lambda example: -len(example.input_ids))  # dealt out: pieces of about one size
    return [packed(ordered[first::count]) for first in range(min(count, len(batch)))]


def padded(examples: Sequence[Example], pad_token_id: int) -> Piece:
    """Rows side by side. Padding comes last, where causal order hides it: attention needs no mask."""
    ids, _, labels = collate(examples, pad_token_id)
    return Piece(ids, None, None, *_supervised(_later(labels)))


def packed(examples: Sequence[Example]) -> Piece:
    """Rows one after another, for a model within `packing`."""
    lengths = [len(example.input_ids) for example in examples]
    ids = torch.tensor([token for example in examples for token in example.input_ids])
    predicted = torch.cat([_later(torch.tensor([example.labels])) for example in examples], 1)
    positions = torch.cat([torch.arange(length) for length in lengths])
    places = positions + torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) * max(lengths)
    return Piece(ids[None], positions[None], Rows(lengths, places), *_supervised(predicted))


def _later(labels: torch.Tensor) -> torch.Tensor:
    """What each position predicts; a row's last one nothing.  # (rows, tokens)"""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _supervised(predicted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    flat = predicted.flatten()
    read = (flat != IGNORED).nonzero()[:, 0]
    return read, flat[read]


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    rows: Rows,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Each row's own attention; of (1, heads, tokens, head width), but the result has tokens first."""
    return _ATTENTION[query.device.type](query, key, value, rows, scaling, dropout), None


def _row_by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Rows, scaling: float, dropout: float
) -> torch.Tensor:
    each = zip(*(one.split(rows.lengths, 2) for one in (query, key, value)), strict=True)
    return torch.cat([_causal(*row, scaling=scaling, dropout=dropout) for row in each], 1)


def _side_by_side(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: Rows, scaling: float, dropout: float
) -> torch.Tensor:
    """Padding comes last, where causal order hides it, and what is found there is not looked at."""
    group = query.shape[1] // key.shape[1]
    if group > 1 and query.dtype == torch.float32:  # PyTorch's kernel for it has as many heads of keys as of queries
        key, value = (one.repeat_interleave(group, 1) for one in (key, value))
    shape = len(rows.lengths), max(rows.lengths)
    beside = []  # (rows, heads, longest, head width) each
    for tokens in (one[0].transpose(0, 1) for one in (query, key, value)):
        zeros = tokens.new_zeros(shape[0] * shape[1], *tokens.shape[1:])
        beside.append(zeros.index_copy(0, rows.places, tokens).unflatten(0, shape).transpose(1, 2))
    return _Apart.apply(_causal(*beside, scaling=scaling, dropout=dropout).flatten(0, 1), rows.places)[None]


_ATTENTION = {"cpu": _row_by_row, "cuda": _side_by_side}


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float, dropout: float
) -> torch.Tensor:
    """PyTorch's, of (rows, heads, tokens, head width), but the result has tokens before heads."""
    return functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1],
    ).transpose(1, 2)


class _Apart(torch.autograd.Function):
    """What is at so many places. Autograd's own gradient would add where it is enough to write."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        ctx.places, ctx.shape = places, x.shape
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0].new_zeros(ctx.shape).index_copy_(0, ctx.places, gradients[0]), None


AttentionInterface.register(_ROWS, _attention)
