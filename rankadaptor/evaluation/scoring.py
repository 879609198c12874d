"""Scoring a model on lm-eval's own seven tasks, their data replaced by this project's rows, or on the testbed's."""

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pandas as pd
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel

from rankadaptor.corpora.benchmarks import Row, gold_label
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.items import item_table
from rankadaptor.models import Tokenizer
from rankadaptor.specs import EvaluationSpec
from rankadaptor.testbed import TASK_DEFINITIONS

_SPLIT = "items"


class _QuietHFLM(HFLM):
    """lm-eval's own backend, without its progress bar."""

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)


def evaluate(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    spec: EvaluationSpec,
    rows: Mapping[str, Sequence[Row]],
    testbed: bool = False,
) -> pd.DataFrame:
    """Score a model, zero-shot, and return one row per item (`items.COLUMNS`).

    Args:
        model: In evaluation mode.
        spec: Tasks, batch size and tokenisation. lm-eval's request cache stays off, since its keys ignore the model.
        rows: The items of each task, in the hub's schema.
        testbed: Whether they are the testbed's, whose tasks are its own YAML files.
    """
    if spec.tokenisation != "joint":
        raise BadInput(f"tokenisation {spec.tokenisation!r} is not offered: use joint")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    backend = _QuietHFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=spec.batch_size, add_bos_token=spec.bos, backend="causal"
    )
    # Only as members of a group do lm-eval's tasks inherit their registered definition under overrides.
    names = {name: f"testbed_{name}" if testbed else name for name in spec.tasks}
    group = {"group": "benchmarks", "task": [_overrides(names[name], rows[name]) for name in spec.tasks]}
    tasks = _task_manager(testbed).load(group)["tasks"]
    with contextlib.redirect_stderr(io.StringIO()):  # lm-eval draws a bar a task that no argument turns off
        results = evaluator.evaluate(backend, {"tasks": tasks}, bootstrap_iters=0, log_samples=True)
    golds = {task: [gold_label(task, row) for row in rows[task]] for task in spec.tasks}
    return item_table({task: results["samples"][names[task]] for task in spec.tasks}, golds)


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
