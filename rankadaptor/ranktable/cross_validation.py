"""What predictors are worth on allocations that they did not learn from: cross-validated rank statistics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, spearmanr
from scipy.stats import t as student_t

from rankadaptor.ranktable.replay import Replay
from rankadaptor.ranktable.worker_processes import map_in_processes
from rankadaptor.search.guided import meta_tasks
from rankadaptor.search.predictors import make_predictor
from rankadaptor.search.settings import SearchSettings

# Settings, of which predictor, inputs and heads are used, and the blocks whose records meta-learning starts from.
Variant = tuple[SearchSettings, Sequence[str]]


def cross_validated(
    replay: Replay,
    variants: Mapping[str, Variant],
    sizes: Sequence[int],
    signal: str = "gold_probability",
    folds: int = 5,
    workers: int = 2,
) -> pd.DataFrame:
    """Out-of-sample predictions beside the measured scores. Regressions select their regularisation within each fold.

    Args:
        variants: By label.
        sizes: Numbers of training rows; those beyond the pool without a fold mean all of it.

    Returns:
        One row per predictor, size, training seed, fold and held-out allocation: predicted, same (the searched score),
        other (the other training seed on the report split).
    """
    parts = np.array_split(np.random.default_rng(0).permutation(len(replay.pool.allocations)), folds)
    work = [(replay, variants, sizes, signal, seed, fold, parts) for seed in replay.seeds for fold in range(folds)]
    return pd.concat(map_in_processes(_cross_validate, work, workers), ignore_index=True)


def _cross_validate(
    replay: Replay,
    variants: Mapping[str, Variant],
    sizes: Sequence[int],
    signal: str,
    seed: int,
    fold: int,
    parts: Sequence[np.ndarray],
) -> pd.DataFrame:
    """Rows of `cross_validated` for one training seed and fold."""
    allocations, truth = replay.pool.allocations, replay.truth(seed)
    searched = replay.searched(seed, signal)
    scores = np.array([[searched[a][task] for task in sorted(searched[a])] for a in allocations])  # (n, tasks)
    held_out = parts[fold]
    rest = np.concatenate([part for number, part in enumerate(parts) if number != fold])
    rest = np.random.default_rng([1, seed, fold]).permutation(rest)  # each fold learns from other rows
    largest = len(allocations) - max(map(len, parts))  # what every fold can learn from
    tables = []
    for label, (settings, blocks) in variants.items():
        inputs = replay.pool.encode(allocations, settings.inputs)
        targets = scores if settings.heads == "tasks" else scores.mean(axis=1, keepdims=True)
        predictor = make_predictor(settings.predictor, fold)
        if blocks:
            records = [record for record in replay.records[seed, signal] if record.label in blocks]
            predictor.meta_train(meta_tasks(replay.pool, records, settings))
        for size in dict.fromkeys(min(size, largest) for size in sizes):
            predictor.fit(inputs[rest[:size]], targets[rest[:size]])
            tables.append(pd.DataFrame({
                "predictor": label, "size": size, "seed": seed, "fold": fold, "allocation": held_out,
                "predicted": predictor.predict(inputs[held_out]).mean, "same": scores[held_out].mean(axis=1),
                "other": [truth[allocations[place]] for place in held_out],
            }))
    return pd.concat(tables, ignore_index=True)


def rank_statistics(predictions: pd.DataFrame, share: float = 0.1) -> pd.DataFrame:
    """Kendall's tau, Spearman's rho and precision of cross-validated predictions, with 95 % intervals.

    Statistics are computed within each training seed and fold, where one fitted predictor ranks, and averaged.
    Intervals are Student's over these folds: they hold the variation of what was learned from and of what was held out.

    Args:
        predictions: Of `cross_validated`.
        share: Of a fold that counts as its best: precision is the share of the best that are predicted to be the best.

    Returns:
        One row per predictor and size: each statistic against `same` and `other`, with its low and high.
    """
    lines = []
    for (name, size), rows in predictions.groupby(["predictor", "size"], sort=False):
        line: dict[str, Any] = {"predictor": name, "size": size}
        folds = [fold[["predicted", "same", "other"]].to_numpy() for _, fold in rows.groupby(["seed", "fold"])]
        for target, column in (("same", 1), ("other", 2)):
            by_fold = np.array([_fold_statistics(fold, column, share) for fold in folds])  # (folds, statistics)
            reach = student_t.ppf(0.975, len(folds) - 1) * by_fold.std(axis=0, ddof=1) / np.sqrt(len(folds))
            for number, statistic in enumerate(("tau", "rho", "precision")):
                value = by_fold[:, number].mean()
                line |= {f"{statistic}, {target}": value, f"{statistic}, {target}, low": value - reach[number],
                         f"{statistic}, {target}, high": value + reach[number]}
        lines.append(line)
    return pd.DataFrame(lines)


def _fold_statistics(fold: np.ndarray, column: int, share: float) -> tuple[float, float, float]:
    """(tau, rho, precision) of one fold; where all predictions are equal, those of a guess."""
    predicted, real = fold[:, 0], fold[:, column]
    count = max(1, round(share * len(fold)))
    if np.ptp(predicted) == 0:
        return 0.0, 0.0, count / len(fold)
    best, predicted_best = (set(np.argsort(-values, kind="stable")[:count]) for values in (real, predicted))
    tau, rho = kendalltau(predicted, real).statistic, spearmanr(predicted, real).statistic
    return tau, rho, len(best & predicted_best) / count
