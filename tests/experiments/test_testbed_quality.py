"""The testbed's quality is measured as described: equal sizes, shares of a margin, and nothing twice."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from rankadaptor.allocation import trainable_parameters, uniform_allocation
from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.errors import BadInput, RecoveryDiverged
from rankadaptor.experiments.testbed_quality import measure_testbed
from rankadaptor.pruning.spec import Block
from rankadaptor.reporting import testbed_quality as page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(tiny_profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("instrument")
    one = measure_testbed(
        str(tiny_profile), "shortened:20", "shortened:20", "quick", (0, 1), 2, "report", str(folder)).run()
    return one, len(one.computed)


def test_everything_is_computed_once(measured, tiny_profile):
    one, stages = measured
    block = Block.parse("shortened:20")
    uniform = uniform_allocation(8, one.runner.results.architecture(one.models(block)["No recovery"].parent))
    drawn = one.testbed.random_allocations(one.runner, block)
    trials = {(scaling, allocation) for scaling in ("fixed_alpha", "constant") for allocation in drawn}
    trials.add(("fixed_alpha", uniform))  # LoRA, which may be one of the random ones
    # pruning; dense and pruned scored; every trial with two seeds, recovered and scored
    assert stages == 1 + 2 + 2 * 2 * len(trials)
    again = measure_testbed(str(tiny_profile), "shortened:20", "shortened:20", "quick", (0, 1), 2, "report",
                       str(one.runner.ledger.folder))
    assert again.is_complete()
    assert again.run().computed == ()


def test_random_allocations_differ_and_cost_what_lora_costs(measured):
    one, _ = measured
    block = Block.parse("shortened:20")
    allocations = one.testbed.random_allocations(one.runner, block)
    architecture = one.runner.results.architecture(one.models(block)["No recovery"].parent)
    budget = trainable_parameters(uniform_allocation(8, architecture), architecture)
    assert len(set(allocations)) == 2
    for allocation in allocations:
        assert trainable_parameters(allocation, architecture) == pytest.approx(budget, rel=0.01)


def test_margins_and_shares_follow_from_the_accuracies(measured):
    frame = measured[0].regime().set_index("model")
    for _, row in frame.iterrows():
        assert row["margin"] == pytest.approx(np.mean([row[task] - BENCHMARKS[task].chance for task in TASKS]))
    margin = frame["margin"]
    lost = (margin["Dense"] - margin["No recovery"]) / margin["Dense"]
    assert frame.loc["No recovery", "lost"] == pytest.approx(lost)


def test_the_page_has_every_part(measured, tmp_path):
    one, _ = measured
    signal = one.signal()
    assert set(signal["scaling"]) == {"fixed_alpha", "constant"}
    assert (signal["noise"] >= 0).all()
    assert list(signal["signal"]) == 2 * ["gold probability", "accuracy", "training loss"]
    losses = signal.loc[signal["signal"] == "training loss", "noise"]
    assert (losses != signal.loc[signal["signal"] == "accuracy", "noise"].to_numpy()).any()
    answers = one.answers()
    assert len(answers) == 3 * len(TASKS)
    assert (answers["choices"].str.count(r"\*\*") == 2).all()
    parts = {"Margins": page.regime_table(one), "Spread": page.signal_table(one), "Rejected": page.rejected_regimes()}
    text = page.write_page(one, parts, tmp_path).read_text()
    assert all(part in text for part in ("## Margins", "won back", "## Spread", "ratio", "## Rejected"))
    assert len(pd.read_csv(tmp_path / "testbed-margins.csv")) == len(one.regime())
    assert list(pd.read_csv(tmp_path / "testbed-spread.csv")) == list(signal)
    behind = json.loads((tmp_path / "testbed-provenance.json").read_text())
    assert behind["training_seeds"] == [0, 1]
    assert behind["ledger_keys"].keys() == {"Dense", "shortened:20"}
    assert all(one.runner.ledger.find(key) for keys in behind["ledger_keys"].values() for key in keys)


def test_one_seed_is_refused_before_anything_runs(tiny_profile, tmp_path):
    with pytest.raises(BadInput, match="1 training seeds and 20 allocations tell no spread from noise: give two"):
        measure_testbed(str(tiny_profile), "shortened:20", "shortened:20", "quick", (0,), ledger=tmp_path / "ledger")


def test_a_diverged_recovery_has_no_score(measured, monkeypatch):
    one, _ = measured
    diverged = SimpleNamespace(result={"result": {"diverged": "loss nan"}})
    monkeypatch.setattr(one.runner.results, "_run", lambda step: diverged)
    with pytest.raises(RecoveryDiverged, match="diverged: loss nan"):
        one.regime()
