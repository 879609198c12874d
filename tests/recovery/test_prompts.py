"""Which rows a recovery learns from, as which tokens."""

import random

import pytest
from helpers.data import sentence
from helpers.models import tiny_llama

from rankadaptor.errors import BadInput
from rankadaptor.recovery import training
from rankadaptor.recovery.adapters import attach_adapter
from rankadaptor.recovery.packing import padded
from rankadaptor.recovery.prompts import IGNORED, Example, alpaca_prompt, batches, tokenise
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.recovery.training import train

RECIPE = Recipe(steps=5, batch_rows=3, micro_batch_rows=3, learning_rate=5e-3, warmup_steps=1, max_length_tokens=60,
                lora_dropout=0.0, weight_decay=0.0, clip_norm=1.0, length_grouping="micro_batches")
SHORT = [{"instruction": "", "input": "", "output": sentence(i, 5)} for i in range(8)]
LONG = [{"instruction": sentence(i, 9), "input": "", "output": "no"} for i in range(12)]
BLANK = {"instruction": "", "input": "", "output": ""}


def drawn_as_before(rows, tokenizer, recipe, seed):
    """The draw of examples as it was while a draw without a useful row ended the run: None where it did."""
    generator, needed, examples = random.Random(seed), recipe.steps * recipe.batch_rows, []
    while len(examples) < needed:
        indices = generator.sample(range(len(rows)), min(len(rows), 2 * (needed - len(examples))))
        epoch = [tokenise(rows[i], tokenizer, recipe.max_length_tokens) for i in indices]
        useful = [example for example in epoch if any(label != IGNORED for label in example.labels)]
        if not useful:
            return None
        examples += useful
    result = []
    for start in range(0, needed, recipe.batch_rows):
        group = sorted(examples[start : start + recipe.batch_rows], key=lambda example: len(example.input_ids))
        group_batches = [group]
        generator.shuffle(group_batches)
        result += group_batches
    return result


def test_draws_that_worked_are_the_same_and_the_others_work(tokenizer):
    rows = [*SHORT[:2], *LONG]
    usable = {tuple(tokenise(row, tokenizer, RECIPE.max_length_tokens).input_ids) for row in SHORT[:2]}
    before = [drawn_as_before(rows, tokenizer, RECIPE, seed) for seed in range(60)]
    assert 10 < before.count(None) < 50
    for seed, expected in enumerate(before):
        planned = batches(rows, tokenizer, RECIPE, seed)
        assert planned == batches(rows, tokenizer, RECIPE, seed)
        if expected is not None:
            assert planned == expected
        assert [len(batch) for batch in planned] == [3] * 5
        assert {tuple(example.input_ids) for batch in planned for example in batch} == usable


def test_rows_that_are_all_usable_are_drawn_as_before(tokenizer):
    for seed in range(5):
        assert batches(SHORT, tokenizer, RECIPE, seed) == drawn_as_before(SHORT, tokenizer, RECIPE, seed)


@pytest.mark.parametrize(("rows", "length", "says"), [
    (LONG, 60, "none of 12 recovery rows has an answer within 60 tokens: raise max_length_tokens"),
    (SHORT, 1, "none of 8 recovery rows has an answer within 1 tokens"),
    ([BLANK], 60, "none of 1 recovery rows has an answer"),
    ([], 60, "none of 0 recovery rows has an answer"),
])
def test_data_without_a_token_to_learn_are_refused(rows, length, says, tokenizer):
    with pytest.raises(BadInput, match=says):
        batches(rows, tokenizer, Recipe(**(vars(RECIPE) | {"max_length_tokens": length})), 0)


@pytest.mark.parametrize("rows_a_batch", [1, 2])
def test_a_blank_row_is_passed_over_and_does_not_diverge(rows_a_batch, tokenizer):
    recipe = Recipe(**(vars(RECIPE) | {"batch_rows": rows_a_batch, "steps": 8}))
    spec = RecoverySpec("lora", (2, 2, 2, 2), "constant", 16, recipe, 0)
    planned = batches([BLANK, *SHORT[:2]], tokenizer, recipe, 0)
    assert all(len(example.input_ids) > 1 for batch in planned for example in batch)
    losses = train(attach_adapter(tiny_llama(), spec), tokenizer, [BLANK, *SHORT[:2]], spec).losses
    assert len(losses) == 8
    assert all(0 < loss < 20 for loss in losses)


def test_a_batch_without_a_target_is_no_divergence():
    spec = RecoverySpec("lora", (2, 2, 2, 2), "constant", 16, RECIPE, 0)
    batch = [Example([1, 2, 3], [IGNORED] * 3), Example([5], [5])]
    with pytest.raises(BadInput, match="a batch holds no token to learn: give rows that have an answer"):
        training._accumulate(attach_adapter(tiny_llama(), spec), [padded(batch, 0)])


@pytest.mark.parametrize(("row", "begins", "ends"), [
    ({"instruction": "Add.", "input": "1 2"}, "Below is an instruction that describes a task, paired",
     "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"),
    ({"instruction": "", "input": "1 2"}, "Below is an instruction that describes a task, paired",
     "### Instruction:\n\n\n### Input:\n1 2\n\n### Response:\n"),
    ({"instruction": "Add.", "input": ""}, "Below is an instruction that describes a task. Write",
     "### Instruction:\nAdd.\n\n### Response:\n"),
    ({"instruction": "{input}", "input": "{x}"}, "Below",
     "### Instruction:\n{input}\n\n### Input:\n{x}\n\n### Response:\n"),
])
def test_the_template_is_the_one_that_loses_no_field(row, begins, ends):
    prompt = alpaca_prompt(row | {"output": "3"})
    assert prompt.startswith(begins)
    assert prompt.endswith(ends)


def test_text_without_instruction_and_input_has_no_prompt(tokenizer):
    assert alpaca_prompt(SHORT[0]) == ""
    example = tokenise(SHORT[0], tokenizer, 300)
    assert example.labels == example.input_ids
    assert tokenizer.decode(example.input_ids[:-1]) == SHORT[0]["output"]


@pytest.mark.parametrize("prompted", [False, True])
def test_an_answer_that_ends_in_eos_gets_no_second_one(prompted, tokenizer):
    row = {"instruction": sentence(3, 4) if prompted else "", "input": "", "output": sentence(4, 4)}
    ended = row | {"output": row["output"] + tokenizer.eos_token}
    example = tokenise(row, tokenizer, 300)
    assert tokenise(ended, tokenizer, 300) == example
    assert example.input_ids.count(tokenizer.eos_token_id) == 1
    assert example.labels[-1] == tokenizer.eos_token_id
