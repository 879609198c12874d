"""Intervals cover, and pairs narrow them."""

import numpy as np
import pytest
from scipy.stats import binomtest

from rankadaptor.errors import BadInput
from rankadaptor.statistics import (
    adjusted_level,
    adjusted_p,
    bootstrap_macro_mean,
    interval_of,
    macro_mean,
    two_sided_p,
    variance_components,
    wilson_interval,
)


def test_wilson_matches_a_textbook_value():
    """7 of 20: [0.181, 0.567] (Brown, Cai and DasGupta 2001 give the formula; value recomputed by hand)."""
    interval = wilson_interval(7, 20)
    assert interval == pytest.approx((0.35, 0.1812, 0.5671), abs=5e-4)
    assert wilson_interval(0, 10).low == 0
    assert wilson_interval(10, 10).high == pytest.approx(1)


def test_wilson_is_scipys():
    for successes, count in ((0, 1), (3, 7), (150, 150), (412, 3270), (5000, 10042)):
        low, high = binomtest(successes, count).proportion_ci(method="wilson")
        assert wilson_interval(successes, count) == pytest.approx((successes / count, low, high), abs=1e-12)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for number in range(200):
        outcomes = {t: (generator.random((1, 60)) < 0.6).astype(float) for t in "abc"}
        low, high = bootstrap_macro_mean(outcomes, number, draws=300)[1:]
        hits += low <= 0.6 <= high
    assert 0.88 <= hits / 200 <= 1.0


def test_seed_noise_widens_the_interval():
    steady = {"a": np.tile(np.repeat([0.0, 1.0], 50), (3, 1))}
    moving = {"a": steady["a"] + np.array([[-0.3], [0.0], [0.3]])}
    width = [np.diff(bootstrap_macro_mean(o, 0)[1:])[0] for o in (steady, moving)]
    assert width[1] > 1.5 * width[0]


def test_pairing_narrows_the_interval():
    generator = np.random.default_rng(0)
    first = (generator.random((1, 400)) < 0.5).astype(float)
    second = np.where(generator.random((1, 400)) < 0.05, 1 - first, first)
    paired = bootstrap_macro_mean({"a": second - first})
    alone = bootstrap_macro_mean({"a": first})
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_macro_mean_weighs_tasks_alike():
    assert macro_mean({"a": np.ones((1, 10)), "b": np.zeros((1, 1000))}) == 0.5


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
def test_the_ratios_interval_covers_as_often_as_it_should(spread):
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
        np.diff(bootstrap_macro_mean({"a": outcomes}, 1, subjects=of)[1:])[0]
        for outcomes, of in ((single, None), (copies, subjects), (copies, None)))
    assert together == pytest.approx(alone, rel=1e-9)
    assert apart < 0.7 * alone


def test_variance_components_of_noise_are_small_not_negative():
    scores = np.random.default_rng(1).normal(size=(50, 3))
    assert 0 <= variance_components(scores).between < 0.4
    with pytest.raises(BadInput, match="two or more"):
        variance_components(scores[:, :1])


def test_resampling_three_seeds_would_not_do():
    """Why the outer level is Student's: where all noise is the seeds', three of one sign exclude 0 under resampling."""
    generator, excluded, honest = np.random.default_rng(4), 0, 0
    for number in range(300):
        shift = generator.normal(size=3)
        resampled = shift[generator.integers(3, size=(1000, 3))].mean(axis=1)
        excluded += not np.quantile(resampled, 0.025) <= 0 <= np.quantile(resampled, 0.975)
        interval = bootstrap_macro_mean({"a": np.tile(shift[:, None], 50)}, number, draws=1000)
        honest += not interval.low <= 0 <= interval.high
    assert excluded / 300 > 0.15
    assert honest / 300 <= 0.08


def test_adjusted_intervals_and_p_values_agree():
    generator = np.random.default_rng(5)
    for count in (1, 8, 16):
        for shift in (0.0, 1.5, 3.0, 4.5):
            draws = generator.normal(shift, 1.0, size=4000)
            low, high = interval_of(draws, adjusted_level(count))
            p = adjusted_p(two_sided_p(draws), count)
            if abs(p - 0.05) > 0.01 * count:  # both are read off the same few draws
                assert (p <= 0.05) == (not low <= 0 <= high)
    assert adjusted_level(1) == 0.95
    assert adjusted_p(0.4, 8) == 1.0


def test_adjusted_intervals_hold_together():
    """Of eight true nulls judged together, any is called a difference at most one time in twenty."""
    generator, called = np.random.default_rng(8), 0
    for _ in range(400):
        level, centres = adjusted_level(8), generator.normal(0, 1, size=8)
        ends = [interval_of(generator.normal(centre, 1, size=4000), level) for centre in centres]
        called += any(not low <= 0 <= high for low, high in ends)
    assert called / 400 <= 0.08


def test_p_values_of_a_null_are_uniform_and_never_zero():
    generator = np.random.default_rng(6)
    values = [two_sided_p(generator.normal(generator.normal(), 1, size=2000)) for _ in range(400)]
    assert np.quantile(values, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)
    assert two_sided_p(np.ones(1000)) == pytest.approx(2 / 1001)
