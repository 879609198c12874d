"""How every figure looks, and how it is saved: change a figure's style here.

Colours are matplotlib's cycle and `cividis`, both safe for colour-blind readers. Files are SVG and PNG without dates,
so that equal data give equal files.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

MARKERS = ("o", "s", "^", "D", "v", "P")  # one a series of points
LINES = ("-", "--", "-.", ":")  # one a series of lines
DASHES = ((0, (1, 3)), (0, (7, 2)), (0, (4, 2, 1, 2, 1, 2)))  # of horizontal lines to compare with
AXIS_LINE: Any = {"color": "0.4", "linewidth": 1}  # where a difference is 0
REFERENCE_LINE: Any = {"color": "0.4", "linestyle": "--", "linewidth": 1}  # the dense model's score
HEAT_MAP: Any = {"annot": True, "cmap": "cividis", "cbar": False}  # arguments of every `seaborn.heatmap`
_RC: Any = {"svg.hashsalt": "rankadaptor", "svg.fonttype": "none", "figure.dpi": 120, "savefig.bbox": "tight",
            "text.parse_math": False}  # a label with dollar signs is no formula


@contextmanager
def figure_style(grid: bool = True) -> Iterator[None]:
    """Everything drawn inside has the package's style; heat maps go without a grid."""
    with matplotlib.rc_context(_RC), sns.axes_style("whitegrid" if grid else "white"):
        yield


def reach(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far intervals reach below and above their value, for `errorbar`.  # (2, points)"""
    return np.maximum(0, [value - low, high - value])  # rounding of the last digit may give less than 0


def layer_ticks(axis: plt.Axes) -> None:
    """Small numbers of decoder layers along the x axis, upright."""
    axis.tick_params(axis="x", rotation=0, labelsize=7)


def legend_below(figure: Figure, axis: plt.Axes, columns: int) -> None:
    """One legend for all panels, under them, with the entries of one of them."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def integer_ticks(axis: plt.Axes) -> None:
    """Ticks of the x axis at whole numbers alone, such as layers or rounds."""
    axis.locator_params(axis="x", integer=True)


def closed(figure: Figure) -> Figure:
    """The figure, closed in pyplot, so that a notebook does not draw it a second time."""
    plt.close(figure)
    return figure


def save_figures(figures: Mapping[str, Figure], folder: Path | str, name: str) -> None:
    """Write NAME-FIGURE.svg and NAME-FIGURE.png of every figure."""
    for figure_name, figure in figures.items():
        save_figure(figure, folder, f"{name}-{figure_name}")


def save_figure(figure: Figure, folder: Path | str, name: str) -> None:
    """Write NAME.svg and NAME.png."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_RC):
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
