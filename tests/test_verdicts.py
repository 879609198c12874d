"""Verdicts follow their rules, call few nulls a gain, and see the gains that they say they see."""

import numpy as np
import pytest

from rankadaptor.power import Noise, items_needed, noise_of, seeds_needed, smallest_gain
from rankadaptor.statistics import Interval, adjusted_level, bootstrap_draws, bootstrap_macro_mean, macro_interval
from rankadaptor.verdicts import STATUSES, Evidence, verdict

HEADROOM = {"lost": Interval(0.05, 0.03, 0.07), "recovered": Interval(0.02, 0.01, 0.03)}
SEEDS, ITEMS, TASKS = 5, 200, 7


def judged(interval, claimed=0.007, seen=0.005, decided=True, **known):
    return verdict(Evidence(Interval(*interval), claimed, seen, **{**HEADROOM, **known}), decided)


@pytest.mark.parametrize(("interval", "says"), [
    ((0.012, 0.004, 0.020), "supported"),
    ((0.005, 0.001, 0.009), "smaller than claimed"),
    ((0.001, -0.004, 0.006), "not supported"),
    ((-0.020, -0.030, -0.010), "not supported"),
    ((0.004, -0.002, 0.010), "undecided"),
])
def test_the_interval_decides(interval, says):
    assert judged(interval) == says
    assert judged(interval, decided=False) == "undecided"


def test_not_supported_needs_power():
    assert judged((0.001, -0.004, 0.006), seen=0.0071) == "undecided"
    assert judged((0.001, -0.004, 0.006), seen=float("inf")) == "undecided"


@pytest.mark.parametrize("known", [
    {"lost": Interval(0.01, -0.001, 0.02)}, {"recovered": Interval(0.003, -0.001, 0.007)}])
def test_without_headroom_nothing_is_said_of_ranks(known):
    for interval in ((0.012, 0.004, 0.020), (0.001, -0.004, 0.006)):
        assert judged(interval, **known) == "no headroom"
        assert judged(interval, decided=False, **known) == "undecided"


def test_a_claim_may_be_above_the_ceiling_test():
    low, reaching = Interval(0.001, -0.003, 0.005), Interval(0.005, 0.001, 0.009)
    unclear = (0.004, -0.002, 0.010)
    assert judged(unclear, ceiling=low) == "above the ceiling test"
    assert judged(unclear, ceiling=reaching) == "undecided"
    assert judged((0.012, 0.004, 0.020), ceiling=low) == "supported"  # what is measured stands
    assert judged((-0.004, -0.010, 0.002), claimed=-0.007, ceiling=low) == "undecided"  # ranks are no ceiling of a loss


def test_a_claimed_loss_is_a_gain_of_the_other_side():
    lost = (-0.01, -0.02, -0.002)
    assert judged(lost, claimed=-0.0056) == judged((0.01, 0.002, 0.02), claimed=0.0056) == "supported"
    assert judged(lost, claimed=0.0056) == "not supported"
    assert judged((-0.003, -0.02, 0.001), claimed=-0.0056) == "undecided"


def test_every_status_is_reached():
    reached = {judged((0.012, 0.004, 0.020)), judged((0.005, 0.001, 0.009)), judged((0.001, -0.004, 0.006)),
               judged((0.004, -0.002, 0.010)), judged((0.004, -0.002, 0.010), ceiling=Interval(0, -0.001, 0.001)),
               judged((0, 0, 0), recovered=Interval(0, -1, 1))}
    assert reached == set(STATUSES)


# -- a simulation of the whole comparison, with noise like that of the embedded model's tables -------------------------


def paired(generator, gain=0.0, moved=0.12, persistent=0.03, seed_deviation=0.002):
    """Paired differences of seven tasks: some items differ under all trainings, more under one, and every training has
    luck of its own on all items.

    Args:
        gain: True difference, a proportion.
        moved: Share of items whose outcome differs in one training; half of them up and half down but for the gain.
        persistent: Share of items that differ in all trainings alike.
        seed_deviation: Standard deviation of a training's mean.
    """
    shifts = generator.normal(0, seed_deviation, size=(SEEDS, 1))
    outcomes = {}
    for task in range(TASKS):
        up = np.clip((moved + gain + shifts) / 2, 0, 1)
        down = np.clip((moved - gain - shifts) / 2, 0, 1)
        drawn = generator.random((SEEDS, ITEMS))
        single = (drawn < up).astype(float) - (drawn > 1 - down)
        fixed = generator.choice([-1.0, 0.0, 1.0], size=ITEMS, p=[persistent / 2, 1 - persistent, persistent / 2])
        outcomes[str(task)] = np.where(fixed != 0, fixed, single)
    return outcomes


def interval_at(outcomes, level):
    return macro_interval(outcomes, bootstrap_draws(outcomes, draws=1000), level)


def status(outcomes, claimed=0.007):
    return verdict(Evidence(interval_at(outcomes, 0.95), claimed, smallest_gain(noise_of(outcomes), SEEDS)))


@pytest.mark.slow
@pytest.mark.parametrize("seed_deviation", [0.0, 0.003, 0.02])
def test_a_true_null_is_seldom_called_a_gain(seed_deviation):
    """At most 5 % of nulls are called a gain, whatever part of the noise is the seeds'."""
    generator, gains = np.random.default_rng(3), 0
    for _ in range(200):
        gains += status(paired(generator, seed_deviation=seed_deviation)) in ("supported", "smaller than claimed")
    assert gains / 200 <= 0.05


@pytest.mark.slow
def test_the_claimed_gain_is_seldom_called_unsupported():
    generator, missed = np.random.default_rng(4), 0
    for _ in range(200):
        missed += status(paired(generator, gain=0.02), claimed=0.02) == "not supported"
    assert missed / 200 <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("judged_together", [1, 8])
def test_the_smallest_gain_is_seen_as_often_as_printed(judged_together):
    generator = np.random.default_rng(5)
    level = adjusted_level(judged_together)
    gain = float(np.mean([smallest_gain(noise_of(paired(generator)), SEEDS, level) for _ in range(40)]))
    seen = sum(interval_at(paired(generator, gain), level).low > 0 for _ in range(200))
    assert 0.7 <= seen / 200 <= 0.95  # 80 %; a mean of noise is not the noise of each


def test_noise_is_split_into_its_parts():
    generator = np.random.default_rng(6)
    drawn = [noise_of(paired(generator, moved=0.12, persistent=0.03, seed_deviation=0.0)) for _ in range(60)]
    items, trainings, seeds = np.mean(drawn, axis=0)
    per_item = TASKS * ITEMS
    assert items == pytest.approx(0.03 / per_item, rel=0.25)
    assert trainings == pytest.approx(0.97 * 0.12 / per_item, rel=0.15)
    assert seeds == pytest.approx(trainings, rel=0.2)  # single items are all that moves the means
    steady = noise_of({"a": np.ones((3, 10))})
    assert steady == (0, 0, 0)


def test_items_about_one_thing_count_once():
    generator = np.random.default_rng(7)
    single = generator.choice([-1.0, 0.0, 1.0], size=(3, 100))
    copied, subjects = {"a": np.repeat(single, 3, axis=1)}, {"a": np.repeat(np.arange(100), 3)}
    assert noise_of(copied, subjects) == pytest.approx(noise_of({"a": single}))


def test_more_seeds_and_items_see_less():
    noise = Noise(items=4e-6, trainings=9e-6, seeds=12e-6)
    gains = [smallest_gain(noise, seeds) for seeds in (2, 3, 5, 8, 20)]
    assert gains == sorted(gains, reverse=True)
    assert smallest_gain(noise, 8, adjusted_level(8)) > smallest_gain(noise, 8)
    assert smallest_gain(noise, 1) == float("inf")
    needed = seeds_needed(noise, 0.008)
    assert smallest_gain(noise, needed) <= 0.008 < smallest_gain(noise, needed - 1)
    assert seeds_needed(noise, 0.001) is None  # items alone are in the way
    times = items_needed(noise, 0.006, 8)
    assert times > 1
    assert items_needed(Noise(0.0, 0.0, 1e-4), 0.001, 8) is None  # no item lowers what training seeds do


def test_a_real_gain_is_found():
    generator = np.random.default_rng(5)
    outcomes = {str(task): generator.choice([-1, 0, 1], size=(3, 300), p=[0.02, 0.9, 0.08]) for task in range(7)}
    interval = bootstrap_macro_mean(outcomes)
    assert verdict(Evidence(interval, 0.007, smallest_gain(noise_of(outcomes), 3))) == "supported"
