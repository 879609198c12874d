"""The table of measured allocations is made by several processes, resumes, and says what the ledger says."""

import dataclasses
import multiprocessing
import os
import signal

import numpy as np
import pytest
from helpers.runners import run_in_processes
from test_allocation import DEPTH, WIDTH, space

from rankadaptor.allocation import parse_allocation, trainable_parameters
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.experiments.rank_table import (
    PARTS,
    Part,
    drawn_allocations,
    named_allocations,
    rank_table,
    write_rank_table,
)
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import remove, rubbish
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable.meta_records import ORIGINS, read_table
from rankadaptor.ranktable.replay import block_space
from rankadaptor.search.damage import damage_allocation

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("architecture", [WIDTH, DEPTH])
def test_drawn_allocations_fit_and_few_are_the_first_of_many(architecture):
    one = space(architecture)
    many, few = (drawn_allocations(one, counts, 0, {}) for counts in ((30, 10, 10), (9, 4, 3)))
    assert [list(many.values()).count(origin) for origin in ORIGINS] == [30, 10, 10]
    assert all(map(one.contains, many))
    for origin in ("random", "uneven"):
        first = [a for a, its in many.items() if its == origin]
        assert [a for a, its in few.items() if its == origin] == first[: len([a for a in few if few[a] == origin])]
    # Uneven ones spend the whole budget, random ones what chance says.
    spent = {origin: np.mean([trainable_parameters(a, architecture) for a in many if many[a] == origin])
             for origin in ORIGINS}
    assert spent["uneven"] > 0.95 * one.budget_params > spent["random"]
    randoms = [a for a in many if many[a] == "random"][:20]
    for mutant in (a for a in many if many[a] == "mutant"):
        assert min(sum(x != y for x, y in zip(mutant, base, strict=True)) for base in randoms) <= 3
    assert not set(drawn_allocations(one, (9, 4, 3), 0, dict.fromkeys(few, ""))) & set(few)


def test_rules_of_thumb_are_named():
    named = named_allocations(space())
    assert named["LoRA*"][::-1] == named["mirror of LoRA*"]
    assert set(named["uniform 12"]) == {12}


def test_damage_gives_ranks_where_importance_went():
    """Width: layer 5 lost most. Depth: what blocks 10-12 were worth goes to their neighbours, 9 and 13."""
    units = [{"kv_heads": [0], "channels": [0, 1]} for _ in range(32)]
    scores = [{"kv_heads": [5.0, 1.0], "channels": [4.0, 3.0, 2.0]} for _ in range(32)]
    scores[5] = {"kv_heads": [5.0, 9.0], "channels": [4.0, 3.0, 9.0]}
    ranks = damage_allocation(space(WIDTH), {"layers": scores}, {"layers": units})
    assert space(WIDTH).contains(ranks)
    assert ranks[5] == max(ranks[4:30])
    assert len({ranks[layer] for layer in range(6, 30)}) == 1
    kept = [layer for layer in range(32) if layer not in (10, 11, 12)]
    deep = damage_allocation(space(DEPTH), {"blocks": [1.0] * 32}, {"blocks": kept})
    assert [layer for layer in range(4, 30) if deep[layer] > 2] == [9, 13]


@pytest.fixture(scope="module")
def made(tiny_profile, tmp_path_factory):
    from rankadaptor.experiments import rank_table as module

    folder = tmp_path_factory.mktemp("rank-table")
    parts = (Part(Block("llm-pruner", 50), "fixed_alpha", (1, 1, 1)),
             Part(Block("shortened", 20), "constant", (1, 0, 0)))
    table = rank_table(str(tiny_profile), "quick", parts, str(folder / "ledger"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "UNIFORM_RANKS", (16,))
        patch.setenv("RANKADAPTOR_WORKERS", "2")
        plan = table.plan()
        yield table, plan, folder, table.run()


def test_every_row_has_two_trainings_and_both_splits(made):
    _, _, folder, measured = made
    frame = read_table(write_rank_table(measured, folder / "table.parquet"))
    assert frame.groupby(["block", "scaling", "allocation"])["seed"].nunique().eq(2).all()
    assert set(frame["origin"]) >= {*ORIGINS, "uniform 16", "LoRA*", "mirror of LoRA*", "ranks by pruning damage"}
    for split in ("search", "report"):
        for task in TASKS:
            assert frame[f"{split}_{task}_accuracy"].between(0, 1).all()
            assert frame[f"{split}_{task}_gold_probability"].between(0, 1).all()
    assert (frame[["training_loss", "held_out_loss", "recovery_seconds"]] > 0).all().all()
    assert frame["recovery_key"].str.fullmatch("[0-9a-f]{64}").all()
    assert not frame.loc[frame["origin"] == "uniform 16", "within_budget"].any()
    assert frame.loc[frame["origin"] == "random", "within_budget"].all()


def test_a_finished_table_computes_nothing_and_keeps_its_bytes(made):
    table, plan, folder, measured = made
    assert plan.needed == plan.missing == table.plan().needed
    assert table.is_complete()
    before = {path: path.stat().st_mtime_ns for path in (folder / "ledger").iterdir()}
    again = table.run()
    assert {path: path.stat().st_mtime_ns for path in (folder / "ledger").iterdir()} == before
    written = [write_rank_table(one, folder / name).read_bytes() for one, name in ((measured, "a"), (again, "b"))]
    assert written[0] == written[1]


@pytest.mark.slow  # starts a worker
def test_an_error_of_a_worker_is_raised_and_results_stay(tiny_profile, tmp_path):
    profile, ledger = load_profile(str(tiny_profile)), Ledger(tmp_path / "ledger")
    fine = Step("prune", profile.prune_spec(Block("shortened", 20)))
    broken = Step("prune", dataclasses.replace(fine.spec, calibration_samples=10**5))
    with pytest.raises(BadInput, match="100000 are needed"):
        run_in_processes(profile.inputs(), ledger, [[fine], [broken]], workers=1)
    assert Runner(profile.inputs(), ledger).find(fine) is not None
    with pytest.raises(BadInput, match="workers is 0"):
        run_in_processes(profile.inputs(), ledger, [[fine]], workers=0)


@pytest.mark.slow  # starts workers
def test_a_killed_worker_is_replaced_until_three_attempts(tiny_profile, tmp_path):
    profile, ledger = load_profile(str(tiny_profile)), Ledger(tmp_path / "ledger")
    steps = [Step("prune", dataclasses.replace(profile.prune_spec(Block("shortened", 20)), seed=seed))
             for seed in range(4)]

    begun, before = [], multiprocessing.active_children()

    def kill_whoever_begins(step, share):
        if share == 0:
            begun.append(step)
            if step == steps[1] or (step == steps[2] and begun.count(step) == 1):
                for child in set(multiprocessing.active_children()) - set(before):
                    os.kill(child.pid, signal.SIGKILL)

    run_in_processes(profile.inputs(), ledger, [[step] for step in steps], 1, kill_whoever_begins)
    runner = Runner(profile.inputs(), ledger)
    assert [runner.find(step) is not None for step in steps] == [True, False, True, True]
    assert [begun.count(step) for step in steps] == [1, 3, 2, 1]
    with pytest.raises(StageFailed, match=r"killed: prune \w+ in 3 attempts"):
        runner.run(steps[1])
    remove(rubbish(ledger.folder, failures=True))
    runner.run(steps[1])  # and may be tried again


def test_the_shipped_parts_are_what_the_page_needs():
    assert [sum(part.counts) for part in PARTS] == [300, 100, 100, 60]
    assert {part.scaling for part in PARTS} == {"fixed_alpha", "constant"}


def test_the_committed_table_is_what_the_design_says():
    """Every drawn allocation of every part, each with two trainings, scores within reach."""
    table, profile = read_table(), load_profile("tiny")
    parts = {(str(part.block), part.scaling): part for part in PARTS}
    held = table.groupby(["block", "scaling"], sort=False)
    assert set(held.groups) == set(parts)
    for key, rows in held:
        first = parse_allocation(rows["allocation"].iloc[0])
        one = block_space(profile, key[0], first)
        named = dict.fromkeys(map(parse_allocation, rows.loc[~rows["origin"].isin(ORIGINS), "allocation"]), "")
        drawn = drawn_allocations(one, parts[key].counts, 11, named)
        written = {parse_allocation(a): o for a, o in zip(rows["allocation"], rows["origin"], strict=True)}
        assert {a: o for a, o in written.items() if o in ORIGINS} == drawn
        assert rows.groupby("allocation")["seed"].apply(lambda seeds: sorted(seeds) == [1000, 1001]).all()
        assert (rows["within_budget"] == [one.contains(parse_allocation(a)) for a in rows["allocation"]]).all()
        scores = rows[[name for name in rows if name.endswith(("accuracy", "gold_probability"))]]
        assert scores.notna().all().all()
        assert scores.min().min() >= 0
        assert scores.max().max() <= 1
    assert (table["block"] == "llm-pruner:50").sum() >= 2 * 300
