"""The figure of a table's searches, round by round."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from rankadaptor.experiments.results import TableResult
from rankadaptor.reporting.figures.registry import TableFigure, register
from rankadaptor.reporting.style import closed, figure_style, integer_ticks, legend_below
from rankadaptor.search.rounds import mean_score


def search_figure(result: TableResult) -> Figure:
    """What each search predicted (Q) and measured (P), round by round. Source: Figure 4."""
    with figure_style():
        columns = min(4, len(result.blocks))
        lines = -(-len(result.blocks) // columns)
        figure, axes = plt.subplots(lines, columns, figsize=(4.2 * columns, 2.6 * lines + 0.5), squeeze=False,
                                    layout="constrained")
        for axis in axes.flat[len(result.blocks):]:
            axis.set_visible(False)
        for axis, (name, block) in zip(axes.flat, result.blocks.items(), strict=False):
            for search_round in block.search.rounds if block.search else ():
                number = search_round.number
                measured = [100 * mean_score(scores) for scores in search_round.scores]
                axis.plot([number] * len(measured), measured, "o", color="C0",
                          label="measured (P)" if number == 0 else None)
                if search_round.predictions is not None:
                    axis.plot([number] * len(measured), [100 * q for q in search_round.predictions], "x", color="C1",
                              label="predicted (Q)" if number == 1 else None)
            axis.set(title=name, xlabel="round (0: initialization)", ylabel="score on search split (%)")
            integer_ticks(axis)
        legend_below(figure, axes[0][0], 2)
    return closed(figure)


register(TableFigure("search", search_figure, lambda result: result.searched))
