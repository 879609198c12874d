"""A batch as the layers read it, piece by piece: rows side by side, or one after another without padding.

Of random rows a seventh of the tokens is padding, even of rows sorted and cut by length. Where nothing but attention
looks at more than one token, rows may follow one another, and attention takes them apart.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from rankadaptor.forwards import attending
from rankadaptor.recovery.prompts import IGNORED, Example, collate, micro_batches
from rankadaptor.specs import Recipe

_TOKENS = 1024  # of rows that follow one another, at most; on a CPU twice as many were 8 % slower, half as many 4 %
_ROWS = "rankadaptor_rows"  # what transformers knows `_attention` as


@dataclass(frozen=True)
class Piece:
    """What one forward pass reads, and where the output head looks."""

    ids: torch.Tensor  # (rows, tokens), or (1, tokens) of rows that follow one another
    positions: torch.Tensor | None  # as ids; None: each row's own
    lengths: list[int] | None  # of the rows that follow one another
    read: torch.Tensor  # places, of all positions in turn, that a supervised token is predicted from  # (targets,)
    targets: torch.Tensor  # those tokens  # (targets,)


@contextlib.contextmanager
def packing(model: PreTrainedModel, recipe: Recipe) -> Iterator[bool]:
    """Let a model take rows apart that follow one another, where that pays; yields whether it does.

    It does on a CPU, under PyTorch's own attention, for random batches: those of one length have next to no padding,
    and on a GPU attention row by row costs more than it.
    """
    if not _pays(model, recipe):
        yield False
        return
    with attending(model, _ROWS):
        yield True


def _pays(model: PreTrainedModel, recipe: Recipe) -> bool:
    return (
        recipe.length_grouping == "micro_batches"
        and model.device.type == "cpu"
        and model.config._attn_implementation == "sdpa"
    )


def pieces(batch: Sequence[Example], recipe: Recipe, packs: bool, pad_token_id: int) -> list[Piece]:
    """A batch in pieces that fit one forward pass, of `micro_batch_rows` rows at most."""
    if not packs:
        return [padded(examples, pad_token_id) for examples in micro_batches(batch, recipe)]
    tokens = sum(len(example.input_ids) for example in batch)
    count = max(ceil(tokens / _TOKENS), ceil(len(batch) / recipe.micro_batch_rows))
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
    return Piece(ids[None], positions[None], lengths, *_supervised(predicted))


def _later(labels: torch.Tensor) -> torch.Tensor:
    """What each position predicts; a row's last one nothing.  # (rows, tokens)"""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)


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
    lengths: Sequence[int],
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Each row's own attention; of (1, heads, tokens, head width), but the result has tokens first."""
    rows = zip(*(one.split(lengths, 2) for one in (query, key, value)), strict=True)
    found = [sdpa_attention_forward(module, *row, None, dropout=dropout, scaling=scaling)[0] for row in rows]
    return torch.cat(found, 1), None


AttentionInterface.register(_ROWS, _attention)
