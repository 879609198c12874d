"""Parameters mean the same as numbers, texts and lists, and a name that a notebook does not declare is refused."""

import pytest

from rankadaptor.errors import BadInput
from rankadaptor.experiments.parameters import (
    check_parameters,
    number_range,
    parse_blocks,
    parse_ranks,
    report_seeds,
    split_words,
    whole_number,
    whole_numbers,
)
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.spec import Block

PROFILE = load_profile("tiny")


@pytest.mark.parametrize("value", ["3 4", "3,4", "3, 4", [3, 4], (3, 4), ["3", "4"]])
def test_seeds_are_a_text_or_a_list(value):
    assert whole_numbers("seeds", value) == report_seeds(PROFILE, "quick", value) == (3, 4)


@pytest.mark.parametrize("value", [3, "3", [3]])
def test_one_seed_may_stand_alone(value):
    assert report_seeds(PROFILE, "quick", value) == (3,)


@pytest.mark.parametrize("value", ["", [], ()])
def test_nothing_is_the_default(value):
    assert report_seeds(PROFILE, "quick", value) == tuple(PROFILE.budget("quick").training_seeds)
    assert parse_blocks(value, PROFILE) == tuple(PROFILE.blocks())
    assert parse_ranks(value) == ()
    assert split_words(value) == []


@pytest.mark.parametrize("value", [3.5, True, "3.0", ["a"], "²"])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(BadInput, match="are not whole numbers: write them as"):
        whole_numbers("seeds", value)
    with pytest.raises(BadInput, match=r"workers is '.*': give a whole number from 1"):
        whole_number("workers", value)


def test_blocks_and_ranks_are_texts_or_lists():
    blocks = (Block("llm-pruner", 20), Block("shortened", 50))
    assert parse_blocks("llm-pruner:20, shortened:50 llm-pruner:20", PROFILE) == blocks
    assert parse_blocks(["llm-pruner:20", "shortened:50"], PROFILE) == blocks
    assert parse_ranks("8 4") == parse_ranks([8, 4]) == (8, 4)
    assert parse_ranks(8) == (8,)
    assert whole_number("workers", "2") == whole_number("workers", 2) == 2
    assert number_range("4:30") == (4, 30)


@pytest.mark.parametrize("cells", [
    ["", "profile = 'tiny'\nseeds = []", "# Parameters\nseeds = [3]\n", "import json"],
    ["", "profile = 'tiny'\nseeds = []", "import json"],
])
def test_declared_parameters_pass(cells):
    check_parameters(cells)


def test_undeclared_parameters_are_refused():
    with pytest.raises(BadInput, match=r"unknown parameter seed: .* takes profile, seeds; did you mean seeds\?"):
        check_parameters(["", "profile = 'tiny'\nseeds = []", "# Parameters\nseed = [3]\n"])
