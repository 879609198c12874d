"""Entries are whole or absent, computed once, and damage is named."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from rankadaptor.errors import BadInput
from rankadaptor.ledger import Ledger
from rankadaptor.specs import (
    TASKS,
    Block,
    EvaluationSpec,
    GenerationSpec,
    PerplexitySpec,
    PruneSpec,
    Recipe,
    RecoverySpec,
    canonical_json,
    identity_key,
    stage_identity,
)

KEY = "a" * 64


def work(folder: Path) -> dict:
    (folder / "array.bin").write_bytes(b"x" * 1000)
    return {"value": 1}


def test_an_entry_is_computed_once(tmp_path):
    ledger = Ledger(tmp_path)
    entry, new = ledger.compute(KEY, {"spec": 1}, work)
    assert new
    assert entry.result == {"value": 1}
    assert entry.spec == {"spec": 1}

    def refuse(folder):
        raise AssertionError("computed twice")

    again, new = Ledger(tmp_path).compute(KEY, {"spec": 1}, refuse)
    assert not new
    assert again.path("array.bin").read_bytes() == b"x" * 1000


def test_a_failed_computation_leaves_nothing(tmp_path):
    ledger = Ledger(tmp_path)

    def fail(folder):
        work(folder)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        ledger.compute(KEY, {}, fail)
    assert list(tmp_path.iterdir()) == []  # not even the scratch folder


@pytest.mark.parametrize("harm", ["array.bin", "result.json", "checksums.json", "missing"])
def test_damage_is_named_set_aside_and_mended(harm, tmp_path, capsys):
    Ledger(tmp_path).compute(KEY, {}, work)
    if harm == "missing":
        (tmp_path / KEY / "array.bin").unlink()
    else:
        (tmp_path / KEY / harm).write_bytes(b"{")
    ledger = Ledger(tmp_path)
    assert ledger.find(KEY) is None
    assert "set aside" in capsys.readouterr().err
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    assert ledger.compute(KEY, {}, work)[1]
    assert Ledger(tmp_path).find(KEY) is not None


def _compute_slowly(folder, started):
    def slow(scratch):
        work(scratch)
        started.set()
        time.sleep(30)
        return {}

    Ledger(folder).compute(KEY, {}, slow)


def test_a_killed_process_leaves_no_entry(tmp_path):
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_compute_slowly, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert Ledger(tmp_path).find(KEY) is None
    assert Ledger(tmp_path).compute(KEY, {}, work)[1]


def test_the_faster_of_two_writers_wins(tmp_path):
    def overtaken(scratch):
        Ledger(tmp_path).compute(KEY, {}, work)
        return {"value": 2}

    entry, _ = Ledger(tmp_path).compute(KEY, {}, overtaken)
    assert entry.result == {"value": 1}
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def test_traces_are_read_in_order_up_to_a_gap(tmp_path):
    ledger = Ledger(tmp_path)
    for number in (0, 1, 3):
        ledger.append_round("key", {"stage": "search"}, number, {"number": number})
    assert [one["number"] for one in ledger.read_trace("key")] == [0, 1]
    (tmp_path / "searches" / "key" / "round-001.json").write_text("{")
    assert [one["number"] for one in ledger.read_trace("key")] == [0]
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    assert json.loads((tmp_path / "searches" / "key" / "spec.json").read_text()) == {"stage": "search"}


def test_a_ledger_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="as a ledger"):
        Ledger(tmp_path / "file" / "ledger")


def test_keys_depend_on_content_alone():
    spec = EvaluationSpec(("boolq",), "search", 4, 0, 16)

    def key_of(stage="evaluate", one=spec, parent="parent", revisions=None):
        return identity_key(stage_identity(stage, one, parent, revisions or {"a": "1", "b": "2"}))

    key = key_of()
    assert key == key_of(one=EvaluationSpec(("boolq",), "search", 4, 0, 16), revisions={"b": "2", "a": "1"})
    others = [
        key_of(one=EvaluationSpec(("boolq",), "report", 4, 0, 16)),
        key_of(parent="other"),
        key_of(revisions={"a": "1", "b": "3"}),
        key_of("prune"),
    ]
    assert len({key, *others}) == 5
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"a": float("nan")})
    assert json.loads(canonical_json(spec))["tasks"] == ["boolq"]
    assert str(Block.parse(" llm-pruner:20 ")) == "llm-pruner:20"


@pytest.mark.parametrize(("stage", "spec", "key"), [
    ("prune", PruneSpec("llm-pruner", 20, "element1", 4, 28, 0.25, 0.2, None, 10, 64, 42),
     "86a392d454543cb37e4c1c867f8e05a7b95150a1e7f7760371e61e2bea09e5bd"),
    ("recover", RecoverySpec("lora", (8, 4, 0), "fixed_alpha", 16, Recipe(100, 8, 8, 4e-3, 10, 128, 0.0, 0.0, 1.0), 0),
     "704051310a5c44b5e81d78f83513c4b3beccf46bd4b1d4d624d0a195fa00100f"),
    ("evaluate", EvaluationSpec(TASKS, "report", 300, 0, 16),
     "b4497bef7571fd0ed94918ed00946c2bcc6b0d56d5ee4bae02d188ff0c63c163"),
    ("generate", GenerationSpec(("a",), 5, 1, 1.0, 50, 0.95, 0),
     "41d8eafa7ec788c60419d4e8ab7288cb8f009c1bdee84e81aa4cd00d09d73113"),
    ("perplexity", PerplexitySpec(), "21902d5223ae7c298b98cfcbb92872cdd23d9b83f0523733ae17a079aac8a6de"),
])
def test_keys_are_those_that_ledgers_hold(stage, spec, key):
    """Changing these loses every finished result: make a new field `_later`, or raise NUMERICS_VERSION knowingly."""
    assert identity_key(stage_identity(stage, spec, "parent", {"benchmarks": "wheel:data==1#0"})) == key
