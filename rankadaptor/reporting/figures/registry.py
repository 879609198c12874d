"""The registry of figures: which figures a table is drawn as."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from rankadaptor.experiments.results import TableResult
from rankadaptor.plugins import add_entry


@dataclass(frozen=True)
class TableFigure:
    """One figure of tables.

    Attributes:
        name: NAME of the files TABLE-NAME.svg and TABLE-NAME.png.
        draw: Draws it.
        suits: Whether a table has what it shows.
    """

    name: str
    draw: Callable[[TableResult], Figure]
    suits: Callable[[TableResult], bool] = lambda result: True


FIGURES: dict[str, TableFigure] = {}


def register(figure: TableFigure) -> None:
    """Draw a figure for every table that it suits.

    Raises:
        BadInput: if another figure has its name.
    """
    add_entry(FIGURES, "figure", figure.name, figure)


def table_figures(result: TableResult) -> dict[str, Figure]:
    """Every figure that suits a table, by name."""
    return {figure.name: figure.draw(result) for figure in FIGURES.values() if figure.suits(result)}
