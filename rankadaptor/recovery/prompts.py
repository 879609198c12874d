"""The Alpaca template, tokenised with the prompt masked, in deterministic batches grouped by length.

Source: Taori et al. 2023 (template); LLM-Pruner post_training.py (prompt masked, end-of-text if it fits, 256 tokens).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from rankadaptor.data.benchmarks import Row
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import Tokenizer
from rankadaptor.recovery.spec import Recipe

IGNORED = -100  # label of a token that no loss is taken on
_GROUP_BATCHES = 8  # batches are cut from so many batches' worth of rows, sorted by length
_ALIKE = 0.8  # rows of a piece have at least this share of the longest one's tokens, ...
_ENOUGH_TOKENS = 512  # ... once it has so many

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
    input_ids: list[int]
    labels: list[int]  # `input_ids`, IGNORED over the prompt


def alpaca_prompt(row: Row) -> str:
    """The template around a row's instruction; nothing around plain text, a row without one."""
    if not row["instruction"]:
        return ""
    return (_WITH_INPUT if row["input"] else _WITHOUT_INPUT).format(**row)


def tokenise(row: Row, tokenizer: Tokenizer, max_length_tokens: int) -> Example:
    """One row as token ids. Prompt and answer are tokenised as one text; the answer is what follows the prompt."""
    return _tokenised(tokenizer, alpaca_prompt(row), row["output"], max_length_tokens)


@lru_cache(maxsize=2**14)  # recoveries of one profile train on the same rows, again and again
def _tokenised(tokenizer: Tokenizer, prompt: str, answer: str, max_length_tokens: int) -> Example:
    prompt_length = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    ids = tokenizer(prompt + answer, add_special_tokens=False).input_ids[:max_length_tokens]
    if len(ids) < max_length_tokens:
        ids = [*ids, tokenizer.eos_token_id]
    return Example(ids, [IGNORED] * min(prompt_length, len(ids)) + ids[prompt_length:])


def batches(rows: Sequence[Row], tokenizer: Tokenizer, recipe: Recipe, seed: int) -> list[list[Example]]:
    """The batches of a whole training run, one per optimizer step.

    Rows are shuffled epoch by epoch. Where batches are grouped by length, they are cut from runs of 8 batches' worth
    sorted by it, and shuffled within the run; else they are as they were drawn. The same seed always gives the same
    batches. Rows whose prompt fills the maximum length have nothing to learn from and are passed over.

    Raises:
        BadInput: if that leaves nothing.
    """
    generator = random.Random(seed)
    needed = recipe.steps * recipe.batch_rows
    examples: list[Example] = []
    while len(examples) < needed:
        epoch = [tokenise(rows[i], tokenizer, recipe.max_length_tokens)
                 for i in generator.sample(range(len(rows)), min(len(rows), 2 * (needed - len(examples))))]
        useful = [example for example in epoch if any(label != IGNORED for label in example.labels)]
        if not useful:
            raise BadInput(f"none of {len(epoch)} recovery rows has an answer within {recipe.max_length_tokens} tokens:"
                           " raise max_length_tokens or give shorter rows")
        examples += useful
    run = (_GROUP_BATCHES if recipe.length_grouping == "batches" else 1) * recipe.batch_rows
    result = []
    for start in range(0, needed, run):
        group = sorted(examples[start : min(start + run, needed)], key=lambda example: len(example.input_ids))
        cut = [group[i : i + recipe.batch_rows] for i in range(0, len(group), recipe.batch_rows)]
        generator.shuffle(cut)
        result += cut
    return result


def micro_batches(batch: Sequence[Example], recipe: Recipe) -> list[Sequence[Example]]:
    """A batch in pieces that fit one forward pass; their gradients add up to the batch's.

    Of a batch that is not of one length, pieces are, as far as they stay large enough to be computed fast.
    """
    if recipe.length_grouping == "batches":
        rows = recipe.micro_batch_rows
        return [batch[start : start + rows] for start in range(0, len(batch), rows)]
    pieces: list[list[Example]] = []
    for example in sorted(batch, key=lambda one: -len(one.input_ids)):
        length, piece = len(example.input_ids), pieces[-1] if pieces else []
        longest = len(piece[0].input_ids) if piece else 0
        is_worn = length < _ALIKE * longest and longest * len(piece) >= _ENOUGH_TOKENS
        if not piece or is_worn or len(piece) == recipe.micro_batch_rows:
            pieces.append(piece := [])
        piece.append(example)
    return list(pieces)


def collate(examples: Sequence[Example], pad_token_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad on the right.

    Returns:
        input_ids, attention_mask, labels.  # (rows, tokens) each
    """
    width = max(len(example.input_ids) for example in examples)
    ids = [e.input_ids + [pad_token_id] * (width - len(e.input_ids)) for e in examples]
    mask = [[1] * len(e.input_ids) + [0] * (width - len(e.input_ids)) for e in examples]
    labels = [e.labels + [IGNORED] * (width - len(e.labels)) for e in examples]
    return torch.tensor(ids), torch.tensor(mask), torch.tensor(labels)
