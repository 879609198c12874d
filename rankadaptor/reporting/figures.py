"""Figures, one style for all: colour-blind safe, SVG and PNG without dates, so that equal data give equal files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rankadaptor.data.tasks import TASKS
from rankadaptor.experiments.methods import DENSE, LORA, NO_RECOVERY
from rankadaptor.experiments.results import TableResult
from rankadaptor.experiments.tables import MAIN
from rankadaptor.pruning.spec import PRUNERS
from rankadaptor.reporting.paper import published_allocations
from rankadaptor.reporting.tables import MEAN, TASK_NAMES, allocations, cells, differences_to_lora, task_differences
from rankadaptor.search.rounds import mean_score

_MARKS = ("o", "s", "^", "D", "v", "P")
STYLE: Any = {"svg.hashsalt": "rankadaptor", "svg.fonttype": "none", "figure.dpi": 120, "savefig.bbox": "tight"}


def table_figures(result: TableResult) -> dict[str, Figure]:
    """What a table is drawn as, by name; ranks and searches only where there are any."""
    if not result.recovered:
        return {"means": unrecovered_figure(result)}
    drawn = {"means": means_figure(result)}
    if allocations(result):
        drawn["allocations"] = allocation_figure(result)
    if not result.searched:
        return drawn
    drawn["search"] = search_figure(result)
    return drawn | ({"by-task": by_task_figure(result)} if result.contents.methods == MAIN else {})


def unrecovered_figure(result: TableResult) -> Figure:
    """Mean accuracy of every block without recovery with its 95 % interval, against the share of parameters left."""
    long = cells(result)
    means = long[long["column"] == MEAN].set_index("block")
    dense = 100 * float(means["value"].to_dict()[DENSE])
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
        for number, pruner in enumerate(PRUNERS):
            chosen = {name: block for name, block in result.blocks.items() if name.startswith(f"{pruner}:")}
            if not chosen:
                continue
            left = [100 * block.architecture.parameters() / result.base.parameters() for block in chosen.values()]
            value, low, high = 100 * means.loc[list(chosen), ["value", "low", "high"]].to_numpy().T
            axis.errorbar(left, value, yerr=reach(value, low, high), fmt="o-", color=f"C{number}", capsize=3,
                          label=pruner)
        axis.axhline(dense, color="0.4", linestyle="--", linewidth=1, label=f"{DENSE} {dense:.1f}")
        axis.set(xlabel="parameters left (%)", ylabel="mean of seven tasks (%)", title="No recovery, 95 % interval")
        axis.legend()
    return closed(figure)


def means_figure(result: TableResult) -> Figure:
    """Mean accuracy by method with its 95 % interval, and its paired difference to LoRA, one row of panels a block."""
    long = cells(result)
    means = long[long["column"] == MEAN]
    dense = 100 * means.loc[means["method"] == DENSE, "value"].iloc[0]
    differences = differences_to_lora(result)
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        heights = [max(2.6, 0.24 * len(block.rows) + 0.9) for block in result.blocks.values()]
        figure, axes = plt.subplots(
            len(result.blocks), 2, figsize=(10, sum(heights) + 0.6), squeeze=False, layout="constrained",
            height_ratios=heights,
        )
        for (left, right), block in zip(axes, result.blocks, strict=True):
            rows = means[means["block"] == block].iloc[::-1]
            _intervals(left, rows["method"], *(100 * rows[["value", "low", "high"]].to_numpy().T))
            left.axvline(dense, color="0.4", linestyle="--", linewidth=1, label=f"{DENSE} {dense:.1f}")
            left.set(title=f"{block}: mean of seven tasks", xlabel="accuracy (%), 95 % interval")
            pairs = differences[differences["block"] == block].iloc[::-1]
            _intervals(right, pairs["method"], *pairs[["difference", "low", "high"]].to_numpy().T)
            label = f"published ({result.contents.published})"
            right.plot(pairs["published"], range(len(pairs)), "D", mfc="none", mec="C1", label=label)
            right.axvline(0, color="0.4", linewidth=1)
            right.set(title=f"difference to {LORA}, paired", xlabel="points, 95 % interval")
        entries = [panel.get_legend_handles_labels() for panel in axes[0]]
        handles, labels = ([*left, *right] for left, right in zip(*entries, strict=True))
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return closed(figure)


def reach(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far intervals reach below and above; never less than 0, which the last digit may be.  # (2, points)"""
    return np.maximum(0, [value - low, high - value])


def _intervals(axis: plt.Axes, labels: pd.Series, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    places = np.arange(len(value))
    axis.errorbar(value, places, xerr=reach(value, low, high), fmt="o", color="C0", capsize=3)
    axis.set_yticks(places, list(labels))
    axis.set_ylim(-0.6, len(value) - 0.4)


def task_figure(result: TableResult, method: str) -> Figure:
    """By task: accuracy of LoRA and of one method, and what every method gains over LoRA; a row of panels a block."""
    differences = task_differences(result)
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(len(result.blocks), 2, figsize=(12, 4.2 * len(result.blocks) + 0.6), squeeze=False,
                                    layout="constrained")
        for (left, right), (name, block) in zip(axes, result.blocks.items(), strict=True):
            shown = cells(result)
            shown = shown[(shown["block"] == name) & shown["column"].isin([*TASKS, MEAN])]
            present = [row.method for row in block.rows]
            _by_task(left, {one: shown[shown["method"] == one] for one in (LORA, method) if one in present}, 100)
            left.set(title=f"{name}: accuracy by task", ylabel="accuracy (%), 95 % interval")
            its = differences[differences["block"] == name]
            methods = [one for one in present if one not in (LORA, NO_RECOVERY) and not its.empty]
            _by_task(right, {one: its[its["method"] == one] for one in methods}, 1)
            right.axhline(0, color="0.4", linewidth=1)
            right.set(title=f"{name}: difference to {LORA}, paired", ylabel="points, 95 % interval")
            for axis in (left, right):
                axis.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return closed(figure)


def _by_task(axis: plt.Axes, series: Mapping[str, pd.DataFrame], scale: float) -> None:
    """Points with intervals, tasks side by side, one colour a method."""
    columns = [*TASKS, MEAN]
    for number, (label, rows) in enumerate(series.items()):
        value, low, high = scale * rows.set_index("column").loc[columns, ["value", "low", "high"]].to_numpy().T
        places = np.arange(len(columns)) + 0.16 * (number - (len(series) - 1) / 2)
        axis.errorbar(places, value, yerr=reach(value, low, high), fmt=_MARKS[number % len(_MARKS)],
                      color=f"C{number}", capsize=2, markersize=5, label=label)
    axis.set_xticks(np.arange(len(columns)), [TASK_NAMES.get(name, name) for name in columns], rotation=30)


def projection_figure(result: TableResult, method: str) -> Figure:
    """Realised ranks of one method by projection and layer; a panel a block, blank where a layer is gone."""
    rows = {name: row for name, block in result.blocks.items() for row in block.rows if row.method == method}
    with matplotlib.rc_context(STYLE), sns.axes_style("white"):
        layers = result.base.original_layer_count
        count = max(1, len(rows))
        figure, axes = plt.subplots(count, 1, figsize=(0.3 * layers + 3, 2.9 * count), squeeze=False,
                                    layout="constrained")
        for axis, (name, row) in zip(axes[:, 0], rows.items(), strict=False):
            values = np.array(list(row.realised_ranks.values()))
            sns.heatmap(values, annot=True, fmt=".0f", cmap="cividis", cbar=False, square=True, ax=axis,
                        mask=np.broadcast_to(values.sum(axis=0) == 0, values.shape), annot_kws={"size": 7},
                        xticklabels=list(range(1, layers + 1)), yticklabels=list(row.realised_ranks))
            axis.set(xlabel="decoder layer", title=f"{name}: {method}, realised rank by projection and layer")
            axis.tick_params(axis="x", rotation=0, labelsize=7)
            axis.tick_params(axis="y", rotation=0)
    return closed(figure)


def allocation_figure(result: TableResult) -> Figure:
    """Realised ranks by layer (1-based, as in the paper), one line of squares a row; blank where a layer is gone."""
    by_row = allocations(result)
    values = np.array(list(by_row.values()))
    with matplotlib.rc_context(STYLE), sns.axes_style("white"):
        figure, axis = plt.subplots(figsize=(0.3 * values.shape[1] + 2.5, 0.45 * len(values) + 1.2))
        sns.heatmap(values, mask=values == 0, annot=True, fmt=".0f", cmap="cividis", cbar=False, square=True, ax=axis,
                    annot_kws={"size": 7}, xticklabels=list(range(1, values.shape[1] + 1)), yticklabels=list(by_row))
        axis.set(xlabel="decoder layer", title="realised rank by layer (AdaLoRA: mean over the seven projections)")
        axis.tick_params(axis="x", rotation=0, labelsize=7)
        axis.tick_params(axis="y", rotation=0)
        figure.set_layout_engine("constrained")  # not before: seaborn draws once with long labels upright
    return closed(figure)


def by_task_figure(result: TableResult) -> Figure:
    """Table 7: the allocation that each search measured to be the best of each task; beneath it the published ones."""
    found = {(name, task): block.search.best_by_task[task] for name, block in result.blocks.items() if block.search
             for task in sorted(block.search.best_by_task, key=[*TASKS, "text"].index)}
    parts = {"found here, by the search's signal": found, "published (Table 7, LLaMA-7B)": published_allocations()}
    most = max(rank for allocations in parts.values() for ranks in allocations.values() for rank in ranks)
    with matplotlib.rc_context(STYLE), sns.axes_style("white"):
        heights = [len(allocations) for allocations in parts.values()]
        figure, axes = plt.subplots(len(parts), 1, figsize=(11, 0.2 * sum(heights) + 2.2), layout="constrained",
                                    height_ratios=heights)
        for axis, (title, allocations) in zip(axes, parts.items(), strict=True):
            values = np.array(list(allocations.values()))
            rows = [f"{block} {TASK_NAMES.get(task, task)}" for block, task in allocations]
            sns.heatmap(values, mask=values == 0, annot=True, fmt="d", cmap="cividis", cbar=False, ax=axis, vmin=0,
                        vmax=most, annot_kws={"size": 6}, xticklabels=list(range(1, values.shape[1] + 1)),
                        yticklabels=rows)
            for line in range(0, len(rows), len(TASKS)):
                axis.axhline(line, color="white", linewidth=3)
            axis.set(xlabel="decoder layer", title=title)
            axis.tick_params(axis="x", rotation=0, labelsize=7)
            axis.tick_params(axis="y", rotation=0, labelsize=7)
    return closed(figure)


def search_figure(result: TableResult) -> Figure:
    """What each search predicted (Q) and measured (P), round by round."""
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        columns = min(4, len(result.blocks))
        lines = -(-len(result.blocks) // columns)
        figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 2.6 * lines + 0.5), squeeze=False,
                                    layout="constrained")
        for axis in axes.flat[len(result.blocks):]:
            axis.set_visible(False)
        for axis, (name, block) in zip(axes.flat, result.blocks.items(), strict=False):
            for one in block.search.rounds if block.search else ():
                measured = [100 * mean_score(scores) for scores in one.scores]
                places = [one.number] * len(measured)
                axis.plot(places, measured, "o", color="C0", label="measured (P)" if one.number == 0 else None)
                if one.predictions is not None:
                    axis.plot(places, [100 * q for q in one.predictions], "x", color="C1",
                              label="predicted (Q)" if one.number == 1 else None)
            axis.set(title=name, xlabel="round (0: initialization)", ylabel="score on search split (%)")
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return closed(figure)


def closed(figure: Figure) -> Figure:
    """Out of pyplot's hands, or a notebook would draw it a second time."""
    plt.close(figure)
    return figure


def save_figures(drawn: Mapping[str, Figure], folder: Path | str, name: str) -> None:
    """Write NAME-FIGURE.svg and NAME-FIGURE.png of every figure."""
    for which, figure in drawn.items():
        save_figure(figure, folder, f"{name}-{which}")


def save_figure(figure: Figure, folder: Path | str, name: str) -> None:
    """Write NAME.svg and NAME.png."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
