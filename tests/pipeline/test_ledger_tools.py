"""Looking into a ledger and keeping it in order, from Python and from the shell."""

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from rankadaptor.__main__ import main
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.keys import identity_key, stage_identity
from rankadaptor.pipeline.leases import Holder
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import find_by_prefix, ledger_frame, remove, rubbish, verify
from rankadaptor.ranktable.replay_cache import REPLAY, ReplaySpec
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec

RECIPE = Recipe(8, 4, 4, 1e-3, 1, 64, 0.05, 0.0, 1.0)
RECOVERY = stage_identity("recover", RecoverySpec("lora", (4, 8), "constant", 16, RECIPE, 0), "p", {})
EVALUATION = stage_identity("evaluate", EvaluationSpec(TASKS, "report", 4, 0, 16), identity_key(RECOVERY), {})
RECOVERED = {"losses": [2.0, 1.0], "realised_ranks": {}, "trainable_parameters": 3, "tokens": 7}
MACHINE = {"processor": "a processor", "accelerator": None}


def provenance(day):
    return {"started": f"2026-01-0{day}T00:00:00Z", "seconds": 60.0 * day, "machine": MACHINE}


def put(folder, identity, result, day):
    def work(scratch):
        (scratch / "array.bin").write_bytes(b"x" * 1000)
        return {"stage": identity["stage"], "result": result, "provenance": provenance(day)}

    return Ledger(folder).compute(identity_key(identity), identity, work)[0]


@pytest.fixture
def filled(tmp_path):
    folder = tmp_path / "ledger"
    put(folder, EVALUATION, {"metrics": {"piqa": {"acc": 0.5, "items": 4}}}, 2)
    put(folder, RECOVERY, RECOVERED, 1)
    return folder


def test_a_ledger_is_one_table(filled):
    table = ledger_frame(filled).set_index("stage")
    assert set(table.index) == {"recover", "evaluate"}
    assert table.loc["evaluate", "parent"] == table.loc["recover", "key"] == identity_key(RECOVERY)
    assert table.loc["evaluate", "result.metrics.piqa.acc"] == 0.5
    assert table.loc["recover", "spec.recipe.learning_rate"] == 1e-3
    assert json.loads(table.loc["recover", "spec.allocation"]) == [4, 8]
    assert table.loc["recover", "seconds"] == 60
    assert table["bytes"].min() > 1000


def test_entries_that_cannot_be_read_stay_out_of_the_way(filled, run):
    key = identity_key(RECOVERY)
    (filled / key / "result.json").write_text("{")
    table = ledger_frame(filled)
    assert len(table) == 2
    assert table.loc[table["key"] == key, "stage"].isna().all()
    assert "unreadable" in run("list", filled)[1]


def test_no_entries_are_a_table_all_the_same(tmp_path):
    assert ledger_frame(tmp_path).empty
    assert "stage" in ledger_frame(tmp_path)


@pytest.fixture
def run(capsys):
    """The command line: exit status, standard output, and what `errors` holds of standard error."""

    def call(*arguments):
        *words, folder = map(str, arguments)
        status = main(["ledger", *words, "--ledger", folder])
        captured = capsys.readouterr()
        call.errors = captured.err
        return status, captured.out

    return call


def test_list_shows_entries_oldest_first(filled, run):
    status, text = run("list", filled)
    lines = text.splitlines()
    assert status == 0
    assert [line.split()[1] for line in lines[:2]] == ["recover", "evaluate"]
    assert lines[0].startswith(identity_key(RECOVERY)[:12])
    assert run("list", "--stage", "recover", filled)[1].count(identity_key(RECOVERY)[:12]) == 1


def test_show_prints_an_entry_by_its_first_digits(filled, run):
    status, text = run("show", identity_key(EVALUATION)[:8], filled)
    shown = json.loads(text)
    assert status == 0
    assert shown["identity"] == EVALUATION
    assert shown["content"]["result"]["metrics"]["piqa"]["acc"] == 0.5
    assert shown["files"]["array.bin"] == 1000


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_export_writes_the_table(name, filled, tmp_path, run):
    status, text = run("export", tmp_path / "new" / name, filled)
    read = pd.read_csv if name.endswith("csv") else pd.read_parquet
    assert status == 0
    assert "2 entries" in text
    assert len(read(tmp_path / "new" / name)) == 2
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]


def test_export_takes_fields_of_mixed_types(filled, tmp_path, run):
    for bos in (False, "first"):
        put(filled, RECOVERY | {"parent": str(bos)}, RECOVERED | {"bos": bos}, 3)
    assert run("export", tmp_path / "table.parquet", filled)[0] == 0
    assert set(pd.read_parquet(tmp_path / "table.parquet")["result.bos"].dropna()) == {"false", '"first"'}


def test_a_ledger_of_damage_alone_is_listed_and_exported(tmp_path, run):
    (tmp_path / "ledger" / ("c" * 64)).mkdir(parents=True)
    status, text = run("list", tmp_path / "ledger")
    assert status == 0
    assert text.startswith("c" * 12)
    assert run("list", "--stage", "prune", tmp_path / "ledger")[0] == 2
    assert "it has none" in run.errors
    assert run("export", tmp_path / "table.csv", tmp_path / "ledger")[0] == 0


def test_gc_names_files_that_it_could_not_remove(filled, run, monkeypatch):
    leave_half_written(filled, Holder.here()._replace(born="1"))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    status, text = run("gc", filled)
    assert status == 2
    assert "removed 1 things" in text  # the lease
    assert "cannot remove" in run.errors


def test_verify_finds_every_damage_and_sets_it_aside(filled, tmp_path, run):
    assert run("verify", filled) == (0, f"{filled}: every entry is as it was written\n")
    key, other = identity_key(RECOVERY), identity_key(EVALUATION)
    (filled / key / "array.bin").write_bytes(b"y" * 1000)
    (filled / other).rename(filled / ("f" * 64))
    status, text = run("verify", filled)
    assert status == 1
    assert f"{key[:12]}: array.bin does not match its checksum" in text
    assert f"{'f' * 12}: its spec.json is that of {other[:12]}" in text
    assert Ledger(filled).find(key) is None
    assert len(list((filled / "damaged").iterdir())) == 2
    assert verify(filled) == []


def leave_half_written(folder, holder):
    unfinished = folder / ".unfinished" / holder.token / ("a" * 64)
    unfinished.mkdir(parents=True)
    (unfinished.parent / "holder.json").write_text(holder.to_json())
    (folder / ".leases").mkdir(exist_ok=True)
    (folder / ".leases" / holder.token).write_text(holder.to_json())


def test_gc_removes_files_of_dead_processes_alone(filled, run):
    alive, dead = Holder.here(), Holder.here()._replace(born="1")
    for holder in (alive, dead):
        leave_half_written(filled, holder)
    assert {piece.path.name for piece in rubbish(filled)} == {dead.token}
    assert "would remove 2 things" in run("gc", "--dry-run", filled)[1]
    assert "removed 2 things" in run("gc", filled)[1]
    assert "removed 0 things" in run("gc", filled)[1]
    assert (filled / ".unfinished" / alive.token).is_dir()
    assert len(Ledger(filled).entries()) == 2


def test_gc_takes_damaged_and_outdated_entries_only_where_asked(filled, run):
    old = EVALUATION | {"numerics_version": 0}
    put(filled, old, {"metrics": {}}, 3)
    put(filled, RECOVERY | {"numerics_version": 2}, RECOVERED, 3)  # before dropout was drawn otherwise
    (filled / identity_key(EVALUATION) / "array.bin").write_bytes(b"")
    verify(filled)
    assert rubbish(filled) == []
    assert len(rubbish(filled, outdated=True)) == 2
    assert len(rubbish(filled, damaged=True)) == 1
    assert "removed 3 things" in run("gc", "--damaged", "--outdated", filled)[1]
    assert [entry.key for entry in Ledger(filled).entries()] == [identity_key(RECOVERY)]


@pytest.mark.parametrize(("arguments", "message"), [
    (("show", "abc"), "key 'abc' is too short: give at least 6"),
    (("show", "abcdef"), "no entry of"),
    (("export", "table.xlsx"), "name a file that ends in .csv or .parquet"),
    (("export", "/proc/none/table.csv"), "cannot write /proc/none/table.csv"),
    (("list", "--stage", "bake"), "no entry of"),
])
def test_bad_arguments_are_one_line(arguments, message, filled, run):
    status, text = run(*arguments, filled)
    assert status == 2
    assert text == ""
    assert message in run.errors
    assert run.errors.count("\n") == 1


@pytest.mark.parametrize("action", ["list", "verify", "gc"])
def test_a_missing_ledger_is_one_line(action, tmp_path, run):
    status, text = run(action, tmp_path / "none")
    assert status == 2
    assert text == ""
    assert "there is no ledger at" in run.errors
    assert not (tmp_path / "none").exists()


def test_several_entries_of_one_prefix_are_refused(tmp_path):
    for last in "ab":
        put(tmp_path, RECOVERY | {"parent": last}, RECOVERED, 1)
    first, second = (entry.key for entry in Ledger(tmp_path).entries())
    (tmp_path / second).rename(tmp_path / (first[:10] + second[10:]))
    with pytest.raises(BadInput, match="2 entries of"):
        find_by_prefix(tmp_path, first[:8])


def test_gc_knows_versions_and_fields_beyond_the_stages(filled, run):
    """Replays have a version of their own; a recipe with a field that this code lacks is never looked for again."""
    replay = EVALUATION | {"stage": REPLAY, "numerics_version": ReplaySpec.numerics_version}
    recipe = RECOVERY["spec"]["recipe"] | {"forgotten": 1}
    kept = [replay, replay | {"stage": "of a plugin"}]
    gone = [replay | {"numerics_version": 0}, RECOVERY | {"spec": RECOVERY["spec"] | {"recipe": recipe}}]
    for identity in kept + gone:
        put(filled, identity, RECOVERED if identity["stage"] == "recover" else {"metrics": {}, "rows": 1}, 3)
    before = {entry.key for entry in Ledger(filled).entries()}
    assert "removed 2 things" in run("gc", "--outdated", filled)[1]
    assert before - {entry.key for entry in Ledger(filled).entries()} == set(map(identity_key, gone))


@pytest.mark.parametrize("action", ["verify", "gc"])
def test_a_folder_that_may_not_be_read_is_one_line(action, filled, run, monkeypatch):
    (filled / "searches").mkdir()
    listdir = os.listdir

    def refuse(folder):
        if Path(folder).name in ("searches", ".leases"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    (filled / ".leases").mkdir(exist_ok=True)
    monkeypatch.setattr(os, "listdir", refuse)
    assert run(action, filled)[0] == 2
    assert "cannot read" in run.errors
    assert run.errors.count("\n") == 1


def test_what_is_gone_when_it_is_to_be_removed_is_no_fault(filled):
    put(filled, EVALUATION | {"numerics_version": 0}, {"metrics": {}}, 3)
    pieces = rubbish(filled, outdated=True)
    assert len(pieces) == 1
    assert remove(pieces) == remove(pieces) == []
    assert len(Ledger(filled).entries()) == 2
    assert list((filled / ".unfinished").iterdir()) == []
