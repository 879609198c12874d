"""The paper's protocol: who chooses among what, by which questions, and what becomes of the choices."""

import json
import shutil

import numpy as np
import pytest

import rankadaptor
from rankadaptor.experiments.methods import LORA
from rankadaptor.experiments.paper_protocol import AS_PAPER, BEST_OF_SEEDS, PLAYERS, RANDOM, SHUFFLED_SCORES
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.reporting import tables
from rankadaptor.reporting.figures import protocol_figure
from rankadaptor.reporting.tables.protocol import expected_best

BLOCK = "llm-pruner:50"
OWN_SEED = 1000  # of the profile's searches


@pytest.fixture(scope="module")
def protocol(finished, tiny_profile, tmp_path_factory):
    """The protocol on one block, and the ledger's identities by key."""
    folder = shutil.copytree(finished.ledger, tmp_path_factory.mktemp("protocol") / "ledger")
    work = rankadaptor.paper_protocol(str(tiny_profile), BLOCK, "quick", ledger=str(folder))
    planned = work.plan()
    result = work.run()
    assert work.is_complete()
    ledger = Ledger(folder)
    assert len(result.computed) <= planned.missing.total()
    return result, {entry.key: entry.spec for entry in ledger.entries()}, folder


def row(table, method):
    return next(row for row in table.blocks[BLOCK].rows if row.method == method)


def recoveries(specs, keys):
    return [specs[specs[key]["parent"]]["spec"] for key in keys]


def test_everybody_has_a_row_of_either_kind(protocol):
    result, _, _ = protocol
    for table in (result.reported, result.unseen):
        assert [row.method for row in table.blocks[BLOCK].rows] == ["No recovery", LORA, *PLAYERS]
    assert not result.reported.decided  # one training seed


def test_what_is_left_has_fresh_seeds_and_other_questions(protocol):
    result, specs, _ = protocol
    for method in (LORA, AS_PAPER, SHUFFLED_SCORES, RANDOM):
        printed, left = row(result.reported, method), row(result.unseen, method)
        assert {spec["seed"] for spec in recoveries(specs, printed.keys)} == {OWN_SEED}
        assert OWN_SEED not in {spec["seed"] for spec in recoveries(specs, left.keys)}
        assert {specs[key]["spec"]["split"] for key in printed.keys} == {"report"}
        assert {specs[key]["spec"]["split"] for key in left.keys} == {"unseen"}
        if method != LORA:  # the same allocations, a task each
            assert printed.allocations == left.allocations
            assert len(printed.allocations) == len(result.reported.profile.tasks)


def test_the_best_seed_is_the_very_training_that_was_chosen(protocol):
    result, specs, _ = protocol
    lora = row(result.reported, LORA).allocations[0]
    printed, left = (recoveries(specs, row(table, BEST_OF_SEEDS).keys) for table in (result.reported, result.unseen))
    assert {(spec["seed"], tuple(spec["allocation"])) for spec in printed} == {
        (spec["seed"], tuple(spec["allocation"])) for spec in left}
    assert {tuple(spec["allocation"]) for spec in printed} == {lora}
    for task, scores in result.seed_scores[BLOCK].items():
        outcome = row(result.reported, BEST_OF_SEEDS).outcomes[task].mean()
        assert outcome == pytest.approx(max(scores[:result.recoveries[BLOCK][task]]))


def test_random_search_prints_the_best_of_what_it_measured(protocol):
    """And it begins with the recoveries of the paper's search, so it prints no less than their best."""
    result, _, folder = protocol
    searches = [json.loads((path / "spec.json").read_text())["spec"] for path in (folder / "searches").iterdir()]
    first = [spec for spec in searches if spec["recovery"]["seed"] == OWN_SEED and spec.get("task")]
    tasks = result.reported.profile.tasks
    assert sorted(spec["task"] for spec in first) == sorted([*tasks, *tasks])  # of scores, and of shuffled ones
    for spec in first:
        assert spec["space"]["budget_params"] is None
        assert spec["space"]["candidates"] == [2, 4, 6, 8, 10, 12]
        assert spec["signal"] == "accuracy"
        settings = spec["settings"]
        assert (settings["predictor"], settings["inputs"], settings["selection"], settings["learning"],
                settings["threshold_unit"]) == ("paper", "ranks", "predicted", "continue", "score")


def test_the_table_and_the_sentence_say_what_the_rows_say(protocol, tmp_path):
    result, _, _ = protocol
    frame = tables.protocol_frame(result).set_index("method")
    for view in ("reported", "unseen"):
        table = getattr(result, view)
        for method in PLAYERS:
            means = [np.mean([row(table, name).outcomes[task].mean() for task in table.profile.tasks])
                     for name in (method, LORA)]
            assert frame.loc[method, view] == pytest.approx(100 * (means[0] - means[1]))
    assert frame.loc["published", "reported"] == pytest.approx(1.99, abs=2)  # of the paper's Table 2
    assert all(f"{method} " in tables.protocol_text(result) for method in PLAYERS)
    assert len(protocol_figure(result).axes) == 2
    names = {path.name for path in tables.write_protocol(result, tmp_path)}
    assert {"paper.csv", "paper-unseen.csv", "paper-ceiling.csv", "paper-gains.csv", "paper-seeds.csv"} <= names
    page = (tmp_path / "paper.md").read_text()
    assert "of which" in page
    assert page.count("Zero-shot on the report split") == 1
    assert page.count("Zero-shot on questions of the search split that chose nothing") == 1


def test_the_best_of_n_is_the_mean_over_all_subsets():
    assert expected_best([3.0, 1.0, 2.0], 1) == pytest.approx(2)
    assert expected_best([3.0, 1.0, 2.0], 2) == pytest.approx((2 + 3 + 3) / 3)
    assert expected_best([3.0, 1.0, 2.0], 3) == 3
    draws = np.random.default_rng(0).normal(size=12)
    drawn = [max(np.random.default_rng([1, i]).choice(draws, 5, replace=False)) for i in range(4000)]
    assert expected_best(list(draws), 5) == pytest.approx(np.mean(drawn), abs=0.03)
