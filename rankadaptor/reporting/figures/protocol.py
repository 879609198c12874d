"""The figure of the paper's protocol: gains as it prints them, and on unseen questions; and the best of N seeds."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rankadaptor.experiments.paper_protocol import PLAYERS, ProtocolResult
from rankadaptor.reporting.style import AXIS_LINE, MARKERS, closed, figure_style, integer_ticks, legend_below, reach
from rankadaptor.reporting.tables.protocol import PUBLISHED, best_of_frame, protocol_frame

_SHIFTS = (0.12, -0.12, 0)  # of a row's gains, up and down


def protocol_figure(result: ProtocolResult) -> Figure:
    """A line of panels a block: every player's gain over LoRA, printed and real; the best of N seeds of LoRA by N."""
    frame, seeds = protocol_frame(result), best_of_frame(result)
    blocks = list(dict.fromkeys(frame["block"]))
    with figure_style():
        figure, axes = plt.subplots(len(blocks), 2, figsize=(10.4, 3.2 * len(blocks) + 0.5), squeeze=False,
                                    layout="constrained", width_ratios=(3, 2))
        for (left, right), block in zip(axes, blocks, strict=True):
            rows = frame[frame["block"] == block].reset_index(drop=True)
            _draw_gains(left, rows)
            left.set(title=block, xlabel="accuracy - LoRA r=8 (points)")
            _draw_seeds(right, seeds[seeds["block"] == block], rows)
            right.set(title=f"{block}: LoRA, best of N seeds", xlabel="N, chosen for each task by the reported items",
                      ylabel="gain over the mean (points)")
        legend_below(figure, axes[0][0], 2)
    return closed(figure)


def _draw_gains(axis: plt.Axes, rows: pd.DataFrame) -> None:
    """A row a player; its two gains side by side."""
    places = np.arange(len(rows))[::-1]
    played = rows["method"].isin(PLAYERS)
    for number, (view, label, shown) in enumerate((
        ("reported", "as the protocol prints it", played), ("unseen", "fresh seeds, unseen questions", played),
        ("unseen", "chosen by nothing, reported questions", ~played & rows["unseen"].notna()),
    )):
        value, low, high = rows.loc[shown, [view, f"{view}_low", f"{view}_high"]].to_numpy(dtype=float).T
        axis.errorbar(value, places[shown] + _SHIFTS[number], xerr=reach(value, low, high),
                      fmt=MARKERS[number], color=f"C{number}", capsize=3, label=label)
    published = rows["method"] == PUBLISHED
    axis.plot(rows.loc[published, "reported"], places[published], MARKERS[3], color="C3", label="printed in the paper")
    axis.axvline(0, **AXIS_LINE)
    axis.set_yticks(places, rows["method"])


def _draw_seeds(axis: plt.Axes, seeds: pd.DataFrame, rows: pd.DataFrame) -> None:
    """The curve over N, and the paper's printed gain."""
    axis.plot(seeds["seeds"], seeds["gain"], "-", color="C0")
    for gain in rows.loc[rows["method"] == PUBLISHED, "reported"]:
        axis.axhline(gain, color="C3", linestyle=":")
    axis.set_ylim(bottom=0)
    integer_ticks(axis)
