"""A benchmark from outside the package: an entry, rows in a folder and a YAML file of lm-eval's are all it takes."""

import json

import pytest
from helpers.data import sentence
from helpers.models import tiny_llama

from rankadaptor.data.benchmarks import evaluation_rows, item_subjects, tasks_in
from rankadaptor.data.decontamination import scored_items
from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import BENCHMARKS, Benchmark, register
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.items import task_metrics
from rankadaptor.evaluation.spec import EvaluationSpec

DEFINITION = """
task: copa_in_miniature
dataset_path: nowhere
output_type: multiple_choice
test_split: test
doc_to_text: "{{premise}} because"
doc_to_target: "{{right}}"
doc_to_choice: "{{[first, second]}}"
metric_list:
  - metric: acc
  - metric: acc_norm
"""


def row(seed):
    return {"premise": sentence(seed, 14), "first": sentence(seed + 1, 3), "second": sentence(seed + 2, 5),
            "right": seed % 2}


@pytest.fixture
def copa(tmp_path):
    (tmp_path / "definition").mkdir()
    (tmp_path / "definition" / "copa.yaml").write_text(DEFINITION)
    folder = tmp_path / "benchmarks" / "copa_in_miniature"
    folder.mkdir(parents=True)
    for split, start in (("train", 0), ("validation", 1000)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row(start + 10 * i + i % 2)) + "\n"
                                                       for i in range(20)))
    register(Benchmark(name="copa_in_miniature", label="COPA", metric="acc_norm", chance=1 / 2,
                       report_split="validation", read_gold=lambda row: row["right"],
                       definition=tmp_path / "definition"))
    yield Source("dir", str(tmp_path / "benchmarks"), None)
    del BENCHMARKS["copa_in_miniature"]


def test_an_eighth_benchmark_is_evaluated_and_protected(copa, tokenizer):
    assert tasks_in(copa) == ("copa_in_miniature",)
    spec = EvaluationSpec(("copa_in_miniature",), "report", 12, 0, 4)
    rows = evaluation_rows(copa, "copa_in_miniature", "report", 12, 0, 5)
    assert sum(row["right"] for row in rows) == 6  # balanced
    items = evaluate(tiny_llama(), tokenizer, spec, Requests(spec, {"copa_in_miniature": rows}, copa))
    for item, row in zip(items.to_dict("records"), rows, strict=True):
        assert item["gold"] == row["right"]
        assert item["choice_characters"] == [len(row["first"]), len(row["second"])]
        scores = [log_likelihood / count
                  for log_likelihood, count in zip(item["log_likelihoods"], item["choice_characters"], strict=True)]
        assert item["acc_norm"] == (scores.index(max(scores)) == row["right"])
    metrics = task_metrics(items)["copa_in_miniature"]
    assert metrics["acc_norm"] == pytest.approx(items["acc_norm"].mean())
    assert metrics["items"] == 12
    assert len(list(scored_items(copa, 5, 0))) == 5 + 20
    assert item_subjects(copa, "copa_in_miniature", rows) is None
