"""The solution space and its budget."""

import numpy as np
import pytest

from rankadaptor.allocation import (
    SolutionSpace,
    proportional_allocation,
    quarters_allocation,
    trainable_parameters,
    uniform_allocation,
    validate_allocation,
)
from rankadaptor.architecture import Architecture, Ranges
from rankadaptor.errors import BadInput
from rankadaptor.search.pool import MeasuredPool

CONFIG = {"hidden_size": 64, "num_attention_heads": 8, "num_hidden_layers": 32, "intermediate_size": 160,
          "vocab_size": 100}
DENSE = Architecture.from_config(CONFIG)
WIDTH = DENSE.width_pruned(Ranges((4, 30), (4, 30)), 0.5)
DEPTH = DENSE.depth_pruned((10, 11, 12))


def space(architecture=WIDTH, **changes):
    free = tuple(i for i in range(4, 30) if i in architecture.original_layers)
    budget = trainable_parameters(uniform_allocation(8, architecture), architecture)
    settings = {"candidates": (2, 4, 6, 8, 10, 12), "free_layers": free, "fixed_rank": 8, "budget_params": budget,
                "tolerance": 0.01} | changes
    return SolutionSpace(architecture, **settings)


@pytest.mark.parametrize("architecture", [WIDTH, DEPTH])
def test_samples_lie_in_the_space(architecture):
    one = space(architecture)
    for allocation in one.sample(200, np.random.default_rng(0)):
        assert one.contains(allocation)
        assert trainable_parameters(allocation, architecture) <= 1.01 * one.budget_params
        assert validate_allocation(allocation, architecture) == allocation
        assert {allocation[i] for i in (0, 1, 2, 3, 30, 31)} == {8}


def test_samples_are_uniform_without_a_budget():
    draws = np.array(space(budget_params=None).sample(3000, np.random.default_rng(1)))
    counts = [(draws[:, 10] == rank).mean() for rank in (2, 4, 6, 8, 10, 12)]
    assert np.allclose(counts, 1 / 6, atol=0.03)


def test_the_generator_alone_decides():
    assert space().sample(5, np.random.default_rng(3)) == space().sample(5, np.random.default_rng(3))


def test_removed_layers_have_rank_zero():
    assert uniform_allocation(8, DEPTH)[9:14] == (8, 0, 0, 0, 8)
    assert quarters_allocation(DEPTH)[9:14] == (6, 0, 0, 0, 6)


def test_lora_star_is_the_papers():
    """Section 2: layers 1-8 rank 4, 9-16 rank 6, 17-24 rank 10, 25-32 rank 12."""
    assert quarters_allocation(DENSE) == (4,) * 8 + (6,) * 8 + (10,) * 8 + (12,) * 8


@pytest.mark.parametrize(
    ("ranks", "architecture", "message"),
    [
        ([8] * 31, DENSE, "rank allocation has 31 entries, the model has 32 layers"),
        ([8] * 31 + [0], DENSE, "rank of layer 31 is 0: give at least 1"),
        ([8] * 31 + [-2], DENSE, "rank of layer 31 is -2"),
        ([8] * 31 + [2.5], DENSE, r"rank of layer 31 is 2\.5: ranks are whole numbers"),
        ([8] * 32, DEPTH, "rank of layer 10 is 8, but depth pruning removed that layer: give 0"),
    ],
)
def test_bad_allocations_are_refused(ranks, architecture, message):
    with pytest.raises(BadInput, match=message):
        validate_allocation(ranks, architecture)


def test_impossible_spaces_are_refused():
    with pytest.raises(BadInput, match="admits no allocation"):
        space(budget_params=10)
    with pytest.raises(BadInput, match="rank candidates are"):
        space(candidates=(0, 2))
    with pytest.raises(BadInput, match=r"free layers \[11\] are not in the pruned model"):
        space(DEPTH, free_layers=(4, 11))


def test_the_papers_space_holds_6_to_the_26():
    assert space().size == 6**26 == 170_581_728_179_578_208_256


@pytest.mark.parametrize("architecture", [WIDTH, DEPTH])
def test_near_allocations_differ_on_few_layers_and_lie_in_s(architecture):
    one = space(architecture)
    start = one.sample(1, np.random.default_rng(0))[0]
    near = one.near(start, 300, np.random.default_rng(1))
    changed = [sum(a != b for a, b in zip(start, other, strict=True)) for other in near]
    assert set(changed) == {1, 2}
    assert all(one.contains(other) for other in near)
    for other in one.neighbours(start):
        ranks = [(a, b) for a, b in zip(start, other, strict=True) if a != b]
        assert one.contains(other)
        assert len(ranks) == 1
        assert abs(ranks[0][0] - ranks[0][1]) == 2  # one step among the candidates
    assert len(set(one.neighbours(start))) == len(one.neighbours(start))


def test_nothing_lies_near_in_a_space_of_one():
    with pytest.raises(BadInput, match="widen the candidates"):
        space(candidates=(2,)).near(space(candidates=(2,)).fill([2] * 26), 1, np.random.default_rng(0))


def test_proportional_allocations_follow_weights_to_the_budget():
    one = space()
    weights = np.linspace(0.2, 1.0, 26)
    allocation = proportional_allocation(one, weights)
    free = [allocation[layer] for layer in one.free_layers]
    assert one.contains(allocation)
    assert free == sorted(free)
    assert free[0] < free[-1]
    assert 0.9 < trainable_parameters(allocation, WIDTH) / one.budget_params <= 1.01
    # Weights have no unit, and one that says nothing gives one rank to all.
    assert proportional_allocation(one, 1e6 * weights) == allocation
    assert proportional_allocation(one, np.ones(26)) == uniform_allocation(8, WIDTH)
    assert set(proportional_allocation(space(budget_params=None), weights)[4:30]) == {12}
    assert proportional_allocation(one, [1e-20, *[1.0] * 25]) == one.fill([2, *[8] * 25])


@pytest.mark.parametrize("weights", [[1.0] * 25, [0.0] * 26, [-1.0] + [1.0] * 25, [float("nan")] * 26])
def test_weights_that_say_nothing_are_refused(weights):
    with pytest.raises(BadInput, match="one number from 0 for each"):
        proportional_allocation(space(), weights)


def test_encoded_ranks_span_minus_one_to_one_or_are_zero():
    one = space(DEPTH)
    encoded = one.encode([one.fill([2] * len(one.free_layers)), one.fill([12] * len(one.free_layers))])
    assert encoded.shape == (2, 32)
    assert set(encoded[0, list(one.free_layers)]) == {-1.0}
    assert set(encoded[1, list(one.free_layers)]) == {1.0}
    assert not encoded[:, 10:13].any()


def test_a_pool_offers_its_own_and_the_nearest_first():
    one = space()
    members = tuple(dict.fromkeys(one.sample(50, np.random.default_rng(0))))
    pool = MeasuredPool(one, members)
    assert sorted(pool.sample(1000, np.random.default_rng(1))) == sorted(members)
    near = pool.near(members[0], 49, np.random.default_rng(2))
    distance = [sum(abs(np.log2(a / b)) for a, b in zip(members[0], other, strict=True)) for other in near]
    assert sorted(near) == sorted(members[1:])
    assert np.all(np.diff(distance) > -1e-9)
