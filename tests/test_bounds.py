"""Bounds hold at their very edges, and let through what lies between."""

import numpy as np
import pytest

from rankadaptor.bounds import check_amount, check_line, check_plain_name, check_positive, check_seed, check_whole
from rankadaptor.errors import BadInput


@pytest.mark.parametrize("value", [1, 5, np.int64(3)])
def test_whole_numbers_within_bounds(value):
    check_whole("n", value, 1, 5)


@pytest.mark.parametrize(("value", "says"), [
    (0, "n is 0: give at least 1"), (6, "n is 6: give at most 5"), (1.0, r"n is 1\.0: give a whole number"),
    (True, "n is True: give a whole number"), ("3", "n is '3': give a whole number"), (None, "n is None"),
])
def test_whole_numbers_out_of_bounds(value, says):
    with pytest.raises(BadInput, match=says):
        check_whole("n", value, 1, 5)


@pytest.mark.parametrize("value", [0, 0.0, 2, 2.0, 1e-300])
def test_amounts_within_bounds(value):
    check_amount("x", value, 0, 2)


@pytest.mark.parametrize("value", [-1e-300, 2.1, float("nan"), float("inf"), -float("inf"), 10**400, True, "1", None])
def test_amounts_out_of_bounds(value):
    with pytest.raises(BadInput, match=r"x is .*: give a finite number from 0 to 2"):
        check_amount("x", value, 0, 2)


def test_positive_numbers_and_seeds():
    check_positive("x", 1e-9, 1)
    check_seed("seed", 2**32 - 1)
    with pytest.raises(BadInput, match=r"x is 0\.0: give a number above 0"):
        check_positive("x", 0.0, 1)
    for seed in (-1, 2**32):
        with pytest.raises(BadInput, match="seed is"):
            check_seed("seed", seed)


def test_lines_and_plain_names():
    check_line("label", "x" * 300)
    for name in ("a", "_a", "7b", "a.b-c_d", "x" * 100):
        check_plain_name("name", name)
    for text in ("", " ", "a\n", "\t", "x" * 301):
        with pytest.raises(BadInput, match="label"):
            check_line("label", text)
    for text in ("", ".", "..", ".a", "-a", "a/b", "a\\b", "a b", "ä", "a\n", "x" * 101):
        with pytest.raises(BadInput, match="name is"):
            check_plain_name("name", text)
