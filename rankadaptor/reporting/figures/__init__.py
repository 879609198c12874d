"""Figures of a table. A figure is one entry of `registry.FIGURES`; `reporting.style` has how all of them look."""

from rankadaptor.reporting.figures import accuracy, ceiling, ranks, rounds  # noqa: F401  they register their figures, in order
from rankadaptor.reporting.figures.accuracy import task_figure
from rankadaptor.reporting.figures.protocol import protocol_figure
from rankadaptor.reporting.figures.ranks import projection_figure
from rankadaptor.reporting.figures.registry import FIGURES, TableFigure, register, table_figures
from rankadaptor.reporting.style import save_figure, save_figures

__all__ = [
    "FIGURES",
    "TableFigure",
    "projection_figure",
    "protocol_figure",
    "register",
    "save_figure",
    "save_figures",
    "table_figures",
    "task_figure",
]
