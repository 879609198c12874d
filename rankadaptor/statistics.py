"""Intervals and p values. Pure functions of arrays; every random draw is a function of a seed.

Source: Miller 2024, "Adding Error Bars to Evals" (paired differences); Agarwal et al. 2021 (stratified bootstrap).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy.stats import f

from rankadaptor.errors import BadInput

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal


class Interval(NamedTuple):
    """A point estimate and its interval, of 95 % unless said, in the unit of the data (a proportion for accuracies)."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, count: int) -> Interval:
    """Wilson's score interval of a proportion.

    scipy's `binomtest(successes, count).proportion_ci(method="wilson")` agrees to rounding, but computes an exact p
    value first: 1.4 ms per interval, which adds up to half a second in a table of hundreds of cells.

    Source: Wilson 1927.
    """
    share = successes / count
    centre = (share + Z95**2 / (2 * count)) / (1 + Z95**2 / count)
    half = Z95 * np.sqrt(share * (1 - share) / count + Z95**2 / (4 * count**2)) / (1 + Z95**2 / count)
    return Interval(share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def macro_mean(outcomes: Mapping[str, np.ndarray]) -> float:
    """Plain mean over tasks of the mean outcome.

    Args:
        outcomes: task -> (seeds, items).
    """
    return float(np.mean([values.mean() for values in outcomes.values()]))


def bootstrap_draws(
    outcomes: Mapping[str, np.ndarray],
    seed: int = 0,
    draws: int = 4000,
    subjects: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Resampled plain means over tasks: training seeds at the outer level, subjects of items within each task.

    The mean over seeds of every subject is resampled within its task. Three seeds are too few to be resampled
    themselves: where all three happen to have the same sign, which chance alone makes one time in four, the interval
    would exclude 0. The outer level is therefore Student's: each draw adds t x s / sqrt(S), with s the standard
    deviation of the S seeds' means and t of S - 1 degrees of freedom.

    Which subjects a draw takes is a function of the seed, the task's name and their number, so that all rows of a table
    share their draws.

    Args:
        outcomes: task -> (seeds, items). Pass paired differences for a paired interval. With one seed the draws hold
            the noise of items and none of training.
        subjects: task -> the subject of each item, a number from 0. Items of one subject are not independent and are
            drawn together; in tasks that are missing here every item is a subject of its own.  # (items,)

    Returns:
        # (draws,)
    """
    means = np.zeros(draws)
    for task, values in outcomes.items():
        sums = values.mean(axis=0)  # (items,)
        sizes = np.ones(len(sums))
        if subjects and task in subjects:
            sizes = np.bincount(subjects[task]).astype(float)  # (subjects,)
            sums = np.bincount(subjects[task], weights=sums)  # (subjects,)
        weights = _resampled(len(sizes), draws, seed, task)
        means += weights @ sums / (weights @ sizes) / len(outcomes)
    by_seed = np.mean([values.mean(axis=1) for values in outcomes.values()], axis=0)  # (seeds,)
    seeds = len(by_seed)
    if seeds > 1:
        generator = np.random.default_rng([seed, seeds])
        means += generator.standard_t(seeds - 1, size=draws) * by_seed.std(ddof=1) / np.sqrt(seeds)
    return means


@lru_cache(maxsize=16)
def _resampled(count: int, draws: int, seed: int, task: str) -> np.ndarray:
    """How often each of `count` subjects is in each draw.  # (draws, count), in two bytes each to save memory"""
    generator = np.random.default_rng([seed, count, *task.encode()])
    weights = generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.uint16)
    weights.setflags(write=False)  # the cache shares it
    return weights


def bootstrap_macro_mean(
    outcomes: Mapping[str, np.ndarray],
    seed: int = 0,
    draws: int = 4000,
    subjects: Mapping[str, np.ndarray] | None = None,
) -> Interval:
    """The plain mean over tasks with the 95 % interval of `bootstrap_draws`."""
    return macro_interval(outcomes, bootstrap_draws(outcomes, seed, draws, subjects))


def macro_interval(outcomes: Mapping[str, np.ndarray], drawn: np.ndarray, level: float = 0.95) -> Interval:
    """The plain mean over tasks with the interval of draws of it.

    Args:
        outcomes: task -> (seeds, items).
        drawn: The result of `bootstrap_draws` on them.  # (draws,)
        level: Of the interval.
    """
    low, high = interval_of(drawn, level)
    return Interval(macro_mean(outcomes), low, high)


def interval_of(drawn: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The ends of the interval of bootstrapped means.

    Args:
        drawn: # (draws,)
        level: Of the interval.
    """
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def adjusted_level(count: int, level: float = 0.95) -> float:
    """The level of each of `count` intervals, such that with a chance of `level` all of them hold (Bonferroni)."""
    return 1 - (1 - level) / max(1, count)


def two_sided_p(draws: np.ndarray) -> float:
    """Two-sided p value of a difference: twice the share of its bootstrap draws on the rarer side of 0.

    Args:
        draws: Of `bootstrap_draws` on paired differences.  # (draws,)
    """
    beyond = min((draws <= 0).sum(), (draws >= 0).sum())
    return min(1.0, 2 * (beyond + 1) / (len(draws) + 1))


def adjusted_p(p: float, count: int) -> float:
    """A p value adjusted for being one of `count`; at most 0.05 where the interval of `adjusted_level` excludes 0."""
    return min(1.0, count * p)


class VarianceComponents(NamedTuple):
    """Standard deviations of a two-way layout, in the unit of the scores."""

    between: float  # of the true effects of the rows, without training noise
    noise: float  # of one training run, without what all rows share under one seed
    ratio: float  # between over noise; NaN where there is no noise
    ratio_low: float  # 95 % interval of the ratio, by the F distribution
    ratio_high: float


def variance_components(scores: np.ndarray) -> VarianceComponents:
    """How far rows (allocations) differ beyond the noise of training, under paired seeds.

    Two-way random effects without replication: score = row + seed + noise; the noise is the interaction's mean square,
    the rows' variance is (mean square of rows - noise) / seeds, or 0 where that is negative.

    Args:
        scores: At least two rows and two seeds.  # (rows, seeds)

    Raises:
        BadInput: if there are fewer.

    Source: Searle, Casella & McCulloch 1992, Variance Components, chapter 4.
    """
    rows, seeds = scores.shape
    if rows < 2 or seeds < 2:
        raise BadInput(f"variance components of {rows} rows and {seeds} seeds were asked for: give two or more of both")
    row_means = scores.mean(axis=1, keepdims=True)
    residuals = scores - row_means - scores.mean(axis=0, keepdims=True) + scores.mean()
    noise = float((residuals**2).sum() / ((rows - 1) * (seeds - 1)))
    rows_square = float(seeds * ((row_means - scores.mean()) ** 2).sum() / (rows - 1))
    between = max(0.0, (rows_square - noise) / seeds) ** 0.5
    if not noise:
        return VarianceComponents(between, 0.0, *(3 * [float("nan")]))
    degrees = (rows - 1, (rows - 1) * (seeds - 1))
    quantiles = f.ppf((0.975, 0.025), *degrees)  # of the two mean squares' ratio where rows do not differ
    low, high = (max(0.0, (rows_square / noise / quantile - 1) / seeds) ** 0.5 for quantile in quantiles)
    return VarianceComponents(between, noise**0.5, between / noise**0.5, low, high)
