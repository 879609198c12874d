"""The Alpaca template, tokenised with the prompt masked, in batches that are a function of the seed.

Source: Taori et al. 2023 (template); LLM-Pruner post_training.py (prompt masked, end-of-text if it fits, 256 tokens).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from rankadaptor.data.benchmarks import Row
from rankadaptor.errors import BadInput
from rankadaptor.models.tokenizers import Tokenizer, end_id, with_bos
from rankadaptor.recovery.recipe import Recipe

IGNORED = -100  # label of a token that no loss is taken on
_GROUP_BATCHES = 8  # batches that are cut together from rows sorted by length
# Once a piece of a random batch has _ENOUGH_TOKENS tokens, with padding, rows shorter than this share of its longest
# row begin the next piece.
_MIN_LENGTH_SHARE = 0.8
_ENOUGH_TOKENS = 512

_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Example:
    """A tokenised row."""

    input_ids: list[int]
    labels: list[int]  # `input_ids`, but IGNORED over the prompt


def alpaca_prompt(row: Row) -> str:
    """The prompt of a row; empty for plain text, which is a row with neither an instruction nor an input."""
    if row["input"]:
        return _WITH_INPUT.format(**row)  # of a question that stands in `input` alone, too
    return _WITHOUT_INPUT.format(**row) if row["instruction"] else ""


def tokenise(row: Row, tokenizer: Tokenizer, max_length_tokens: int, bos: bool = False) -> Example:
    """One row as token ids. Prompt and answer are tokenised as one text; labels begin after the prompt's tokens.

    Args:
        bos: Whether exactly one BOS stands in front; it belongs to the prompt.

    Raises:
        BadInput: if the tokenizer has no end of text, or no BOS where one is wanted.
    """
    return _tokenised(tokenizer, alpaca_prompt(row), row["output"], max_length_tokens, bos)


@lru_cache(maxsize=2**14)  # all recoveries of a profile train on the same rows
def _tokenised(tokenizer: Tokenizer, prompt: str, answer: str, max_length_tokens: int, bos: bool) -> Example:
    prompt_ids, ids = (tokenizer(text, add_special_tokens=False).input_ids for text in (prompt, prompt + answer))
    if bos:
        prompt_ids, ids = with_bos(prompt_ids, tokenizer), with_bos(ids, tokenizer)
    prompt_length, ids = len(prompt_ids), ids[:max_length_tokens]
    end = end_id(tokenizer)
    if len(ids) < max_length_tokens and ids[-1:] != [end]:  # some data sets write the end of text into the answer
        ids = [*ids, end]
    return Example(ids, [IGNORED] * min(prompt_length, len(ids)) + ids[prompt_length:])


def batches(rows: Sequence[Row], tokenizer: Tokenizer, recipe: Recipe, seed: int) -> list[list[Example]]:
    """The batches of a whole training run, one per optimizer step.

    Rows are shuffled epoch by epoch. With length grouping "batches", rows for 8 batches at a time are sorted by length
    and cut into batches, which are shuffled; with "micro_batches", batches are as they were drawn. Equal seeds give
    equal batches. Rows without a token to learn, such as those whose prompt fills the maximum length, are left out.

    Raises:
        BadInput: if no row is left.
    """
    generator = random.Random(seed)
    needed = recipe.steps * recipe.batch_rows
    candidates: Sequence[int] = range(len(rows))
    examples: list[Example] = []
    while len(examples) < needed:
        drawn = generator.sample(candidates, min(len(candidates), 2 * (needed - len(examples))))
        epoch = [tokenise(rows[i], tokenizer, recipe.max_length_tokens, recipe.bos) for i in drawn]
        useful = [example for example in epoch if _has_target(example)]
        if not useful:  # only now is every row tokenised to see which are of use: of most data sets nearly all are
            candidates = _useful_rows(rows, tokenizer, recipe)
        examples += useful
    group_rows = (_GROUP_BATCHES if recipe.length_grouping == "batches" else 1) * recipe.batch_rows
    result = []
    for start in range(0, needed, group_rows):
        group = sorted(examples[start : min(start + group_rows, needed)], key=lambda example: len(example.input_ids))
        group_batches = [group[i : i + recipe.batch_rows] for i in range(0, len(group), recipe.batch_rows)]
        generator.shuffle(group_batches)
        result += group_batches
    return result


def _useful_rows(rows: Sequence[Row], tokenizer: Tokenizer, recipe: Recipe) -> list[int]:
    """Indices of the rows that have a token to learn. Raises BadInput if there is none."""
    longest = recipe.max_length_tokens
    useful = [i for i, row in enumerate(rows) if _has_target(tokenise(row, tokenizer, longest, recipe.bos))]
    if not useful:
        raise BadInput(f"none of {len(rows)} recovery rows has an answer within {longest} tokens: raise"
                       " max_length_tokens or give shorter rows")
    return useful


def _has_target(example: Example) -> bool:
    """Whether a loss is taken on any token; the first one is never predicted."""
    return any(label != IGNORED for label in example.labels[1:])


def micro_batches(batch: Sequence[Example], recipe: Recipe) -> list[Sequence[Example]]:
    """A batch in pieces that fit one forward pass; their gradients add up to the batch's.

    A random batch is sorted by length and cut into pieces of about one length that are large enough to be fast.
    """
    if recipe.length_grouping == "batches":
        rows = recipe.micro_batch_rows
        return [batch[start : start + rows] for start in range(0, len(batch), rows)]
    pieces: list[list[Example]] = []
    for example in sorted(batch, key=lambda example: -len(example.input_ids)):
        length, piece = len(example.input_ids), pieces[-1] if pieces else []
        longest = len(piece[0].input_ids) if piece else 0
        is_too_short = length < _MIN_LENGTH_SHARE * longest and longest * len(piece) >= _ENOUGH_TOKENS
        if not piece or is_too_short or len(piece) == recipe.micro_batch_rows:
            pieces.append(piece := [])
        piece.append(example)
    return list(pieces)


def collate(examples: Sequence[Example], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad examples on the right, to the longest.

    Returns:
        input_ids, attention_mask, labels.  # (rows, tokens) each
    """
    longest = max(len(example.input_ids) for example in examples)
    ids, mask, labels = [], [], []
    for example in examples:
        length, padding = len(example.input_ids), longest - len(example.input_ids)
        ids.append(example.input_ids + [pad_token_id] * padding)
        mask.append([1] * length + [0] * padding)
        labels.append(example.labels + [IGNORED] * padding)
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)
