"""Scoring a question's choices together: what they have in common is computed once, and the head only where needed.

A question becomes one row: the tokens that all its choices begin with, then a branch a choice. A branch's positions go
on from the common part, and its tokens see that part and themselves (a tree mask), so every log-probability is the one
that the choice alone would have, to rounding. Choices of one token need no branch at all. Rows of about one length go
together, as many as a budget of tokens holds.

Source: the tree mask of SpecInfer (Miao et al. 2024, section 4.2), over choices in place of drafts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.products import quick_products

_TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 16_384}  # more is slower on a CPU, whose caches it outgrows
_HEAD_ROWS = 1024  # positions that logits are held of at a time
_ALIKE = 0.7  # rows of a batch have at least this share of the longest one's tokens
_COMMON = 4  # a choice joins its neighbours if they share at least one token in so many, ...
_MOST = 16  # ... and as long as they are fewer: attention grows with the square of a row

# (context, continuation), the context's tokens, the continuation's: what lm-eval's backends score.
TokenisedPair = tuple[tuple[str, str], list[int], list[int]]


@dataclass
class Row:
    """Choices that begin alike. Tokens are the common part's, then those of each branch."""

    tokens: list[int]
    positions: list[int]
    branches: list[int]  # of each token: 0 in the common part, else the branch's number
    targets: list[tuple[int, int, int]] = field(default_factory=list)  # (place that predicts it, token, choice)


class Batch(NamedTuple):
    """Rows of about one length, padded on the right; every tensor holds whole numbers."""

    tokens: torch.Tensor  # (rows, tokens)
    positions: torch.Tensor  # (rows, tokens)
    branches: torch.Tensor  # (rows, tokens); -1 is padding
    read: torch.Tensor  # (2, places): row and token of each state that something is predicted from
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
        tokens_per_batch: Padding included; a row that is longer goes alone.

    Raises:
        BadInput: on a choice without a context or a continuation, or whose continuation alone is too long.
    """
    for _, context, continuation in pairs:
        if not (context and 0 < len(continuation) <= max_length):
            raise BadInput(f"a choice has {len(context)} tokens of context and {len(continuation)} of continuation:"
                           f" give at least one of both, and at most {max_length}, which the model reads")
    rows = sorted(_rows(pairs, max_length), key=lambda row: -len(row.tokens))
    batches, start = [], 0
    while start < len(rows):
        longest = len(rows[start].tokens)
        most = start + max(1, tokens_per_batch // longest)
        end = start + 1
        while end < min(most, len(rows)) and len(rows[end].tokens) >= _ALIKE * longest:
            end += 1
        batches.append(_batch(rows[start:end]))
        start = end
    return batches


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
    row = Row(wholes[choices.start][:common], list(range(common)), [0] * common)
    for number, choice in enumerate(choices, 1):
        whole, scored = wholes[choice], len(pairs[choice][2])
        offset = len(row.tokens) - common  # from a place in the choice to that in the row, within the branch
        row.tokens += whole[common:-1]
        row.positions += range(common, len(whole) - 1)
        row.branches += [number] * (len(whole) - 1 - common)
        for place in range(len(whole) - scored, len(whole)):
            before = place - 1
            row.targets.append((before if before < common else before + offset, whole[place], choice))
    return row


def _batch(rows: Sequence[Row]) -> Batch:
    length = len(rows[0].tokens)

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([getattr(row, name) + [value] * (length - len(row.tokens)) for row in rows])

    places: dict[tuple[int, int], int] = {}
    of_place, targets, choices = [], [], []
    for number, row in enumerate(rows):
        for place, token, choice in row.targets:
            of_place.append(places.setdefault((number, place), len(places)))
            targets.append(token)
            choices.append(choice)
    # Positions go on over the padding: where they began anew, the model would see several sequences, and build a mask.
    positions = torch.tensor([row.positions + list(range(len(row.tokens), length)) for row in rows])
    return Batch(padded("tokens", 0), positions, padded("branches", -1), torch.tensor(list(places)).T,
                 torch.tensor(of_place), torch.tensor(targets), torch.tensor(choices))


@torch.inference_mode()
def score(model: PreTrainedModel, batches: Sequence[Batch], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihoods of `count` choices, in nats, and whether each is what greedy decoding would write.  # (choices,)

    Args:
        model: A LLaMA, pruned or not, in any floating-point type; log-probabilities are taken in float32.
    """
    with quick_products(model):
        return _score(model, batches, count)


def _score(model: PreTrainedModel, batches: Sequence[Batch], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    total, greedy = torch.zeros(count), torch.ones(count, dtype=torch.bool)
    for batch in batches:
        inputs: dict[str, Any] = {
            "input_ids": batch.tokens.to(model.device),
            "position_ids": batch.positions.to(model.device),
            "attention_mask": _tree_mask(batch.branches.to(model.device), model.dtype),
        }
        hidden = model.model(**inputs, use_cache=False).last_hidden_state  # (rows, tokens, width)
        states = hidden[tuple(batch.read.to(model.device))]  # (places, width)
        found, best = _predicted(model, states, batch)
        total.index_add_(0, batch.choices, found)
        greedy[batch.choices[batch.targets != best[batch.of_place]]] = False
    return total, greedy


def _tree_mask(branches: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    """What to add to attention scores; None where causal order says it all.  # (rows, 1, tokens, tokens)"""
    if int(branches.max()) < 1:
        return None  # padding comes last: nothing that is read sees it
    seen = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    seen = seen.tril()
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def _predicted(model: PreTrainedModel, states: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of every target  # (targets,), and the likeliest token of every place  # (places,)"""
    found, best = torch.empty(len(batch.targets)), []
    order = torch.argsort(batch.of_place, stable=True)
    bounds = torch.searchsorted(batch.of_place[order], torch.arange(0, len(states) + _HEAD_ROWS, _HEAD_ROWS))
    for number, start in enumerate(range(0, len(states), _HEAD_ROWS)):
        logits = model.lm_head(states[start : start + _HEAD_ROWS]).float()  # (places, vocabulary)
        chosen = order[bounds[number] : bounds[number + 1]]
        places = (batch.of_place[chosen] - start).to(logits.device)
        values = logits[places, batch.targets[chosen].to(logits.device)] - logits.logsumexp(-1)[places]
        found[chosen] = values.cpu()
        best.append(logits.argmax(-1).cpu())
    return found, torch.cat(best)


def tokens_per_batch(device: torch.device) -> int:
    """How many tokens a device is given at a time, padding included."""
    return _TOKENS_PER_BATCH.get(device.type, _TOKENS_PER_BATCH["cpu"])


class SharedContextLM(HFLM):
    """lm-eval's backend of a loaded LLaMA whose log-likelihoods are computed as above; all else is HFLM's own."""

    def _loglikelihood_tokens(
        self, requests: list[TokenisedPair], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        batches = lay_out(requests, self.max_length, tokens_per_batch(self.model.device))
        total, greedy = score(self.model, batches, len(requests))
        return list(zip(total.tolist(), greedy.tolist(), strict=True))
