"""Failures are results: classed, counted, tried again by rule, and told in tables."""

import contextlib
import signal
import time

import pytest
import torch
import yaml
from helpers.finished import copy_without

from rankadaptor import machine as provenance
from rankadaptor.errors import RecoveryDiverged, StageFailed
from rankadaptor.experiments import main_table as experiments
from rankadaptor.pipeline import failures, ledger_tools, time_limits
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import remove, rubbish
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.stages import evaluate as evaluate_stage
from rankadaptor.pipeline.stages import prune as prune_stage
from rankadaptor.pipeline.stages import recover as recover_stage
from rankadaptor.pipeline.step import Step
from rankadaptor.pipeline.time_limits import TimedOut, time_limit
from rankadaptor.pruning.spec import Block
from rankadaptor.recovery.training import train
from rankadaptor.reporting import figures, tables

BLOCK = "shortened:20"
NO_MEMORY = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"


@pytest.mark.parametrize(("error", "kind"), [
    (MemoryError(), "out of memory"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out of memory"),
    (RuntimeError(NO_MEMORY), "out of memory"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), "out of memory"),
    (RuntimeError("shape mismatch"), ""),
    (ValueError("can't allocate memory"), ""),
    (RuntimeError("[enforce fail] mmap: Cannot allocate memory"), "out of memory"),
    (OSError(12, "Cannot allocate memory"), "out of memory"),
    (OSError(28, "No space left on device"), ""),
    (TimedOut("longer than 5 s"), "timed out"),
    (TimeoutError("the network"), ""),
    (StageFailed("out of memory", "recover key: take a machine with more"), ""),
])
def test_errors_are_classed(error, kind):
    assert failures.kind_of(error) == kind


def test_attempts_are_counted_by_kind_and_by_machine(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path)
    failures.note(ledger, "key", "recover", "out of memory", "a\nmessage")
    assert failures.given_up(ledger, "key") is None
    failures.note(ledger, "key", "recover", "killed", "")
    assert failures.given_up(ledger, "key") is None
    failures.note(ledger, "key", "recover", "out of memory", "again")
    failed = failures.given_up(ledger, "key")
    assert failed.kind == "out of memory"
    assert "recover key in 2 attempts: lower micro_batch_rows" in str(failed)
    assert failures.given_up(ledger, "other") is None
    elsewhere = provenance.machine() | {"memory_bytes": 10**15}
    monkeypatch.setattr(failures, "machine", lambda: elsewhere)
    assert failures.given_up(ledger, "key") is None  # a larger machine is not told what a smaller one cannot do


def test_kinds_of_machine_ignore_pages_and_include_clusters(tmp_path, monkeypatch):
    ledger, here = Ledger(tmp_path), provenance.machine()
    here = here | {"memory_bytes": 64 * 2**30}
    for more in (0, 4096):
        monkeypatch.setattr(failures, "machine", lambda more=more: here | {"memory_bytes": 64 * 2**30 + more})
        failures.note(ledger, "key", "recover", "out of memory", "")
    assert failures.given_up(ledger, "key") is not None
    head = here | {"accelerator": None, "memory_bytes": 8 * 2**30}
    monkeypatch.setattr(failures, "machine", lambda: head)
    assert failures.given_up(ledger, "key") is None
    monkeypatch.setenv("RANKADAPTOR_EXECUTOR", "ray")  # whose nodes are other machines than the one that asks
    assert failures.given_up(ledger, "key") is not None


def test_every_card_of_a_host_counts(tmp_path, monkeypatch):
    ledger, here = Ledger(tmp_path), provenance.machine()
    monkeypatch.setattr(failures, "machine", lambda: here | {"accelerator": "B"})
    for _ in range(2):
        failures.note(ledger, "key", "recover", "out of memory", "")
    monkeypatch.setattr(failures, "machine", lambda: here | {"accelerator": "A"})
    assert failures.given_up(ledger, "key") is None
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda card: "AB"[card])
    assert failures.given_up(ledger, "key") is not None


def test_notes_that_were_edited_are_passed_over(tmp_path):
    ledger = Ledger(tmp_path)
    for content in ("", "[]", "{}", '{"stage": "recover", "kind": "killed", "machine": 3}'):
        for _ in range(3):
            failures.note(ledger, "key", "recover", "killed", "")
            newest = max((tmp_path / "failures" / "key").iterdir(), key=lambda path: path.stat().st_mtime_ns)
            newest.write_text(content)
    assert failures.given_up(ledger, "key") is None


def failing(monkeypatch, which, error):
    """Recoveries of which something holds raise an error; returns how often they were tried, by rank and seed."""
    tried = []

    def instead(adapted, tokenizer, rows, spec, on_step):
        if which(spec):
            tried.append((spec.method, spec.allocation, spec.seed))
            raise error
        return train(adapted, tokenizer, rows, spec, on_step)

    monkeypatch.setattr(recover_stage, "train", instead)
    return tried


def rendered(result, folder):
    """Everything that the notebook of main tables makes."""
    drawn = figures.table_figures(result)
    tables.write_table(result, folder)
    figures.save_figures(drawn, folder, "table2")
    text = tables.caption(result) + tables.markdown(tables.difference_table(result))
    return text, tables.measured_table(result).set_index("method")


def told_of_adalora(result, folder, kind, remedy):
    """In its row, and below the table with the remedy; returns the table."""
    text, shown = rendered(result, folder)
    assert shown.loc["AdaLoRA", "mean"] == kind
    assert f"No result of AdaLoRA on shortened:20: {kind}: recover" in text
    assert remedy in text
    return shown


def reported_adalora(spec):
    return spec.method == "adalora" and spec.seed != 1000


def test_a_stage_without_memory_is_tried_twice_then_in_its_row(finished, tiny_profile, tmp_path, monkeypatch):
    copy_without(finished.ledger, tmp_path / "ledger", reported_adalora)
    tried = failing(monkeypatch, reported_adalora, RuntimeError(NO_MEMORY))
    table = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger")
    result = table.run()
    assert len(tried) == 2
    shown = told_of_adalora(result, tmp_path / "reports", "out of memory", "lower micro_batch_rows")
    assert "RankAdaptor (one model)" in shown.index
    # Asked again, it is told again, and not tried; nothing else is missing.
    assert table.is_complete()
    again = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger").run()
    assert again.computed == ()
    assert len(tried) == 2
    # Where it is to be tried again, it is.
    remove(rubbish(tmp_path / "ledger", failures=True))
    monkeypatch.setattr(recover_stage, "train", train)
    mended = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger").run()
    assert [stage for stage, _ in mended.computed] == ["recover", "evaluate"]
    assert not mended.blocks[BLOCK].failed


def test_memory_that_comes_back_makes_no_failure(finished, tiny_profile, tmp_path, monkeypatch):
    copy_without(finished.ledger, tmp_path / "ledger", reported_adalora)
    once = [1]
    tried = failing(monkeypatch, lambda spec: reported_adalora(spec) and once and once.pop(), MemoryError())
    result = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger").run()
    assert len(tried) == 1
    assert "AdaLoRA" in {row.method for row in result.blocks[BLOCK].rows}


@pytest.mark.parametrize(("what", "which"), [
    ("LoRA", lambda spec: spec.method == "lora" and len({r for r in spec.allocation if r}) == 1),
    ("everything", lambda spec: True),
])
def test_a_table_whose_recoveries_diverge_says_so(what, which, finished, tiny_profile, tmp_path, monkeypatch):
    copy_without(finished.ledger, tmp_path / "ledger", which)
    failing(monkeypatch, which, RecoveryDiverged("loss nan at step 1: lower the learning rate"))
    result = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger").run()
    text, shown = rendered(result, tmp_path / "reports")
    assert shown.loc["LoRA", "mean"] == "diverged"
    assert "No result of LoRA on shortened:20: diverged: loss nan at step 1: lower the learning rate" in text
    methods = {row.method for row in result.blocks[BLOCK].rows}
    assert methods == ({"No recovery"} if what == "everything" else methods - {"LoRA"})
    assert (tmp_path / "reports" / "table2.md").is_file()


def is_trial(spec):
    return spec.seed == 1000


def test_a_search_does_not_score_recoveries_that_failed_here(finished, tiny_profile, tmp_path, monkeypatch):
    copy_without(finished.ledger, tmp_path / "ledger", is_trial)
    failing(monkeypatch, is_trial, MemoryError())
    table = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger")
    result = table.run()
    assert set(result.blocks[BLOCK].failed) == {"RankAdaptor (one model)"}
    assert {"LoRA", "AdaLoRA"} <= {row.method for row in result.blocks[BLOCK].rows}
    assert table.is_complete()
    assert not list((tmp_path / "ledger").glob("searches/*/round-*"))  # no score that is none was kept
    _, shown = rendered(result, tmp_path / "reports")
    assert shown.loc["RankAdaptor (one model)", "mean"] == "out of memory"
    # Another machine goes on, and ends where one that never failed does.
    remove(rubbish(tmp_path / "ledger", failures=True))
    monkeypatch.setattr(recover_stage, "train", train)
    mended = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger").run()
    undisturbed = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=finished.ledger).run()
    assert undisturbed.computed == ()
    assert tables.cells(mended).equals(tables.cells(undisturbed))
    assert mended.blocks[BLOCK].search == undisturbed.blocks[BLOCK].search


def test_a_block_that_cannot_be_pruned_stops_no_other_block(finished, tiny_profile, tmp_path, monkeypatch):
    copy_without(finished.ledger, tmp_path / "ledger", lambda spec: spec.method == "llm-pruner", stage="prune")
    prune = prune_stage.prune

    def instead(model, spec, windows):
        if spec.method == "llm-pruner":
            raise MemoryError
        return prune(model, spec, windows)

    monkeypatch.setattr(prune_stage, "prune", instead)
    table = experiments.main_table(
        str(tiny_profile), f"llm-pruner:50 {BLOCK}", "quick", ledger=tmp_path / "ledger", table="table1")
    result = table.run()
    assert set(result.blocks) == {BLOCK}
    assert set(result.unfinished) == {"llm-pruner:50"}
    assert table.is_complete()
    text, shown = rendered(result, tmp_path / "reports")
    assert shown.loc["all", "mean"] == "out of memory"
    assert "No result of llm-pruner:50: out of memory: prune" in text


def test_a_base_model_that_cannot_be_scored_is_one_line(finished, tiny_profile, tmp_path, monkeypatch, capsys):
    copy_without(finished.ledger, tmp_path / "ledger", lambda spec: True, stage="evaluate")

    def instead(*_):
        raise MemoryError

    monkeypatch.setattr(evaluate_stage, "evaluate", instead)
    table = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger", table="table1")
    with pytest.raises(StageFailed, match=r"out of memory: evaluate .* in 2 attempts: lower"):
        table.run()


def test_a_stage_over_its_time_limit_is_stopped_and_retried(finished, tiny_profile, tmp_path, monkeypatch):
    copy_without(finished.ledger, tmp_path / "ledger", reported_adalora)
    tried = []

    def slow(adapted, tokenizer, rows, spec, on_step):
        if reported_adalora(spec):
            tried.append(time.monotonic())
            with contextlib.suppress(Exception):  # as libraries do
                time.sleep(60)
            time.sleep(60)
        return train(adapted, tokenizer, rows, spec, on_step)

    monkeypatch.setattr(recover_stage, "train", slow)
    monkeypatch.setattr(time_limits, "_REPEAT_S", 0.1)
    limited = yaml.safe_load(tiny_profile.read_text()) | {"stage_limit_s": 3.0}
    (tmp_path / "limited.yaml").write_text(yaml.safe_dump(limited))
    table = experiments.main_table(str(tmp_path / "limited.yaml"), BLOCK, "quick", ledger=tmp_path / "ledger")
    result = table.run()
    assert len(tried) == 2
    told_of_adalora(result, tmp_path / "reports", "timed out", "raise the profile's stage_limit_s")
    assert result.blocks[BLOCK].failed.keys() == {"AdaLoRA"}
    assert ledger_tools.verify(tmp_path / "ledger") == []


def test_an_alarm_of_other_code_stays_as_it_was():
    rung = []
    former = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    before = signal.setitimer(signal.ITIMER_REAL, 0.4)
    try:
        with pytest.raises(TimedOut, match=r"longer than 0.05 s"), time_limit(0.05):
            time.sleep(5)
        with time_limit(50), time_limit(None):  # his rings sooner
            time.sleep(0.6)
        assert rung == [True]
    finally:
        signal.signal(signal.SIGALRM, former)
        signal.setitimer(signal.ITIMER_REAL, *before)


def test_a_bug_is_no_failure(finished, tiny_profile, tmp_path, monkeypatch):
    copy_without(finished.ledger, tmp_path / "ledger", reported_adalora)
    failing(monkeypatch, reported_adalora, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger").run()
    assert not (tmp_path / "ledger" / "failures").exists()


@pytest.mark.slow
def test_children_of_a_failed_stage_fail_with_it(tiny_profile, tmp_path, monkeypatch):
    failing(monkeypatch, lambda spec: True, MemoryError())
    table = experiments.main_table(str(tiny_profile), BLOCK, "quick", ledger=tmp_path / "ledger")
    result = table.run()
    assert set(result.blocks[BLOCK].failed) >= {"LoRA", "AdaLoRA"}
    pruned = Step("prune", table.profile.prune_spec(Block.parse(BLOCK)))
    recovered = Step("recover", table.profile.lora_spec(table.budget, (4, 4, 4, 4, 0, 4), 1e-3, 0), pruned)
    evaluated = Step("evaluate", table.profile.evaluation_spec(table.budget, "report"), recovered)
    runner = Runner(table.profile.inputs(), table.ledger)
    with pytest.raises(StageFailed, match="out of memory: recover"):
        runner.run(evaluated)
    assert not runner.computed
