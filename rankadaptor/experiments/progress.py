"""How far a run is, as a bar over estimated seconds, and what it says of its data when it ends."""

import contextlib
import sys
from collections.abc import Iterator

from tqdm import tqdm

from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.experiments.plan import stage_kind, stage_seconds
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pruning.spec import PruneSpec
from rankadaptor.recovery.spec import RecoverySpec


class ProgressBar:
    """A bar over estimated seconds; its remaining time follows the speed really seen."""

    def __init__(self, cost: Cost | None):
        """
        Args:
            cost: What stages cost; None: no bar is shown.
        """
        self._cost = cost
        self._bar: tqdm | None = None
        self._finished = self._total = 0.0

    @contextlib.contextmanager
    def over(self, seconds: float) -> Iterator[None]:
        """Show a bar of so many estimated seconds while the body runs; none if there is nothing to do."""
        if not seconds:
            yield
            return
        layout = "{desc} {percentage:3.0f}%|{bar:20}| {elapsed} gone, {remaining} to go"
        self._finished, self._total = 0.0, seconds
        with tqdm(total=seconds, file=sys.stderr, bar_format=layout, mininterval=5, ncols=100) as self._bar:
            yield
            self._bar.set_description_str("done", refresh=False)
            self._bar.update(max(0.0, seconds - self._bar.n))
        self._bar = None

    def on_progress(self, step: Step, share: float) -> None:
        """A `Runner` reports here."""
        if self._bar is None or self._cost is None:
            return
        seconds = stage_seconds(stage_kind(step), self._cost)
        self._bar.set_description_str(f"{_label(step):<34}", refresh=False)
        reached = min(self._finished + share * seconds, self._total)
        self._bar.update(max(0.0, reached - self._bar.n))
        if share >= 1:
            self._finished += seconds


def print_rows_left_out(runner: Runner) -> None:
    """Print to stderr how many recovery rows the recoveries of a run did not train on, if any."""
    for stage, key in runner.computed:
        if stage != "recover" or (entry := runner.ledger.find(key)) is None:
            continue
        result = entry.result["result"]
        if result.get("rows_left_out"):
            print(f"{result['rows_left_out']:,} of {result['rows_read']:,} recovery rows were left out: they share 13"
                  " words in a row with an item that is scored", file=sys.stderr, flush=True)
        if "rows_read" in result:
            return  # of one run all recoveries read the same rows


def _label(step: Step) -> str:
    """The text of a bar for a step, such as `recover llm-pruner:20 lora`."""
    parts = [step.stage]
    specs = {link.stage: link.spec for link in step.chain()}
    pruning = specs.get("prune")
    parts.append(f"{pruning.method}:{pruning.rate_percent}" if isinstance(pruning, PruneSpec) else "dense")
    parts += [spec.method for spec in specs.values() if isinstance(spec, RecoverySpec)]
    parts += [step.spec.split] if isinstance(step.spec, EvaluationSpec) else []
    return " ".join(parts)
