"""Figures of ranks: by layer, by projection, and by the task that a search found them best for."""

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from rankadaptor.allocation import RankAllocation
from rankadaptor.experiments.methods import ADALORA
from rankadaptor.experiments.results import TableResult
from rankadaptor.experiments.tables import MAIN
from rankadaptor.reporting.figures.registry import TableFigure, register
from rankadaptor.reporting.labels import result_tasks, task_label
from rankadaptor.reporting.paper import published_allocations
from rankadaptor.reporting.style import HEAT_MAP, closed, figure_style, layer_ticks
from rankadaptor.reporting.tables.ranks import realised_allocations


def allocation_figure(result: TableResult) -> Figure:
    """Realised ranks by layer (1-based, as in the paper), one line of squares a row; blank where a layer is gone."""
    allocations = realised_allocations(result)
    values = np.array(list(allocations.values()))  # (rows, layers)
    with figure_style(grid=False):
        figure, axis = plt.subplots(figsize=(0.3 * values.shape[1] + 2.5, 0.45 * len(values) + 1.2))
        sns.heatmap(values, mask=values == 0, fmt=".0f", square=True, ax=axis, annot_kws={"size": 7},
                    xticklabels=_layers(values), yticklabels=list(allocations), **HEAT_MAP)
        axis.set(xlabel="decoder layer", title="realised rank by layer (AdaLoRA: mean over the seven projections)")
        layer_ticks(axis)
        axis.tick_params(axis="y", rotation=0)
        figure.set_layout_engine("constrained")  # not before: seaborn draws once with long labels upright
    return closed(figure)


def projection_figure(result: TableResult, method: str) -> Figure:
    """Realised ranks of one method by projection and layer; a panel a block, blank where a layer is gone."""
    rows = {name: row for name, block in result.blocks.items() for row in block.rows if row.method == method}
    with figure_style(grid=False):
        layers = result.base.original_layer_count
        count = max(1, len(rows))
        figure, axes = plt.subplots(count, 1, figsize=(0.3 * layers + 3, 2.9 * count), squeeze=False,
                                    layout="constrained")
        for axis, (name, row) in zip(axes[:, 0], rows.items(), strict=False):
            values = np.array(list(row.realised_ranks.values()))  # (projections, layers)
            sns.heatmap(values, mask=np.broadcast_to(values.sum(axis=0) == 0, values.shape), fmt=".0f", square=True,
                        ax=axis, annot_kws={"size": 7}, xticklabels=_layers(values),
                        yticklabels=list(row.realised_ranks), **HEAT_MAP)
            axis.set(xlabel="decoder layer", title=f"{name}: {method}, realised rank by projection and layer")
            layer_ticks(axis)
            axis.tick_params(axis="y", rotation=0)
    return closed(figure)


def by_task_figure(result: TableResult) -> Figure:
    """The allocation that each search measured to be the best of each task; beneath it the published ones.

    Source: Table 7.
    """
    order = [*result_tasks(result), "text"]  # a search by loss on held-out text has that score alone
    best = {(name, task): block.search.best_by_task[task] for name, block in result.blocks.items() if block.search
            for task in sorted(block.search.best_by_task, key=order.index)}
    parts = {"found here, by the search's signal": best, "published (Table 7, LLaMA-7B)": published_allocations()}
    largest = max(rank for allocations in parts.values() for ranks in allocations.values() for rank in ranks)
    with figure_style(grid=False):
        heights = [len(allocations) for allocations in parts.values()]
        figure, axes = plt.subplots(len(parts), 1, figsize=(11, 0.2 * sum(heights) + 2.2), layout="constrained",
                                    height_ratios=heights)
        for axis, (title, allocations) in zip(axes, parts.items(), strict=True):
            _task_allocations(axis, allocations, largest)
            axis.set(xlabel="decoder layer", title=title)
            layer_ticks(axis)
            axis.tick_params(axis="y", rotation=0, labelsize=7)
    return closed(figure)


def _task_allocations(axis: plt.Axes, allocations: dict[tuple[str, str], RankAllocation], largest: int) -> None:
    """One line of squares a block and task, with a white line above each block."""
    values = np.array(list(allocations.values()))  # (blocks x tasks, layers)
    labels = [f"{block} {task_label(task)}" for block, task in allocations]
    sns.heatmap(values, mask=values == 0, fmt="d", ax=axis, vmin=0, vmax=largest, annot_kws={"size": 6},
                xticklabels=_layers(values), yticklabels=labels, **HEAT_MAP)
    blocks = [block for block, _ in allocations]
    for line in (blocks.index(block) for block in dict.fromkeys(blocks)):
        axis.axhline(line, color="white", linewidth=3)


def _layers(values: np.ndarray) -> list[int]:
    return list(range(1, values.shape[1] + 1))


register(TableFigure("allocations", allocation_figure, lambda result: bool(realised_allocations(result))))
register(TableFigure("ranks", lambda result: projection_figure(result, ADALORA),
                     lambda result: result.contents.name == "table1"))
register(TableFigure("by-task", by_task_figure, lambda result: result.searched and result.contents.methods == MAIN))
