"""The figure of the ceiling test: what one rank in every layer adds over LoRA, by rank and scaling."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from rankadaptor.experiments.results import TableResult
from rankadaptor.experiments.tables import LEAST_GAIN
from rankadaptor.reporting.figures.registry import TableFigure, register
from rankadaptor.reporting.style import AXIS_LINE, LINES, MARKERS, closed, figure_style, legend_below, reach
from rankadaptor.reporting.tables.ceiling import SCALING_LABELS, ceiling_frame


def ceiling_figure(result: TableResult) -> Figure:
    """Gain over LoRA by the rank of every layer, a panel a block; the dotted line is the least gain that is claimed."""
    frame = ceiling_frame(result)
    ranks = sorted(set(frame.loc[frame["rank"] > 0, "rank"]))
    with figure_style():
        columns = min(2, len(result.blocks))
        lines = -(-len(result.blocks) // columns)
        figure, axes = plt.subplots(lines, columns, figsize=(5.2 * columns, 3.1 * lines + 0.5), squeeze=False,
                                    sharey=True, layout="constrained")
        for axis in axes.flat[len(result.blocks):]:
            axis.set_visible(False)
        for axis, name in zip(axes.flat, result.blocks, strict=False):
            _draw_block(axis, frame[frame["block"] == name], result.profile.adapters.lora_rank)
            axis.axhline(0, **AXIS_LINE)
            axis.axhline(100 * LEAST_GAIN, color="C3", linestyle=":", label=f"claimed: +{100 * LEAST_GAIN:.1f}")
            axis.set_xscale("log", base=2)
            axis.set_xticks(ranks, [str(rank) for rank in ranks])
            axis.minorticks_off()
            axis.set(title=name, xlabel="rank of every layer", ylabel="accuracy - LoRA r=8 (points)")
        legend_below(figure, axes[0][0], 3)
    return closed(figure)


def _draw_block(axis: plt.Axes, rows: pd.DataFrame, lora_rank: int) -> None:
    """A line a scaling, and a star where the best of the rank table lies; its size is LoRA's."""
    for number, (scaling, of_scaling) in enumerate(rows.groupby("scaling", sort=False)):
        label, shift = SCALING_LABELS[str(scaling)], 1.03 ** (2 * number - 1)
        uniform = of_scaling[of_scaling["rank"] > 0].sort_values("rank")
        value, low, high = uniform[["difference", "low", "high"]].to_numpy().T
        axis.errorbar(uniform["rank"] * shift, value, yerr=reach(value, low, high), fmt=MARKERS[number],
                      linestyle=LINES[number], color=f"C{number}", capsize=3, label=label)
        best = of_scaling[of_scaling["rank"] == 0]
        if len(best):
            value, low, high = best[["difference", "low", "high"]].to_numpy().T
            axis.errorbar([lora_rank * shift**4], value, yerr=reach(value, low, high), fmt="*", markersize=11,
                          color=f"C{number}", capsize=3, label=f"best of the rank table, {label}")


register(TableFigure("curve", ceiling_figure, lambda result: result.contents.name == "ceiling"))
