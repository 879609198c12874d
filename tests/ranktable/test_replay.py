"""Replays on a table: what a search may see, what it is scored by, and what the page makes of it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from rankadaptor.__main__ import main
from rankadaptor.allocation import parse_allocation
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.experiments.rank_table import drawn_allocations, named_allocations
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.profiles import FOLDER, load_profile
from rankadaptor.ranktable import cross_validation, replayed_searches
from rankadaptor.ranktable.cross_validation import cross_validated, rank_statistics
from rankadaptor.ranktable.meta_records import read_table, record, records_beside, records_digest, rows_of, task_scores
from rankadaptor.ranktable.reliability import reliability
from rankadaptor.ranktable.replay import Job, Replay, block_space
from rankadaptor.ranktable.replayed_searches import recoveries_needed, replayed, run_replays
from rankadaptor.reporting.search_page import search_page
from rankadaptor.reporting.search_page.convergence import convergence_frame, convergence_text
from rankadaptor.search.rivals import RIVALS, register
from rankadaptor.search.rounds import mean_score
from rankadaptor.search.settings import SearchSettings

PROFILE = load_profile("tiny")
REPORTS = Path(__file__).parents[2] / "reports" / "tiny"
PAPER = SearchSettings(initial=6, rounds=4, batch=4, candidates_per_round=1000, threshold=0.0, patience=99, seed=0)
OURS = dataclasses.replace(PAPER, predictor="ensemble", inputs="logarithms and squares", proposals="near")
PARTS = [(split, metric) for split in ("search", "report") for metric in ("accuracy", "gold_probability")]
JOBS = [Job("ours", OURS), Job("paper", PAPER), Job("random search", OURS, rival="random search"),
        Job("TPE", OURS, rival="TPE")]


def made_up(noise: float, count: int = 60) -> pd.DataFrame:
    """A table whose scores grow with the logarithms of ranks, plus noise of the training seed."""
    generator = np.random.default_rng(0)
    rows = []
    for block, ranks in (("llm-pruner:50", [8] * 13), ("llm-pruner:30", [8] * 13),
                         ("shortened:50", [8, 8, 0, 0, 0, 0, 8, 8, 0, 8, 8, 0, 8])):
        space = block_space(PROFILE, block, tuple(ranks))
        named = {allocation: name for name, allocation in named_allocations(space).items()}
        for allocation, origin in (named | drawn_allocations(space, (count, 10, 10), 11, named)).items():
            value = 0.5 + np.log2(np.array([r for r in allocation if r])).sum() / 1000
            for seed in (1000, 1001):
                luck = generator.normal(0, noise)
                scores = {f"{split}_{task}_{metric}": scale * (value + luck) + number / 100
                          for scale, (split, metric) in enumerate(PARTS, 1) for number, task in enumerate(TASKS)}
                written = " ".join(map(str, allocation))
                rows.append({"block": block, "scaling": "fixed_alpha", "origin": origin, "seed": seed,
                             "within_budget": space.contains(allocation), "allocation": written,
                             "trainable_parameters": 1, "held_out_loss": 2 - value, "training_loss": 1 - value}
                            | scores)
    return pd.DataFrame(rows)


TABLE = made_up(noise=0.0)
REPLAY = Replay.of(TABLE, PROFILE, "llm-pruner:50")


def proposals_of(result):
    return [allocation for one in result.rounds for allocation in one.proposals]


def test_a_search_sees_one_training_and_is_scored_by_the_other():
    table = made_up(noise=0.01)
    replay = Replay.of(table, PROFILE, "llm-pruner:50")
    allocation = replay.pool.allocations[3]
    rows = table[(table["block"] == "llm-pruner:50") & (table["allocation"] == " ".join(map(str, allocation)))]
    by_seed = {row["seed"]: row for _, row in rows.iterrows()}
    assert replay.searched(1000, "accuracy")[allocation] == task_scores(by_seed[1000], "search", "accuracy")
    truth = task_scores(by_seed[1001], "report", "gold_probability")
    assert replay.truth(1000)[allocation] == pytest.approx(mean_score(truth))
    assert replay.searched(1001, "held_out_loss")[allocation] == {"text": -by_seed[1001]["held_out_loss"]}


@pytest.mark.slow
def test_a_search_sees_no_scoring_training_and_no_report_split():
    """Spoil all that the search must not see, in every block, records included: it proposes the same."""
    table = made_up(noise=0.01)
    spoilt = table.copy()
    numbers = [name for name in table if name.startswith("report_")]
    spoilt[numbers] = np.random.default_rng(0).random(spoilt[numbers].shape)
    other = [name for name in table if name.startswith("search_") or name.endswith("_loss")]
    spoilt.loc[spoilt["seed"] == 1001, other] = np.random.default_rng(1).random(
        spoilt.loc[spoilt["seed"] == 1001, other].shape)
    clean, dirty = (Replay.of(one, PROFILE, "llm-pruner:50") for one in (table, spoilt))
    for job in JOBS:
        assert replayed(clean, job, 0) == replayed(dirty, job, 0)  # an even seed searches on training seed 1000
    assert replayed(clean, JOBS[0], 1) != replayed(dirty, JOBS[0], 1)


def test_the_pool_is_what_fits_the_budget():
    assert all(REPLAY.pool.space.contains(allocation) for allocation in REPLAY.pool.allocations)
    dropped = set(map(parse_allocation, rows_of(TABLE, "llm-pruner:50", "fixed_alpha")["allocation"]))
    assert dropped - set(REPLAY.pool.allocations)  # uniform ranks beyond 8 at least
    deep = Replay.of(TABLE, PROFILE, "shortened:50")
    assert deep.pool.space.free_layers == (6, 7, 9, 10)


def test_records_are_of_other_blocks_and_digested_by_content():
    records = records_beside(TABLE, "llm-pruner:50", "fixed_alpha", "gold_probability")
    assert [one.label for one in records] == ["llm-pruner:30", "shortened:50"]
    assert len(records[0].allocations) == len(set(records[0].allocations))
    again = records_beside(TABLE.copy(), "llm-pruner:50", "fixed_alpha", "gold_probability")
    assert records_digest(records) == records_digest(again)
    assert records_digest(records) != records_digest(records[:1]) != records_digest(()) == ""
    noisy = made_up(noise=0.01)
    both = record(rows_of(noisy, "llm-pruner:30", "fixed_alpha"), "x", "accuracy")
    one, other = (rows_of(noisy, "llm-pruner:30", "fixed_alpha", seed).iloc[0] for seed in (1000, 1001))
    assert both.scores[0]["boolq"] == pytest.approx(
        (one["search_boolq_accuracy"] + other["search_boolq_accuracy"]) / 2)


@pytest.mark.slow
def test_replays_measure_once_and_are_functions_of_their_seed():
    for job in JOBS:
        order = proposals_of(replayed(REPLAY, job, 3))
        assert len(order) == len(set(order)) == 6 + 4 * 4
        assert order == proposals_of(replayed(REPLAY, job, 3))
        assert order[:6] == proposals_of(replayed(REPLAY, JOBS[0], 3))[:6]  # all begin alike


@pytest.mark.slow
def test_curves_do_not_depend_on_the_number_of_processes():
    curves = run_replays(REPLAY, JOBS, range(3), workers=1)
    assert curves.groupby(["method", "seed"]).size().eq(22).all()
    assert (curves["regret"] >= 0).all()
    assert curves.groupby(["method", "seed"])["searched"].apply(lambda one: one.is_monotonic_increasing).all()
    # Without noise, searched and true scores agree: the best found has no regret.
    assert curves.loc[curves["searched"] == curves["searched"].max(), "regret"].max() < 0.1
    last = curves[curves["recoveries"] == 22].groupby("method")["regret"].median()
    assert last["ours"] <= last["random search"]
    again = run_replays(REPLAY, JOBS[:2], range(3), workers=2)
    pd.testing.assert_frame_equal(again, curves[curves["method"].isin(["ours", "paper"])].reset_index(drop=True))


def test_a_converged_search_spends_less_and_keeps_its_choice():
    stopping = dataclasses.replace(OURS, threshold=5.0, patience=1)
    curves = run_replays(REPLAY, [Job("stopping", stopping)], range(2), workers=1)
    assert curves.groupby("seed").size().eq(22).all()
    assert (curves["spent"] == 10).all()  # the initialization and one round
    after = curves[curves["recoveries"] >= 10]
    assert after.groupby("seed")["regret"].nunique().eq(1).all()


@pytest.mark.slow
def test_a_registered_rival_is_replayed():
    register("toy")(RIVALS["mutation"])
    try:
        toy, mutation = (replayed(REPLAY, Job("x", OURS, rival=rival), 0) for rival in ("toy", "mutation"))
    finally:
        del RIVALS["toy"]
    assert toy == mutation
    with pytest.raises(BadInput, match="unknown rival 'toy'"):
        replayed(REPLAY, Job("x", OURS, rival="toy"), 0)


@pytest.mark.slow
def test_the_choice_may_be_a_prediction():
    chosen = [run_replays(REPLAY, [Job("x", dataclasses.replace(OURS, selection=how))], range(2), workers=1)
              for how in ("measured", "predicted")]
    assert (chosen[0]["regret"].iloc[:21] == chosen[1]["regret"].iloc[:21]).all()  # all but the last choice
    best = replayed(REPLAY, Job("x", dataclasses.replace(OURS, selection="predicted")), 0).best
    assert best in REPLAY.pool.allocations


def test_recoveries_to_the_top_are_counted():
    curves = pd.DataFrame({"method": ["a"] * 6 + ["b"] * 6, "seed": [0, 0, 0, 1, 1, 1] * 2, "recoveries": [1, 2, 3] * 4,
                           "searched": [0.2, 0.96, 0.97, 0.1, 0.2, 0.3, 1.0, 1.0, 1.0, 0.5, 0.5, 0.995]})
    assert recoveries_needed(curves, 0.05).to_dict() == {"a": {0: 2, 1: 4}, "b": {0: 1, 1: 3}}  # 4: more than 3
    assert recoveries_needed(curves, 0.01).to_dict() == {"a": {0: 4, 1: 4}, "b": {0: 1, 1: 3}}


def test_agreement_is_full_without_noise_and_none_in_noise():
    assert reliability(REPLAY)["Kendall tau"].to_numpy() == pytest.approx(1.0)
    noisy = reliability(Replay.of(made_up(noise=10.0), PROFILE, "llm-pruner:50")).set_index(["signal", "what differs"])
    assert noisy.loc[("accuracy", "split, same training"), "Kendall tau"] == pytest.approx(1.0)
    assert abs(noisy.loc[("accuracy", "both"), "Kendall tau"]) < 0.25


@pytest.mark.slow
def test_predictors_are_scored_on_what_they_did_not_see():
    variants = {name: (dataclasses.replace(OURS, predictor=name), REPLAY.other_blocks if name == "ensemble" else ())
                for name in ("ridge", "ensemble", "constant")}
    predictions = cross_validated(REPLAY, variants, (16, 1000), workers=1)
    pool = len(REPLAY.pool.allocations)
    assert predictions.groupby(["predictor", "size", "seed"])["allocation"].nunique().eq(pool).all()
    statistics = rank_statistics(predictions).set_index(["predictor", "size"])
    most = predictions["size"].max()
    assert statistics.loc[("ridge", most), "tau, same"] > 0.9
    assert statistics.loc[("ensemble", most), "tau, other"] > 0.7
    assert statistics.loc[("constant", most), "tau, same"] == 0
    low, high = (statistics.loc[("ensemble", 16), f"tau, same, {end}"] for end in ("low", "high"))
    assert low < statistics.loc[("ensemble", 16), "tau, same"] < high


@pytest.fixture(scope="module")
def table_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    TABLE.to_parquet(path)
    return path


@pytest.mark.slow
def test_the_page_holds_together(table_file, tmp_path, monkeypatch):
    """With a regression in place of the ensemble, which would take a minute."""
    from rankadaptor.reporting.search_page import page as module

    monkeypatch.setattr(module, "SIZES", (16, 32))
    monkeypatch.setattr(module, "ablation_jobs",
                        lambda settings: [Job("RankAdaptor", settings.ours), Job("x", settings.stopping)])
    quick = yaml.safe_load((FOLDER / "tiny.yaml").read_text())
    quick["search"]["method"]["predictor"] = "ridge"
    profile = tmp_path / "quick.yaml"
    profile.write_text(yaml.safe_dump(quick))
    given = {"blocks": "llm-pruner:50 shortened:50", "searches": 2, "recoveries": 12, "workers": 1}
    page = search_page(str(profile), str(table_file), ledger=tmp_path / "ledger", **given)
    assert "SHA-256" in str(page.plan())
    assert page.is_complete()
    path = page.write(tmp_path)
    text = path.read_text()
    for heading in ("What one measurement is worth", "Predictors", "What other blocks teach",
                    "Searches, shortened:50", "When the stopping rule fires", "What helps"):
        assert f"## {heading}" in text
    assert "regret" in page.verdict()
    assert "a predictor that knows nothing" in page.verdict()
    written = sorted(tmp_path.glob("search-*.csv"))
    assert len(written) == 10
    for file in written:  # prose reads the committed ones by the names of their columns
        assert list(pd.read_csv(file)) == list(pd.read_csv(REPORTS / file.name)), file.name
    for figure in (page.trace(), page.learning(), page.scatter(), page.regret(), page.top()):
        assert all(axis.get_xlabel() for axis in figure.axes)
    keys = json.loads((tmp_path / "search-provenance.json").read_text())["ledger_keys"]["replays"]
    assert {one.key for one in Ledger(tmp_path / "ledger").entries()} == set(keys)

    def refuse(*_):
        raise AssertionError("replayed once more")

    for replaying in (cross_validation, replayed_searches):
        monkeypatch.setattr(replaying, "map_in_processes", refuse)
    again = search_page(str(profile), str(table_file), ledger=tmp_path / "ledger", **given)
    pd.testing.assert_frame_equal(again.differences, page.differences)
    with pytest.raises(AssertionError, match="replayed once more"):  # other searches are other replays
        search_page(str(profile), str(table_file), ledger=tmp_path / "ledger", **given | {"searches": 3}).searches()


def searches_that_stop(ended):
    """Ten searches a predictor and block, some of which stop after 8 of 12 recoveries."""
    return pd.DataFrame([
        {"method": method, "seed": seed, "recoveries": recoveries, "spent": 8 if seed < count else 12}
        for method, count in ended.items() for seed in range(10) for recoveries in range(1, 13)])


@pytest.mark.parametrize(("ours", "chance", "says"), [
    (10, 1, "more often than random numbers"), (4, 3, "not told from random numbers"),
    (0, 9, "less often than random numbers")])
def test_convergence_is_judged_against_random_numbers(ours, chance, says):
    counts = {"RankAdaptor": ours, "random numbers": chance}
    frame = convergence_frame({"a": searches_that_stop(counts), "b": searches_that_stop(counts)})
    together = frame[frame["block"] == "all blocks"].set_index("predictor")
    assert together.loc["RankAdaptor", "verdict"] == says
    assert list(together["ended"]) == [2 * ours, 2 * chance]
    assert frame.loc[frame["predictor"] == "random numbers", "p"].isna().all()
    assert ((frame["low"] >= 0) & (frame["low"] <= frame["share"]) & (frame["high"] <= 100)).all()
    assert f"ended {2 * ours} of 20 of RankAdaptor's searches" in convergence_text(frame)


@pytest.mark.parametrize(("given", "says"), [
    ({"table": "/no/such"}, "cannot read a rank table from /no/such"),
    ({"blocks": "llm-pruner:20"}, "the table holds nothing of llm-pruner:20 with fixed_alpha"),
    ({"blocks": " "}, "no blocks were given"),
    ({"scaling": "other"}, "unknown scaling 'other'"),
    ({"searches": 1}, "1 searches of 40 recoveries"),
    ({"recoveries": 9}, "20 searches of 9 recoveries"),
    ({"profile": "smollm2"}, "have 13 entries, the model of profile smollm2 has 30 layers"),
])
def test_bad_input_is_told_in_one_line(table_file, given, says):
    with pytest.raises(BadInput, match=says):
        search_page(**({"profile": "tiny", "table": str(table_file)} | given))


def test_what_is_no_table_is_refused(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(BadInput, match="is no rank table, it lacks the column"):
        read_table(tmp_path / "other.parquet")
    with pytest.raises(BadInput, match="unknown signal 'luck'"):
        task_scores(TABLE.iloc[0], "search", "luck")


def test_a_table_of_other_candidates_or_one_training_is_refused():
    with pytest.raises(BadInput, match="needs two, one to search and one to score"):
        Replay.of(TABLE[TABLE["seed"] == 1000], PROFILE, "llm-pruner:50")
    narrow = dataclasses.replace(PROFILE, search=dataclasses.replace(PROFILE.search, candidates=[8, 10]))
    with pytest.raises(BadInput, match="which is none of profile tiny"):
        Replay.of(TABLE, narrow, "llm-pruner:50")


def test_recoveries_are_rounded_to_whole_rounds(table_file):
    assert search_page("tiny", str(table_file), "llm-pruner:50", recoveries=42).recoveries == 40


def test_options_that_the_page_does_not_know_are_refused(capsys):
    assert main(["reproduce", "search", "--seeds", "1"]) == 2
    assert "seeds '1' was given for search" in capsys.readouterr().err
