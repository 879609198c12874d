"""What a model is asked: lm-eval's own requests for this project's rows, formed and tokenised once for many models."""

import contextlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, hash_string

from rankadaptor.data.benchmarks import Row, gold_label
from rankadaptor.evaluation.layout import Batch, Limits, TokenisedPair, lay_out
from rankadaptor.evaluation.shared_context import limits_of
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.models.checkpoints import Tokenizer
from rankadaptor.testbed import TASK_DEFINITIONS

_SPLIT = "items"

@dataclass(frozen=True)
class Question:
    """One item: a (context, continuation) pair a choice."""

    task: str
    item: int  # counts from 0 within the task
    document_sha256: str  # as lm-eval logs it
    gold: int  # index of the right choice
    choice_characters: tuple[int, ...]  # as lm-eval counts them for acc_norm
    choices: tuple[tuple[str, str], ...]


class Requests:
    """All questions of one evaluation, in the order of tasks and items."""

    def __init__(self, spec: EvaluationSpec, rows: Mapping[str, Sequence[Row]], testbed: bool = False):
        """
        Args:
            rows: The items of each task, in the hub's schema.
            testbed: Whether they are the testbed's, whose tasks are its own YAML files.
        """
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        names = {name: f"testbed_{name}" if testbed else name for name in spec.tasks}
        # Only as members of a group do lm-eval's tasks inherit their registered definition under overrides.
        group = {"group": "benchmarks", "task": [_overrides(names[name], rows[name]) for name in spec.tasks]}
        self.tasks = _task_manager(testbed).load(group)["tasks"]
        self.questions = [
            question for name in spec.tasks for question in _questions(name, self.tasks[names[name]], rows[name])
        ]
        self._tokenised: tuple[Tokenizer, list[TokenisedPair]] | None = None
        self._batches: tuple[tuple[Tokenizer, int, Limits], list[Batch]] | None = None

    def tokenised(self, backend: HFLM) -> list[TokenisedPair]:
        """Every choice of every question, tokenised by lm-eval's rule; kept as long as the tokenizer is the same."""
        tokenizer = backend.tokenizer
        if self._tokenised is None or self._tokenised[0] is not tokenizer:
            pairs = [pair for question in self.questions for pair in question.choices]
            self._tokenised = tokenizer, [(pair, *backend._encode_pair(*pair)) for pair in pairs]
        return self._tokenised[1]

    def batches(self, backend: HFLM) -> list[Batch]:
        """Every question, laid out for `shared_context.score`; kept for models of one tokenizer, length and device."""
        made_for = backend.tokenizer, backend.max_length, limits_of(backend.model.device)
        if self._batches is None or self._batches[0] != made_for:
            self._batches = made_for, lay_out(self.tokenised(backend), *made_for[1:])
        return self._batches[1]


def _questions(name: str, task: Any, rows: Sequence[Row]) -> list[Question]:
    with contextlib.redirect_stderr(io.StringIO()):  # lm-eval draws a bar a task that no argument turns off
        task.build_all_requests(limit=None, rank=0, world_size=1)
    by_item: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_item.setdefault(instance.doc_id, []).append(instance)
    return [
        Question(
            name,
            item,
            hash_string(json.dumps(instances[0].doc, indent=2, default=handle_non_serializable, ensure_ascii=False)),
            gold_label(name, rows[item]),
            tuple(_choice_characters(name, instances[0].doc, len(instances))),
            tuple(instance.args for instance in sorted(instances, key=lambda one: one.idx)),
        )
        for item, instances in sorted(by_item.items())
    ]


def _choice_characters(task: str, doc: Mapping[str, Any], count: int) -> list[int]:
    if task == "boolq":
        return [len("no"), len("yes")]
    if task == "winogrande":
        # Both options are scored by the same continuation, so its length is no matter.
        return [1] * count
    if task == "piqa":
        return [len(doc["sol1"]), len(doc["sol2"])]
    if task == "hellaswag":
        return [len(choice) for choice in doc["choices"]]
    return [len(choice) for choice in doc["choices"]["text"]]


@lru_cache(maxsize=2)
def _task_manager(testbed: bool) -> TaskManager:
    """lm-eval's registry of these seven tasks; indexing all its thousands takes seconds."""
    if testbed:
        return TaskManager(include_path=str(TASK_DEFINITIONS), include_defaults=False)
    root = Path(lm_eval.tasks.__file__).parent
    folders = ("super_glue/boolq", "piqa", "hellaswag", "winogrande", "arc", "openbookqa")
    return TaskManager(include_path=[str(root / folder) for folder in folders], include_defaults=False)


def _overrides(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """What makes lm-eval's task of that name read these rows as its test split."""

    def load(**_: Any) -> datasets.DatasetDict:
        return datasets.DatasetDict({_SPLIT: datasets.Dataset.from_list(list(rows))})

    return {
        "task": name,
        "custom_dataset": load,
        "test_split": _SPLIT,
        "validation_split": None,
        "training_split": None,
        "fewshot_split": None,
        "num_fewshot": 0,
    }
