"""Choices as trees: every token attends to what it would alone, and a shared beginning is there once."""

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
    places, seen = [], []
    for group in batch.groups:
        for queries, ancestors, count in zip(*(tensor.tolist() for tensor in group), strict=True):
            for index, query in enumerate(queries):
                places.append(query)
                seen.append(ancestors[:count] + queries[: index + 1])
    order = batch.order.tolist()
    assert [places[index] for index in order] == list(range(len(batch.tokens)))  # each queries for itself
    return [seen[index] for index in order]


def predictions(batches):
    """Of each choice, by position, (the tokens that its prediction is made from, the token that is scored)."""
    made = {}
    for batch in batches:
        seen, tokens, positions = visible(batch), batch.tokens.tolist(), batch.positions.tolist()
        for predictor, target, choice in zip(
                batch.predictor_of_target, batch.targets.tolist(), batch.choice_of_target.tolist(), strict=True):
            places = seen[batch.predictors[predictor]]
            assert [positions[place] for place in places] == list(range(len(places)))  # in order, none twice
            made.setdefault(choice, []).append(([tokens[place] for place in places], target))
    return made


def in_order(made):
    return {choice: sorted(of_choice, key=lambda prediction: len(prediction[0])) for choice, of_choice in made.items()}


def expected(pairs, max_length):
    wholes = [(context + continuation)[-(max_length + 1) :] for _, context, continuation in pairs]
    return {
        choice: [(whole[:end], whole[end]) for end in range(len(whole) - len(continuation), len(whole))]
        for choice, (whole, (_, _, continuation)) in enumerate(zip(wholes, pairs, strict=True))
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tokens_per_batch", [1, 60, 200, UNLIMITED])
@pytest.mark.parametrize("max_length", [12, 512])
def test_every_prediction_is_made_from_its_choices_tokens(seed, tokens_per_batch, max_length):
    pairs = ragged_choices(seed)
    made = predictions(lay_out(pairs, max_length, Limits(tokens_per_batch)))
    assert in_order(made) == expected(pairs, max_length)


@pytest.mark.parametrize(("settings", "limits"), [
    ({}, (1,)), ({"_MIN_NODE_TOKENS": 1}, (3,)), ({"_TOKENS_PER_SHARED": 10**6, "_MIN_NODE_TOKENS": 1}, ()),
    ({}, (32, 0.0)), ({}, (32, 1.0)),
])
def test_it_holds_however_trees_are_cut(settings, limits, monkeypatch):
    for name, number in settings.items():
        monkeypatch.setattr(layout, name, number)
    pairs = ragged_choices(7)
    assert in_order(predictions(lay_out(pairs, 512, Limits(200, *limits)))) == expected(pairs, 512)


def test_the_order_of_questions_does_not_matter():
    pairs = ragged_choices(3)
    shuffled = random.Random(0).sample(range(len(pairs)), len(pairs))
    first, second = lay_out(pairs, 512, Limits(200)), lay_out([pairs[place] for place in shuffled], 512, Limits(200))
    assert [batch.tokens.tolist() for batch in first] == [batch.tokens.tolist() for batch in second]


def test_with_no_least_node_tokens_are_distinct_prefixes(monkeypatch):
    monkeypatch.setattr(layout, "_MIN_NODE_TOKENS", 1)
    monkeypatch.setattr(layout, "_TOKENS_PER_SHARED", 10**6)
    for seed in range(5):
        pairs = ragged_choices(seed)
        texts = [context + continuation[:-1] for _, context, continuation in pairs]
        prefixes = {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}
        assert sum(len(batch.tokens) for batch in lay_out(pairs, 512, Limits(UNLIMITED))) == len(prefixes)


def test_batches_keep_their_limit_unless_a_choice_is_longer():
    pairs = ragged_choices(4)
    for batch in lay_out(pairs, 512, Limits(50)):
        longest = max(len(pairs[choice][1]) + len(pairs[choice][2]) - 1 for choice in batch.choice_of_target.tolist())
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
    assert len(batch.predictors) == 1 + 4 + 4 + 2
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
    computed = sum(group.queries.numel() * (group.ancestors.shape[1] + group.queries.shape[1])
                   for group in batch.groups)
    needed = sum(length * (length + 1) // 2 for length in lengths)
    assert needed < computed < 1.2 * needed


@pytest.mark.parametrize(("context", "continuation"), [([], [5]), ([5], []), ([5], list(range(2, 15)))])
def test_what_lm_eval_refuses_is_refused(context, continuation):
    says = f"a choice has {len(context)} tokens of context and {len(continuation)} of continuation"
    with pytest.raises(BadInput, match=says):
        lay_out(pairs_of(([3, 4], [5]), (context, continuation)), 12, Limits(UNLIMITED))


def test_no_choice_is_no_batch():
    assert lay_out([], 512, Limits(UNLIMITED)) == []


def test_tensors_are_int64_of_the_documented_shapes():
    for batch in lay_out(ragged_choices(5), 512, Limits(200)):
        assert batch.tokens.shape == batch.positions.shape == batch.order.shape
        assert batch.predictor_of_target.shape == batch.targets.shape == batch.choice_of_target.shape
        assert {tensor.dtype for tensor in batch if isinstance(tensor, torch.Tensor)} == {torch.int64}
        for queries, ancestors, counts in batch.groups:
            assert len(queries) == len(ancestors) == len(counts)
            assert {queries.dtype, ancestors.dtype, counts.dtype} == {torch.int64}
