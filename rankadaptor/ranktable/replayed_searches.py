"""Searches replayed on measured allocations: thousands of recoveries in seconds."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation
from rankadaptor.ranktable.replay import Job, Replay
from rankadaptor.ranktable.worker_processes import map_in_processes
from rankadaptor.search.loop import search
from rankadaptor.search.rivals import find_rival
from rankadaptor.search.rounds import Scores, SearchResult, mean_score

TOPS = (0.05, 0.01)  # shares of a pool that count as its top


def run_replays(replay: Replay, jobs: Sequence[Job], seeds: Sequence[int], workers: int = 2) -> pd.DataFrame:
    """Run every job under every seed.

    Even seeds search on the table's first training seed, odd ones on its second.

    Returns:
        One row per job, seed and number of recoveries: method, seed, recoveries; spent (recoveries of the whole search,
        fewer where it converged; its selection then stays); searched (highest score seen so far, as the share of the
        pool that scores lower); regret (points of gold probability by which the selected allocation is below the pool's
        best, under the other training seed on the report split), regret in accuracy (the same, in accuracy); share (of
        the pool that is worse than the selected one, in gold probability under the other seed).
    """
    work = [(replay, job, seed) for job in jobs for seed in seeds]
    return pd.concat(map_in_processes(_curve, work, workers), ignore_index=True)


def replayed(replay: Replay, job: Job, seed: int) -> SearchResult:
    """Run one search on the pool."""
    training_seed, scores = _visible(replay, job, seed)
    return search(
        replay.pool,
        lambda proposals: [scores[allocation] for allocation in proposals],
        dataclasses.replace(job.settings, seed=seed),
        replay.records[training_seed, job.signal] if job.records and not job.rival else (),
        find_rival(job.rival),
    )


def recoveries_needed(curves: pd.DataFrame, top: float) -> pd.DataFrame:
    """How many recoveries each search needs until it has measured one of the pool's top, by the score that it searches.

    Args:
        curves: Of `run_replays`.
        top: Share of the pool.

    Returns:
        One row per search seed, one column per method; a search that never does counts as one more than it had.
    """
    reached = curves[curves["searched"] >= 1 - top].groupby(["seed", "method"])["recoveries"].min()
    searches = pd.MultiIndex.from_frame(curves[["seed", "method"]].drop_duplicates())
    needed = reached.reindex(searches, fill_value=curves["recoveries"].max() + 1)
    return needed.unstack("method")[list(curves["method"].unique())]


def _visible(replay: Replay, job: Job, seed: int) -> tuple[int, dict[RankAllocation, Scores]]:
    """The training seed that a search sees, and its scores."""
    training_seed = replay.seeds[seed % 2]
    return training_seed, replay.searched(training_seed, job.signal)


def _curve(replay: Replay, job: Job, seed: int) -> pd.DataFrame:
    """Rows of `run_replays` for one search."""
    training_seed, scores = _visible(replay, job, seed)
    result = replayed(replay, job, seed)
    order = [allocation for finished in result.rounds for allocation in finished.proposals]
    seen = np.array([mean_score(scores[allocation]) for allocation in order])
    everything = np.sort([mean_score(scores[allocation]) for allocation in replay.pool.allocations])
    selected = [order[int(np.argmax(seen[: count + 1]))] for count in range(len(order))]
    # After a search has converged its selection stays. The last selection is the method's, which may be a predicted
    # allocation and not the best measured one.
    idle = max(0, job.settings.initial + job.settings.rounds * job.settings.batch - len(order))
    selected = [*selected[:-1], *[result.best] * (idle + 1)]
    highest = np.maximum.accumulate(seen)
    columns = {"method": job.label, "seed": seed, "recoveries": np.arange(1, len(selected) + 1), "spent": len(order),
               "searched": np.searchsorted(everything, [*highest, *[highest[-1]] * idle]) / len(everything)}
    for name, metric in (("regret", "gold_probability"), ("regret in accuracy", "accuracy")):
        truth = replay.truth(training_seed, metric)
        values = np.array([truth[allocation] for allocation in selected])
        columns[name] = 100 * (max(truth.values()) - values)
        if metric == "gold_probability":
            columns["share"] = np.searchsorted(np.sort(list(truth.values())), values) / len(truth)
    return pd.DataFrame(columns)
