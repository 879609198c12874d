"""Searches replayed on the table of measured allocations: thousands of recoveries in seconds, no model touched.

    replay = Replay.of(table, profile, "llm-pruner:50")
    jobs = [Job("RankAdaptor", settings), Job("TPE", settings, rival="TPE")]
    curves = run_replays(replay, jobs, seeds=range(20))     # one search a method and seed

A replayed search sees the scores of one training seed on the search split. What it chose is scored by the other
training seed on the report split, so neither a lucky training nor a lucky item pays.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from signal import SIG_IGN, SIGINT
from signal import signal as on_signal
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from scipy.stats import kendalltau, spearmanr
from scipy.stats import t as student_t

from rankadaptor.allocation import RankAllocation, SolutionSpace, parse_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput
from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.checkpoints import read_architecture
from rankadaptor.pipeline.processes import process_context
from rankadaptor.profiles import Profile
from rankadaptor.pruning import pruned_shapes
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable.meta_records import SIGNALS, Record, records_beside, rows_of, task_scores
from rankadaptor.recovery.spec import Scaling
from rankadaptor.search.loop import Scores, SearchResult, SearchSettings, mean_score, meta_tasks, search
from rankadaptor.search.pool import Pool
from rankadaptor.search.predictors import make_predictor
from rankadaptor.search.rivals import SEARCHES

TOPS = (0.05, 0.01)  # shares of a pool that count as its top


@dataclass(frozen=True)
class Replay:
    """One block of the table: a pool of allocations within budget, and all that was measured of them."""

    pool: Pool
    seeds: tuple[int, int]
    scores: dict[tuple[int, str, str], dict[RankAllocation, Scores]]  # (seed, split, signal) -> allocation -> scores
    records: dict[tuple[int, str], tuple[Record, ...]]  # (seed, signal) -> what that training says of the other blocks

    @classmethod
    def of(cls, table: pd.DataFrame, profile: Profile, block: str, scaling: Scaling = "fixed_alpha") -> Self:
        """
        Args:
            table: As `records.read_table` gives it.
            profile: Whose base model the table is of.

        Raises:
            BadInput: if the table holds nothing of the block, another number of training seeds than two, or allocations
                of another model or other candidates.
        """
        rows = rows_of(table, block, scaling)
        rows = rows[rows["within_budget"]]
        allocations = [parse_allocation(text) for text in rows["allocation"]]
        seeds = sorted(set(rows["seed"]))
        if len(seeds) != 2:
            raise BadInput(f"the table has training seeds {seeds} of {block}: a replay needs two, one to search and one"
                           " to score")
        first, second = seeds
        space = block_space(profile, block, allocations[0])
        if strange := [one for one in allocations if not space.contains(one)]:
            raise BadInput(f"{block} of the table has allocation {' '.join(map(str, strange[0]))}, which is none of"
                           f" profile {profile.name}: replay a table with the profile that it was made of")
        scores: dict[tuple[int, str, str], dict[RankAllocation, Scores]] = {}
        for allocation, (_, row) in zip(allocations, rows.iterrows(), strict=True):
            for split in ("search", "report"):
                for signal in SIGNALS:
                    scores.setdefault((row["seed"], split, signal), {})[allocation] = task_scores(row, split, signal)
        both = set.intersection(*(set(scores[seed, "search", SIGNALS[0]]) for seed in (first, second)))
        pool = Pool(space, tuple(sorted(both)))
        beside = {(int(seed), signal): records_beside(table, block, scaling, signal, seed)
                  for seed in seeds for signal in SIGNALS}
        return cls(pool, (int(first), int(second)), scores, beside)

    @property
    def others(self) -> list[str]:
        """The other blocks that there are records of."""
        return [one.label for one in next(iter(self.records.values()))]

    def searched(self, seed: int, signal: str) -> dict[RankAllocation, Scores]:
        """What a search sees: one training seed on the search split."""
        return self.scores[seed, "search", signal]

    def truth(self, seed: int, metric: str = "gold_probability") -> dict[RankAllocation, float]:
        """What a search that saw `seed` is scored by: the mean over tasks of the other seed on the report split."""
        other = self.seeds[1 - self.seeds.index(seed)]
        found = self.scores[other, "report", metric]
        return {allocation: mean_score(found[allocation]) for allocation in self.pool.allocations}


def block_space(profile: Profile, block: str, allocation: RankAllocation) -> SolutionSpace:
    """S of a block, from configuration and an allocation alone: zeros show which layers are gone."""
    dense = read_architecture(base_model_folder(profile.base_model))
    if len(allocation) != dense.original_layer_count:
        raise BadInput(f"allocations of {block} in the table have {len(allocation)} entries, the model of profile"
                       f" {profile.name} has {dense.original_layer_count} layers: replay it with its own profile")
    gone = tuple(layer for layer, rank in enumerate(allocation) if not rank)
    parsed = Block.parse(block)
    shapes: Architecture = dense.depth_pruned(gone) if gone else pruned_shapes(dense, profile.prune_spec(parsed))
    return profile.solution_space(parsed, shapes)


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
        One row a job, seed and number of recoveries: method, seed, recoveries; spent (recoveries of the whole search,
        fewer where it converged; its choice then stays); searched (highest score seen so far, as the share of the pool
        that scores lower); regret (points of gold probability that the chosen allocation lies below the pool's best,
        under the other training seed on the report split), regret in accuracy (the same, in accuracy); share (of the
        pool that is worse than the chosen one, in gold probability under the other seed).
    """
    work = [(replay, job, seed) for job in jobs for seed in seeds]
    return pd.concat(_in_processes(_replay, work, workers), ignore_index=True)


def _in_processes(
    function: Callable[..., pd.DataFrame], work: Sequence[tuple[Any, ...]], workers: int
) -> list[pd.DataFrame]:
    if workers == 1:
        return [function(*one) for one in work]
    try:
        return list(_processes(workers).map(function, *zip(*work, strict=True),
                                            chunksize=max(1, len(work) // (8 * workers))))
    except BrokenProcessPool:
        _processes.cache_clear()
        raise BadInput(f"one of {workers} processes that replay searches was killed: free memory, and run it again"
                       ) from None


@lru_cache(maxsize=1)
def _processes(workers: int) -> ProcessPoolExecutor:
    """Processes that stay for the next call: to start them takes as long as a hundred searches."""
    return ProcessPoolExecutor(workers, process_context(), _begin)


def _begin() -> None:
    """One thread each; a keyboard's interrupt is the parent's to tell of."""
    torch.set_num_threads(1)
    on_signal(SIGINT, SIG_IGN)


def _replay(replay: Replay, job: Job, seed: int) -> pd.DataFrame:
    training_seed, known = _seen(replay, job, seed)
    result = replayed(replay, job, seed)
    order = [allocation for one in result.rounds for allocation in one.proposals]
    seen = np.array([mean_score(known[allocation]) for allocation in order])
    everything = np.sort([mean_score(known[allocation]) for allocation in replay.pool.allocations])
    chosen = [order[int(np.argmax(seen[: count + 1]))] for count in range(len(order))]
    # A search that ended early keeps its choice; the last choice is the method's own, which may be a prediction.
    idle = max(0, job.settings.initial + job.settings.rounds * job.settings.batch - len(order))
    chosen = [*chosen[:-1], *[result.best] * (idle + 1)]
    highest = np.maximum.accumulate(seen)
    lines = {"method": job.label, "seed": seed, "recoveries": np.arange(1, len(chosen) + 1), "spent": len(order),
             "searched": np.searchsorted(everything, [*highest, *[highest[-1]] * idle]) / len(everything)}
    for name, metric in (("regret", "gold_probability"), ("regret in accuracy", "accuracy")):
        truth = replay.truth(training_seed, metric)
        values = np.array([truth[allocation] for allocation in chosen])
        lines[name] = 100 * (max(truth.values()) - values)
        if metric == "gold_probability":
            lines["share"] = np.searchsorted(np.sort(list(truth.values())), values) / len(truth)
    return pd.DataFrame(lines)


def _seen(replay: Replay, job: Job, seed: int) -> tuple[int, dict[RankAllocation, Scores]]:
    """The training seed that a search sees, and its scores."""
    training_seed = replay.seeds[seed % 2]
    return training_seed, replay.searched(training_seed, job.signal)


def replayed(replay: Replay, job: Job, seed: int) -> SearchResult:
    """One search on the pool."""
    training_seed, known = _seen(replay, job, seed)
    return search(
        replay.pool,
        lambda proposals: [known[allocation] for allocation in proposals],
        dataclasses.replace(job.settings, seed=seed),
        replay.records[training_seed, job.signal] if job.records and not job.rival else (),
        SEARCHES[job.rival] if job.rival else None,
    )


def recoveries_needed(curves: pd.DataFrame, top: float) -> pd.DataFrame:
    """How many recoveries each search needs until it has measured one of the pool's top, by the score that it searches.

    Args:
        curves: Of `run_replays`.
        top: Share of the pool.

    Returns:
        One row a search seed, one column a method; a search that never does counts as one more than it had.
    """
    reached = curves[curves["searched"] >= 1 - top].groupby(["seed", "method"])["recoveries"].min()
    searches = pd.MultiIndex.from_frame(curves[["seed", "method"]].drop_duplicates())
    needed = reached.reindex(searches, fill_value=curves["recoveries"].max() + 1)
    return needed.unstack("method")[list(curves["method"].unique())]


# -- predictors -------------------------------------------------------------------------------------------------------


def reliability(replay: Replay) -> pd.DataFrame:
    """How far one measurement agrees with another of the same allocations: how well it does as a predictor of it.

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
    for signal in SIGNALS:
        for differs, several in pairs.items():
            if signal == "held_out_loss" and differs != "training, same split":
                continue  # one text: it has no splits
            columns = [(column(*one, signal), column(*other, signal)) for one, other in several]
            lines.append({"signal": signal, "what differs": differs,
                          "Kendall tau": float(np.mean([kendalltau(*pair).statistic for pair in columns])),
                          "Spearman rho": float(np.mean([spearmanr(*pair).statistic for pair in columns]))})
    return pd.DataFrame(lines)


# Settings, of which predictor, inputs and heads play a part, and the blocks whose records it is meta-learned on.
Variant = tuple[SearchSettings, Sequence[str]]


def cross_validated(
    replay: Replay,
    variants: Mapping[str, Variant],
    sizes: Sequence[int],
    signal: str = "gold_probability",
    folds: int = 5,
    workers: int = 2,
) -> pd.DataFrame:
    """Out-of-sample predictions, with what they are compared with. Regressions choose their own regularisation inside.

    Args:
        variants: By label.
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
    variants: Mapping[str, Variant],
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
    rest = np.random.default_rng([1, seed, fold]).permutation(rest)  # each fold learns from other rows
    most = len(allocations) - max(map(len, parts))  # what every fold has
    tables = []
    for label, (settings, blocks) in variants.items():
        inputs = replay.pool.encode(allocations, settings.inputs)
        targets = scores if settings.heads == "tasks" else scores.mean(axis=1, keepdims=True)
        predictor = make_predictor(settings.predictor, fold)
        if blocks:
            records = [one for one in replay.records[seed, signal] if one.label in blocks]
            predictor.meta_train(meta_tasks(replay.pool, records, settings))
        for size in dict.fromkeys(min(size, most) for size in sizes):
            predictor.fit(inputs[rest[:size]], targets[rest[:size]])
            tables.append(pd.DataFrame({
                "predictor": label, "size": size, "seed": seed, "fold": fold, "allocation": held_out,
                "predicted": predictor.predict(inputs[held_out]).mean, "same": scores[held_out].mean(axis=1),
                "other": [truth[allocations[place]] for place in held_out],
            }))
    return pd.concat(tables, ignore_index=True)


def rank_statistics(predictions: pd.DataFrame, share: float = 0.1) -> pd.DataFrame:
    """Kendall's tau, Spearman's rho and precision of cross-validated predictions, with 95 % intervals.

    Statistics are computed within each training seed and fold, where one fitted predictor ranks, and averaged;
    intervals are Student's over these folds: they hold the luck of what was learned from and of what was held out.

    Args:
        share: Of a fold that counts as its best: precision is the share of the best that are predicted to be the best.

    Returns:
        One row a predictor and size: each statistic against `same` and `other`, with its low and high.
    """
    lines = []
    for (name, size), rows in predictions.groupby(["predictor", "size"], sort=False):
        line: dict[str, Any] = {"predictor": name, "size": size}
        folds = [one[["predicted", "same", "other"]].to_numpy() for _, one in rows.groupby(["seed", "fold"])]
        for target, column in (("same", 1), ("other", 2)):
            found = np.array([_ranks(fold, column, share) for fold in folds])  # (folds, statistics)
            reach = student_t.ppf(0.975, len(folds) - 1) * found.std(axis=0, ddof=1) / np.sqrt(len(folds))
            for number, statistic in enumerate(("tau", "rho", "precision")):
                value = found[:, number].mean()
                line |= {f"{statistic}, {target}": value, f"{statistic}, {target}, low": value - reach[number],
                         f"{statistic}, {target}, high": value + reach[number]}
        lines.append(line)
    return pd.DataFrame(lines)


def _ranks(fold: np.ndarray, column: int, share: float) -> tuple[float, float, float]:
    """(tau, rho, precision); where a predictor says the same of all, those of a guess."""
    predicted, real = fold[:, 0], fold[:, column]
    count = max(1, round(share * len(fold)))
    if np.ptp(predicted) == 0:
        return 0.0, 0.0, count / len(fold)
    best, chosen = (set(np.argsort(-values, kind="stable")[:count]) for values in (real, predicted))
    tau, rho = kendalltau(predicted, real).statistic, spearmanr(predicted, real).statistic
    return tau, rho, len(best & chosen) / count
