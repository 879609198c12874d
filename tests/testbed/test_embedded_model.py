"""The shipped model is the one that its profile pins and its recipe describes, with the scores on record."""

import dataclasses
import json

import pytest

from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.items import task_metrics
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.experiments.pretraining import PretrainingRecipe
from rankadaptor.files import sha256_file
from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.checkpoints import architecture_of, load_model
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.profiles import load_profile
from rankadaptor.testbed import MODEL
from rankadaptor.testbed.corpus import pretraining_digest
from rankadaptor.testbed.tasks import task_rows
from rankadaptor.testbed.world import SEED

PROFILE = load_profile("tiny")


def test_weights_and_recipe_are_the_pinned_ones():
    assert base_model_folder(PROFILE.base_model) == MODEL
    assert sha256_file(MODEL / "model.safetensors") == PROFILE.base_model.source.sha256
    described = json.loads((MODEL / "pretraining.json").read_text())
    assert described["recipe"] == dataclasses.asdict(PretrainingRecipe())
    assert described["corpus_sha256"] == pretraining_digest(SEED)
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 10_000_000


def test_the_architecture_leaves_enough_to_prune_and_allocate():
    architecture = architecture_of(load_model(MODEL))
    assert {(shape.heads, shape.kv_heads) for shape in architecture.layers} == {(8, 8)}
    for pruning in PROFILE.pruning.values():
        assert pruning.end_layer - pruning.first_layer >= 10
        assert pruning.end_layer < len(architecture.layers)


@pytest.fixture(scope="module")
def scores():
    spec = EvaluationSpec(TASKS, "report", None, 0, 256)
    requests = Requests(spec, {task: task_rows(task, "report", SEED) for task in TASKS},
                        PROFILE.benchmarks)
    metrics = task_metrics(evaluate(load_model(MODEL), load_tokenizer(MODEL), spec, requests))
    return {task: metrics[task][BENCHMARKS[task].metric] for task in TASKS}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_its_scores_leave_headroom_and_are_those_on_record(task, scores):
    shipped = json.loads((MODEL / "scores.json").read_text())["report"][task]
    assert BENCHMARKS[task].chance + 0.2 <= shipped <= 0.97
    assert scores[task] == pytest.approx(shipped, abs=0.01)  # another machine rounds otherwise
