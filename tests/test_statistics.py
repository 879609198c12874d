"""Intervals cover, pairs narrow, and the verdict follows its rule."""

import numpy as np
import pytest
from scipy.stats import binomtest

from rankadaptor.errors import BadInput
from rankadaptor.statistics import (
    Interval,
    bootstrap_draws,
    bootstrap_macro_mean,
    holm,
    macro_mean,
    two_sided_p,
    variance_components,
    verdict,
    verdict_of_claim,
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


def test_a_claimed_loss_is_a_gain_of_the_other_side():
    lost = Interval(-0.01, -0.02, -0.002)
    assert verdict_of_claim(lost, -0.0056) == verdict(Interval(0.01, 0.002, 0.02), 0.0056) == "supported"
    assert verdict_of_claim(lost, 0.0056) == verdict(lost, 0.0056) == "not supported"
    assert verdict_of_claim(Interval(-0.003, -0.02, 0.001), -0.0056) == "undecided"


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


def paired_differences(generator, seed_deviation):
    """Seven tasks of 150 items under 3 seeds: no true difference, but every training has its own luck on all items."""
    shift = generator.normal(0, seed_deviation, size=(3, 1))
    return {str(task): np.clip(
        generator.choice([-1, 0, 1], size=(3, 150), p=[0.06, 0.88, 0.06])
        + np.sign(shift) * (generator.random((3, 150)) < abs(shift)), -1, 1) for task in range(7)}


@pytest.mark.slow
@pytest.mark.parametrize("seed_deviation", [0.0, 0.01, 0.04])
def test_a_true_null_is_seldom_called_a_gain(seed_deviation):
    """At most 5 % of nulls are called supported or smaller than claimed, whatever part of the noise is the seeds'."""
    generator, gains = np.random.default_rng(3), 0
    for number in range(120):
        interval = bootstrap_macro_mean(paired_differences(generator, seed_deviation), number, draws=500)
        gains += verdict(interval) in ("supported", "smaller than claimed")
    assert gains / 120 <= 0.05


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


def test_a_real_gain_is_found():
    generator = np.random.default_rng(5)
    outcomes = {str(task): generator.choice([-1, 0, 1], size=(3, 300), p=[0.02, 0.9, 0.08]) for task in range(7)}
    assert verdict(bootstrap_macro_mean(outcomes)) == "supported"
    assert two_sided_p(bootstrap_draws(outcomes)) < 0.01


def test_holm_is_the_papers_procedure():
    """Holm 1979: the smallest of n times n, the next times n - 1, never below the one before, never above 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_p_values_of_a_null_are_uniform_and_never_zero():
    generator = np.random.default_rng(6)
    values = [two_sided_p(generator.normal(generator.normal(), 1, size=2000)) for _ in range(400)]
    assert np.quantile(values, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.08)
    assert two_sided_p(np.ones(1000)) == pytest.approx(2 / 1001)
