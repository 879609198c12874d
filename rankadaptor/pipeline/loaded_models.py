"""Models in memory: the model of a process's last step stays loaded for the next step."""

import contextlib
from collections.abc import Callable, Iterator
from functools import cached_property

from transformers import PreTrainedModel

from rankadaptor.data.benchmarks import evaluation_rows
from rankadaptor.evaluation import Requests
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.models.base_model import base_model, base_model_folder
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.tokenizers import Tokenizer, load_tokenizer
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger_files import Entry
from rankadaptor.pipeline.step import Step
from rankadaptor.recovery.adapters import load_adapter
from rankadaptor.recovery.loaded import LoadedModel
from rankadaptor.recovery.merging import merged


class LoadedModels:
    """Models, tokenizer and tokenised questions that the stages of one process share."""

    def __init__(self, inputs: Inputs, key: Callable[[Step], str], result: Callable[[Step], Entry]):
        """
        Args:
            inputs: Base model and data.
            key: Content address of a step.
            result: Entry of a step, computed if the ledger lacks it.
        """
        self.inputs = inputs
        self._key, self._result = key, result
        self._loaded: tuple[str, LoadedModel] | None = None  # key of the model in memory, and the model
        self._requests: dict[EvaluationSpec, Requests] = {}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The base model's tokenizer."""
        return load_tokenizer(base_model_folder(self.inputs.base_model))

    def model(self, step: Step | None) -> PreTrainedModel:
        """A new copy of the base model (None), a pruned model, or a recovered model with its adapter merged."""
        if step is None:
            return base_model(self.inputs.base_model)
        entry = self._result(step)
        if step.stage == "recover":
            return merged(load_adapter(self.model(step.parent), entry.path("adapter")))
        return load_model(entry.path("model"))

    @contextlib.contextmanager
    def ready(self, step: Step | None) -> Iterator[PreTrainedModel]:
        """Yields the model of a step, ready to be evaluated; keeps its pruned base in memory for the next step."""
        if step is None or step.stage != "recover":
            with self.loaded(step) as loaded:
                yield loaded.base
            return
        with self.loaded(step.parent) as loaded, loaded.recovered(self._result(step).path("adapter")) as model:
            yield model

    @contextlib.contextmanager
    def loaded(self, step: Step | None) -> Iterator[LoadedModel]:
        """Yields the base model (None) or a pruned model, and keeps it in memory.

        Keeps one model at a time. Releases it after an error, which may leave it with half an adapter.
        """
        key = self._key(step) if step else ""
        if self._loaded is None or self._loaded[0] != key:
            self.release()  # before the next model takes its memory
            self._loaded = key, LoadedModel(self.model(step))
        try:
            yield self._loaded[1]
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Free the model in memory."""
        self._loaded = None

    def requests(self, spec: EvaluationSpec) -> Requests:
        """The questions of an evaluation, formed and tokenised once for all models."""
        if spec not in self._requests:
            rows = {task: evaluation_rows(self.inputs.benchmarks, task, spec.split, spec.items_per_task,
                                          spec.item_seed, self.inputs.search_pool) for task in spec.tasks}
            self._requests[spec] = Requests(spec, rows, self.inputs.benchmarks)
        return self._requests[spec]
