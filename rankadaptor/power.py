"""How small a gain a comparison can see, and how many training seeds a claimed gain takes.

Source: Miller 2024, "Adding Error Bars to Evals" (power analysis of paired differences).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

POWER = 0.8  # chance to tell a gain of the printed size from 0
MOST_SEEDS = 99  # beyond which no number of training seeds is named
MOST_TIMES = 100  # the items, likewise


class Noise(NamedTuple):
    """Variances of a paired difference, a mean over tasks; in squares of proportions."""

    items: float  # of which items were drawn; more training seeds do not lower it
    trainings: float  # of what one training does to single items: falls with the number of training seeds
    seeds: float  # of the training seeds' means; not a number with one seed


def noise_of(outcomes: Mapping[str, np.ndarray], subjects: Mapping[str, np.ndarray] | None = None) -> Noise:
    """The noise of a paired difference, measured on its outcomes.

    Items of one training seed vary by the sum of the first two components, means over S seeds by the first and 1 / S of
    the second: both are solved for. With one seed all of it counts as the items'.

    Args:
        outcomes: task -> paired differences.  # (seeds, items)
        subjects: As of `statistics.bootstrap_draws`.
    """
    seeds = len(next(iter(outcomes.values())))
    of_means = _item_variance(outcomes, subjects)
    if seeds == 1:
        return Noise(of_means, 0.0, float("nan"))
    of_one = float(np.mean([
        _item_variance({task: values[[seed]] for task, values in outcomes.items()}, subjects) for seed in range(seeds)
    ]))
    trainings = min(of_one, max(0.0, (of_one - of_means) * seeds / (seeds - 1)))
    by_seed = np.mean([values.mean(axis=1) for values in outcomes.values()], axis=0)  # (seeds,)
    return Noise(of_one - trainings, trainings, float(by_seed.var(ddof=1)))


def _item_variance(outcomes: Mapping[str, np.ndarray], subjects: Mapping[str, np.ndarray] | None) -> float:
    """Variance of the mean over tasks when the subjects of items are drawn anew; seeds are averaged first."""
    total = 0.0
    for task, values in outcomes.items():
        means = values.mean(axis=0)  # (items,)
        deviations = means - means.mean()
        if subjects and task in subjects:
            deviations = np.bincount(subjects[task], weights=deviations)  # (subjects,)
        total += float((deviations**2).sum()) / len(means) ** 2
    return total / len(outcomes) ** 2


def smallest_gain(noise: Noise, seeds: int, level: float = 0.95) -> float:
    """The smallest true gain whose interval lies above 0 with a chance of 80 %, a proportion; infinite with one seed.

    Half the width of the interval, as `statistics.bootstrap_draws` makes it, and 0.84 standard errors.

    Args:
        noise: Of the paired difference.
        seeds: Number of training seeds.
        level: Of the interval.
    """
    if seeds < 2 or np.isnan(noise.seeds):
        return float("inf")
    items, trained = noise.items + noise.trainings / seeds, noise.seeds / seeds
    quantile = (1 + level) / 2
    half = np.hypot(norm.ppf(quantile) * np.sqrt(items), t.ppf(quantile, seeds - 1) * np.sqrt(trained))
    return float(half + norm.ppf(POWER) * np.sqrt(items + trained))


def seeds_needed(noise: Noise, gain: float, level: float = 0.95) -> int | None:
    """The least number of training seeds with which `gain` is seen with 80 % power; None where 99 do not suffice."""
    return next((seeds for seeds in range(2, MOST_SEEDS + 1) if smallest_gain(noise, seeds, level) <= gain), None)


def items_needed(noise: Noise, gain: float, seeds: int, level: float = 0.95) -> float | None:
    """How many times the items it takes to see `gain` with 80 % power under so many seeds; None where no number does.

    More items lower all noise but the part of the training seeds' means that is not chance of single items.
    """
    beyond_items = max(0.0, noise.seeds - noise.trainings)

    def with_items(times: float) -> Noise:
        trainings = noise.trainings / times
        return Noise(noise.items / times, trainings, beyond_items + trainings)

    return next((times for times in np.geomspace(1, MOST_TIMES, 81)
                 if smallest_gain(with_items(float(times)), seeds, level) <= gain), None)
