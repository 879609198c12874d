"""lm-eval's own requests for this project's rows, formed and tokenised once for many models."""

import contextlib
import io
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pyarrow as pa
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
        self.joined_items: Counter[str] = Counter()  # by task: a choice's first token begins within the question
        self._tokenised: tuple[tuple[Tokenizer, bool, int], list[TokenisedPair]] | None = None
        self._batches: tuple[tuple[list[TokenisedPair], int, Limits], list[Batch]] | None = None

    def tokenised(self, backend: HFLM) -> list[TokenisedPair]:
        """Every choice of every question, tokenised by lm-eval's rule; cached for models of one tokenizer, BOS and
        number of embeddings.

        Tells once on stderr how many items have a choice that the tokenizer joins to the end of the question.

        Raises:
            BadInput: if a choice has no token to score, or a token has no embedding in the model.
        """
        tokenizer, vocabulary = backend.tokenizer, vocabulary_of(backend.model)
        tokenised_for = tokenizer, backend.add_bos_token, vocabulary
        if self._tokenised is None or self._tokenised[0] != tokenised_for:
            self.joined_items = Counter()
            pairs: list[TokenisedPair] = []
            for question in self.questions:
                encoded = _encoded(backend, question.choices)
                if not all(continuation for _, continuation, _ in encoded):
                    raise BadInput(f"item {question.item} of {question.task} has a choice without a token to score:"
                                   " give it text, or use a tokenizer that does not join it to the question")
                pairs += [(pair, context, continuation)
                          for pair, (context, continuation, _) in zip(question.choices, encoded, strict=True)]
                self.joined_items[question.task] += any(is_joined for _, _, is_joined in encoded)
            check_ids(chain.from_iterable(context + continuation for _, context, continuation in pairs), tokenizer,
                      vocabulary, "benchmark text")
            self._tokenised = tokenised_for, pairs
            self._print_joined()
        return self._tokenised[1]

    def _print_joined(self) -> None:
        """Tell on stderr where the tokens of a question and its choice are not those of the question alone."""
        totals = Counter(question.task for question in self.questions)
        joined = [f"{count} of {totals[task]} items of {task}" for task, count in self.joined_items.items() if count]
        if joined:
            print(f"one token spans the end of the question and the start of a choice in {', '.join(joined)}: scored is"
                  " what follows as many tokens as the question alone has, as in lm-eval", file=sys.stderr, flush=True)

    def batches(self, backend: HFLM) -> list[Batch]:
        """Every choice, laid out for `shared_context.score`; cached for models of one tokenizer, length and device."""
        pairs, max_length, limits = self.tokenised(backend), backend.max_length, limits_of(backend.model.device)
        if self._batches is None or self._batches[0][0] is not pairs or self._batches[0][1:] != (max_length, limits):
            self._batches = (pairs, max_length, limits), lay_out(pairs, max_length, limits)
        return self._batches[1]


def _encoded(backend: HFLM, choices: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int], bool]]:
    """Tokens of each choice's context and of its continuation by lm-eval's rule, each context tokenised once.

    Context and continuation are tokenised as one text, which is cut after as many tokens as the context alone has; the
    space at a context's end goes to the continuation. A blank context becomes BOS, or EOS where there is no BOS.

    Returns:
        (context's tokens, continuation's tokens, whether the cut is within a token that joins both) a choice.

    Source: lm-eval 0.4.13, `TemplateLM._encode_pair` and `TemplateLM.loglikelihood`.
    """
    encoded, contexts = [], dict[str, list[int]]()
    for context, continuation in choices:
        trimmed = context.rstrip()
        if not trimmed:
            tokens = backend.tok_encode(context + continuation, add_special_tokens=False)
            # Where the text begins with that token by itself, it is not put in front again.
            begins = tokens[:1] == [backend.prefix_token_id]
            encoded.append((*((tokens[:1], tokens[1:]) if begins else ([backend.prefix_token_id], tokens)), False))
            continue
        if trimmed not in contexts:
            contexts[trimmed] = backend.tok_encode(trimmed)
        alone, whole = contexts[trimmed], backend.tok_encode(context + continuation)
        encoded.append((alone, whole[len(alone) :], whole[: len(alone)] != alone))
    return encoded


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
            gold=_gold(name, item, rows[item], len(instances)),
            choice_characters=_choice_characters(name, task, instances),
            choices=tuple(instance.args for instance in sorted(instances, key=lambda instance: instance.idx)),
            contexts_differ=bool(task.multiple_input),
        )
        for item, instances in sorted(by_item.items())
    ]


def _gold(name: str, item: int, row: Row, choices: int) -> int:
    """Index of an item's right choice. Raises BadInput if it is not one of its choices."""
    gold = BENCHMARKS[name].gold_label(row)
    if not 0 <= gold < choices:
        raise BadInput(f"item {item} of {name} has {choices} choices, and the right one is {gold}: give an index from 0"
                       f" to {choices - 1}")
    return gold


def _choice_characters(name: str, task: Any, instances: Sequence[Any]) -> tuple[int, ...]:
    """Characters of each choice. Raises BadInput where there are none, since no score by length follows from them."""
    # Choices that differ in their context are scored by the same continuation, so its length does not matter.
    if task.multiple_input:
        return (1,) * len(instances)
    choices = task.doc_to_choice(instances[0].doc)
    if not all(map(str.strip, choices)):
        raise BadInput(f"item {instances[0].doc_id} of {name} has an empty choice as lm-eval words it: give it text")
    return tuple(map(len, choices))


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
        try:
            return datasets.DatasetDict({_SPLIT: datasets.Dataset.from_list(list(rows))})
        except (pa.ArrowException, OverflowError) as error:  # of fields that no schema checks, such as numbers of rows
            raise BadInput(f"rows of {name} hold a number too large, or values of several types in one field"
                           f" ({' '.join(str(error).split())}): give each field one type") from None

    return {
        "task": name,
        "custom_dataset": load,
        "test_split": _SPLIT,
        "validation_split": None,
        "training_split": None,
        "fewshot_split": None,
        "num_fewshot": 0,
    }
