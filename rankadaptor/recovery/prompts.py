"""The Alpaca template, tokenised with the prompt masked, in deterministic batches grouped by length.

Source: Taori et al. 2023 (template); LLM-Pruner post_training.py (prompt masked, end-of-text if it fits, 256 tokens).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rankadaptor.corpora.benchmarks import Row
from rankadaptor.errors import BadInput
from rankadaptor.models import Tokenizer
from rankadaptor.specs import Recipe

IGNORED = -100  # label of a token that no loss is taken on
_GROUP_BATCHES = 8  # batches are cut from so many batches' worth of rows, sorted by length

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
    prompt = alpaca_prompt(row)
    prompt_length = len(tokenizer(prompt, add_special_tokens=False).input_ids)
    ids = tokenizer(prompt + row["output"], add_special_tokens=False).input_ids[:max_length_tokens]
    if len(ids) < max_length_tokens:
        ids = [*ids, tokenizer.eos_token_id]
    return Example(ids, [IGNORED] * min(prompt_length, len(ids)) + ids[prompt_length:])


def batches(rows: Sequence[Row], tokenizer: Tokenizer, recipe: Recipe, seed: int) -> list[list[Example]]:
    """The batches of a whole training run, one per optimizer step.

    Rows are shuffled epoch by epoch; batches are cut from runs of 8 batches' worth sorted by length, and shuffled
    within the run, so that padding is small and the same seed always gives the same batches. Rows whose prompt fills
    the maximum length have nothing to learn from and are passed over.

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
    run = _GROUP_BATCHES * recipe.batch_rows
    result = []
    for start in range(0, needed, run):
        group = sorted(examples[start : min(start + run, needed)], key=lambda example: len(example.input_ids))
        cut = [group[i : i + recipe.batch_rows] for i in range(0, len(group), recipe.batch_rows)]
        generator.shuffle(cut)
        result += cut
    return result


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
