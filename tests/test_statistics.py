"""Intervals cover, pairs narrow, and the verdict follows its rule."""

import numpy as np
import pytest

from rankadaptor.errors import BadInput
from rankadaptor.statistics import (
    Interval,
    bootstrap_macro_mean,
    macro_mean,
    variance_components,
    verdict,
    wilson_interval,
)


def test_wilson_matches_a_textbook_value():
    """7 of 20: [0.181, 0.567] (Brown, Cai and DasGupta 2001 give the formula; value recomputed by hand)."""
    interval = wilson_interval(7, 20)
    assert interval == pytest.approx((0.35, 0.1812, 0.5671), abs=5e-4)
    assert wilson_interval(0, 10).low == 0
    assert wilson_interval(10, 10).high == pytest.approx(1)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        outcomes = {t: (generator.random((1, 60)) < 0.6).astype(float) for t in "abc"}
        low, high = bootstrap_macro_mean(outcomes, generator, draws=300)[1:]
        hits += low <= 0.6 <= high
    assert 0.88 <= hits / 200 <= 1.0


def test_seed_noise_widens_the_interval():
    steady = {"a": np.tile(np.repeat([0.0, 1.0], 50), (3, 1))}
    moving = {"a": steady["a"] + np.array([[-0.3], [0.0], [0.3]])}
    width = [np.diff(bootstrap_macro_mean(o, np.random.default_rng(0))[1:])[0] for o in (steady, moving)]
    assert width[1] > 1.5 * width[0]


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(0)
    first = (generator.random((1, 400)) < 0.5).astype(float)
    second = np.where(generator.random((1, 400)) < 0.05, 1 - first, first)
    paired = bootstrap_macro_mean({"a": second - first}, generator)
    alone = bootstrap_macro_mean({"a": first}, generator)
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_macro_mean_weighs_tasks_alike():
    assert macro_mean({"a": np.ones((1, 10)), "b": np.zeros((1, 1000))}) == 0.5


@pytest.mark.parametrize(
    ("interval", "says"),
    [
        ((0.012, 0.004, 0.020), "supported"),
        ((0.005, 0.001, 0.009), "smaller than claimed"),
        ((0.001, -0.004, 0.006), "not supported"),
        ((-0.020, -0.030, -0.010), "not supported"),
        ((0.004, -0.002, 0.010), "undecided"),
    ],
)
def test_verdicts(interval, says):
    assert verdict(Interval(*interval)) == says
    assert verdict(Interval(*interval), decided=False) == "undecided"


def test_variance_components_recover_what_was_drawn():
    generator = np.random.default_rng(0)
    effects = generator.normal(0, 3.0, size=(400, 1))
    seeds = generator.normal(0, 10.0, size=(1, 4))  # shared by all rows: no part of either component
    noise = generator.normal(0, 1.5, size=(400, 4))
    found = variance_components(effects + seeds + noise)
    assert found.between == pytest.approx(3.0, rel=0.1)
    assert found.noise == pytest.approx(1.5, rel=0.1)
    assert found.ratio == pytest.approx(2.0, rel=0.15)
    assert found.ratio_low < found.ratio < found.ratio_high


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_the_ratios_interval_covers_the_truth_as_often_as_it_says(spread):
    generator, hits = np.random.default_rng(2), 0
    for _ in range(400):
        scores = generator.normal(0, spread, size=(20, 1)) + generator.normal(size=(20, 3))
        found = variance_components(scores)
        hits += found.ratio_low <= spread <= found.ratio_high
    assert 0.92 <= hits / 400 <= 1.0


def test_items_about_one_thing_are_drawn_together():
    """Copies of an item add no evidence: the interval is that of the items they are copies of."""
    generator = np.random.default_rng(0)
    single = (generator.random((2, 100)) < 0.5).astype(float)
    copies = np.repeat(single, 3, axis=1)
    subjects = {"a": np.repeat(np.arange(100), 3)}
    alone, together, apart = (
        np.diff(bootstrap_macro_mean({"a": outcomes}, np.random.default_rng(1), subjects=of)[1:])[0]
        for outcomes, of in ((single, None), (copies, subjects), (copies, None)))
    assert together == pytest.approx(alone, rel=1e-9)
    assert apart < 0.7 * alone


def test_variance_components_of_noise_alone_are_small_and_never_negative():
    scores = np.random.default_rng(1).normal(size=(50, 3))
    assert 0 <= variance_components(scores).between < 0.4
    with pytest.raises(BadInput, match="two or more"):
        variance_components(scores[:, :1])
