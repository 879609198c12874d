"""Runs steps on a ledger: finds the result of a step, or computes it, parents first, each once."""

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rankadaptor.errors import NotInLedger, StageFailed
from rankadaptor.keys import identity_key, sha256_text, stage_identity
from rankadaptor.machine import computing_with
from rankadaptor.models.base_model import base_model_identity
from rankadaptor.pipeline import failures, provenance
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Entry, Ledger
from rankadaptor.pipeline.loaded_models import LoadedModels
from rankadaptor.pipeline.results import Results
from rankadaptor.pipeline.stages import STAGES
from rankadaptor.pipeline.stages.stage import Task
from rankadaptor.pipeline.step import Step
from rankadaptor.pipeline.time_limits import TimedOut, within


class Runner:
    """Runs steps in this process.

    Attributes:
        results: Reads what steps left.
        models: Models in memory.
        computed: (stage, key) of every step that this runner computed, in order.
        is_planning: Whether missing results are answered by placeholders; see `experiments.planning`.
    """

    is_planning = False

    def __init__(self, inputs: Inputs, ledger: Ledger, on_progress: Callable[[Step, float], None] | None = None):
        """
        Args:
            on_progress: Called with a step and the share of it that is done, 0 to 1.
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
        """Content address of a step's result; nothing is downloaded or computed."""
        return identity_key(self._identity(step))

    def _identity(self, step: Step) -> dict[str, Any]:
        parent = self.key(step.parent) if step.parent else sha256_text(self._base_identity)
        return stage_identity(step.stage, step.spec, parent, self._revisions[step.stage])

    def model_and_rows(self) -> str:
        """Digest of the base model and of the rows that recoveries learn from."""
        return identity_key({"base_model": self._base_identity} | self._revisions["recover"])

    @contextlib.contextmanager
    def reading_only(self) -> Iterator[None]:
        """Within, a result that the ledger lacks raises `NotInLedger` instead of being computed."""
        self._may_compute = False
        try:
            yield
        finally:
            self._may_compute = True

    def find(self, step: Step) -> Entry | None:
        """The result of a step if the ledger has it."""
        return self.ledger.find(self.key(step))

    def run(self, step: Step) -> Entry:
        """The result of a step, from the ledger or computed now.

        A recovery that diverged has a result as well, which says so in place of an adapter; and so has its evaluation.

        Raises:
            NotInLedger: if it is missing, within `reading_only`.
            StageFailed: if it, or what it is computed from, failed as often as it may be tried; see `failures`.
        """
        key = self.key(step)
        while (entry := self.ledger.find(key)) is None:
            if (failed := self._given_up(step)) is not None:
                raise failed
            if not self._may_compute:
                raise NotInLedger(f"{step.stage} {key[:12]} is not in {self.ledger.folder}")
            parent = self.run(step.parent) if step.parent else None
            try:
                return self._computed(step, key, parent)
            except (RuntimeError, MemoryError, OSError, TimedOut) as error:
                if not (kind := failures.kind_of(error)):
                    raise
                failures.note(self.ledger, key, step.stage, kind, str(error))
            self.release()  # here, where no traceback holds the memory any more
            gc.collect()
        return entry

    def _computed(self, step: Step, key: str, parent: Entry | None) -> Entry:
        stage = STAGES[step.stage]

        def work(folder: Path) -> dict[str, Any]:
            started = provenance.Started.now()
            self._report(step, 0.0)
            task = Task(step, parent, folder, self.models, lambda share: self._report(step, share))
            with computing_with(self.inputs.threads), within(self.inputs.stage_limit_s):
                result = stage.compute(task)
                made = provenance.of_stage(started, self.inputs.base_model.label)
            return {"stage": step.stage, "result": result, "provenance": made}

        entry, is_new = self.ledger.compute(key, self._identity(step), work)
        if is_new:
            self.computed.append((step.stage, key))
            self._report(step, 1.0)
        return entry

    def is_settled(self, step: Step) -> bool:
        """Whether there is nothing to compute: a result, or a stage that is not tried any more."""
        return self.find(step) is not None or self._given_up(step) is not None

    def is_elsewhere(self, step: Step) -> bool:
        """Whether another process computes what a step waits for."""
        first = next((link for link in step.chain() if self.find(link) is None), None)
        return first is not None and self.ledger.is_elsewhere(self.key(first))

    def _given_up(self, step: Step) -> StageFailed | None:
        """Why a step that the ledger lacks has no result: it, or what it is computed from, is not tried any more."""
        for link in step.chain():
            if self.find(link) is None and (failed := failures.given_up(self.ledger, self.key(link))) is not None:
                return failed
        return None

    def release(self) -> None:
        """Let go of the model that is kept in memory."""
        self.models.release()
