"""A batch in pieces of one forward pass: rows padded side by side, or packed one after another without padding.

In batches of random rows a seventh of the tokens is padding, even where rows are sorted and cut by length. Only
attention mixes tokens, so rows may follow one another, and attention separates them: row by row on a CPU; on a GPU side
by side in one call, where only attention computes padding.

Plain counterpart: `padded` rows under the model's own attention, equal to rounding. Switch: `packing`.
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

from rankadaptor.models.patching import attending
from rankadaptor.recovery.prompts import IGNORED, Example, collate, micro_batches
from rankadaptor.recovery.recipe import Recipe

# Tokens of a packed piece, at most. On a CPU twice as many were 8 % slower, half as many 4 %; on an H200, in SmolLM2,
# 4,096 tokens were slower than 8,192 and 2,048 much slower, since a pass has costs that do not depend on its tokens.
_MAX_TOKENS = {"cpu": 1024, "cuda": 8192}
_IMPLEMENTATION = "rankadaptor_rows"  # name of `_attention` in transformers' AttentionInterface


@dataclass(frozen=True)
class PackedRows:
    """How attention separates rows that follow one another."""

    lengths: list[int]
    padded_indices: torch.Tensor  # flat index of each token in (rows, longest)  # (tokens,)

    def to(self, device: torch.device) -> "PackedRows":
        """The same, with its tensor on a device."""
        return PackedRows(self.lengths, self.padded_indices.to(device))


@dataclass(frozen=True)
class Piece:
    """The input of one forward pass, and the targets of its loss."""

    ids: torch.Tensor  # (rows, tokens), or (1, tokens) of packed rows
    positions: torch.Tensor | None  # as ids; None: each row counts from 0
    rows: PackedRows | None  # None: rows are side by side
    supervised: torch.Tensor  # flat indices into ids from whose states the targets are predicted  # (targets,)
    targets: torch.Tensor  # token ids  # (targets,)

    def to(self, device: torch.device) -> "Piece":
        """The same, with its tensors on a device."""
        return Piece(
            self.ids.to(device), None if self.positions is None else self.positions.to(device),
            None if self.rows is None else self.rows.to(device), self.supervised.to(device), self.targets.to(device),
        )


@contextlib.contextmanager
def packing(model: PreTrainedModel, recipe: Recipe) -> Iterator[bool]:
    """Let a model's attention separate packed rows, where packing pays.

    It pays for random batches (those of one length have next to no padding) under PyTorch's own attention.

    Yields:
        Whether rows are to be packed.
    """
    packs = _packing_pays(model, recipe)
    with attending(model, _IMPLEMENTATION if packs else model.config._attn_implementation):
        yield packs


def _packing_pays(model: PreTrainedModel, recipe: Recipe) -> bool:
    return (
        recipe.length_grouping == "micro_batches"
        and model.device.type in _ATTENTION
        and model.config._attn_implementation == "sdpa"
    )


def pieces(
    batch: Sequence[Example], recipe: Recipe, packs: bool, pad_token_id: int, device: torch.device
) -> list[Piece]:
    """A batch in pieces that fit one forward pass.

    On a CPU a piece has at most `micro_batch_rows` rows; on a GPU about as many tokens as that many rows of full
    length, and about twice as many in attention, with padding.

    Args:
        packs: Whether rows are packed, as `packing` yields it.
        device: Of the model.
    """
    if not packs:
        return [padded(examples, pad_token_id) for examples in micro_batches(batch, recipe)]
    lengths = [len(example.input_ids) for example in batch]
    if device.type == "cpu":
        count = max(ceil(sum(lengths) / _MAX_TOKENS["cpu"]), ceil(len(batch) / recipe.micro_batch_rows))
    else:
        most = min(_MAX_TOKENS[device.type], recipe.micro_batch_rows * recipe.max_length_tokens)
        count = max(ceil(sum(lengths) / most), ceil(len(batch) * max(lengths) / (2 * most)))
    ordered = sorted(batch, key=lambda example: -len(example.input_ids))  # dealt in turn: pieces of about one size
    return [packed(ordered[first::count]) for first in range(min(count, len(batch)))]


def padded(examples: Sequence[Example], pad_token_id: int) -> Piece:
    """Rows side by side. Padding comes last, where causal order hides it: attention needs no mask."""
    ids, _, labels = collate(examples, pad_token_id)
    return Piece(ids, None, None, *_supervised(_next_tokens(labels)))


def packed(examples: Sequence[Example]) -> Piece:
    """Rows one after another, for a model within `packing`."""
    lengths = [len(example.input_ids) for example in examples]
    ids = torch.tensor([token for example in examples for token in example.input_ids])
    next_tokens = torch.cat([_next_tokens(torch.tensor([example.labels])) for example in examples], 1)  # (1, tokens)
    positions = torch.cat([torch.arange(length) for length in lengths])  # (tokens,)
    row_of_token = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))  # (tokens,)
    padded_indices = positions + row_of_token * max(lengths)
    return Piece(ids[None], positions[None], PackedRows(lengths, padded_indices), *_supervised(next_tokens))


def _next_tokens(labels: torch.Tensor) -> torch.Tensor:
    """The label that each position predicts: the next one; IGNORED at the end of a row.  # (rows, tokens)"""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


def _supervised(next_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat indices of the positions that a loss is taken on, and their targets.  # (targets,) each"""
    flat = next_tokens.flatten()
    supervised = (flat != IGNORED).nonzero()[:, 0]
    return supervised, flat[supervised]


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    rows: PackedRows,
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each packed row.

    Args:
        query: (1, heads, tokens, head width); key and value: (1, kv heads, tokens, head width).

    Returns:
        (1, tokens, heads, head width), and no attention weights.
    """
    return _ATTENTION[query.device.type](query, key, value, rows, scaling, dropout), None


def _row_by_row(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scaling: float, dropout: float
) -> torch.Tensor:
    by_row = zip(*(states.split(rows.lengths, 2) for states in (query, key, value)), strict=True)
    return torch.cat([_causal(*row, scaling=scaling, dropout=dropout) for row in by_row], 1)


def _side_by_side(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, rows: PackedRows, scaling: float, dropout: float
) -> torch.Tensor:
    """Padding comes last, where causal order hides it; the output at padding is not read."""
    group = query.shape[1] // key.shape[1]
    if group > 1 and query.dtype == torch.float32:  # PyTorch's float32 kernel needs as many key heads as query heads
        key, value = (states.repeat_interleave(group, 1) for states in (key, value))
    shape = len(rows.lengths), max(rows.lengths)
    padded_states = []  # (rows, heads, longest, head width) each
    for tokens in (states[0].transpose(0, 1) for states in (query, key, value)):  # (tokens, heads, head width)
        zeros = tokens.new_zeros(shape[0] * shape[1], *tokens.shape[1:])
        padded_states.append(zeros.index_copy(0, rows.padded_indices, tokens).unflatten(0, shape).transpose(1, 2))
    output = _causal(*padded_states, scaling=scaling, dropout=dropout).flatten(0, 1)  # (rows x longest, heads, width)
    return _Select.apply(output, rows.padded_indices)[None]


_ATTENTION = {"cpu": _row_by_row, "cuda": _side_by_side}


def _causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, scaling: float, dropout: float
) -> torch.Tensor:
    """PyTorch's attention of (rows, heads, tokens, head width).  # (rows, tokens, heads, head width)"""
    return functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=key.shape[1] != query.shape[1],
    ).transpose(1, 2)


class _Select(torch.autograd.Function):
    """`index_select` of different indices. Autograd's own gradient would add where a copy is enough."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
        ctx.indices, ctx.shape = indices, x.shape
        return x.index_select(0, indices)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad_outputs[0].new_zeros(ctx.shape).index_copy_(0, ctx.indices, grad_outputs[0]), None


AttentionInterface.register(_IMPLEMENTATION, _attention)
