"""A run ends with its verdicts beside the committed ones; nothing that is committed, or missing, makes it fail."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.records import RESULTS, mark_unpacked, read_table, write_records
from rankadaptor.reporting import conclusion, tables
from rankadaptor.reporting.committed import write_profile_records

NAME = "test"  # of the tiny profile
GAIN = r"[+-]\d+\.\d \[[+-]\d+\.\d, [+-]\d+\.\d\] points: undecided \(budget quick, seed 0\)"


@pytest.fixture
def committed(empty_project, finished):
    """The finished table as if its page were committed."""
    folder = empty_project / "reports" / NAME
    tables.write_table(finished.result, folder)
    tables.write_provenance(finished.result, Ledger(finished.ledger), folder)
    return folder


def gains(text):
    """Lines of gains, each with its two sides."""
    return [line.partition("committed: ") for line in text.splitlines() if "RankAdaptor (one model)" in line]


@pytest.mark.usefixtures("empty_project")
def test_without_anything_committed_a_run_says_what_it_found(finished):
    text = conclusion.of_table(finished.result, Ledger(finished.ledger))
    lines = text.splitlines()
    assert lines[0].startswith("Table 2: difference to LoRA in accuracy, mean of seven tasks")
    for block, line in zip(finished.result.blocks, lines[1:3], strict=True):
        assert line.startswith(block)
        assert pd.Series([line]).str.fullmatch(rf"{block} +RankAdaptor \(one model\)  {GAIN}").all()
    assert lines[3:] == [
        "nothing to compare with: no table2-differences.csv of profile test is committed",
        "budget quick decides nothing: the same command with BUDGET=two-seeds does",
        "no records of profile test are committed: no result was compared",
    ]


def test_the_committed_verdict_stands_beside_each_line(finished, committed):
    both = gains(conclusion.of_table(finished.result, Ledger(finished.ledger)))
    assert len(both) == len(finished.result.blocks)
    for here, _, there in both:
        assert here.rstrip().endswith(there)  # the same numbers, verdict, budget and seeds
    assert len({len(here) for here, _, _ in both}) == 1  # aligned
    assert str(committed.parent) not in conclusion.of_table(finished.result, Ledger(finished.ledger))


def test_a_block_that_is_not_committed_is_told(finished, committed):
    path = committed / "table2-differences.csv"
    table = pd.read_csv(path)
    first = next(iter(finished.result.blocks))
    table[table["block"] != first].to_csv(path, index=False)
    both = gains(conclusion.of_table(finished.result, Ledger(finished.ledger)))
    assert both[0][2] == "nothing"
    assert both[1][2] != "nothing"


@pytest.mark.parametrize("content", [
    b"", b"\xff\xfe", b"a,b\n1,2\n", b"block,method,verdict,difference,low,high\nx,y,z,w,w,w\n"])
def test_damaged_committed_numbers_are_told(content, finished, committed):
    (committed / "table2-differences.csv").write_bytes(content)
    text = conclusion.of_table(finished.result, Ledger(finished.ledger))
    assert "nothing to compare with: the committed table2-differences.csv of profile test is damaged" in text


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"budget": 1, "training_seeds": 2}', b"[" * 100_000])
def test_without_provenance_the_committed_numbers_stand_alone(content, finished, committed):
    (committed / "table2-provenance.json").write_bytes(content)
    for _, _, there in gains(conclusion.of_table(finished.result, Ledger(finished.ledger))):
        assert there.endswith(" points: undecided")


def test_results_are_compared_with_the_committed_records(empty_project, finished, tiny_profile):
    write_profile_records(str(tiny_profile), finished.ledger)
    count = len(finished.result.stages)
    last = conclusion.of_table(finished.result, Ledger(finished.ledger)).splitlines()[-1]
    assert last == f"{count} of {count} recomputed results equal the committed records (largest difference 0)"


def test_results_without_a_record_are_counted(empty_project, finished):
    write_records(Ledger(finished.ledger), finished.result.stages[3:], [], empty_project / "records" / NAME)
    count = len(finished.result.stages) - 3
    last = conclusion.of_table(finished.result, Ledger(finished.ledger)).splitlines()[-1]
    assert last == (f"{count} of {count} recomputed results equal the committed records (largest difference 0);"
                    " 3 results have no committed record")


def test_a_difference_is_told_with_its_place(empty_project, finished, tiny_profile):
    folder = write_profile_records(str(tiny_profile), finished.ledger)
    frame = read_table(folder, RESULTS)
    place = frame.index[frame["key"] == finished.result.dense.keys[0]][0]
    result = json.loads(frame.loc[place, "result"])
    result["metrics"]["boolq"]["acc"] += 0.5
    frame.loc[place, "result"] = json.dumps(result)
    frame.to_parquet(folder / RESULTS, index=False)
    last = conclusion.of_table(finished.result, Ledger(finished.ledger)).splitlines()[-1]
    count, key = len(finished.result.stages), finished.result.dense.keys[0][:12]
    assert last == (f"{count - 1} of {count} recomputed results equal the committed records (largest difference 0.5,"
                    f" {key} evaluate.metrics.boolq.acc); numerics of other machines may differ")


def test_damaged_records_are_told_and_fail_nothing(empty_project, finished, tiny_profile):
    folder = write_profile_records(str(tiny_profile), finished.ledger)
    frame = read_table(folder, RESULTS)
    says = "the committed records of profile test are damaged: no result was compared"
    frame.assign(result="not JSON").to_parquet(folder / RESULTS, index=False)
    assert conclusion.of_table(finished.result, Ledger(finished.ledger)).endswith(says)
    (folder / RESULTS).write_bytes(b"no table")
    assert conclusion.of_table(finished.result, Ledger(finished.ledger)).endswith(says)


def test_a_page_that_is_drawn_from_records_says_so(committed, finished, tiny_profile, tmp_path):
    """Its committed numbers are those that it is about to replace: they are not shown."""
    write_profile_records(str(tiny_profile), finished.ledger)
    ledger = Ledger(shutil.copytree(finished.ledger, tmp_path / "unpacked"))
    mark_unpacked(ledger)
    result = finished.result.__class__(**{**vars(finished.result), "computed": ()})
    text = conclusion.of_table(result, ledger)
    assert text.endswith("\ndrawn from the committed records: nothing was computed")
    assert "committed:" not in text
    assert "nothing to compare with" not in text
    assert "recomputed" in conclusion.of_table(finished.result, ledger)  # something was computed in spite of the mark


@pytest.mark.usefixtures("empty_project")
def test_one_seed_of_a_deciding_budget_decides_nothing(finished):
    profile = finished.result.profile
    result = finished.result.__class__(**{**vars(finished.result), "budget": profile.budget("two-seeds")})
    assert "one training seed decides nothing: the same command without SEEDS" in conclusion.of_table(
        result, Ledger(finished.ledger))


def test_a_searchs_comparisons_are_counted(empty_project, tmp_path):
    differences = pd.DataFrame({"of": ["regret"] * 3, "block": "llm-pruner:50",
                                "verdict": ["less than", "more than", "undecided against"]})
    page = SimpleNamespace(profile=SimpleNamespace(name=NAME), differences=differences, seeds=range(2), recoveries=12,
                           cache=SimpleNamespace(ledger=Ledger(tmp_path / "ledger"), keys={}))
    assert "regret  llm-pruner:50  less than 1 of 3 rivals, more than 1\n" in conclusion.of_search(page)
    (empty_project / "reports" / NAME).mkdir(parents=True)
    differences.iloc[:1].to_csv(empty_project / "reports" / NAME / "search-differences.csv", index=False)
    assert "more than 1   committed: less than 1 of 1 rivals, more than 0\n" in conclusion.of_search(page)


def test_perplexities_stand_beside_the_committed_ones(empty_project, tmp_path):
    losses = pd.DataFrame({"block": ["Dense", "shortened:20"], "perplexity": [3.0, np.pi]})
    models = SimpleNamespace(profile=SimpleNamespace(name=NAME), ledger=Ledger(tmp_path / "ledger"), stages=(),
                             computed=())
    (empty_project / "reports" / NAME).mkdir(parents=True)
    losses.iloc[:1].to_csv(empty_project / "reports" / NAME / "pruning.csv", index=False)
    assert conclusion.of_pruning(models, losses).splitlines()[1:3] == [
        "Dense         3.000   committed: 3.000", "shortened:20  3.142   committed: nothing"]


def test_margins_stand_beside_the_committed_ones(empty_project, tmp_path):
    frame = pd.DataFrame({"block": ["", "shortened:20", "shortened:20"], "model": ["Dense", "No recovery", "LoRA"],
                          "margin": [0.4, 0.2, 0.3]})
    testbed = SimpleNamespace(profile=SimpleNamespace(name=NAME), runner=SimpleNamespace(ledger=Ledger(tmp_path / "l")),
                              budget_name="two-seeds", seeds=(0, 1), stages=(), computed=(), regime=lambda: frame)
    (empty_project / "reports" / NAME).mkdir(parents=True)
    frame.iloc[:2].to_csv(empty_project / "reports" / NAME / "testbed-margins.csv", index=False)
    origin = empty_project / "reports" / NAME / "testbed-provenance.json"
    origin.write_text('{"budget": "quick", "training_seeds": [3]}')
    assert conclusion.of_testbed(testbed).splitlines()[:4] == [
        "margin over chance in points (budget two-seeds, seeds 0 1)",
        "              Dense        40.0   committed: 40.0 (budget quick, seed 3)",
        "shortened:20  No recovery  20.0   committed: 20.0 (budget quick, seed 3)",
        "shortened:20  LoRA         30.0   committed: nothing"]
