"""Figures of accuracy: means by method and what they gain over LoRA, by task, and what pruning alone leaves."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rankadaptor.experiments.methods import ADALORA, DENSE, LORA, LORA_STAR, NO_RECOVERY
from rankadaptor.experiments.results import TableResult
from rankadaptor.pruning.spec import PRUNERS
from rankadaptor.reporting.figures.registry import TableFigure, register
from rankadaptor.reporting.labels import MEAN, count_word, result_tasks, task_label
from rankadaptor.reporting.style import AXIS_LINE, MARKERS, REFERENCE_LINE, closed, figure_style, reach
from rankadaptor.reporting.tables.accuracy import cells
from rankadaptor.reporting.tables.differences import differences_to_lora, task_differences

_BY_TASK = {"figure2": LORA_STAR, "table1": ADALORA}  # table -> the method that is drawn beside LoRA by task


def unrecovered_figure(result: TableResult) -> Figure:
    """Mean accuracy of every block without recovery with its 95 % interval, against the share of parameters left."""
    numbers = cells(result)
    means = numbers[numbers["column"] == MEAN].set_index("block")
    dense = 100 * float(means["value"].to_dict()[DENSE])
    with figure_style():
        figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
        for number, pruner in enumerate(PRUNERS):
            blocks = {name: block for name, block in result.blocks.items() if name.startswith(f"{pruner}:")}
            if not blocks:
                continue
            left = [100 * block.architecture.parameters() / result.base.parameters() for block in blocks.values()]
            value, low, high = 100 * means.loc[list(blocks), ["value", "low", "high"]].to_numpy().T
            axis.errorbar(left, value, yerr=reach(value, low, high), fmt="o-", color=f"C{number}", capsize=3,
                          label=pruner)
        axis.axhline(dense, label=f"{DENSE} {dense:.1f}", **REFERENCE_LINE)
        axis.set(xlabel="parameters left (%)", ylabel=_mean_label(result), title="No recovery, 95 % interval")
        axis.legend()
    return closed(figure)


def means_figure(result: TableResult) -> Figure:
    """Mean accuracy by method with its 95 % interval, and its paired difference to LoRA, one row of panels a block."""
    numbers = cells(result)
    means = numbers[numbers["column"] == MEAN]
    dense = 100 * means.loc[means["method"] == DENSE, "value"].iloc[0]
    differences = differences_to_lora(result)
    with figure_style():
        heights = [max(2.6, 0.24 * len(block.rows) + 0.9) for block in result.blocks.values()]
        figure, axes = plt.subplots(
            len(result.blocks), 2, figsize=(10, sum(heights) + 0.6), squeeze=False, layout="constrained",
            height_ratios=heights,
        )
        for (left, right), block in zip(axes, result.blocks, strict=True):
            rows = means[means["block"] == block].iloc[::-1]
            _intervals(left, rows["method"], *(100 * rows[["value", "low", "high"]].to_numpy().T))
            left.axvline(dense, label=f"{DENSE} {dense:.1f}", **REFERENCE_LINE)
            left.set(title=f"{block}: {_mean_label(result, '')}", xlabel="accuracy (%), 95 % interval")
            pairs = differences[differences["block"] == block].iloc[::-1]
            _intervals(right, pairs["method"], *pairs[["difference", "low", "high"]].to_numpy().T)
            label = f"published ({result.contents.published})"
            right.plot(pairs["published"], range(len(pairs)), "D", mfc="none", mec="C1", label=label)
            right.axvline(0, **AXIS_LINE)
            right.set(title=f"difference to {LORA}, paired", xlabel="points, 95 % interval")
        entries = [panel.get_legend_handles_labels() for panel in axes[0]]
        handles, labels = ([*left, *right] for left, right in zip(*entries, strict=True))
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return closed(figure)


def _mean_label(result: TableResult, unit: str = " (%)") -> str:
    return f"mean of {count_word(len(result_tasks(result)))} tasks{unit}"


def _intervals(axis: plt.Axes, labels: pd.Series, value: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Points with horizontal intervals, the first at the bottom."""
    heights = np.arange(len(value))
    axis.errorbar(value, heights, xerr=reach(value, low, high), fmt="o", color="C0", capsize=3)
    axis.set_yticks(heights, list(labels))
    axis.set_ylim(-0.6, len(value) - 0.4)


def task_figure(result: TableResult, method: str) -> Figure:
    """By task: accuracy of LoRA and of one method, and what every method gains over LoRA; a row of panels a block."""
    columns, differences = [*result_tasks(result), MEAN], task_differences(result)
    with figure_style():
        figure, axes = plt.subplots(len(result.blocks), 2, figsize=(12, 4.2 * len(result.blocks) + 0.6), squeeze=False,
                                    layout="constrained")
        for (left, right), (name, block) in zip(axes, result.blocks.items(), strict=True):
            numbers = cells(result)
            numbers = numbers[(numbers["block"] == name) & numbers["column"].isin(columns)]
            present = [row.method for row in block.rows]
            _by_task(left, {label: numbers[numbers["method"] == label] for label in (LORA, method)
                            if label in present}, columns, 100)
            left.set(title=f"{name}: accuracy by task", ylabel="accuracy (%), 95 % interval")
            pairs = differences[differences["block"] == name]
            methods = [label for label in present if label not in (LORA, NO_RECOVERY) and not pairs.empty]
            _by_task(right, {label: pairs[pairs["method"] == label] for label in methods}, columns, 1)
            right.axhline(0, **AXIS_LINE)
            right.set(title=f"{name}: difference to {LORA}, paired", ylabel="points, 95 % interval")
            for axis in (left, right):
                axis.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return closed(figure)


def _by_task(axis: plt.Axes, series: Mapping[str, pd.DataFrame], columns: list[str], scale: float) -> None:
    """Points with intervals, tasks side by side, one colour a method."""
    for number, (label, rows) in enumerate(series.items()):
        value, low, high = scale * rows.set_index("column").loc[columns, ["value", "low", "high"]].to_numpy().T
        positions = np.arange(len(columns)) + 0.16 * (number - (len(series) - 1) / 2)
        axis.errorbar(positions, value, yerr=reach(value, low, high), fmt=MARKERS[number % len(MARKERS)],
                      color=f"C{number}", capsize=2, markersize=5, label=label)
    axis.set_xticks(np.arange(len(columns)), [task_label(column) for column in columns], rotation=30)


def accuracy_figure(result: TableResult) -> Figure:
    """Mean accuracy of every row, as suits the table."""
    return means_figure(result) if result.recovered else unrecovered_figure(result)


register(TableFigure("means", accuracy_figure))
register(TableFigure("tasks", lambda result: task_figure(result, _BY_TASK[result.contents.name]),
                     lambda result: result.contents.name in _BY_TASK))
