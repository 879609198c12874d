"""The explorer's widgets for Jupyter."""

from typing import Any

import ipywidgets as widgets
import pandas as pd

from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.experiments.explorer import Explorer


def panel(explorer: Explorer) -> widgets.Widget:
    """Menu of blocks, a slider a layer, and a button that recovers the model with the ranks of the sliders."""
    return Panel(explorer).box


class Panel:
    """Widgets around an `Explorer`; every change redraws the figures under them."""

    def __init__(self, explorer: Explorer):
        self._explorer = explorer
        blocks = [str(block) for block in explorer.profile.blocks()]
        self.block = widgets.Dropdown(options=blocks, description="block")
        self.seed = widgets.BoundedIntText(value=0, min=0, max=999, description="seed")
        self.button = widgets.Button(description="recover for real", icon="play")
        self.figures, self.sliders = widgets.Output(), widgets.HBox()
        self.block.observe(self._changed_block, "value")
        self.button.on_click(self._pressed)
        self.box = widgets.VBox([widgets.HBox([self.block, self.seed, self.button]), self.sliders, self.figures])
        self._changed_block()

    def ranks(self) -> list[int]:
        """Ranks of the sliders, one per layer of the unpruned model."""
        return [slider.value for slider in self.sliders.children]

    def _changed_block(self, _: Any = None) -> None:
        space = self._explorer.space(self.block.value)
        options = sorted({*space.candidates, space.fixed_rank})
        sliders = []
        for layer in range(space.architecture.original_layer_count):
            present = layer in space.architecture.original_layers
            slider = widgets.SelectionSlider(
                options=options if present else [0], value=space.fixed_rank if present else 0,
                description=str(layer + 1),
                orientation="vertical", disabled=layer not in space.free_layers,
                continuous_update=False, layout=widgets.Layout(width="52px"),
            )
            slider.observe(self._redraw, "value")
            sliders.append(slider)
        self.sliders.children = tuple(sliders)
        self._redraw()

    def _pressed(self, _: Any = None) -> None:
        self.button.disabled, self.button.description = True, "recovering ..."
        failed: BadInput | StageFailed | None = None
        try:
            self._explorer.recover(self.block.value, self.ranks(), self.seed.value)
        except (BadInput, StageFailed) as error:
            failed = error
        finally:
            self.button.disabled, self.button.description = False, "recover for real"
        self._redraw(failed=failed)

    def _redraw(self, _: Any = None, failed: BadInput | StageFailed | None = None) -> None:
        """Show all figures, and an error as a line among them.

        Outputs are assigned, not captured from what is printed: while output is captured, nbclient writes to the kernel
        while it waits for the kernel's answer, which it may then never see (jupyter_client sends past the socket it
        listens on).
        """
        try:
            figures = self._figures()
        except (BadInput, StageFailed) as error:
            figures, failed = [], failed or error
        self.figures.outputs = (*figures, *([_line(f"rankadaptor: {failed}")] if failed else []))

    def _figures(self) -> list[dict[str, Any]]:
        block, ranks, explorer = self.block.value, self.ranks(), self._explorer
        costs, prediction = explorer.costs(block, ranks), explorer.predicted(block, ranks)
        measured = explorer.measured(block, ranks)
        lines = [
            f"{costs.parameters:,} of {costs.budget:,} parameters ({100 * costs.parameters / costs.budget:.1f} %),"
            f" {'within' if costs.within else 'beyond'} the budget",
            "predicted: no table of this block" if prediction is None else
            f"predicted: {100 * prediction[0]:.2f} % gold probability on the search split (members differ by"
            f" {100 * prediction[1]:.2f} points)",
            "measured: not yet" if measured.empty else "measured, report split, percent:",
        ]  # fmt: skip
        tables = [table for table in (measured, explorer.nearest(block, ranks)) if not table.empty]
        return [*map(_line, lines), *map(_in_percent, tables)]


def _line(text: str) -> dict[str, Any]:
    """A notebook output that prints a line."""
    return {"output_type": "stream", "name": "stdout", "text": f"{text}\n"}


def _in_percent(table: pd.DataFrame) -> dict[str, Any]:
    """A notebook output that shows a table, its proportions in percent."""
    percent = [name for name in table if name in ("accuracy", "low", "high", "gold probability")]
    shown = table.assign(**{name: (100 * table[name]).round(2) for name in percent})
    return {"output_type": "display_data", "metadata": {},
            "data": {"text/plain": shown.to_string(), "text/html": shown.to_html()}}
