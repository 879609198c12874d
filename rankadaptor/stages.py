"""The stages, each a pure function of its spec and its parent, each computed once.

A `Step` says what is wanted and from what; a `Workshop` knows its key, finds it in the ledger or computes it, parents
first.
"""

import contextlib
import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from rankadaptor import evaluation, failures, provenance
from rankadaptor.architecture import Architecture
from rankadaptor.cores import computing_with
from rankadaptor.corpora.benchmarks import Row, benchmark_identity, evaluation_rows
from rankadaptor.corpora.recovery_rows import recovery_identity, recovery_rows
from rankadaptor.corpora.text import calibration_texts, calibration_windows, perplexity_identity, perplexity_texts
from rankadaptor.errors import NotInLedger, RecoveryDiverged, StageFailed
from rankadaptor.evaluation.generation import continuations
from rankadaptor.evaluation.items import task_metrics
from rankadaptor.evaluation.perplexity import perplexity
from rankadaptor.ledger import Entry, Ledger
from rankadaptor.models import (
    Tokenizer,
    architecture_of,
    base_model,
    base_model_folder,
    base_model_identity,
    load_model,
    load_tokenizer,
    read_architecture,
)
from rankadaptor.profiles import Profile
from rankadaptor.pruning import prune
from rankadaptor.pruning.checkpoints import save_pruned
from rankadaptor.recovery.adapters import load_adapter, merged, save_adapter
from rankadaptor.recovery.loaded import LoadedModel
from rankadaptor.recovery.training import train
from rankadaptor.specs import (
    EvaluationSpec,
    GenerationSpec,
    PerplexitySpec,
    PruneSpec,
    RecoverySpec,
    identity_key,
    sha256_text,
    stage_identity,
)
from rankadaptor.testbed.tasks import subject
from rankadaptor.time_limits import TimedOut, within

Stage = Literal["prune", "recover", "evaluate", "perplexity", "generate"]


@dataclass(frozen=True)
class Step:
    """One stage to be done. The parent is None where the unpruned base model is meant."""

    stage: Stage
    spec: PruneSpec | RecoverySpec | EvaluationSpec | PerplexitySpec | GenerationSpec
    parent: "Step | None" = None

    def chain(self) -> Iterator["Step"]:
        """This step and what it is computed from, parents first."""
        if self.parent is not None:
            yield from self.parent.chain()
        yield self


class Workshop:
    """Runs steps of one profile on one ledger, in this process."""

    def __init__(self, profile: Profile, ledger: Ledger, on_progress: Callable[[Step, float], None] | None = None):
        """
        Args:
            on_progress: Called with a step and the share of it that is done, 0 to 1.
        """
        self.profile = profile
        self.ledger = ledger
        self.computed: list[tuple[str, str]] = []  # (stage, key) of what this workshop computed, in order
        self._report = on_progress or (lambda step, share: None)
        self._may_compute = True
        self._kept: tuple[str, LoadedModel] | None = None  # key of a model, which stays in memory
        self._requests_of: dict[EvaluationSpec, evaluation.Requests] = {}
        self._base_identity = base_model_identity(profile.base_model)
        benchmarks = f"{benchmark_identity(profile.benchmarks)}:pool {profile.evaluation.search_pool}"
        items = {"benchmarks": benchmarks, "item_seed": str(profile.evaluation.item_seed)}
        self._revisions: dict[Stage, dict[str, str]] = {
            "prune": items,  # calibration text keeps clear of the items
            "recover": items | {"rows": recovery_identity(profile.recovery_data)},
            "evaluate": {"benchmarks": benchmarks},
            "perplexity": items | {"text": perplexity_identity(profile.benchmarks)},
            "generate": {},
        }

    def key(self, step: Step) -> str:
        """Content address of a step's result; nothing is downloaded or computed."""
        return identity_key(self._identity(step))

    def _identity(self, step: Step) -> dict[str, Any]:
        parent = self.key(step.parent) if step.parent else sha256_text(self._base_identity)
        return stage_identity(step.stage, step.spec, parent, self._revisions[step.stage])

    def inputs(self) -> str:
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
        return self.ledger.find(self.key(step))

    def run(self, step: Step) -> Entry:
        """The result of a step, from the ledger or computed now.

        A recovery that diverged has a result as well, which says so in place of an adapter; and so has its evaluation.

        Raises:
            NotInLedger: if it is missing, within `reading_only`.
            StageFailed: if it, or what it is computed from, failed as often as it may be tried; see `failures`.
        """
        key = self.key(step)
        while (found := self.ledger.find(key)) is None:
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
        return found

    def is_settled(self, step: Step) -> bool:
        """Whether there is nothing to compute: a result, or a stage that is not tried any more."""
        return self.find(step) is not None or self._given_up(step) is not None

    def is_elsewhere(self, step: Step) -> bool:
        """Whether another process is at what a step waits for."""
        first = next((link for link in step.chain() if self.find(link) is None), None)
        return first is not None and self.ledger.is_elsewhere(self.key(first))

    def _given_up(self, step: Step) -> StageFailed | None:
        """Why a step that the ledger lacks has no result: it, or what it is computed from, is not tried any more."""
        for link in step.chain():
            if self.find(link) is None and (failed := failures.given_up(self.ledger, self.key(link))) is not None:
                return failed
        return None

    def _computed(self, step: Step, key: str, parent: Entry | None) -> Entry:

        def work(folder: Path) -> dict[str, Any]:
            started = provenance.Started.now()
            self._report(step, 0.0)
            stages = {"prune": self._prune, "recover": self._recover, "evaluate": self._evaluate,
                      "perplexity": self._perplexity, "generate": self._generate}
            with computing_with(self.profile.threads), within(self.profile.stage_limit_s):
                result = stages[step.stage](step, parent, folder)
                told = provenance.of_stage(started, self.profile.base_model.label)
            return {"stage": step.stage, "result": result, "provenance": told}

        entry, new = self.ledger.compute(key, self._identity(step), work)
        if new:
            self.computed.append((step.stage, key))
            self._report(step, 1.0)
        return entry

    def metrics(self, step: Step) -> dict[str, dict[str, float]]:
        """Of an evaluation: task -> metric -> mean over items.

        Raises:
            RecoveryDiverged: if what it would have scored is a recovery that diverged.
        """
        return self._scored(step)["metrics"]

    def _scored(self, step: Step) -> dict[str, Any]:
        result = self.run(step).result["result"]
        if "diverged" in result:
            raise RecoveryDiverged(result["diverged"])
        return result

    def perplexity(self, step: Step) -> float:
        """Of a perplexity step.

        Raises:
            RecoveryDiverged: if the model is a recovery that diverged.
        """
        return self._scored(step)["perplexity"]

    def continuations(self, step: Step) -> pd.DataFrame:
        """Of a generate step; see `evaluation.generation`. Raises as `metrics` does."""
        self._scored(step)
        return pd.read_parquet(self.run(step).path("continuations.parquet"))

    def read_json(self, step: Step, name: str) -> Any:
        """One of the files that a step left."""
        return json.loads(self.run(step).path(name).read_text())

    def items(self, step: Step) -> pd.DataFrame:
        """Of an evaluation: outcomes, one row an item. Raises as `metrics` does."""
        self.metrics(step)
        return pd.read_parquet(self.run(step).path("items.parquet"))

    def architecture(self, step: Step | None) -> Architecture:
        """Shapes of the base model (None) or of a finished pruning step."""
        folder = base_model_folder(self.profile.base_model) if step is None else self.run(step).path("model")
        return read_architecture(folder)

    def model(self, step: Step | None) -> PreTrainedModel:
        """The base model (None), a pruned one, or a recovered one with its adapter merged."""
        if step is None:
            return base_model(self.profile.base_model)
        entry = self.run(step)
        if step.stage == "recover":
            return merged(load_adapter(self.model(step.parent), entry.path("adapter")))
        return load_model(entry.path("model"))

    @contextlib.contextmanager
    def _ready(self, step: Step | None) -> Iterator[PreTrainedModel]:
        """`model`, on loan: what it is recovered from stays loaded for the next one."""
        if step is None or step.stage != "recover":
            with self._lent(step) as loaded:
                yield loaded.base
            return
        with self._lent(step.parent) as loaded, loaded.recovered(self.run(step).path("adapter")) as model:
            yield model

    @contextlib.contextmanager
    def _lent(self, step: Step | None) -> Iterator[LoadedModel]:
        """The base model (None) or a pruned one. One at a time is kept, and none that an error was raised over: it may
        be left with half an adapter."""
        key = self.key(step) if step else ""
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

    # -- the stages ---------------------------------------------------------------------------------------------------

    def _prune(self, step: Step, parent: Entry | None, folder: Path) -> dict[str, Any]:
        spec = step.spec
        assert isinstance(spec, PruneSpec)
        tokenizer = self._tokenizer
        texts = calibration_texts(self.profile.benchmarks, *self._protection())
        windows = calibration_windows(
            texts,
            lambda text: tokenizer(text, add_special_tokens=False).input_ids,
            spec.calibration_samples,
            spec.calibration_tokens,
            spec.seed,
        )
        self.release()
        dense = base_model(self.profile.base_model)
        pruned = prune(dense, spec, torch.tensor(windows))
        save_pruned(pruned, folder / "model")
        tokenizer.save_pretrained(folder / "model")
        for name in ("kept.json", "importance.json"):
            (folder / "model" / name).rename(folder / name)
        before, after = architecture_of(dense), architecture_of(pruned.model)
        return {
            "parameters": {"base": before.parameters(), "pruned": after.parameters()},
            "decoder_parameters": {"base": before.decoder_parameters(), "pruned": after.decoder_parameters()},
            "layer_shapes": [[s.heads, s.kv_heads, s.mlp_width] for s in after.layers],
            "original_layers": list(after.original_layers),
        }

    def _recover(self, step: Step, parent: Entry | None, folder: Path) -> dict[str, Any]:
        spec = step.spec
        assert isinstance(spec, RecoverySpec)
        rows = recovery_rows(self.profile.recovery_data, self.profile.benchmarks, *self._protection())
        steps = spec.recipe.steps
        with self._lent(step.parent) as loaded, loaded.attached(spec) as adapted:
            try:
                training = train(
                    adapted, self._tokenizer, rows, spec, lambda done, loss: self._report(step, done / (steps + 1))
                )
            except RecoveryDiverged as error:
                return {"diverged": error.reason}
            save_adapter(adapted, folder / "adapter")
        return {
            "losses": training.losses,
            "realised_ranks": training.ranks,
            "trainable_parameters": training.trainable_parameters,
            "tokens": training.tokens,
        }

    def _evaluate(self, step: Step, parent: Entry | None, folder: Path) -> dict[str, Any]:
        spec = step.spec
        assert isinstance(spec, EvaluationSpec)
        if parent is not None and "diverged" in parent.result["result"]:
            return parent.result["result"]
        with self._ready(step.parent) as model:
            items = evaluation.evaluate(model, self._tokenizer, spec, self.requests(spec))
        items.to_parquet(folder / "items.parquet", index=False)
        return {"metrics": task_metrics(items)}

    def _perplexity(self, step: Step, parent: Entry | None, folder: Path) -> dict[str, Any]:
        spec = step.spec
        assert isinstance(spec, PerplexitySpec)
        if parent is not None and "diverged" in parent.result["result"]:
            return parent.result["result"]
        texts = perplexity_texts(self.profile.benchmarks, *self._protection())
        with self._ready(step.parent) as model:
            return perplexity(model, self._tokenizer, texts, spec)

    def _generate(self, step: Step, parent: Entry | None, folder: Path) -> dict[str, Any]:
        spec = step.spec
        assert isinstance(spec, GenerationSpec)
        if parent is not None and "diverged" in parent.result["result"]:
            return parent.result["result"]
        with self._ready(step.parent) as model:
            written = continuations(model, self.model(None), self._tokenizer, spec)
        written.to_parquet(folder / "continuations.parquet", index=False)
        return {"tokens": int(written["tokens"].sum())}

    def requests(self, spec: EvaluationSpec) -> evaluation.Requests:
        """What an evaluation asks; formed and tokenised once for all models."""
        if spec not in self._requests_of:
            testbed = self.profile.benchmarks.kind == "testbed"
            self._requests_of[spec] = evaluation.Requests(spec, self._rows(spec), testbed=testbed)
        return self._requests_of[spec]

    def subjects(self, spec: EvaluationSpec) -> dict[str, np.ndarray]:
        """Of the tasks whose items share subjects: which one each item is about, in the items' order.  # (items,)"""
        if self.profile.benchmarks.kind != "testbed":
            return {}
        return {task: np.unique([subject(task, row) for row in rows], return_inverse=True)[1]
                for task, rows in self._rows(spec).items()}

    def _rows(self, spec: EvaluationSpec) -> dict[str, list[Row]]:
        source, pool = self.profile.benchmarks, self.profile.evaluation.search_pool
        return {task: evaluation_rows(source, task, spec.split, spec.items_per_task, spec.item_seed, pool)
                for task in spec.tasks}

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return load_tokenizer(base_model_folder(self.profile.base_model))

    def _protection(self) -> tuple[int, int]:
        """(search pool, item seed): what recovery and calibration must keep clear of."""
        return self.profile.evaluation.search_pool, self.profile.evaluation.item_seed
