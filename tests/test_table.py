"""The whole path on a tiny model: prune, recover, search, evaluate, ledger, table; and what survives being killed."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from rankadaptor import experiments
from rankadaptor.allocation import trainable_parameters, uniform_allocation
from rankadaptor.reporting import tables

BLOCKS = "llm-pruner:50 shortened:20"


@pytest.fixture(scope="module")
def finished(tiny_profile: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[experiments.TableResult, Path]:
    ledger = tmp_path_factory.mktemp("ledger")
    return experiments.main_table(str(tiny_profile), BLOCKS, "quick", ledger=str(ledger)).run(), ledger


def test_rows_are_the_papers_and_ours(finished):
    result, _ = finished
    for block in BLOCKS.split():
        methods = [row.method for row in result.blocks[block].rows]
        assert methods == ["No recovery", "LoRA", "LoRA*", "AdaLoRA", "RankAdaptor (one model)"]
    assert all(row.outcomes["hellaswag"].shape == (1, 6) for row in result.rows())


def test_searched_allocation_costs_at_most_lora(finished):
    result, _ = finished
    for block in result.blocks.values():
        rows = {row.method: row for row in block.rows}
        budget = trainable_parameters(uniform_allocation(8, block.architecture), block.architecture)
        assert rows["LoRA"].trainable_parameters == budget
        assert rows["RankAdaptor (one model)"].trainable_parameters <= 1.01 * budget


def test_second_run_computes_nothing_and_draws_the_same_table(finished, tiny_profile, tmp_path):
    result, ledger = finished
    again = experiments.main_table(str(tiny_profile), BLOCKS, "quick", ledger=str(ledger))
    assert "to run: nothing" in str(again.plan())
    second = again.run()
    assert second.computed == ()
    for one, folder in ((result, tmp_path / "a"), (second, tmp_path / "b")):
        tables.write_table(one, folder)
    digests = [{p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / f).iterdir()} for f in "ab"]
    assert digests[0] == digests[1]


def test_plan_of_an_empty_ledger_counts_what_a_run_computes(finished, tiny_profile, tmp_path):
    result, _ = finished
    plan = experiments.main_table(str(tiny_profile), BLOCKS, "quick", ledger=str(tmp_path)).plan()
    assert plan.needed == plan.missing
    assert sum(plan.missing.values()) == len(result.computed)


def test_a_run_cut_off_anywhere_goes_on_and_ends_in_the_same_numbers(finished, tiny_profile, tmp_path, monkeypatch):
    """Stop after every third stage, as a kill between two renames would; nothing is computed twice."""
    from rankadaptor.stages import Workshop

    result, _ = finished
    computed: list[str] = []
    original = Workshop.run

    def run_three(self, step):
        if self.ledger.find(self.key(step)) is None and len(self.computed) == 3:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(Workshop, "run", run_three)
    for _ in range(100):
        table = experiments.main_table(str(tiny_profile), BLOCKS, "quick", ledger=str(tmp_path))
        try:
            resumed = table.run()
            break
        except KeyboardInterrupt:
            computed += [key for _, key in table._workshop.computed]
    computed += [key for _, key in resumed.computed]
    assert len(computed) == len(set(computed)) == len(result.computed)
    assert tables.cells(resumed).equals(tables.cells(result))
    assert [b.search for b in resumed.blocks.values()] == [b.search for b in result.blocks.values()]


def test_grid_seeds_and_per_task_rows(tiny_profile, tmp_path):
    table = experiments.main_table(str(tiny_profile), "llm-pruner:20", "two-seeds", ledger=str(tmp_path))
    result = table.run()
    rows = {row.method: row for row in result.blocks["llm-pruner:20"].rows}
    per_task = rows["RankAdaptor (per task)"]
    assert per_task.outcomes["boolq"].shape == (2, 6)
    assert len(per_task.allocations) == 7
    assert rows["LoRA"].learning_rate == rows["LoRA*"].learning_rate == per_task.learning_rate
    assert rows["AdaLoRA"].learning_rate in result.budget.adalora_learning_rates
    assert table.plan().missing.total() == 0


def test_the_search_is_retrained_with_other_seeds(finished, tiny_profile, tmp_path):
    result, ledger = finished
    specs = {entry: (ledger / entry / "spec.json").read_text() for entry in map(str, ledger.iterdir())
             if (Path(entry) / "spec.json").is_file()}
    assert result.profile.search.training_seed not in result.seeds
    assert any('"seed": 1000' in text for text in specs.values())
    with pytest.raises(experiments.BadInput, match="seed 1000 belongs to searches"):
        experiments.main_table(str(tiny_profile), "", "quick", seeds=[1000], ledger=str(tmp_path))


def test_undecided_budget_never_gives_a_verdict(finished):
    result, _ = finished
    verdicts = set(tables.difference_table(result)["verdict"])
    assert verdicts == {"", "undecided"}
    decided = dataclasses.replace(result, budget=dataclasses.replace(result.budget, decided=True))
    assert set(tables.difference_table(decided)["verdict"]) - {""} <= {
        "supported", "smaller than claimed", "not supported", "undecided"}
