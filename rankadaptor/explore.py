"""Exploring allocations by hand: what ranks cost, what they are predicted to score, and what was really measured.

    explorer = Explorer("tiny")
    explorer.costs("llm-pruner:50", ranks)       # parameters against the budget
    explorer.predicted("llm-pruner:50", ranks)   # by the performance model, from the table of measured allocations
    explorer.measured("llm-pruner:50", ranks)    # what the ledger holds of exactly these ranks
    explorer.nearest("llm-pruner:50", ranks)     # the measured allocations most like them
    explorer.recover("llm-pruner:50", ranks)     # for real
    explorer.panel()                             # all of that with a slider a layer, in Jupyter
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ipywidgets as widgets
import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation, SolutionSpace, trainable_parameters, validate_allocation
from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.evaluation.items import METRIC
from rankadaptor.experiments import DEFAULT_LEDGER
from rankadaptor.ledger import Ledger
from rankadaptor.predictors import make_predictor
from rankadaptor.profiles import load_profile
from rankadaptor.records import COMMITTED, read_table, record, rows_of
from rankadaptor.search import mean_score
from rankadaptor.specs import TASKS, Block
from rankadaptor.stages import Step, Workshop
from rankadaptor.statistics import Interval, bootstrap_macro_mean


class Costs(NamedTuple):
    parameters: int  # that the adapters train
    budget: int  # of LoRA with one rank
    within: bool  # the budget and its tolerance, and every rank a candidate


class Explorer:
    """One profile, one ledger.

    Raises:
        BadInput: on an unknown profile or budget.
    """

    def __init__(self, profile: str = "tiny", budget: str = "standard", ledger: Path | str = DEFAULT_LEDGER):
        self.profile = load_profile(profile)
        self.budget = self.profile.budget(budget)
        self._workshop = Workshop(self.profile, Ledger(ledger))
        self._spaces: dict[str, SolutionSpace] = {}
        self._known: dict[str, pd.DataFrame] = {}

    def space(self, block: str) -> SolutionSpace:
        """S of a block; prunes it if the ledger lacks that."""
        if block not in self._spaces:
            parsed = Block.parse(block)
            architecture = self._workshop.architecture(Step("prune", self.profile.prune_spec(parsed)))
            self._spaces[block] = self.profile.solution_space(parsed, architecture)
        return self._spaces[block]

    def costs(self, block: str, ranks: Sequence[int]) -> Costs:
        """Raises BadInput if the ranks do not fit the pruned model."""
        space, allocation = self.space(block), self._checked(block, ranks)
        parameters = trainable_parameters(allocation, space.architecture)
        return Costs(parameters, space.budget_params or 0, space.contains(allocation))

    def known(self, block: str) -> pd.DataFrame:
        """What the committed table holds of a block: allocation, gold probability (means over two trainings, search
        split); empty where it holds nothing, or is of another model."""
        if block not in self._known:
            table, layers = read_table(COMMITTED), self.space(block).architecture.original_layer_count
            scores: dict[RankAllocation, float] = {}
            if block in set(table["block"]):
                found = record(rows_of(table, block, self.profile.adapters.scaling), block, "gold_probability")
                if len(found.allocations[0]) == layers:
                    scores = dict(zip(found.allocations, map(mean_score, found.scores), strict=True))
            self._known[block] = pd.DataFrame({"allocation": list(scores), "gold probability": list(scores.values())})
        return self._known[block]

    def predicted(self, block: str, ranks: Sequence[int]) -> tuple[float, float] | None:
        """Gold probability on the search split by the profile's predictor, and its spread over members; None where no
        allocation of the block was measured."""
        known, space = self.known(block), self.space(block)
        if known.empty:
            return None
        method = self.profile.search.method
        predictor = make_predictor(method.predictor, 0)
        scores = known["gold probability"].to_numpy()[:, None]
        predictor.fit(space.encode(list(known["allocation"]), method.inputs), scores)
        found = predictor.predict(space.encode([self._checked(block, ranks)], method.inputs))
        return float(found.mean[0]), float(found.spread[0])

    def nearest(self, block: str, ranks: Sequence[int], count: int = 5) -> pd.DataFrame:
        """Measured allocations by distance: the sum over layers of how often a rank must double or halve."""
        known = self.known(block)
        logarithms = [np.log2(np.maximum(1, one)) for one in [self._checked(block, ranks), *known["allocation"]]]
        distance = [float(np.abs(one - logarithms[0]).sum()) for one in logarithms[1:]]
        return known.assign(distance=distance).sort_values("distance", kind="stable").head(count).reset_index(drop=True)

    def measured(self, block: str, ranks: Sequence[int]) -> pd.DataFrame:
        """What the ledger holds of exactly these ranks on the report split.

        Returns:
            One row a training seed: seed, accuracy with its 95 % interval over items, gold probability; proportions.
        """
        lines = []
        search = self.profile.search.training_seed
        for seed in dict.fromkeys([*self.budget.training_seeds, search, search + 1]):
            step = self._step(block, ranks, seed)
            if self._workshop.find(step) is not None:
                lines.append({"seed": seed, **self._scores(step)})
        return pd.DataFrame(lines, columns=["seed", "accuracy", "low", "high", "gold probability"])

    def recover(self, block: str, ranks: Sequence[int], seed: int = 0) -> pd.DataFrame:
        """Recover and score for real; kept in the ledger. Raises StageFailed if that fails."""
        self._workshop.run(self._step(block, ranks, seed))
        return self.measured(block, ranks)

    def _checked(self, block: str, ranks: Sequence[int]) -> RankAllocation:
        return validate_allocation(tuple(ranks), self.space(block).architecture)

    def _step(self, block: str, ranks: Sequence[int], seed: int) -> Step:
        allocation, rate = self._checked(block, ranks), self.budget.learning_rates[0]
        pruned = Step("prune", self.profile.prune_spec(Block.parse(block)))
        recovered = Step("recover", self.profile.lora_spec(self.budget, allocation, rate, seed), pruned)
        return Step("evaluate", self.profile.evaluation_spec(self.budget, "report"), recovered)

    def _scores(self, step: Step) -> dict[str, float]:
        try:
            items = self._workshop.items(step)
        except StageFailed:
            return dict.fromkeys(("accuracy", "low", "high", "gold probability"), float("nan"))
        outcomes = {task: items.loc[items["task"] == task, METRIC[task]].to_numpy(dtype=float)[None] for task in TASKS}
        interval: Interval = bootstrap_macro_mean(outcomes)
        gold = items.groupby("task")["gold_probability"].mean().mean()
        return {"accuracy": interval.value, "low": interval.low, "high": interval.high, "gold probability": float(gold)}

    # -- widgets ------------------------------------------------------------------------------------------------------

    def panel(self) -> widgets.Widget:
        """Pruner and rate, a slider a layer, and a button that recovers for real."""
        return _Panel(self).box


class _Panel:
    """Widgets around an `Explorer`; every change redraws the figures beneath."""

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
        return [slider.value for slider in self.sliders.children]

    def _changed_block(self, _: Any = None) -> None:
        space = self._explorer.space(self.block.value)
        options = sorted({*space.candidates, space.fixed_rank})
        made = []
        for layer in range(space.architecture.original_layer_count):
            there = layer in space.architecture.original_layers
            slider = widgets.SelectionSlider(
                options=options if there else [0], value=space.fixed_rank if there else 0, description=str(layer + 1),
                orientation="vertical", disabled=layer not in space.free_layers, continuous_update=False,
                layout=widgets.Layout(width="52px"),
            )
            slider.observe(self._redraw, "value")
            made.append(slider)
        self.sliders.children = tuple(made)
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
        """All figures at once; what went wrong is a line among them.

        Made here, not captured from what is printed: over captured output nbclient writes to the kernel while it waits
        for the kernel's answer, which it may then never see (jupyter_client sends past the socket it listens on).
        """
        try:
            figures = self._figures()
        except (BadInput, StageFailed) as error:
            figures, failed = [], failed or error
        self.figures.outputs = (*figures, *([_line(f"rankadaptor: {failed}")] if failed else []))

    def _figures(self) -> list[dict[str, Any]]:
        block, ranks, explorer = self.block.value, self.ranks(), self._explorer
        costs, found = explorer.costs(block, ranks), explorer.predicted(block, ranks)
        measured = explorer.measured(block, ranks)
        lines = [
            f"{costs.parameters:,} of {costs.budget:,} parameters ({100 * costs.parameters / costs.budget:.1f} %),"
            f" {'within' if costs.within else 'beyond'} the budget",
            "predicted: no table of this block" if found is None else
            f"predicted: {100 * found[0]:.2f} % gold probability on the search split (members differ by"
            f" {100 * found[1]:.2f} points)",
            "measured: not yet" if measured.empty else "measured, report split, percent:",
        ]  # fmt: skip
        tables = [table for table in (measured, explorer.nearest(block, ranks)) if not table.empty]
        return [*map(_line, lines), *map(_in_percent, tables)]


def _line(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": f"{text}\n"}


def _in_percent(table: pd.DataFrame) -> dict[str, Any]:
    percent = [name for name in table if name in ("accuracy", "low", "high", "gold probability")]
    shown = table.assign(**{name: (100 * table[name]).round(2) for name in percent})
    return {"output_type": "display_data", "metadata": {},
            "data": {"text/plain": shown.to_string(), "text/html": shown.to_html()}}
