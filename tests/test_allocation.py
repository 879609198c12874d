"""The solution space and its budget."""

import numpy as np
import pytest

from rankadaptor.allocation import (
    SolutionSpace,
    quarters_allocation,
    trainable_parameters,
    uniform_allocation,
    validate_allocation,
)
from rankadaptor.architecture import Architecture, Ranges
from rankadaptor.errors import BadInput

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
