"""Following an experiment's work without computing: what the ledger lacks is answered by placeholders, and counted.

So a plan is made by the very code that does the work, and cannot disagree with it.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rankadaptor.architecture import Architecture, LayerShape
from rankadaptor.data.sources import source_folder
from rankadaptor.errors import BadInput, NotInLedger, StageFailed
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.experiments.plan import StageKind, stage_kind
from rankadaptor.models.base_model import BaseModel, base_model_folder, base_model_is_cached
from rankadaptor.models.gate import read_architecture
from rankadaptor.pipeline.execution import Batches
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Entry, Ledger
from rankadaptor.pipeline.results import Results
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pruning import pruned_shapes
from rankadaptor.pruning.spec import PruneSpec
from rankadaptor.recovery.spec import RecoverySpec, adapter_method


class PlanningRunner(Runner):
    """A runner that computes nothing. Work that is driven by it sees real results where the ledger has them."""

    is_planning = True

    def __init__(self, inputs: Inputs, ledger: Ledger, dense: Architecture):
        """
        Args:
            dense: Shapes of the base model.
        """
        super().__init__(inputs, ledger)
        self.knows_layers = base_model_is_cached(inputs.base_model)
        self.results = PlannedResults(self, dense)
        self._keys: dict[Step, str] = {}

    def key(self, step: Step) -> str:
        """As of a `Runner`, each once: a plan asks for the keys of the same steps over and over."""
        if step not in self._keys:
            self._keys[step] = super().key(step)
        return self._keys[step]

    def run(self, step: Step) -> Entry:
        """The result of a step, from the ledger. Raises NotInLedger where it is missing, StageFailed as a run does."""
        with self.reading_only():
            return super().run(step)


class PlannedResults(Results):
    """Results of the ledger, or placeholders with which work goes on for as long as it possibly could."""

    def __init__(self, runner: PlanningRunner, dense: Architecture):
        super().__init__(runner.inputs, runner.run)
        self._dense, self._knows_layers = dense, runner.knows_layers
        self._number = itertools.count()

    def architecture(self, step: Step | None) -> Architecture:
        """Shapes of the base model (None) or of a pruning step, which configuration alone says."""
        if step is None:
            return self._dense
        try:
            return super().architecture(step)
        except NotInLedger:
            assert isinstance(step.spec, PruneSpec)
            try:
                return pruned_shapes(self._dense, step.spec)
            except BadInput:
                if self._knows_layers and step.spec.ranking == "local":
                    raise  # as a run would, hours later
                return self._dense  # widths that only the weights decide, or a stand-in's that do not fit

    def metrics(self, step: Step) -> dict[str, dict[str, float]]:
        """Placeholders for an evaluation: the best on one task after the other, and in between the best on the mean.

        So no two tasks, nor a task and the mean, have the same best allocation, and the plan counts one for each.
        """
        try:
            return super().metrics(step)
        except NotInLedger:
            assert isinstance(step.spec, EvaluationSpec)
            tasks, number = step.spec.tasks, next(self._number)
            best = number % (len(tasks) + 1)
            scores = [0.5 + 1e-6 * number] * len(tasks)
            if best < len(tasks):
                scores = [float(place == best) for place in range(len(tasks))]
            return {task: dict.fromkeys(("acc", "acc_norm", "gold_probability"), score)
                    for task, score in zip(tasks, scores, strict=True)}

    def perplexity(self, step: Step) -> float:
        """A placeholder for the result of a perplexity step."""
        try:
            return super().perplexity(step)
        except NotInLedger:
            return 1.0 + next(self._number)

    def read_json(self, step: Step, name: str) -> Any:
        """Placeholders for a pruning step's files, `importance.json` and `kept.json`; see `pruning.checkpoints`."""
        try:
            return super().read_json(step, name)
        except NotInLedger:
            return self._placeholder(self.architecture(step), name)

    def _placeholder(self, pruned: Architecture, name: str) -> dict[str, Any]:
        """Importance grows with the layer, so that ranks by it are none of LoRA's."""
        if len(pruned.layers) < pruned.original_layer_count:
            scores = [1.0 + layer for layer in range(pruned.original_layer_count)]
            return {"blocks": scores if name == "importance.json" else list(pruned.original_layers)}
        if name == "importance.json":
            return {"layers": [{"kv_heads": [1.0 + layer] * shape.kv_heads, "channels": [1.0 + layer] * shape.mlp_width}
                               for layer, shape in enumerate(self._dense.layers)]}
        return {"layers": [{"kv_heads": list(range(shape.kv_heads)), "channels": list(range(shape.mlp_width))}
                           for shape in pruned.layers]}


def base_architecture(base: BaseModel, layers: int = 0) -> Architecture:
    """Shapes of a base model; of a stand-in with some number of layers where it is not on this machine yet."""
    if base.source.kind == "dir" and base.gguf is None:  # whose weights may stand in the way: `preflight` says so
        return read_architecture(source_folder(base.source, lambda _: True))
    if base_model_is_cached(base) or not layers:
        return read_architecture(base_model_folder(base))
    shape = LayerShape(heads=32, kv_heads=32, mlp_width=11008)  # LLaMA-7B's: only counts of steps are read off
    return Architecture(4096, 128, 32000, False, (shape,) * layers, tuple(range(layers)), layers)


class StepCount:
    """Distinct steps of some work, by kind: how many there are at most, and how many the ledger lacks."""

    def __init__(self) -> None:
        self.needed: Counter[StageKind] = Counter()
        self.missing: Counter[StageKind] = Counter()
        self.keys: set[str] = set()  # of every step

    def follow(self, runner: PlanningRunner, work: Batches) -> None:
        """Drive work to its end and count its steps; work that comes to a failed stage ends there, as in a run."""
        try:
            for batch in work:
                self._add(runner, batch)
        except StageFailed:
            return

    def _add(self, runner: PlanningRunner, steps: Iterable[Step]) -> None:
        for link in itertools.chain.from_iterable(step.chain() for step in steps):
            if (key := runner.key(link)) in self.keys:
                continue
            self.keys.add(key)
            self.needed[stage_kind(link)] += 1
            if not runner.is_settled(link):
                self.missing[stage_kind(link)] += 1
                _check_recovery(runner, link)


def _check_recovery(runner: PlanningRunner, step: Step) -> None:
    """Raise BadInput where a method could not recover the pruned model of a step, whose shapes are known.

    Which layers depth pruning leaves is not, and no matter to methods that give every layer one rank.
    """
    if isinstance(step.spec, RecoverySpec) and step.spec.method != "lora" and runner.knows_layers:
        pruned = runner.results.architecture(step.parent)
        adapter_method(step.spec.method).peft_config(step.spec, pruned)
