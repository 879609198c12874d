"""Models in memory: the one that steps of a process were last computed from stays loaded for the next."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property

from transformers import PreTrainedModel

from rankadaptor.data.benchmarks import evaluation_rows
from rankadaptor.evaluation import Requests
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.models.base_model import base_model, base_model_folder
from rankadaptor.models.checkpoints import Tokenizer, load_model, load_tokenizer
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Entry
from rankadaptor.pipeline.step import Step
from rankadaptor.recovery.adapters import load_adapter, merged
from rankadaptor.recovery.loaded import LoadedModel


class LoadedModels:
    """Models, tokenizer and formed questions that stages of one process share."""

    def __init__(self, inputs: Inputs, key: Callable[[Step], str], result: Callable[[Step], Entry]):
        """
        Args:
            key: Content address of a step.
            result: Entry of a step, computed if the ledger lacks it.
        """
        self.inputs = inputs
        self._key, self._result = key, result
        self._kept: tuple[str, LoadedModel] | None = None  # key of a model, which stays in memory
        self._requests: dict[EvaluationSpec, Requests] = {}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return load_tokenizer(base_model_folder(self.inputs.base_model))

    def model(self, step: Step | None) -> PreTrainedModel:
        """The base model (None), a pruned one, or a recovered one with its adapter merged; a new copy."""
        if step is None:
            return base_model(self.inputs.base_model)
        entry = self._result(step)
        if step.stage == "recover":
            return merged(load_adapter(self.model(step.parent), entry.path("adapter")))
        return load_model(entry.path("model"))

    @contextlib.contextmanager
    def ready(self, step: Step | None) -> Iterator[PreTrainedModel]:
        """Yields the model of a step, ready to be measured; keeps its pruned base in memory for the next one."""
        if step is None or step.stage != "recover":
            with self.lent(step) as loaded:
                yield loaded.base
            return
        with self.lent(step.parent) as loaded, loaded.recovered(self._result(step).path("adapter")) as model:
            yield model

    @contextlib.contextmanager
    def lent(self, step: Step | None) -> Iterator[LoadedModel]:
        """Yields the base model (None) or a pruned one, and keeps it in memory.

        One model at a time is kept, and none that an error was raised over: it may be left with half an adapter.
        """
        key = self._key(step) if step else ""
        if self._kept is None or self._kept[0] != key:
            self.release()  # before the next one takes its memory
            self._kept = key, LoadedModel(self.model(step))
        try:
            yield self._kept[1]
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go of the model that is kept."""
        self._kept = None

    def requests(self, spec: EvaluationSpec) -> Requests:
        """The questions of an evaluation, formed and tokenised once for all models."""
        if spec not in self._requests:
            rows = {task: evaluation_rows(self.inputs.benchmarks, task, spec.split, spec.items_per_task,
                                          spec.item_seed, self.inputs.search_pool) for task in spec.tasks}
            self._requests[spec] = Requests(spec, rows, self.inputs.benchmarks)
        return self._requests[spec]
