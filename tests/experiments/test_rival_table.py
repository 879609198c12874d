"""The rivals' table: equal budgets, fresh seeds, and a search a rival."""

from collections import Counter

import pytest
import yaml
from helpers.notebooks import assert_executed

from rankadaptor.errors import BadInput
from rankadaptor.experiments.methods import BEST_SEED, DAMAGE, EVA, LORA, LORA_STAR, MIRROR, RANKADAPTOR, TUNED
from rankadaptor.experiments.rival_table import rival_table, tried_rates
from rankadaptor.profiles import load_profile
from rankadaptor.reporting import tables
from rankadaptor.reporting.notebooks import run_notebook
from rankadaptor.search.rivals import RIVALS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tiny_profile, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rivals")
    content = yaml.safe_load(tiny_profile.read_text())
    budget = content["budgets"]["quick"]
    budget["search"] |= {"initial": 1, "rounds": 3, "batch": 1, "threshold": 1e9, "patience": 1}
    budget["training"]["steps"] = 4
    budget["training"]["warmup_steps"] = 1
    content["adapters"]["lora_rank"] = 2  # EVA needs projections of at least four inputs then
    content["search"]["candidates"] = [1, 2, 3, 4]
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rankadaptor.experiments.rival_table.UNIFORM_RANKS", (1, 4))
        table = rival_table(str(path), "llm-pruner:50", "quick", ledger=str(folder / "ledger"))
        plan = table.plan()
        result = table.run()
        yield table, plan, result, str(path)


def test_the_notebook_runs(made, tmp_path, warm_kernel):
    table, _, _, profile = made
    executed = tmp_path / "09_rivals.ipynb"
    run_notebook("09_rivals", executed, {"profile": profile, "budget": "quick", "ledger": str(table.ledger.folder),
                                         "reports": str(tmp_path)})
    assert_executed(executed)
    assert {"rivals.md", "rivals-differences.csv", "rivals-means.svg"} <= {path.name for path in tmp_path.iterdir()}


def test_every_rival_has_a_row_and_a_difference_to_lora(made):
    _, _, result, _ = made
    rows = {row.method: row for row in result.blocks["llm-pruner:50"].rows}
    assert set(rows) >= {LORA, RANKADAPTOR, BEST_SEED, TUNED, MIRROR, DAMAGE, EVA, *RIVALS, "LoRA r=1", "LoRA r=4"}
    assert set(tables.differences_to_lora(result)["method"]) == set(rows) - {LORA}
    assert result.contents.name == "rivals"
    text = tables.caption(result)
    assert "EVA keeps the scaling 16/2" in text
    assert "LoRA's best seed is one training" in text
    assert "AdaLoRA" not in text
    spent = tables.table_provenance(result, made[0].ledger)["recoveries_of_rivals"]
    assert set(spent["llm-pruner:50"]) == set(RIVALS)


def test_only_those_that_are_named_train_more_than_lora(made):
    _, _, result, _ = made
    rows = {row.method: row for row in result.blocks["llm-pruner:50"].rows}
    most = 1.01 * rows[LORA].trainable_parameters
    exceptions = {LORA_STAR, MIRROR, EVA, "LoRA r=4", "No recovery"}
    assert all(0 < row.trainable_parameters <= most for name, row in rows.items() if name not in exceptions)
    assert rows["LoRA r=4"].trainable_parameters == 2 * rows[LORA].trainable_parameters
    assert len(set(rows[EVA].realised_ranks["q_proj"])) > 1


def test_every_rival_makes_as_many_recoveries_as_the_search(made):
    """Counted in the ledger: trials on the search split by what they are a trial of."""
    table, _, result, _ = made
    found = result.blocks["llm-pruner:50"].search
    recoveries = sum(len(one.proposals) for one in found.rounds)
    traces = list((table.ledger.folder / "searches").iterdir())
    assert len(traces) == 1 + len(RIVALS)
    lengths = [len(list(trace.glob("round-*.json"))) for trace in traces]
    assert set(lengths) == {recoveries}  # one initial, then one per round
    assert {one for one, _ in result.blocks["llm-pruner:50"].rivals.values()} == {recoveries}
    assert recoveries == 2 < 1 + table.budget.search.rounds  # it converged, and rivals got no more
    specs = [entry.spec["spec"] for entry in map(table.ledger.find, _keys(table)) if entry.spec["stage"] == "recover"]
    uniform = [spec for spec in specs if spec["method"] == "lora" and len(set(spec["allocation"])) == 1
               and spec["allocation"][0] == 2]
    seed, rate = table.profile.search.training_seed, table.budget.learning_rates[0]
    assert len({spec["seed"] for spec in uniform if spec["seed"] > seed}) == recoveries
    assert len({spec["recipe"]["learning_rate"] for spec in uniform if spec["seed"] == seed} | {rate}) >= recoveries


def _keys(table):
    return [path.name for path in table.ledger.folder.iterdir() if len(path.name) == 64]


def test_a_plan_counts_no_less_than_a_run_computes(made):
    """Four searches with proposals of their own; one that converges makes fewer recoveries than were planned."""
    _, plan, result, _ = made
    planned: Counter[str] = Counter()
    for kind, count in plan.missing.items():
        planned[kind.stage] += count
    assert planned >= Counter(stage for stage, _ in result.computed)


def test_seeds_that_a_search_used_are_refused(made):
    first = load_profile(made[3]).search.training_seed
    for seed in (first, first + 1):
        with pytest.raises(BadInput, match=f"seed {seed} "):
            rival_table(made[3], "llm-pruner:50", "quick", seeds=[0, seed])


def test_a_finished_table_computes_nothing(made):
    table, plan, result, path = made
    assert plan.missing_seconds() > 0
    assert result.computed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rankadaptor.experiments.rival_table.UNIFORM_RANKS", (1, 4))
        again = rival_table(path, "llm-pruner:50", "quick", ledger=str(table.ledger.folder))
        assert not again.run().computed
        assert "nothing" in str(again.plan())


def test_unknown_blocks_are_refused(made):
    with pytest.raises(BadInput, match="unknown block"):
        rival_table(made[3], "llm-pruner:99", "quick")


def test_tried_rates_have_four_digits():
    """Their last bits differ between processors, and a rate is part of a recovery's key."""
    rates = tried_rates(0.004, 13)
    assert rates[0] == 0.001
    assert rates[6] == 0.004
    assert rates[-1] == 0.016
    assert all(rate == float(f"{rate:.4g}") for rate in rates)
    assert rates == sorted(set(rates))
