"""The whole path on a tiny model: prune, recover, search, evaluate, ledger, table; and what survives being killed."""

import dataclasses
import hashlib
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from helpers.finished import FINISHED_BLOCKS, copy_without
from helpers.runners import recorded_runners

from rankadaptor.allocation import trainable_parameters, uniform_allocation
from rankadaptor.data.tasks import TASKS
from rankadaptor.data.text import perplexity_texts
from rankadaptor.evaluation.perplexity import perplexity
from rankadaptor.experiments import main_table as experiments
from rankadaptor.experiments.trials import Trials
from rankadaptor.keys import identity_key
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.reporting import figures, tables
from rankadaptor.search.rounds import mean_score


def test_rows_are_the_papers_and_ours(finished):
    result, _ = finished
    for block in FINISHED_BLOCKS.split():
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
    again = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=str(ledger))
    assert "to run: nothing" in str(again.plan())
    second = again.run()
    assert second.computed == ()
    assert set(second.stages) == set(result.stages) == {key for _, key in result.computed}
    seconds = tables.table_provenance(second, again.ledger)["seconds"]
    assert sum(one["stages"] for one in seconds.values()) == len(result.computed)
    assert {"prune", "recover", "evaluate"} == seconds.keys()
    assert seconds["recover"]["seconds"] > 0
    for one, folder in ((result, tmp_path / "a"), (second, tmp_path / "b")):
        tables.write_table(one, folder)
    digests = [{p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / f).iterdir()} for f in "ab"]
    assert digests[0] == digests[1]


def test_plan_of_an_empty_ledger_counts_what_a_run_computes(finished, tiny_profile, tmp_path):
    result, _ = finished
    plan = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=str(tmp_path)).plan()
    assert plan.needed == plan.missing
    assert sum(plan.missing.values()) == len(result.computed)


def test_a_plan_counts_one_allocation_a_task_and_the_best_mean(tiny_profile, tmp_path):
    """The worst that a search can find; so that no plan of one counts less than its run computes."""
    table = experiments.main_table(str(tiny_profile), "llm-pruner:50", "quick", ledger=str(tmp_path))
    runner, pruned = table.planning_runner(), Step("prune", table.profile.prune_spec(table.blocks[0]))
    trials = Trials(runner, table.profile, table.budget)
    specs = [table.profile.lora_spec(table.budget, (), 1e-3, seed) for seed in range(1 + len(table.profile.tasks))]
    scores = [trials.scores(trials.trial(pruned, spec)) for spec in specs]
    best = [max(range(len(specs)), key=lambda trial: scores[trial][task]) for task in table.profile.tasks]
    best.append(max(range(len(specs)), key=lambda trial: mean_score(scores[trial])))
    assert sorted(best) == list(range(len(specs)))


def test_a_plan_of_a_model_that_is_not_here_reads_no_records(tmp_path):
    """Whether records are of its layers is known when it is."""
    (tmp_path / "far.yaml").write_text("extends: vicuna-7b\nname: far\nsearch: {records: rank_table}\n")
    plan = experiments.main_table(str(tmp_path / "far.yaml"), "llm-pruner:50", ledger=str(tmp_path)).plan()
    assert plan.downloads
    assert plan.missing == plan.needed
    assert plan.missing


def test_a_run_cut_off_anywhere_ends_in_the_same_numbers(finished, tiny_profile, tmp_path, monkeypatch):
    """Stop after every third stage, as a kill between two renames would; nothing is computed twice."""
    result, _ = finished
    computed: list[str] = []
    original = Runner.run

    def run_three(self, step):
        if self.ledger.find(self.key(step)) is None and len(self.computed) == 3:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(Runner, "run", run_three)
    runners = recorded_runners(monkeypatch)
    for _ in range(100):
        table = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=str(tmp_path))
        try:
            resumed = table.run()
            break
        except KeyboardInterrupt:
            computed += [key for _, key in runners[-1].computed]
            assert table.plan().missing.total() == len(result.computed) - len(computed)
    computed += [key for _, key in resumed.computed]
    assert len(computed) == len(set(computed)) == len(result.computed)
    assert tables.cells(resumed).equals(tables.cells(result))
    assert [b.search for b in resumed.blocks.values()] == [b.search for b in result.blocks.values()]


@pytest.mark.slow
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


def test_the_chosen_allocation_is_retrained_with_fresh_seeds(finished, tiny_profile, tmp_path):
    result, folder = finished
    ledger = Ledger(folder)
    for block in result.blocks.values():
        row = next(row for row in block.rows if row.method == "RankAdaptor (one model)")
        reported = ledger.find(ledger.find(row.keys[0]).spec["parent"]).spec["spec"]
        assert tuple(reported["allocation"]) == block.search.best
        assert reported["seed"] == 0 != result.profile.search.training_seed
    with pytest.raises(experiments.BadInput, match="seed 1000 belongs to searches"):
        experiments.main_table(str(tiny_profile), "", "quick", seeds=[1000], ledger=str(tmp_path))


def test_undecided_budget_never_gives_a_verdict(finished):
    result, _ = finished
    verdicts = set(tables.difference_table(result)["verdict"])
    assert verdicts == {"", "undecided"}
    decided = dataclasses.replace(result, budget=dataclasses.replace(result.budget, decided=True))
    assert set(tables.difference_table(decided)["verdict"]) == {"", "undecided"}  # one seed still decides nothing


def test_a_budget_that_decides_gives_the_verdict_of_its_numbers(finished):
    """Of six items a task, the dense model knows all, the pruned one none, LoRA two."""
    result, _ = finished
    block = result.blocks["llm-pruner:50"]
    known = {"Dense": 6, "No recovery": 0, "LoRA": 2}

    def knowing(row, counts):
        right = np.tile((np.arange(6) < counts.get(row.method, 0)).astype(float), (2, 1))
        return dataclasses.replace(row, outcomes=dict.fromkeys(TASKS, right),
                                   gold_probability={task: np.full((2, 6), 0.5) for task in TASKS})

    def verdict_with(**counts):
        counts = known | {"RankAdaptor (one model)": counts.pop("ours")} | counts
        changed = dataclasses.replace(
            result, seeds=(0, 1), budget=dataclasses.replace(result.budget, decided=True),
            dense=knowing(result.dense, counts), blocks={"llm-pruner:50": dataclasses.replace(
                block, rows=tuple(knowing(row, counts) for row in block.rows))})
        table = tables.differences_to_lora(changed).set_index("method")
        pooled = tables.pooled_frame(changed).set_index("method")
        ours = "RankAdaptor (one model)"
        assert table.loc[ours, "verdict"] == pooled.loc[ours, "verdict"]
        return table.loc[ours, "verdict"]

    assert verdict_with(ours=5) == "supported"
    assert verdict_with(ours=2) == "not supported"
    assert verdict_with(ours=0) == "undecided"  # so few items would not have shown the claimed gain
    assert verdict_with(ours=5, LoRA=0) == "no headroom"
    assert verdict_with(ours=5, Dense=0) == "no headroom"


@pytest.mark.slow
def test_independent_searches_and_a_second_scaling(tiny_profile, finished_copy, tmp_path):
    profile = yaml.safe_load(tiny_profile.read_text())
    quick = profile["budgets"]["quick"]
    quick |= {"training_seeds": [0, 1, 2], "searches": 2, "scalings": ["constant"]}
    path = tiny_profile.with_name(f"{tmp_path.name}.yaml")
    path.write_text(yaml.safe_dump(profile))
    with pytest.raises(experiments.BadInput, match="seed 1001 belongs to searches"):
        experiments.main_table(str(path), "", "quick", seeds=[1001], ledger=str(finished_copy))
    table = experiments.main_table(str(path), "llm-pruner:50", "quick", ledger=str(finished_copy))
    result = table.run()
    assert table.plan().missing.total() == 0
    ledger, block = Ledger(finished_copy), result.blocks["llm-pruner:50"]
    assert list(block.searches) == ["RankAdaptor (one model)", "RankAdaptor, constant scaling"]
    for method, scaling in zip(block.searches, ("fixed_alpha", "constant"), strict=True):
        searches = block.searches[method]
        traces = [json.loads((finished_copy / "searches" / key / "spec.json").read_text()) for _, key in searches]
        assert [trace["spec"]["settings"]["seed"] for trace in traces] == [1000, 1001]
        assert {trace["spec"]["recovery"]["seed"] for trace in traces} == {1000, 1001}  # trials of their own
        row = next(row for row in block.rows if row.method == method)
        specs = [ledger.find(ledger.find(key).spec["parent"]).spec["spec"] for key in row.keys]
        assert [spec["seed"] for spec in specs] == [0, 1, 2]
        assert {spec["scaling"] for spec in specs} == {scaling}
        best = [search.best for search, _ in searches]
        assert [tuple(spec["allocation"]) for spec in specs] == [best[0], best[1], best[0]]
    assert len(tables.write_table(result, tmp_path)) > 5
    searches = pd.read_csv(tmp_path / "table2-searches.csv")
    assert list(searches["search"]) == [1, 2, 1, 2]
    verdicts = tables.differences_to_lora(result)
    assert set(verdicts.loc[verdicts["verdict"] != "", "method"]) == set(block.searches)


def test_the_ceiling_is_of_the_profiles_ranks(finished_copy, tiny_profile):
    table = experiments.main_table(str(tiny_profile), "llm-pruner:50", "quick", ledger=str(finished_copy),
                                   table="ceiling")
    result = table.run()
    row_of = {row.method: row for row in result.blocks["llm-pruner:50"].rows}
    assert list(row_of) == ["No recovery", "LoRA", "LoRA r=2", "LoRA r=16"]
    assert row_of["LoRA r=16"].trainable_parameters > row_of["LoRA"].trainable_parameters
    frame = tables.ceiling_frame(result)
    assert list(frame["rank"]) == [2, 8, 16]
    assert set(frame["scaling"]) == {"fixed_alpha"}
    assert (frame.loc[frame["method"] == "LoRA", ["difference", "low", "high"]] == 0).all(axis=None)
    assert "rank 16 in every layer adds" in tables.ceiling_text(result)
    assert len(tables.ceiling_table(result)) == 2
    (axis,) = figures.table_figures(result)["curve"].axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "8", "16"]


def test_other_recovery_rows_mean_another_search(finished, finished_copy, tiny_profile, recovery_file, tmp_path):
    result, _ = finished
    other = tmp_path / "other.jsonl"
    other.write_text("".join(recovery_file.read_text().splitlines(keepends=True)[:30]))
    table = experiments.main_table(
        str(tiny_profile), "shortened:20", "quick", ledger=finished_copy, recovery_data=str(other)).run()
    for block, found in table.blocks.items():
        assert found.search_key != result.blocks[block].search_key
    assert {stage for stage, _ in table.computed} == {"recover", "evaluate"}  # the pruned models are the same


def test_every_key_is_the_hash_of_its_spec(finished):
    _, ledger = finished
    specs = [*ledger.glob("*/spec.json"), *ledger.glob("searches/*/spec.json")]
    assert len(specs) >= 37 + 2  # stages of two blocks, and their searches
    for path in specs:
        assert identity_key(json.loads(path.read_text())) == path.parent.name


def test_planning_computes_nothing_where_an_adapter_is_gone(finished, finished_copy, tiny_profile):
    result, _ = finished
    lora = next(row for row in result.blocks["shortened:20"].rows if row.method == "LoRA")
    recovery = Ledger(finished_copy).find(lora.keys[0]).spec["parent"]
    shutil.rmtree(finished_copy / recovery)
    table = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=finished_copy)
    assert table.plan().missing.total() > 0
    assert not (finished_copy / recovery).exists()
    assert [key for _, key in table.run().computed] == [recovery]


def test_a_diverging_trial_is_scored_last_and_stops_nothing(finished, tiny_profile, tmp_path, monkeypatch):
    """The search's first trial diverges: the table still ends, the trial is not tried again, and is not chosen."""
    from rankadaptor.errors import RecoveryDiverged
    from rankadaptor.pipeline.stages import recover as stages

    original, calls = stages.train, []

    def diverge_once(adapted, tokenizer, rows, spec, on_step):
        if spec.seed == 1000:
            calls.append(spec.allocation)
            if len(calls) == 1:
                raise RecoveryDiverged("loss nan")
        return original(adapted, tokenizer, rows, spec, on_step)

    monkeypatch.setattr(stages, "train", diverge_once)
    copy_without(finished.ledger, tmp_path / "ledger", lambda spec: spec.seed == 1000)
    table = experiments.main_table(str(tiny_profile), "shortened:20", "quick", ledger=tmp_path / "ledger")
    found = table.run().blocks["shortened:20"].search
    assert set(found.rounds[0].scores[0].values()) == {0.0}
    assert found.best != calls[0]
    assert table.plan().missing.total() == 0
    assert len(calls) == len(set(calls)) == 4


def test_controls_of_lora_star_have_its_ranks_reordered(finished_copy, tiny_profile):
    result = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, ledger=finished_copy, table="figure2").run()
    assert not result.searched
    for block in result.blocks.values():
        rows = {row.method: row.allocations[0] for row in block.rows if row.allocations}
        assert list(rows) == ["LoRA", "LoRA*", "mirror of LoRA*", "LoRA* shuffled (1)", "LoRA* shuffled (2)"]
        star = rows.pop("LoRA*")
        present = [rank for rank in star if rank]
        assert present == sorted(present)
        for method in ("mirror of LoRA*", "LoRA* shuffled (1)", "LoRA* shuffled (2)"):
            assert [not rank for rank in rows[method]] == [not rank for rank in star]  # no adapter where no layer is
        for method in ("LoRA* shuffled (1)", "LoRA* shuffled (2)"):
            assert sorted(rows[method]) == sorted(star)
        assert len({*rows.values(), star}) == 5
    differences = tables.task_differences(result)
    whole = tables.differences_to_lora(result).set_index(["block", "method"])
    means = differences[differences["column"] == "mean"].set_index(["block", "method"])["value"]
    for key in whole.index:
        assert means[key] == pytest.approx(whole.loc[key, "difference"])
    assert set(whole.loc[whole["verdict"] != ""].index.get_level_values("method")) == {"LoRA*"}
    with pytest.raises(experiments.BadInput, match="unknown table 'table9': use one of table1, figure2, table2"):
        experiments.main_table(str(tiny_profile), table="table9")


def test_where_adaloras_ranks_went_is_counted(finished, tiny_profile):
    result = experiments.main_table(str(tiny_profile), "llm-pruner:50", ledger=finished.ledger, table="table1").run()
    row = next(row for row in result.blocks["llm-pruner:50"].rows if row.method == "AdaLoRA")
    spread = tables.rank_spread_table(result, "AdaLoRA").iloc[0]
    assert spread["mean rank"] == pytest.approx(np.mean(list(row.realised_ranks.values())))
    inner = np.array(list(row.realised_ranks.values()))[:, 1:5]
    assert spread["layers in the pruner's range"] == pytest.approx(inner.mean())
    shares = spread[["variance between projections (%)", "variance between layers (%)"]]
    assert 0 <= shares.sum() <= 100 + 1e-9


def test_an_allocation_of_ones_own_is_one_more_row(finished_copy, tiny_profile):
    table = experiments.main_table(
        str(tiny_profile), "llm-pruner:50", "quick", ledger=finished_copy, allocation="4,2,6,2,4,12")
    row = next(row for row in table.run().blocks["llm-pruner:50"].rows if row.method == "own allocation")
    assert set(row.realised_ranks.values()) == {(4, 2, 6, 2, 4, 12)}
    assert table.plan().missing.total() == 0


def test_table_6_is_the_pruned_models_alone_with_perplexities(finished, finished_copy, tiny_profile, tmp_path):
    recovered, _ = finished
    table = experiments.main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=finished_copy, table="table6")
    assert "Table 6" in str(table.plan())
    assert table.plan().missing.total() == 3
    result = table.run()
    assert [stage for stage, _ in result.computed] == ["perplexity"] * 3  # the rest is Table 2's
    assert table.plan().missing.total() == 0
    assert [row.method for row in result.rows()] == ["Dense", "No recovery", "No recovery"]
    unrecovered = {row.block: row for row in recovered.rows() if row.method == "No recovery"}
    runner, spec = Runner(table.inputs, table.ledger), result.profile.evaluation.perplexity
    texts = perplexity_texts(result.profile.benchmarks, 12, result.profile.evaluation.item_seed)
    direct = perplexity(runner.models.model(None), runner.models.tokenizer, texts, spec)
    assert result.dense.perplexity == direct["perplexity"]
    assert len({row.perplexity for row in result.rows()}) == 3
    for row in result.rows():
        if row.block in unrecovered:
            assert np.array_equal(row.outcomes["piqa"], unrecovered[row.block].outcomes["piqa"])
    written = tmp_path / "reports"
    tables.write_table(result, written)
    assert {path.name for path in written.iterdir()} == {"table6.md", "table6.csv", "table6.tex"}
    text = (written / "table6.md").read_text()
    assert text.startswith("# Table 6")
    assert "| perplexity " in text.replace("  ", " ")
    assert "LoRA" not in text
    assert "perplexity" not in tables.measured_table(recovered).columns
    with pytest.raises(experiments.BadInput, match="allocation '4 2' was given for table6, which recovers nothing"):
        experiments.main_table(str(tiny_profile), ledger=finished_copy, allocation="4 2", table="table6")


def test_latex_is_escaped(finished, tmp_path):
    result, _ = finished
    tables.write_table(result, tmp_path)
    text = (tmp_path / "table2.tex").read_text()
    body = text.replace(r"\label{tab:table2}", "")
    assert not re.search(r"(?<!\\)[_#%$]", body)
    assert r"\toprule" in text
