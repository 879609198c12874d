"""The page's figures."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rankadaptor.ranktable.replay import Job, Replay
from rankadaptor.ranktable.replayed_searches import TOPS, recoveries_needed, replayed
from rankadaptor.reporting.style import DASHES, LINES, closed, figure_style, legend_below, reach
from rankadaptor.search.rounds import mean_score


def regret_figure(curves: Mapping[str, pd.DataFrame], references: Mapping[str, Mapping[str, float]]) -> Figure:
    """Regret of the chosen allocation against recoveries, median and quartiles over searches; a panel a block.

    Args:
        curves: Block -> as `ranktable.replayed_searches.run_replays` returns them.
        references: Block -> label -> regret to compare with, in points.
    """
    with figure_style():
        figure, axes = plt.subplots(1, len(curves), figsize=(5 * len(curves) + 0.5, 4.2), squeeze=False,
                                    layout="constrained")
        for axis, (block, table) in zip(axes[0], curves.items(), strict=True):
            for number, (method, rows) in enumerate(table.groupby("method", sort=False)):
                bands = rows.groupby("recoveries")["regret"].quantile(np.array([0.25, 0.5, 0.75])).unstack()
                axis.plot(bands.index, bands[0.5], LINES[number % 4], color=f"C{number}", label=str(method))
                axis.fill_between(bands.index, bands[0.25], bands[0.75], color=f"C{number}", alpha=0.12, linewidth=0)
            for number, (label, regret) in enumerate(references[block].items()):
                axis.axhline(regret, color="0.25", linewidth=1.2, linestyle=DASHES[number], label=label)
            axis.set(title=block, xlabel="recoveries", ylabel="regret in gold probability (points)")
            axis.set_ylim(bottom=0)
        legend_below(figure, axes[0][0], 3)
    return closed(figure)


def top_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Recoveries that each method needs to measure one of the pool's top, by the score it searches; a panel a block.

    Args:
        curves: Block -> as `ranktable.replayed_searches.run_replays` returns them.
    """
    with figure_style():
        figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves) + 1.5, 3.6), squeeze=False,
                                    layout="constrained", sharey=True)
        for axis, (block, table) in zip(axes[0], curves.items(), strict=True):
            for number, top in enumerate(TOPS):
                needed = recoveries_needed(table, top).iloc[:, ::-1]
                low, middle, high = np.quantile(needed, [0.25, 0.5, 0.75], axis=0)
                heights = np.arange(len(middle)) - 0.12 + 0.24 * number
                axis.errorbar(middle, heights, xerr=reach(middle, low, high), fmt="os"[number], color=f"C{number}",
                              capsize=3, label=f"the top {100 * top:.0f} % of the pool")
            axis.set_yticks(range(len(needed.columns)), list(needed.columns))
            axis.axvline(table["recoveries"].max() + 1, color="0.4", linestyle=":", label="never")
            axis.set(title=block, xlabel="recoveries (median, quartiles)")
            axis.set_xlim(left=0)
        legend_below(figure, axes[0][0], 3)
    return closed(figure)


def trace_figure(replay: Replay, job: Job, seeds: Sequence[int] = (0, 1, 2)) -> Figure:
    """What was predicted (Q) and measured (P) round by round, in some replayed searches. Source: Figure 4."""
    with figure_style():
        figure, axes = plt.subplots(1, len(seeds), figsize=(4 * len(seeds), 3.4), squeeze=False, sharey=True,
                                    layout="constrained")
        for axis, seed in zip(axes[0], seeds, strict=True):
            for search_round in replayed(replay, job, seed).rounds:
                measured = [100 * mean_score(scores) for scores in search_round.scores]
                numbers = [search_round.number] * len(measured)
                axis.plot(numbers, measured, "o", color="C0", markersize=4)
                if search_round.predictions:
                    axis.plot(numbers, [100 * q for q in search_round.predictions], "x", color="C1")
            axis.plot([], [], "o", color="C0", label="measured (P)")
            axis.plot([], [], "x", color="C1", label="predicted (Q)")
            axis.set(title=f"search seed {seed}", xlabel="round (0: initialization)")
        axes[0][0].set_ylabel("gold probability,\nsearch split (%)")
        legend_below(figure, axes[0][0], 2)
    return closed(figure)


def prediction_figure(predictions: pd.DataFrame, predictor: str) -> Figure:
    """Out-of-sample predictions against the score that was searched, and the other training's on report items.

    Args:
        predictions: As `ranktable.cross_validation.cross_validated` returns them; those from most recoveries are drawn.
    """
    rows = predictions[predictions["predictor"] == predictor]
    rows = rows[rows["size"] == rows["size"].max()]
    with figure_style():
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        titles = {"same": "the searched score (same training, search split)",
                  "other": "another training, report split"}
        for axis, (target, title) in zip(axes, titles.items(), strict=True):
            for number, (seed, points) in enumerate(rows.groupby("seed")):
                axis.plot(100 * points["predicted"], 100 * points[target], "o", markersize=3, alpha=0.5,
                          color=f"C{number}", label=f"training seed {seed}")
            axis.set(title=title, xlabel="predicted gold probability (%)", ylabel="measured (%)")
        axes[0].legend()
    return closed(figure)


def learning_figure(statistics: pd.DataFrame, limit: float) -> Figure:
    """Kendall's tau against the number of recoveries that a predictor learned from, with 95 % intervals.

    Args:
        statistics: As `ranktable.cross_validation.rank_statistics` returns them.
        limit: Tau of one measurement with another, which no predictor of one measurement can exceed.
    """
    titles = {"same": "same training, search split", "other": "other training, report split"}
    sizes = sorted(statistics["size"].unique())
    with figure_style():
        figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
        for axis, (target, title) in zip(axes, titles.items(), strict=True):
            for number, (name, rows) in enumerate(statistics.groupby("predictor", sort=False)):
                tau = f"tau, {target}"
                axis.plot(rows["size"], rows[tau], LINES[number % 4], marker="o", markersize=3, color=f"C{number}",
                          label=str(name))
                axis.fill_between(rows["size"], rows[f"{tau}, low"], rows[f"{tau}, high"], color=f"C{number}",
                                  alpha=0.08, linewidth=0)
            axis.set(xlabel="recoveries learned from", xscale="log", title=title)
            axis.set_xticks(sizes, list(map(str, sizes)))
            axis.minorticks_off()
        axes[1].axhline(limit, color="0.4", linestyle=DASHES[0], label="one measurement as predictor")
        axes[0].set_ylabel("Kendall's tau, held-out allocations")
        legend_below(figure, axes[1], 4)
    return closed(figure)
