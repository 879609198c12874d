"""Entries are whole or absent, computed once, and damage is named."""

import dataclasses
import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from safetensors import SafetensorError

from rankadaptor import sealed
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import EvaluationSpec, GenerationSpec, PerplexitySpec
from rankadaptor.keys import canonical_json, identity_key, stage_identity
from rankadaptor.pipeline import failures, ledger_files
from rankadaptor.pipeline.leases import Holder, read_holder
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import Rubbish, remove, rubbish, verify
from rankadaptor.pipeline.traced_search import SearchSpec
from rankadaptor.pipeline.traces import Trace
from rankadaptor.pruning.spec import Block, PruneSpec
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.settings import SearchSettings

SPEC, OTHER_SPEC, THIRD_SPEC = ({"stage": "toy", "number": number} for number in range(3))
KEY, OTHER, THIRD = map(identity_key, (SPEC, OTHER_SPEC, THIRD_SPEC))
RESULT = {"stage": "toy", "result": {"value": 1}, "provenance": {}}


def work(folder: Path) -> dict:
    (folder / "array.bin").write_bytes(b"x" * 1000)
    return RESULT


def keys(folder: Path) -> list[str]:
    return [entry.key for entry in Ledger(folder).entries()]


def test_an_entry_is_computed_once(tmp_path):
    ledger = Ledger(tmp_path)
    entry, new = ledger.compute(KEY, SPEC, work)
    assert new
    assert entry.result == RESULT
    assert entry.spec == SPEC

    def refuse(folder):
        raise AssertionError("computed twice")

    again, new = Ledger(tmp_path).compute(KEY, SPEC, refuse)
    assert not new
    assert again.path("array.bin").read_bytes() == b"x" * 1000


def test_a_failed_computation_leaves_nothing(tmp_path):
    ledger = Ledger(tmp_path)

    def fail(folder):
        work(folder)
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        ledger.compute(KEY, SPEC, fail)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []  # not even scratch


@pytest.mark.parametrize("harm", ["array.bin", "result.json", "checksums.json", "missing"])
def test_damage_is_named_set_aside_and_mended(harm, tmp_path, capsys):
    Ledger(tmp_path).compute(KEY, SPEC, work)
    if harm == "missing":
        (tmp_path / KEY / "array.bin").unlink()
    else:
        (tmp_path / KEY / harm).write_bytes(b"{")
    ledger = Ledger(tmp_path)
    assert ledger.find(KEY) is None
    assert "set aside" in capsys.readouterr().err
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    assert ledger.compute(KEY, SPEC, work)[1]
    assert Ledger(tmp_path).find(KEY) is not None


def _compute_slowly(folder, started):
    def slow(scratch):
        work(scratch)
        started.set()
        time.sleep(30)
        return RESULT

    Ledger(folder).compute(KEY, SPEC, slow)


def test_a_killed_process_leaves_no_entry(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_compute_slowly, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert Ledger(tmp_path).find(KEY) is None
    assert Ledger(tmp_path).compute(KEY, SPEC, work)[1]


def test_the_faster_of_two_writers_wins(tmp_path):
    def overtaken(scratch):
        Ledger(tmp_path).compute(KEY, SPEC, work)
        return RESULT | {"result": {"value": 2}}

    entry, _ = Ledger(tmp_path).compute(KEY, SPEC, overtaken)
    assert entry.result == RESULT
    assert keys(tmp_path) == [KEY]
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {KEY}


def _compute_and_tell(folder, log):
    def slow(scratch):
        with log.open("a") as stream:
            stream.write("computed\n")
        time.sleep(1)
        return work(scratch)

    assert Ledger(folder).compute(KEY, SPEC, slow)[0].result == RESULT


def test_processes_that_want_the_same_compute_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [context.Process(target=_compute_and_tell, args=(tmp_path / "ledger", log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text() == "computed\n"


_STEPS = ((os, "link"), (os, "rename"), (os, "open"), (os, "mkdir"), (os, "fsync"), (Path, "write_text"),
          (Path, "unlink"), (shutil, "rmtree"), (sealed, "sha256_file"))


def _dies_at(count):
    """In a process of its own: dies, as if killed, before the so-manieth thing that it does to the disk."""
    left = [count]

    def mortal(real):
        def step(*arguments, **keywords):
            if not left[0]:
                os._exit(9)
            left[0] -= 1
            return real(*arguments, **keywords)

        return step

    for place, name in _STEPS:
        setattr(place, name, mortal(getattr(place, name)))


@pytest.mark.slow  # dozens of processes
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_crash_at_any_step_loses_nothing_that_was_finished(tmp_path):
    other = OTHER
    Ledger(tmp_path).compute(other, OTHER_SPEC, work)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / other).rglob("*")}
    finished = 0
    for count in range(200):
        if not (child := os.fork()):
            _dies_at(count)
            Ledger(tmp_path).compute(KEY, SPEC, work)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 9)
        entry = Ledger(tmp_path).find(KEY)  # whole, or not there
        if entry is not None:
            finished += 1
            assert entry.path("array.bin").read_bytes() == b"x" * 1000
        began = time.monotonic()
        assert Ledger(tmp_path).compute(KEY, SPEC, work)[1] == (entry is None)
        assert time.monotonic() - began < 5  # nobody waits for the dead
        assert {path: path.stat().st_mtime_ns for path in (tmp_path / other).rglob("*")} == before
        if status == 0:
            break
        shutil.rmtree(tmp_path / KEY)
    assert status == 0
    assert count > 20
    assert finished > 1  # died after the entry was there
    assert not (tmp_path / "damaged").exists()
    remove(rubbish(tmp_path))  # drafts of leases, a hundred bytes each
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name not in (KEY, other)] == []


@pytest.mark.parametrize(("content", "message"), [
    ("{}", "does not hold spec.json"), ("[1]", "not a JSON object"), ('"x"', "not a JSON object"),
    ('{"spec.json": "0"}', "spec.json does not match its checksum"), ("", "not JSON"),
])
def test_useless_checksums_are_damage(content, message, tmp_path, capsys):
    Ledger(tmp_path).compute(KEY, SPEC, work)
    (tmp_path / KEY / "checksums.json").write_text(content)
    assert Ledger(tmp_path).find(KEY) is None
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("error", "message"), [
    (OSError(errno.ENOSPC, "No space left on device"), "free some of the disk"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "free some of the disk"),
    (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "free some"),
    (OSError(errno.EROFS, "Read-only file system"), "name another folder as the ledger"),
])
def test_a_full_disk_is_one_line(error, message, tmp_path):
    def fail(folder):
        work(folder)
        raise error

    Ledger(tmp_path).compute(OTHER, OTHER_SPEC, work)
    with pytest.raises(BadInput, match=message) as raised:
        Ledger(tmp_path).compute(KEY, SPEC, fail)
    assert "\n" not in str(raised.value)
    assert keys(tmp_path) == [OTHER]
    assert Ledger(tmp_path).compute(KEY, SPEC, work)[1]  # as soon as there is space


def test_trouble_with_files_elsewhere_is_not_the_ledgers(tmp_path):
    def fail(folder):
        raise PermissionError(errno.EACCES, "Permission denied", "/somewhere/else/model.safetensors")

    with pytest.raises(PermissionError, match=r"model\.safetensors"):
        Ledger(tmp_path).compute(KEY, SPEC, fail)


@pytest.mark.slow
def test_a_file_that_grows_too_large_is_one_line(tmp_path):
    """Really refused by the system, in a process that may write 100 bytes a file."""
    script = f"""
import resource, signal
from pathlib import Path
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import Rubbish, remove, rubbish, verify
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger({str(tmp_path)!r})
def work(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    (folder / "array.bin").write_bytes(b"x" * 1000)
ledger.compute({KEY!r}, {SPEC!r}, work)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "BadInput: cannot write into the ledger" in done.stderr.splitlines()[-1]
    assert keys(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_a_folder_that_may_only_be_read_is_read(tmp_path_factory):
    folder = Path(tempfile.mkdtemp())
    Ledger(folder).compute(KEY, SPEC, work)
    Ledger(folder).compute(OTHER, OTHER_SPEC, work)
    (folder / OTHER / "array.bin").write_bytes(b"y")
    folder.chmod(0o755)
    if not (child := os.fork()):
        status = 1
        try:
            os.setuid(65534)
            ledger = Ledger(folder)
            assert ledger.find(KEY).result == RESULT
            assert ledger.find(OTHER) is None  # damaged, named, and left there
            with pytest.raises(BadInput, match="name another folder as the ledger"):
                ledger.compute(THIRD, THIRD_SPEC, work)
            with pytest.raises(BadInput, match="cannot be set aside"):
                ledger.compute(OTHER, OTHER_SPEC, work)  # whose damage stays in its place
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert keys(folder) == sorted([KEY, OTHER])
    shutil.rmtree(folder)


def test_damage_that_cannot_be_set_aside_stops_before_the_work(tmp_path, monkeypatch):
    entry, _ = Ledger(tmp_path).compute(KEY, SPEC, work)
    entry.path("result.json").write_text("{}")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(BadInput, match=f"entry {KEY[:12]}.* cannot be set aside in .*: mend"):
        Ledger(tmp_path).compute(KEY, SPEC, lambda _: pytest.fail("it was computed for nothing"))


def test_a_damaged_entry_that_another_process_left_gives_way(tmp_path):
    def meanwhile(scratch):
        (tmp_path / KEY).mkdir()
        (tmp_path / KEY / "checksums.json").write_text("{}")
        return work(scratch)

    entry, new = Ledger(tmp_path).compute(KEY, SPEC, meanwhile)
    assert new
    assert Ledger(tmp_path).find(KEY) == entry
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_a_text_that_cannot_be_written_leaves_no_draft(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadInput, match="free some of the disk"):
        Trace(Ledger(tmp_path), KEY).append(SPEC, {})
    with pytest.raises(BadInput, match="free some of the disk"):
        failures.note(Ledger(tmp_path), KEY, "prune", "killed", "signal 9")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def lose_the_lease(folder):
    """As if the machine had slept, and a process of another host had taken the lease over."""
    (folder / ".leases" / KEY).write_text(Holder("elsewhere", 1, "1", "t").to_json())


@pytest.mark.parametrize("other_is_done", [True, False])
def test_without_its_lease_a_result_gives_way_to_the_others(other_is_done, tmp_path):
    def slept(scratch):
        lose_the_lease(tmp_path)
        if other_is_done:
            source = Ledger(tmp_path / "elsewhere").compute(KEY, SPEC, work)[0].folder
            source.rename(tmp_path / KEY)
        return RESULT | {"result": {"value": 2}}

    entry, _ = Ledger(tmp_path).compute(KEY, SPEC, slept)
    assert entry.result["result"] == {"value": 1 if other_is_done else 2}
    assert Ledger(tmp_path).find(KEY).result == entry.result
    assert read_holder(tmp_path / ".leases" / KEY).host == "elsewhere"  # the other's lease stays
    assert list((tmp_path / ".unfinished").iterdir()) == []


def test_gc_leaves_what_a_living_process_writes(tmp_path):
    def without_lease(scratch):
        (tmp_path / ".leases" / KEY).unlink()
        (pieces := rubbish(tmp_path))
        assert pieces == []
        remove([Rubbish(scratch.parent, "as if it had been listed before", 0, Ledger(tmp_path))])
        return work(scratch)

    assert Ledger(tmp_path).compute(KEY, SPEC, without_lease)[0].result == RESULT


def test_half_written_files_that_vanish_are_one_line(tmp_path):
    def swept(scratch):
        shutil.rmtree(scratch.parent)
        return RESULT

    with pytest.raises(BadInput, match="removed meanwhile, start again") as raised:
        Ledger(tmp_path).compute(KEY, SPEC, swept)
    assert "\n" not in str(raised.value)
    assert Ledger(tmp_path).compute(KEY, SPEC, work)[1]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EMFILE, errno.ESTALE])
def test_an_entry_that_cannot_be_read_is_not_damaged(number, tmp_path, monkeypatch, capsys):
    Ledger(tmp_path).compute(KEY, SPEC, work)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(sealed, "check_texts", refuse)
        assert Ledger(tmp_path).find(KEY) is None
        with pytest.raises(BadInput, match=f"{KEY[:12]} cannot be read .{os.strerror(number)}"):
            Ledger(tmp_path).compute(KEY, SPEC, lambda _: pytest.fail("it was computed for nothing"))
        assert verify(tmp_path) == [f"entry {KEY[:12]} cannot be read ({os.strerror(number)}); it is not used, and"
                                    " stays where it is"]
    assert not (tmp_path / "damaged").exists()
    assert "damaged" not in capsys.readouterr().err
    assert Ledger(tmp_path).find(KEY).result == RESULT


@pytest.mark.parametrize("moment", ["while it is read", "before it is moved"])
def test_an_entry_that_was_just_finished_is_not_called_damaged(moment, tmp_path, monkeypatch, capsys):
    whole = Ledger(tmp_path / "elsewhere").compute(KEY, SPEC, work)[0].folder
    (tmp_path / KEY).mkdir()
    check, move = ledger_files.check_folder, os.replace

    def finished_meanwhile():
        if whole.exists():
            shutil.rmtree(tmp_path / KEY)
            whole.rename(tmp_path / KEY)

    def check_late(*arguments):
        try:
            return check(*arguments)
        finally:
            finished_meanwhile()

    def move_late(source, target):
        if Path(source) == tmp_path / KEY:
            finished_meanwhile()
        move(source, target)

    if moment == "while it is read":
        monkeypatch.setattr(ledger_files, "check_folder", check_late)
    else:
        monkeypatch.setattr(os, "replace", move_late)
    assert Ledger(tmp_path).find(KEY).result == RESULT
    assert capsys.readouterr().err == ""
    assert list((tmp_path / "damaged").iterdir() if (tmp_path / "damaged").exists() else []) == []


def test_an_entry_that_was_replaced_is_verified_again(tmp_path):
    ledger = Ledger(tmp_path)
    for key, spec in ((KEY, SPEC), (OTHER, OTHER_SPEC)):
        ledger.compute(key, spec, work)
        assert ledger.find(key) is not None
    (tmp_path / KEY).rename(tmp_path / "between")
    (tmp_path / OTHER).rename(tmp_path / KEY)
    assert ledger.find(KEY) is None


def test_what_could_never_be_read_again_is_not_written(tmp_path):
    def with_link(folder):
        (folder / "link").symlink_to("/")
        return RESULT

    with pytest.raises(ValueError, match="not that of its spec"):
        Ledger(tmp_path).compute(KEY, OTHER_SPEC, work)
    for wrong, message in ((lambda folder: {"value": 1}, "another result than it declares"),
                           (lambda folder: RESULT | {"result": {"a": float("nan")}}, "Out of range"),
                           (with_link, "link is a symbolic link")):
        with pytest.raises(ValueError, match=message):
            Ledger(tmp_path).compute(KEY, SPEC, wrong)
    assert keys(tmp_path) == []


def test_a_ledger_that_cannot_be_made_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="as a ledger"):
        Ledger(tmp_path / "file" / "ledger")


def test_keys_depend_on_content_alone():
    spec = EvaluationSpec(("boolq",), "search", 4, 0, 16)

    def key_of(stage="evaluate", of=spec, parent="parent", revisions=None):
        return identity_key(stage_identity(stage, of, parent, revisions or {"a": "1", "b": "2"}))

    key = key_of()
    assert key == key_of(of=EvaluationSpec(("boolq",), "search", 4, 0, 16), revisions={"b": "2", "a": "1"})
    changed = [
        key_of(of=EvaluationSpec(("boolq",), "report", 4, 0, 16)),
        key_of(parent="other"),
        key_of(revisions={"a": "1", "b": "3"}),
        key_of("prune"),
    ]
    assert len({key, *changed}) == 5
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        canonical_json({"a": float("nan")})
    assert json.loads(canonical_json(spec))["tasks"] == ["boolq"]
    assert str(Block.parse(" llm-pruner:20 ")) == "llm-pruner:20"


@pytest.mark.parametrize("spec", [
    RecoverySpec("lora", (8, 4, 0), "fixed_alpha", 16, Recipe(100, 8, 8, 4e-3, 10, 128, 0.0, 0.0, 1.0), 0),
    EvaluationSpec(TASKS, "report", 300, 0, 16),
    GenerationSpec(("a",), 5, 1, 1.0, 50, 0.95, 0),
])
def test_bos_is_part_of_a_key_once_it_is_on(spec):
    change = {"recipe": dataclasses.replace(spec.recipe, bos=True)} if isinstance(spec, RecoverySpec) else {"bos": True}
    loud = dataclasses.replace(spec, **change)
    keys = {identity_key(stage_identity("any", which, "parent", {})) for which in (spec, loud)}
    assert len(keys) == 2


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
    ("search", SearchSpec(
        {"candidates": (4, 8), "free_layers": (1, 2)}, SearchSettings(2, 3, 1, 50, 0.1, 2, 1000, "ensemble"),
        RecoverySpec("lora", (), "constant", 16, Recipe(8, 4, 4, 1e-3, 1, 64, 0.05, 0.0, 1.0), 1000),
        EvaluationSpec(TASKS, "search", 4, 0, 16), "gold_probability", "", "",
    ), "097ab3dcefdb6070185ef2402d1f6755909711ff1547ecfe5fd539d75990b97f"),
])
def test_keys_are_those_that_ledgers_hold(stage, spec, key):
    """Changing these loses every finished result: make a new field `later`, or raise NUMERICS_VERSION knowingly."""
    assert identity_key(stage_identity(stage, spec, "parent", {"benchmarks": "wheel:data==1#0"})) == key
