"""lm-eval's own requests for this project's rows, formed and tokenised once for many models."""

import contextlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable, hash_string

from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.layout import Batch, Limits, TokenisedPair, lay_out
from rankadaptor.evaluation.shared_context import limits_of
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.models.tokenizers import Tokenizer, check_ids, vocabulary_of
from rankadaptor.testbed import TASK_DEFINITIONS, Row

_SPLIT = "items"


@dataclass(frozen=True)
class Question:
    """One item as lm-eval words it: a (context, continuation) pair a choice."""

    task: str
    item: int  # counts from 0 within the task
    document_sha256: str  # as lm-eval logs it
    gold: int  # index of the right choice
    choice_characters: tuple[int, ...]  # as lm-eval counts them for acc_norm; 1 each where contexts differ
    choices: tuple[tuple[str, str], ...]
    contexts_differ: bool  # whether choices differ in their context and share their continuation, as WinoGrande's do


class Requests:
    """All questions of one evaluation, in the order of tasks and items."""

    def __init__(self, spec: EvaluationSpec, rows: Mapping[str, Sequence[Row]], source: Source | None = None):
        """
        Args:
            spec: Which tasks.
            rows: The items of each task, in the hub's schema.
            source: Where the rows come from. The testbed words its questions by YAML files of its own; rows of all
                other sources, and of None, are worded as their benchmark's entry defines.
        """
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        datasets.disable_progress_bars()
        definitions = {task: _definition(task, source) for task in spec.tasks}  # task -> lm-eval's name, folder
        # Only as members of a group do lm-eval's tasks inherit their registered definition under overrides.
        group = {"group": "benchmarks", "task": [_overrides(definitions[task][0], rows[task]) for task in spec.tasks]}
        manager = _task_manager(tuple(dict.fromkeys(folder for _, folder in definitions.values())))
        self.tasks = manager.load(group)["tasks"]
        self.questions = [question for task in spec.tasks
                          for question in _questions(task, self.tasks[definitions[task][0]], rows[task])]
        self._tokenised: tuple[tuple[Tokenizer, bool, int], list[TokenisedPair]] | None = None
        self._batches: tuple[tuple[list[TokenisedPair], int, Limits], list[Batch]] | None = None

    def tokenised(self, backend: HFLM) -> list[TokenisedPair]:
        """Every choice of every question, tokenised by lm-eval's rule; cached for models of one tokenizer, BOS and
        number of embeddings.

        Raises:
            BadInput: if a question has no text before its choices, or a token has no embedding in the model.
        """
        tokenizer, vocabulary = backend.tokenizer, vocabulary_of(backend.model)
        tokenised_for = tokenizer, backend.add_bos_token, vocabulary
        if self._tokenised is None or self._tokenised[0] != tokenised_for:
            pairs = []
            for question in self.questions:
                for pair in question.choices:
                    context, continuation = backend._encode_pair(*pair) if pair[0] else ([], [])
                    if not context or not continuation:
                        raise BadInput(f"item {question.item} of {question.task} has {len(context)} tokens before a"
                                       f" choice of {len(continuation)}: give each of both some text")
                    pairs.append((pair, context, continuation))
            check_ids(chain.from_iterable(context + continuation for _, context, continuation in pairs), tokenizer,
                      vocabulary, "benchmark text")
            self._tokenised = tokenised_for, pairs
        return self._tokenised[1]

    def batches(self, backend: HFLM) -> list[Batch]:
        """Every choice, laid out for `shared_context.score`; cached for models of one tokenizer, length and device."""
        pairs, max_length, limits = self.tokenised(backend), backend.max_length, limits_of(backend.model.device)
        if self._batches is None or self._batches[0][0] is not pairs or self._batches[0][1:] != (max_length, limits):
            self._batches = (pairs, max_length, limits), lay_out(pairs, max_length, limits)
        return self._batches[1]


def _questions(name: str, task: Any, rows: Sequence[Row]) -> list[Question]:
    """The questions of one task, in the order of its rows.

    Args:
        name: Of the benchmark.
        task: lm-eval's, with these rows as its test split.
    """
    with contextlib.redirect_stderr(io.StringIO()):  # lm-eval draws a progress bar a task that no argument turns off
        task.build_all_requests(limit=None, rank=0, world_size=1)
    by_item: dict[int, list[Any]] = {}
    for instance in task.instances:
        by_item.setdefault(instance.doc_id, []).append(instance)
    return [
        Question(
            task=name,
            item=item,
            document_sha256=hash_string(
                json.dumps(instances[0].doc, indent=2, default=handle_non_serializable, ensure_ascii=False)),
            gold=BENCHMARKS[name].gold_label(rows[item]),
            choice_characters=_choice_characters(task, instances),
            choices=tuple(instance.args for instance in sorted(instances, key=lambda instance: instance.idx)),
            contexts_differ=bool(task.multiple_input),
        )
        for item, instances in sorted(by_item.items())
    ]


def _choice_characters(task: Any, instances: Sequence[Any]) -> tuple[int, ...]:
    # Choices that differ in their context are scored by the same continuation, so its length does not matter.
    if task.multiple_input:
        return (1,) * len(instances)
    return tuple(map(len, task.doc_to_choice(instances[0].doc)))


def _definition(task: str, source: Source | None) -> tuple[str, Path]:
    """lm-eval's name of a benchmark's task, and the folder of its YAML files."""
    if source is not None and source.kind == "testbed":
        return f"testbed_{task}", TASK_DEFINITIONS
    definition = BENCHMARKS[task].definition
    if isinstance(definition, Path):
        return task, definition.absolute()
    return task, Path(lm_eval.tasks.__file__).parent / definition


@lru_cache(maxsize=8)
def _task_manager(folders: tuple[Path, ...]) -> TaskManager:
    """lm-eval's registry of the tasks in some folders; indexing all of its thousands takes seconds."""
    return TaskManager(include_path=list(folders), include_defaults=False)


def _overrides(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """Configuration that makes lm-eval's task of that name read these rows as its test split."""

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
