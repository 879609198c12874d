"""Choices as trees: every token sees what it would see alone, and what choices begin with alike is there once."""

import random

import pytest
import torch
from helpers.data import ragged_choices

from rankadaptor.errors import BadInput
from rankadaptor.evaluation import layout
from rankadaptor.evaluation.layout import Limits, lay_out

UNLIMITED = 10**6


def pairs_of(*choices):
    return [(("", ""), context, continuation) for context, continuation in choices]


def visible(batch):
    """Of each token of a batch, the places that attention lets it see."""
    asked, seen = [], []
    for part in batch.parts:
        for queries, above, length in zip(*(tensor.tolist() for tensor in part), strict=True):
            for place, query in enumerate(queries):
                asked.append(query)
                seen.append(above[:length] + queries[: place + 1])
    order = batch.order.tolist()
    assert [asked[place] for place in order] == list(range(len(batch.tokens)))  # each asks for itself
    return [seen[place] for place in order]


def predictions(batches):
    """Of each choice, by position, (the tokens that its prediction is made from, the token that is scored)."""
    found = {}
    for batch in batches:
        seen, tokens, positions = visible(batch), batch.tokens.tolist(), batch.positions.tolist()
        for place, target, choice in zip(batch.of_place, batch.targets.tolist(), batch.choices.tolist(), strict=True):
            places = seen[batch.read[place]]
            assert [positions[one] for one in places] == list(range(len(places)))  # in order, none twice
            found.setdefault(choice, []).append(([tokens[one] for one in places], target))
    return found


def expected(pairs, max_length):
    wholes = [(context + continuation)[-(max_length + 1) :] for _, context, continuation in pairs]
    return {
        choice: [(whole[:end], whole[end]) for end in range(len(whole) - len(continuation), len(whole))]
        for choice, (whole, (_, _, continuation)) in enumerate(zip(wholes, pairs, strict=True))
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tokens_per_batch", [1, 60, 200, UNLIMITED])
@pytest.mark.parametrize("max_length", [12, 512])
def test_every_prediction_is_made_from_the_choices_own_tokens(seed, tokens_per_batch, max_length):
    pairs = ragged_choices(seed)
    found = predictions(lay_out(pairs, max_length, Limits(tokens_per_batch)))
    assert {choice: sorted(made, key=lambda one: len(one[0])) for choice, made in found.items()} == expected(
        pairs, max_length)


@pytest.mark.parametrize(("settings", "limits"), [
    ({}, (1,)), ({"_WORTH_IT": 1}, (3,)), ({"_COMMON": 10**6, "_WORTH_IT": 1}, ()), ({}, (32, 0.0)), ({}, (32, 1.0)),
])
def test_and_so_it_is_however_trees_are_cut(settings, limits, monkeypatch):
    for name, number in settings.items():
        monkeypatch.setattr(layout, name, number)
    pairs = ragged_choices(7)
    found = predictions(lay_out(pairs, 512, Limits(200, *limits)))
    assert {choice: sorted(made, key=lambda one: len(one[0])) for choice, made in found.items()} == expected(pairs, 512)


def test_the_order_of_questions_does_not_matter():
    pairs = ragged_choices(3)
    shuffled = random.Random(0).sample(range(len(pairs)), len(pairs))
    first, second = lay_out(pairs, 512, Limits(200)), lay_out([pairs[place] for place in shuffled], 512, Limits(200))
    assert [batch.tokens.tolist() for batch in first] == [batch.tokens.tolist() for batch in second]


def test_with_every_node_worth_it_tokens_are_the_prefixes_that_differ(monkeypatch):
    monkeypatch.setattr(layout, "_WORTH_IT", 1)
    monkeypatch.setattr(layout, "_COMMON", 10**6)
    for seed in range(5):
        pairs = ragged_choices(seed)
        texts = [context + continuation[:-1] for _, context, continuation in pairs]
        prefixes = {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}
        assert sum(len(batch.tokens) for batch in lay_out(pairs, 512, Limits(UNLIMITED))) == len(prefixes)


def test_batches_keep_to_their_tokens_unless_one_choice_has_more():
    pairs = ragged_choices(4)
    for batch in lay_out(pairs, 512, Limits(50)):
        longest = max(len(pairs[choice][1]) + len(pairs[choice][2]) - 1 for choice in batch.choices.tolist())
        assert len(batch.tokens) <= max(50, longest)


def test_tokens_and_places_are_counted_as_planned():
    """A guard against computing more than is needed: tokens of rows, and places that the head sees."""
    context, turned = list(range(2, 22)), list(range(21, 1, -1))
    pairs = pairs_of(
        (context, [30]), (context, [31]),  # one place predicts both
        (turned, [40, 41, 42]), (turned, [50, 51]),  # 20 + 2 + 1 tokens
        ([90, *context[:9], 70], [60, 61]), ([90, *context[:9], 71], [60, 61]),  # 10 + 2 x 2 tokens
        ([91, *context[:9]], [60]), ([91, *context[:9], 60, 80], [70]),  # one goes on from the other's last token
    )
    (batch,) = lay_out(pairs, 512, Limits(UNLIMITED))
    assert len(batch.tokens) == 20 + 23 + 14 + 12
    assert len(batch.read) == 1 + 4 + 4 + 2
    # lm-eval's own backend would compute 20 + 20 + 22 + 21 + 12 + 12 + 10 + 12 tokens, and the head over all of them.


def test_questions_that_begin_alike_share_their_beginning():
    preamble = list(range(2, 82))
    pairs = pairs_of(*(([*preamble, question, 90], [question, 91]) for question in range(10, 60)))
    assert sum(len(batch.tokens) for batch in lay_out(pairs, 512, Limits(UNLIMITED))) == 80 + 50 * 3


def test_little_in_common_is_not_shared():
    """A tree for a few tokens would cost attention more than they do."""
    pairs = pairs_of(([2, 3, 4, 5, *range(30, 70)], [7]), ([2, 3, 4, 5, *range(20, 60)], [7]))
    assert sum(len(batch.tokens) for batch in lay_out(pairs, 512, Limits(UNLIMITED))) == 88
    pairs = pairs_of(([2, 3, 4, 5, 30, 31], [7]), ([2, 3, 4, 5, 20, 21], [7]))
    assert sum(len(batch.tokens) for batch in lay_out(pairs, 512, Limits(UNLIMITED))) == 8


def test_attention_computes_little_that_it_hides():
    """Rows of 320 tokens in causal order: of queries x keys half and the blocks on the diagonal; filled up hardly."""
    lengths = (320, 310, 300, 290)
    pairs = pairs_of(*((list(range(length, 2 * length)), [7]) for length in lengths))
    (batch,) = lay_out(pairs, 512, Limits(UNLIMITED))
    computed = sum(part.queries.numel() * (part.above.shape[1] + part.queries.shape[1]) for part in batch.parts)
    needed = sum(length * (length + 1) // 2 for length in lengths)
    assert needed < computed < 1.2 * needed


@pytest.mark.parametrize(("context", "continuation"), [([], [5]), ([5], []), ([5], list(range(2, 15)))])
def test_what_lm_eval_refuses_is_refused(context, continuation):
    says = f"a choice has {len(context)} tokens of context and {len(continuation)} of continuation"
    with pytest.raises(BadInput, match=says):
        lay_out(pairs_of(([3, 4], [5]), (context, continuation)), 12, Limits(UNLIMITED))


def test_no_choice_is_no_batch():
    assert lay_out([], 512, Limits(UNLIMITED)) == []


def test_tensors_are_whole_numbers_of_the_shapes_that_are_told():
    for batch in lay_out(ragged_choices(5), 512, Limits(200)):
        assert batch.tokens.shape == batch.positions.shape == batch.order.shape
        assert batch.of_place.shape == batch.targets.shape == batch.choices.shape
        assert {tensor.dtype for tensor in batch if isinstance(tensor, torch.Tensor)} == {torch.int64}
        for queries, above, lengths in batch.parts:
            assert len(queries) == len(above) == len(lengths)
            assert {queries.dtype, above.dtype, lengths.dtype} == {torch.int64}
