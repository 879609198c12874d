"""Searches replayed on the table of measured allocations: thousands of recoveries in seconds, no model touched.

    replay = Replay.of(table, profile, "llm-pruner:50")
    curves = run_replays([Job(...), ...], workers=2)     # one search a method and seed

A replayed search sees the scores of one training seed on the search split. What it chose is scored by the other
training seed on the report split, so neither a lucky training nor a lucky item pays.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau, spearmanr

from rankadaptor.allocation import (
    Pool,
    RankAllocation,
    SolutionSpace,
    parse_allocation,
    trainable_parameters,
    uniform_allocation,
)
from rankadaptor.architecture import Architecture
from rankadaptor.models import base_model_folder, read_architecture
from rankadaptor.predictors import make_predictor
from rankadaptor.profiles import Profile
from rankadaptor.pruning import pruned_shapes
from rankadaptor.records import Record, records_beside, rows_of, task_scores
from rankadaptor.rivals import SEARCHES
from rankadaptor.search import Round, Scores, SearchSettings, ask, mean_score, meta_tasks
from rankadaptor.specs import Block, Scaling

TOP = 0.05  # share of a pool that counts as its top


@dataclass(frozen=True)
class Replay:
    """One block of the table: a pool of allocations within budget, and all that was measured of them."""

    pool: Pool
    seeds: tuple[int, int]
    scores: dict[tuple[int, str, str], dict[RankAllocation, Scores]]  # (seed, split, signal) -> allocation -> scores
    records: dict[str, tuple[Record, ...]]  # signal -> of the other blocks

    @classmethod
    def of(cls, table: pd.DataFrame, profile: Profile, block: str, scaling: Scaling = "fixed_alpha") -> Self:
        """
        Args:
            table: As `records.read_table` gives it.
            profile: Whose base model the table is of.

        Raises:
            BadInput: if the table holds nothing of the block, or allocations of another model.
        """
        rows = rows_of(table, block, scaling)
        rows = rows[rows["within_budget"]]
        allocations = [parse_allocation(text) for text in rows["allocation"]]
        first, second, *_ = sorted(set(rows["seed"]))
        scores: dict[tuple[int, str, str], dict[RankAllocation, Scores]] = {}
        signals = ("gold_probability", "accuracy", "held_out_loss")
        for allocation, (_, row) in zip(allocations, rows.iterrows(), strict=True):
            for split in ("search", "report"):
                for signal in signals:
                    scores.setdefault((row["seed"], split, signal), {})[allocation] = task_scores(row, split, signal)
        both = set.intersection(*(set(scores[seed, "search", signals[0]]) for seed in (first, second)))
        space = _space(profile, block, allocations[0])
        pool = Pool(space, tuple(sorted(both)))
        beside = {signal: records_beside(table, block, scaling, signal) for signal in signals}
        return cls(pool, (int(first), int(second)), scores, beside)

    def searched(self, seed: int, signal: str) -> dict[RankAllocation, Scores]:
        """What a search sees: one training seed on the search split."""
        return self.scores[seed, "search", signal]

    def truth(self, seed: int, metric: str = "gold_probability") -> dict[RankAllocation, float]:
        """What a search that saw `seed` is scored by: the mean over tasks of the other seed on the report split."""
        other = self.seeds[1 - self.seeds.index(seed)]
        found = self.scores[other, "report", metric]
        return {allocation: mean_score(found[allocation]) for allocation in self.pool.allocations}


def _space(profile: Profile, block: str, allocation: RankAllocation) -> SolutionSpace:
    """S of a block, from configuration and an allocation alone: zeros show which layers are gone."""
    spec = profile.prune_spec(Block.parse(block))
    dense = read_architecture(base_model_folder(profile.base_model))
    gone = tuple(layer for layer, rank in enumerate(allocation) if not rank)
    shapes: Architecture = dense.depth_pruned(gone) if gone else pruned_shapes(dense, spec)
    rank = profile.adapters.lora_rank
    free = tuple(layer for layer in range(spec.first_layer, spec.end_layer) if layer not in gone)
    budget = trainable_parameters(uniform_allocation(rank, shapes), shapes)
    return SolutionSpace(shapes, tuple(profile.search.candidates), free, rank, budget, profile.search.budget_tolerance)


@dataclass(frozen=True)
class Job:
    """Searches of one method on one block, a seed each."""

    label: str  # as figures name the method
    settings: SearchSettings  # its seed is replaced
    rival: str = ""  # one of `rivals.SEARCHES`; empty for the performance model
    signal: str = "gold_probability"
    records: bool = True  # offline meta-learning on the table's other blocks


def run_replays(replay: Replay, jobs: Sequence[Job], seeds: Sequence[int], workers: int = 2) -> pd.DataFrame:
    """Every job under every seed.

    Even seeds search on the table's first training seed, odd ones on its second.

    Returns:
        One row a job, seed and number of recoveries: method, seed, recoveries, searched (highest score seen so far, as
        a share of the pool that scores lower), regret (points of gold probability that the chosen allocation lies below
        the pool's best, under the other training seed on the report split), regret in accuracy (the same, in accuracy),
        share (of the pool that is worse than the chosen one, in gold probability under the other seed).
    """
    work = [(replay, job, seed) for job in jobs for seed in seeds]
    return pd.concat(_in_processes(_replay, work, workers), ignore_index=True)


def _in_processes(
    function: Callable[..., pd.DataFrame], work: Sequence[tuple[Any, ...]], workers: int
) -> list[pd.DataFrame]:
    if workers == 1:
        return [function(*one) for one in work]
    with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(function, *zip(*work, strict=True), chunksize=max(1, len(work) // (8 * workers))))


def _replay(replay: Replay, job: Job, seed: int) -> pd.DataFrame:
    training_seed = replay.seeds[seed % 2]
    known = replay.searched(training_seed, job.signal)
    order = measured_order(replay, job, seed)
    seen = np.array([mean_score(known[allocation]) for allocation in order])
    everything = np.sort([mean_score(known[allocation]) for allocation in replay.pool.allocations])
    chosen = [order[int(np.argmax(seen[: count + 1]))] for count in range(len(order))]
    lines = {"method": job.label, "seed": seed, "recoveries": np.arange(1, len(order) + 1),
             "searched": np.searchsorted(everything, np.maximum.accumulate(seen)) / len(everything)}
    for name, metric in (("regret", "gold_probability"), ("regret in accuracy", "accuracy")):
        truth = replay.truth(training_seed, metric)
        values = np.array([truth[allocation] for allocation in chosen])
        lines[name] = 100 * (max(truth.values()) - values)
        if metric == "gold_probability":
            lines["share"] = np.searchsorted(np.sort(list(truth.values())), values) / len(truth)
    return pd.DataFrame(lines)


def measured_order(
    replay: Replay, job: Job, seed: int, on_round: Callable[[Round], None] = lambda _: None
) -> list[RankAllocation]:
    """The allocations that a search measures, in order."""
    known = replay.searched(replay.seeds[seed % 2], job.signal)
    asking = ask(
        replay.pool,
        dataclasses.replace(job.settings, seed=seed),
        replay.records[job.signal] if job.records and not job.rival else (),
        SEARCHES[job.rival] if job.rival else None,
        on_round=on_round,
    )
    order: list[RankAllocation] = []
    try:
        proposals = next(asking)
        while True:
            order += proposals
            proposals = asking.send([known[allocation] for allocation in proposals])
    except StopIteration:
        return order


def recoveries_to_top(curves: pd.DataFrame, column: str = "searched") -> pd.DataFrame:
    """How many recoveries each method needs until what it holds is in the pool's top.

    Args:
        curves: Of `run_replays`.
        column: "searched" (by the score that was searched) or "share" (by the other seed on the report split).

    Returns:
        One row a method: quartiles over seeds of the first number of recoveries with which the top is reached; a search
        that never does counts as one more than it had.
    """
    lines = []
    for method, rows in curves.groupby("method", sort=False):
        needed = []
        for _, one in rows.groupby("seed"):
            reached = one.loc[one[column] >= 1 - TOP, "recoveries"]
            needed.append(reached.min() if len(reached) else one["recoveries"].max() + 1)
        low, middle, high = np.quantile(needed, [0.25, 0.5, 0.75])
        lines.append({"method": method, "lower quartile": low, "median": middle, "upper quartile": high,
                      "reached": float(np.mean([n <= rows["recoveries"].max() for n in needed]))})
    return pd.DataFrame(lines)


# -- predictors -------------------------------------------------------------------------------------------------------


def reliability(replay: Replay) -> pd.DataFrame:
    """How far one measurement agrees with another of the same allocations: what no predictor or search can exceed.

    Returns:
        One row a pair of measurements: Kendall's tau and Spearman's rho over the pool, means over both directions.
    """
    first, second = replay.seeds

    def column(seed: int, split: str, signal: str) -> list[float]:
        return [mean_score(replay.scores[seed, split, signal][allocation]) for allocation in replay.pool.allocations]

    pairs = {
        "split, same training": [((seed, "search"), (seed, "report")) for seed in replay.seeds],
        "training, same split": [((first, split), (second, split)) for split in ("search", "report")],
        "both": [((first, "search"), (second, "report")), ((second, "search"), (first, "report"))],
    }
    lines = []
    for signal in ("gold_probability", "accuracy", "held_out_loss"):
        for differs, several in pairs.items():
            if signal == "held_out_loss" and differs != "training, same split":
                continue  # one text: it has no splits
            columns = [(column(*one, signal), column(*other, signal)) for one, other in several]
            lines.append({"signal": signal, "what differs": differs,
                          "Kendall tau": float(np.mean([kendalltau(*pair).statistic for pair in columns])),
                          "Spearman rho": float(np.mean([spearmanr(*pair).statistic for pair in columns]))})
    return pd.DataFrame(lines)


def cross_validated(
    replay: Replay,
    variants: Mapping[str, tuple[SearchSettings, bool]],
    sizes: Sequence[int],
    signal: str = "gold_probability",
    folds: int = 5,
    workers: int = 2,
) -> pd.DataFrame:
    """Out-of-sample predictions, with what they are compared with. Regressions choose their own regularisation inside.

    Args:
        variants: By label: predictor, inputs and heads to be tested (the rest of the settings plays no part), and
            whether it is meta-learned on the other blocks.
        sizes: Numbers of training rows; those beyond the pool less a fold mean all of it.

    Returns:
        One row a predictor, size, training seed, fold and held-out allocation: predicted, same (the searched score),
        other (the other training seed on the report split).
    """
    parts = np.array_split(np.random.default_rng(0).permutation(len(replay.pool.allocations)), folds)
    work = [(replay, variants, sizes, signal, seed, fold, parts) for seed in replay.seeds for fold in range(folds)]
    return pd.concat(_in_processes(_cross_validate, work, workers), ignore_index=True)


def _cross_validate(
    replay: Replay,
    variants: Mapping[str, tuple[SearchSettings, bool]],
    sizes: Sequence[int],
    signal: str,
    seed: int,
    fold: int,
    parts: Sequence[np.ndarray],
) -> pd.DataFrame:
    allocations, truth = replay.pool.allocations, replay.truth(seed)
    known = replay.searched(seed, signal)
    scores = np.array([[known[a][task] for task in sorted(known[a])] for a in allocations])
    held_out = parts[fold]
    rest = np.concatenate([part for other, part in enumerate(parts) if other != fold])
    most = len(allocations) - max(map(len, parts))  # what every fold has
    tables = []
    for label, (settings, transfer) in variants.items():
        inputs = replay.pool.encode(allocations, settings.inputs)
        targets = scores if settings.heads == "tasks" else scores.mean(axis=1, keepdims=True)
        predictor = make_predictor(settings.predictor, fold)
        if transfer:
            predictor.meta_train(meta_tasks(replay.pool, replay.records[signal], settings))
        for size in dict.fromkeys(min(size, most) for size in sizes):
            predictor.fit(inputs[rest[:size]], targets[rest[:size]])
            tables.append(pd.DataFrame({
                "predictor": label, "size": size, "seed": seed, "fold": fold, "allocation": held_out,
                "predicted": predictor.predict(inputs[held_out]).mean, "same": scores[held_out].mean(axis=1),
                "other": [truth[allocations[place]] for place in held_out],
            }))
    return pd.concat(tables, ignore_index=True)


def rank_statistics(predictions: pd.DataFrame, k: int = 15, draws: int = 200) -> pd.DataFrame:
    """Kendall's tau, Spearman's rho and precision at k of cross-validated predictions, with 95 % intervals.

    Statistics are computed within each training seed over all folds, then averaged; intervals resample allocations.

    Returns:
        One row a predictor and size: each statistic against `same` and `other`, with its low and high.
    """
    lines = []
    for (name, size), rows in predictions.groupby(["predictor", "size"], sort=False):
        generator = np.random.default_rng(0)
        line = {"predictor": name, "size": size}
        tables = [one.set_index("allocation")[["predicted", "same", "other"]].sort_index()
                  for _, one in rows.groupby("seed")]
        places = np.arange(len(tables[0]))
        for target in ("same", "other"):
            value = _ranks(tables, places, target, k)
            drawn = np.array([_ranks(tables, generator.choice(places, len(places)), target, k) for _ in range(draws)])
            low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
            for number, statistic in enumerate(("tau", "rho", f"precision at {k}")):
                line |= {f"{statistic}, {target}": value[number], f"{statistic}, {target}, low": low[number],
                         f"{statistic}, {target}, high": high[number]}
        lines.append(line)
    return pd.DataFrame(lines)


def _ranks(tables: Sequence[pd.DataFrame], places: np.ndarray, target: str, k: int) -> np.ndarray:
    """(tau, rho, precision at k), means over training seeds; 0 where a predictor says the same of all."""
    found = []
    for table in tables:
        predicted, real = table["predicted"].to_numpy()[places], table[target].to_numpy()[places]
        if np.ptp(predicted) == 0:
            found.append([0.0, 0.0, k / len(places)])
            continue
        best, chosen = set(np.argsort(-real, kind="stable")[:k]), set(np.argsort(-predicted, kind="stable")[:k])
        found.append([kendalltau(predicted, real).statistic, spearmanr(predicted, real).statistic,
                      len(best & chosen) / k])
    return np.mean(found, axis=0)

