"""Runs steps on a ledger: reads the result of a step, or computes it, parents first, each once."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rankadaptor.errors import BadInput, NotInLedger, StageFailed
from rankadaptor.keys import identity_key, sha256_text, stage_identity
from rankadaptor.machine import computing_with
from rankadaptor.models.base_model import base_model_identity
from rankadaptor.pipeline import failures, provenance
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_files import Entry
from rankadaptor.pipeline.loaded_models import LoadedModels
from rankadaptor.pipeline.results import Results
from rankadaptor.pipeline.stages import STAGES
from rankadaptor.pipeline.stages.stage import Task
from rankadaptor.pipeline.step import Step
from rankadaptor.pipeline.time_limits import TimedOut, time_limit


class Runner:
    """Runs steps in this process.

    Attributes:
        results: Reads the results of steps.
        models: Models in memory.
        computed: (stage, key) of every step that this runner computed, in order.
        is_planning: Whether missing results are answered by placeholders; see `experiments.planning`.
        knows_layers: Whether the base model's layers are the real ones, not those of a stand-in.
    """

    is_planning = False
    knows_layers = True

    def __init__(self, inputs: Inputs, ledger: Ledger, on_progress: Callable[[Step, float], None] | None = None):
        """
        Args:
            inputs: Base model and data. A base model that is a folder is hashed here.
            ledger: Where results are.
            on_progress: Called with a step and the finished share of it, 0 to 1.
        """
        self.inputs, self.ledger = inputs, ledger
        self.computed: list[tuple[str, str]] = []
        self._report = on_progress or (lambda step, share: None)
        self._may_compute = True
        self._base_identity = base_model_identity(inputs.base_model)
        self._revisions = {name: stage.revisions(inputs) for name, stage in STAGES.items()}
        self.results = Results(inputs, self.run)
        self.models = LoadedModels(inputs, self.key, self.run)

    def key(self, step: Step) -> str:
        """Content address of a step's result. Downloads and computes nothing.

        Raises:
            BadInput: if the step's stage is not registered.
        """
        return identity_key(self._identity(step))

    def _identity(self, step: Step) -> dict[str, Any]:
        if step.stage not in self._revisions:
            raise BadInput(f"unknown stage {step.stage!r}: use one of {', '.join(self._revisions)}, or name the module"
                           " that registers it in RANKADAPTOR_PLUGINS")
        parent = self.key(step.parent) if step.parent else sha256_text(self._base_identity)
        return stage_identity(step.stage, step.spec, parent, self._revisions[step.stage])

    def model_and_rows(self) -> str:
        """Digest of the base model and of the instruction rows that recoveries are trained on."""
        return identity_key({"base_model": self._base_identity} | self._revisions["recover"])

    @contextlib.contextmanager
    def reading_only(self) -> Iterator[None]:
        """Inside, a result that the ledger lacks raises `NotInLedger` and is not computed."""
        self._may_compute = False
        try:
            yield
        finally:
            self._may_compute = True

    def find(self, step: Step) -> Entry | None:
        """The result of a step; None if the ledger lacks it."""
        return self.ledger.find(self.key(step))

    def run(self, step: Step) -> Entry:
        """The result of a step, from the ledger or computed now.

        The result of a recovery that diverged is the reason in place of an adapter, and so is that of its evaluation.

        Raises:
            NotInLedger: if the ledger lacks it, inside `reading_only`.
            StageFailed: if it, or a step that it is computed from, failed in all its attempts; see `failures`.
        """
        key = self.key(step)
        while (entry := self.ledger.find(key)) is None:
            if (failed := self._given_up(step)) is not None:
                raise failed
            if not self._may_compute:
                raise NotInLedger(f"{step.stage} {key[:12]} is not in {self.ledger.folder}")
            parent = self.run(step.parent) if step.parent else None
            try:
                return self._compute(step, key, parent)
            except (RuntimeError, MemoryError, OSError, TimedOut) as error:
                if not (kind := failures.kind_of(error)):
                    raise
                failures.note(self.ledger, key, step.stage, kind, str(error))
            self.release()  # after the except clause, whose traceback holds references to the model
            gc.collect()
        return entry

    def _compute(self, step: Step, key: str, parent: Entry | None) -> Entry:
        stage = STAGES[step.stage]

        def work(folder: Path) -> dict[str, Any]:
            started = provenance.Started.now()
            self._report(step, 0.0)
            task = Task(step, parent, folder, self.models, lambda share: self._report(step, share))
            with computing_with(self.inputs.threads), time_limit(self.inputs.stage_limit_s):
                result = stage.compute(task)
                made = provenance.of_stage(started, self.inputs.base_model.label)
            return {"stage": step.stage, "result": result, "provenance": made}

        entry, is_new = self.ledger.compute(key, self._identity(step), work)
        if is_new:
            self.computed.append((step.stage, key))
            self._report(step, 1.0)
        return entry

    def is_settled(self, step: Step) -> bool:
        """Whether nothing is left to compute: the step has a result, or its stage is not tried any more."""
        return self.find(step) is not None or self._given_up(step) is not None

    def is_elsewhere(self, step: Step) -> bool:
        """Whether another process computes the step, or the first missing step that it is computed from."""
        first = next((link for link in step.chain() if self.find(link) is None), None)
        return first is not None and self.ledger.is_elsewhere(self.key(first))

    def _given_up(self, step: Step) -> StageFailed | None:
        """The failure of a missing step that is not tried any more, or of a step that it is computed from."""
        for link in step.chain():
            if self.find(link) is None and (failed := failures.given_up(self.ledger, self.key(link))) is not None:
                return failed
        return None

    def release(self) -> None:
        """Free the model in memory."""
        self.models.release()
