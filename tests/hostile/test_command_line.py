"""What users type by mistake: one line with the value and the remedy, a documented status, and nothing written."""

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import papermill
import pytest
import torch
from helpers.profile import write_checkpoint
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from safetensors.torch import load

from rankadaptor.__main__ import main
from rankadaptor.allocation import MOST_RANK, validate_allocation
from rankadaptor.commands import boundary
from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.models.gate import read_architecture
from rankadaptor.reporting import pages

LONG, DIGITS = "a" * 5000, "9" * 5000
TABLE = ["plan", "table2", "--profile", "{profile}", "--blocks", "llm-pruner:20"]
DRAWN = ["reproduce", "table2", "--profile", "{profile}", "--blocks", "llm-pruner:20"]
SHAPES = ["plan", "prune", "{model}", "--ratio", "0.25"]
PRUNE = ["prune", "{model}", "--ratio", "0.25", "--calibration", "text.txt", "--out", "new"]
SEARCH = ["search", "{model}", "--data", "{rows}", "--benchmarks", "{benchmarks}", "--out", "new"]
RECOVER = ["recover", "{model}", "--data", "{rows}", "--benchmarks", "{benchmarks}", "--out", "new"]
RANKS = ["--allocation", "8 8 8 8 8 8"]
EVALUATE = ["evaluate", "{model}", "--benchmarks", "{benchmarks}"]
MEASURE = ["measure", "{model}", "--text", "text.txt"]
TABLE_FILE = ["rank-table", "--profile", "tiny", "--out"]

REFUSED = {
    # options that are no words of theirs
    "an unknown command": (["planet"], "Did you mean 'plan'?"),
    "an unknown page": (["reproduce", "tabel2"], "Did you mean 'table2'"),
    "an unknown option": ([*TABLE, "--sead", "3"], "Possible options"),
    "an option without its value": ([*TABLE, "--seeds"], "'--seeds' requires an argument"),
    "an unknown budget": ([*TABLE, "--budget", "huge"], "unknown budget 'huge'"),
    "a line break in a name": (["plan", "table2", "--profile", "a\nb"], r"unknown profile 'a\nb'"),
    "a line break in a path": ([*RECOVER, *RANKS, "--data", "a\nb"], r"no recovery data a\nb"),
    "a terminal's escape in a path": ([*RECOVER, *RANKS, "--data", "a\x1b[2Jb"], r"no recovery data a\x1b[2Jb"),
    "a NUL character": ([*TABLE, "--ledger", "a\0b"], r"argument 'a\x00b' holds a NUL character"),
    "bytes that are not UTF-8": ([*TABLE, "--ledger", "\udcff"], r"argument '\udcff' is not UTF-8"),
    "nothing but a space": ([*TABLE, "--ledger", " "], "ledger is ' ': give a name"),
    "nothing but commas": ([*TABLE[:4], "--blocks", ","], "',' holds nothing but commas"),
    "a name of 5000 characters": (["plan", "table2", "--profile", LONG], "unknown profile"),
    # numbers
    "seeds with an exponent": ([*TABLE, "--seeds", "1e3"], "seeds '1e3' are not whole numbers"),
    "seeds in Arabic digits": ([*TABLE, "--seeds", "٣"], "seeds '٣' are not whole numbers"),
    "seeds in base sixteen": ([*TABLE, "--seeds", "0x10"], "seeds '0x10' are not whole numbers"),
    "seeds with an underscore": ([*TABLE, "--seeds", "1_0"], "seeds '1_0' are not whole numbers"),
    "seeds in quotes": ([*TABLE, "--seeds", "'a'"], "are not whole numbers"),
    "a seed below zero": ([*TABLE, "--seeds", "-1"], "seeds hold -1: give whole numbers from 0 to 4294967295"),
    "a seed of 33 bits": ([*TABLE, "--seeds", str(2**32)], "seeds hold 4294967296"),
    "a seed of 5000 digits": ([*TABLE, "--seeds", DIGITS], "are not whole numbers"),
    "the seed of a training below zero": ([*RECOVER, *RANKS, "--seed", "-1"], "seed is '-1'"),
    "the seed of a pruning of 40 bits": ([*SHAPES, "--seed", str(2**40)], "seed is '1099511627776'"),
    "no workers": ([*TABLE, "--workers", "0"], "workers is '0': give a whole number from 1"),
    "workers with an exponent": ([*TABLE, "--workers", "1e9"], "workers is '1e9'"),
    "a billion workers": ([*TABLE, "--workers", "1000000000"], "workers is '1000000000'"),
    "workers in Arabic digits": ([*TABLE, "--workers", "٣"], "workers is '٣'"),
    "a table by no workers": ([*TABLE_FILE, "t.parquet", "--workers", "-1"], "workers is '-1'"),
    "a ratio that is no number": ([*SHAPES, "--ratio", "nan"], "ratio or share is nan"),
    "an endless ratio": ([*SHAPES, "--ratio", "inf"], "ratio or share is inf"),
    "a ratio in words": ([*SHAPES, "--ratio", "half"], "(got 'half')"),
    "layers that end before they begin": ([*SHAPES, "--layers", "9:3"], "layers '9:3' hold no layer"),
    "layers in Arabic digits": ([*SHAPES, "--layers", "١:٣"], "layers '١:٣' are no range"),
    "steps with an exponent": ([*SEARCH, "--steps", "1e3"], "(got '1e3')"),
    "a learning rate that is no number": ([*SEARCH, "--learning-rate", "nan"], "learning_rate is nan"),
    "a search without recoveries": ([*SEARCH, "--budget", "0"], "budget is '0': give a whole number from 2"),
    "a billion recoveries": ([*SEARCH, "--budget", "1000000000"], "budget is '1000000000'"),
    "a budget of rank zero": ([*SEARCH, "--rank", "0"], "rank is '0'"),
    "candidates that no model holds": ([*SEARCH, "--ranks", f"2 {10**12}"], f"ranks hold {10**12}"),
    "a rank that no model holds": ([*RECOVER, "--allocation", "8 8 8 8 8 99999999"], "rank of layer 5 is 99999999"),
    "ranks of 5000 digits": ([*TABLE, "--allocation", DIGITS], "is not a list of whole numbers"),
    "no ranks": ([*RECOVER, "--allocation", " "], "allocation is empty"),
    "no items": ([*EVALUATE, "--items", "0"], "items_per_task is 0"),
    "windows below zero": ([*MEASURE, "--max-windows", "-1"], "max_windows is -1"),
    "a recipe of steps below zero": (["testbed", "pretrain", "new", "--set", "steps=-1"], "steps is -1"),
    "a recipe in Arabic digits": (["testbed", "pretrain", "new", "--set", "steps=٣"], "'steps=٣' is no change"),
    # paths
    "a pipe as a profile": (["plan", "table2", "--profile", "pipe.yaml"], "unknown profile 'pipe.yaml'"),
    "a pipe as recovery data": ([*TABLE, "--recovery-data", "pipe"], "recovery data 'pipe' are no file"),
    "a folder as recovery data": ([*TABLE, "--recovery-data", "folder"], "recovery data 'folder' are no file"),
    "a file as benchmarks": ([*TABLE, "--benchmarks", "file"], "benchmarks 'file' are no folder"),
    "a pipe as calibration": ([*PRUNE, "--calibration", "pipe"], "no calibration file pipe"),
    "calibration nested too deeply": ([*PRUNE, "--calibration", "deep.json"], "deep.json is not a JSON list"),
    "a pipe as text": ([*MEASURE, "--text", "pipe"], "no text in pipe"),
    "text that is not UTF-8": ([*MEASURE, "--text", "latin.txt"], "latin.txt is not UTF-8"),
    "a file as a rank table": (["plan", "search", "--rank-table", "file"], "cannot read a rank table from file"),
    "a file as a ledger": ([*TABLE, "--ledger", "file"], "cannot use file as a ledger"),
    "a ledger under a file": ([*TABLE, "--ledger", "file/ledger"], "cannot use file/ledger as a ledger"),
    "a name too long for a ledger": ([*TABLE, "--ledger", LONG], "File name too long: name another folder"),
    "a file as reports": ([*DRAWN, "--reports", "file"], "file is not a folder: name another folder"),
    "reports behind a broken link": ([*DRAWN, "--reports", "broken"], "broken is a broken link"),
    "reports behind a link to itself": ([*DRAWN, "--reports", "loop"], "loop is a broken link"),
    "a name too long for reports": ([*DRAWN, "--reports", LONG], "reports cannot be"),
    "reports where nothing is written": ([*DRAWN, "--reports", "/proc/new"], "written to '/proc/new/test/quick'"),
    "the profile's reports as a ledger": ([*DRAWN, "--ledger", "new/test", "--reports", "new"], "are one folder"),
    "the run's reports as a ledger": ([*DRAWN, "--ledger", "new/test/quick", "--reports", "new"], "are one folder"),
    "one folder for ledger and reports": ([*DRAWN, "--ledger", "new", "--reports", "./new"], "are one folder, 'new'"),
    "a folder that is there": ([*PRUNE, "--out", "folder"], "folder is there already"),
    "an output behind a broken link": ([*PRUNE, "--out", "broken"], "broken is there already"),
    "an output under a file": ([*SEARCH, "--out", "file/new"], "out cannot be in 'file/new'"),
    "an output without a name": ([*RECOVER, *RANKS, "--out", ""], "out is '.': name a folder"),
    "a name too long for an output": ([*PRUNE, "--out", f"new/{LONG}"], "has 5000 bytes: give at most 255"),
    "an output where nothing is written": ([*SEARCH, "--out", "/proc/new"], "out cannot be written to '/proc/new'"),
    "the model as its output": ([*PRUNE, "--out", "{model}"], "is there already"),
    "a folder as a table": ([*TABLE_FILE, "folder"], "the table cannot be written to 'folder', it is not a file"),
    "a table under a file": ([*TABLE_FILE, "file/t.parquet"], "the table cannot be in 'file'"),
    "a rehearsal in a file": (["rehearse", "--out", "file"], "out cannot be in 'file'"),
    "a rehearsal of an unknown block": (["rehearse", "--out", "new", "--blocks", "x"], "unknown block 'x'"),
    "pretraining in a file": (["testbed", "pretrain", "file"], "the model cannot be in 'file'"),
    "an export under a file": (["ledger", "export", "file/t.csv", "--ledger", "folder"], "file"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("hostile") / "model"
    write_checkpoint(folder, tokenizer, layers=6)
    return folder


@pytest.fixture
def typed(model, tiny_profile, benchmark_folder, recovery_file, tmp_path, monkeypatch):
    """A command line with its paths filled in, in a folder of things that are not what a command needs."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORKERS", "EXECUTOR"):
        monkeypatch.setenv(f"RANKADAPTOR_{name}", "")  # restored afterwards
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / ("0" * 64)).mkdir()  # as an entry of a ledger
    (tmp_path / "file").write_text("x")
    (tmp_path / "text.txt").write_text("\n\n".join(["the cat sat on the mat " * 20] * 20))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    os.symlink("nowhere", tmp_path / "broken")
    os.symlink("loop", tmp_path / "loop")
    for name in ("pipe", "pipe.yaml"):
        os.mkfifo(tmp_path / name)
    names = {"{model}": model, "{profile}": tiny_profile, "{benchmarks}": benchmark_folder, "{rows}": recovery_file}
    return lambda arguments: [str(names.get(argument, argument)) for argument in arguments]


def state(folder: Path) -> dict[str, int]:
    """Every path below a folder, with its size."""
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


@pytest.mark.skipif(sys.platform != "linux", reason="the folders and pipes of Linux")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_mistake_is_one_line_status_2_and_writes_nothing(kind, typed, model, tmp_path, capfd):
    arguments, says = REFUSED[kind]
    before = state(tmp_path), state(model)
    assert main(typed(arguments)) == 2
    output = capfd.readouterr()
    assert says in output.err
    assert output.err.startswith("rankadaptor: ")
    assert output.err.count("\n") == 1
    assert output.err.rstrip("\n").isprintable()
    assert len(output.err) < 1600
    assert output.out == ""
    assert (state(tmp_path), state(model)) == before
    assert os.environ["RANKADAPTOR_WORKERS"] == ""  # a refused number is not handed down


@pytest.mark.parametrize(("name", "value", "says"), [
    ("WORKERS", "-2", "workers is '-2'"),
    ("WORKERS", "٢", "workers is '٢'"),
    ("EXECUTOR", "slurm", "unknown executor 'slurm'"),
    ("PLUGINS", "no_such_module", "plugin 'no_such_module' of RANKADAPTOR_PLUGINS cannot be imported"),
    ("SEEDS", "0.5", "seeds '0.5' are not whole numbers"),
    ("LEDGER", "\udcfe", r"RANKADAPTOR_LEDGER '\udcfe' is not UTF-8"),
    ("LEDGER", "\t", r"ledger is '\t'"),
], ids=lambda value: ascii(value))
def test_a_bad_variable_is_one_line_and_status_2(name, value, says, typed, tmp_path, monkeypatch, capfd):
    before = state(tmp_path)
    monkeypatch.setenv(f"RANKADAPTOR_{name}", value)
    assert main(typed(TABLE)) == 2
    error = capfd.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert state(tmp_path) == before


@pytest.mark.parametrize(("arguments", "expected"), [
    ([*TABLE, "--ledger", ""], {"ledger": "ledger"}),
    ([*TABLE, "--ledger", "2024"], {"ledger": "2024"}),
    ([*TABLE, "--ledger", "a folder, named"], {"ledger": "a folder, named"}),
    ([*TABLE, "--seeds", " 4294967295,  0 "], {"seeds": [4294967295, 0]}),
    ([*TABLE, "--seeds", ""], {"seeds": []}),
    ([*TABLE, "--seeds", "[3, 4]"], {"seeds": [3, 4]}),
    ([*TABLE[:4], "--blocks", "  "], {"blocks": ""}),
    ([*TABLE, "--workers", "3"], {"ledger": "ledger"}),
], ids=["empty ledger", "a year", "spaces and a comma", "the largest seed", "no seeds", "a list", "blank", "workers"])
def test_what_can_be_meant_reaches_the_page_as_it_was_meant(arguments, expected, typed, monkeypatch, capfd):
    class Planned(str):
        missing = 0

    monkeypatch.setattr(pages, "plan", lambda page, parameters: given.update(parameters) or Planned("planned"))
    given: dict[str, object] = {}
    assert main(typed(arguments)) == 0, capfd.readouterr().err
    assert given.items() >= expected.items()


def test_an_output_in_the_models_folder_leaves_the_model_alone(typed, model, capfd):
    before = state(model)
    assert main(typed([*PRUNE[:-1], str(model / "pruned")])) == 0, capfd.readouterr().err
    after = state(model)
    assert {name: after[name] for name in before} == before
    assert json.loads((model / "pruned" / "config.json").read_text())["num_hidden_layers"] == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("arguments", [[*DRAWN, "--reports", "locked/new"], [*PRUNE, "--out", "locked/new"],
                                       [*TABLE_FILE, "locked/t.parquet"], ["testbed", "pretrain", "locked/new"]])
def test_a_folder_without_rights_is_refused_before_work(arguments, typed, tmp_path, capfd):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert main(typed(arguments)) == 2
    assert "Permission denied" in capfd.readouterr().err


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("arguments", [[*DRAWN, "--reports", "new"], [*PRUNE, "--out", "new"], [*SEARCH],
                                       [*RECOVER, *RANKS], [*TABLE_FILE, "t.parquet"], ["rehearse", "--out", "new"],
                                       ["testbed", "pretrain", "new"]], ids=lambda value: value[0])
def test_every_command_probes_its_folder_before_it_works(arguments, number, typed, tmp_path, monkeypatch, capfd):
    def fails(*_, **__):
        raise OSError(number, os.strerror(number))

    before = state(tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", fails)
    assert main(typed(arguments)) == 2
    error = capfd.readouterr().err
    assert f"({os.strerror(number)}): name another folder, or mend its rights and its disk" in error
    assert error.count("\n") == 1
    assert state(tmp_path) == before


@pytest.mark.parametrize(("ledger", "cache", "says"), [
    ("/proc/new", "cache", "before it can run: the ledger cannot be written to '/proc/new'"),
    ("new", "file/cache", "before it can run: the cache (RANKADAPTOR_CACHE) cannot be in 'file/cache'"),
])
def test_a_plan_names_a_ledger_or_cache_that_is_locked(ledger, cache, says, typed, tmp_path, monkeypatch, capfd):
    before = state(tmp_path)
    monkeypatch.setenv("RANKADAPTOR_CACHE", cache)
    assert main(["plan", "table6", "--profile", "smollm2", "--ledger", ledger]) == 0
    assert says in capfd.readouterr().out
    assert state(tmp_path) == before


def test_a_search_is_refused_where_its_ledger_is_locked(typed, tmp_path, capfd):
    before = state(tmp_path)
    assert main(typed([*SEARCH, "--ledger", "/proc/new"])) == 2
    assert "the ledger cannot be written to '/proc/new'" in capfd.readouterr().err
    assert state(tmp_path) == before


# -- errors that no check of an option foresees ------------------------------------------------------------------------

NESTED = "[" * 100_000
ENDS = {
    "a folder in place of a file": (lambda: Path("/").read_text(), 2, "Is a directory: '/': it is a folder"),
    "a file that went away": (lambda: Path("/nowhere/x").read_text(), 2, "'/nowhere/x': check the path"),
    "a path through a file": (lambda: Path("/dev/null/x").read_text(), 2, "'/dev/null/x': a part of the path"),
    "a name that is too long": (lambda: Path(LONG).read_text(), 2, "give a shorter one"),
    "a disk that is full": (lambda: raise_(OSError(errno.ENOSPC, "No space left on device", "x")), 2, "free some"),
    "no rights": (lambda: raise_(PermissionError(errno.EACCES, "Permission denied", "x")), 2, "mend its rights"),
    "no more processes": (lambda: raise_(BlockingIOError(errno.EAGAIN, "unavailable")), 2, "take fewer workers"),
    "a hub's error without a number": (lambda: raise_(OSError("no file named x\nat all")), 2, "no file named x:"),
    "JSON that is none": (lambda: json.loads("{'a': 1}"), 2, "is not JSON (Expecting property name"),
    "JSON nested too deeply": (lambda: json.loads(NESTED), 2, "nested too deeply"),
    "bytes that are no text": (lambda: b"a\xff".decode(), 2, "not UTF-8 text (byte 1, 0xff)"),
    "text that no file takes": (lambda: "a\udcff".encode(), 2, r"'\udcff' cannot be written as utf-8"),
    "weights cut short": (lambda: load(b"\x10"), 2, "a safetensors file is damaged"),
    "memory that ends": (lambda: raise_(MemoryError("Unable to allocate 9 GiB")), 1, "out of memory (Unable to"),
    "memory of torch's that ends": (lambda: torch.empty(2**62, dtype=torch.int8), 1, "out of memory"),
    "a stage that failed": (lambda: raise_(StageFailed("killed", "by the system")), 1, "killed: by the system"),
    "an interrupt": (lambda: raise_(KeyboardInterrupt()), 130, "interrupted: start again"),
}


def raise_(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("kind", ENDS)
def test_an_error_of_the_outside_is_one_line(kind, typed, monkeypatch, capfd):
    fail, status, says = ENDS[kind]
    monkeypatch.setattr(pages, "plan", lambda *_: fail())
    assert main(typed(TABLE)) == status
    error = capfd.readouterr().err
    assert says in error
    assert error.startswith("rankadaptor: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("error", "status", "says"), [
    (PapermillExecutionError(3, 1, "", "OSError", "[Errno 28] No space\nleft on device", []), 1,
     "table2 stopped with OSError: [Errno 28] No space left on device: see .failed.ipynb in reports"),
    (PapermillExecutionError(3, 1, "", "BadInput", "no rows: give some", []), 2, "rankadaptor: no rows: give some"),
    (DeadKernelError("Kernel died"), 1, "killed: the kernel of notebook 03_main_tables died"),
    (NoSuchKernel("python3"), 2, "Jupyter has no kernel python3 here: make setup"),
    (KeyboardInterrupt(), 130, "interrupted"),
], ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None)
def test_what_ends_a_notebook_is_one_line(error, status, says, typed, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(papermill, "execute_notebook", lambda *_, **__: raise_(error))
    assert main(typed(DRAWN)) == status
    shown = capfd.readouterr().err
    assert says in shown
    assert shown.count("\n") == 1
    assert not list(tmp_path.rglob("*.ipynb"))


def endless() -> None:
    endless()


@pytest.mark.parametrize(("fail", "name"), [
    (lambda: {}["missing"], "KeyError"),
    (lambda: [].missing, "AttributeError"),
    (lambda: torch.ones(2) @ torch.ones(3), "RuntimeError"),
    (lambda: raise_(OSError(errno.EBADF, "Bad file descriptor")), "OSError"),
    (lambda: raise_(ValueError("shape")), "ValueError"),
    (endless, "RecursionError"),
], ids=["key", "attribute", "shapes", "descriptor", "value", "recursion"])
def test_a_bug_keeps_its_traceback_and_is_called_one(fail, name, typed, monkeypatch, capfd):
    monkeypatch.setattr(pages, "plan", lambda *_: fail())
    assert main(typed(TABLE)) == boundary.BUG
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith(f"rankadaptor: {name} is a bug in rankadaptor, see above")


def test_a_plugin_may_have_the_bug(typed, monkeypatch, capfd):
    monkeypatch.setenv("RANKADAPTOR_PLUGINS", "json")
    monkeypatch.setattr(pages, "plan", lambda *_: {}["missing"])
    assert main(typed(TABLE)) == boundary.BUG
    assert "in a plugin (json)" in capfd.readouterr().err


def test_an_ascii_terminal_gets_all_of_a_table(typed, monkeypatch):
    class Planned(str):
        missing = 0

    monkeypatch.setattr(pages, "plan", lambda *_: Planned("52.1 ± 0.3"))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(typed(TABLE)) == 0
    assert written.getvalue().startswith(rb"52.1 \xb1 0.3")


def closed_pipe() -> int:
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("opened", "status", "lines"), [
    (closed_pipe, 141, 0),
    (lambda: os.open("/dev/full", os.O_WRONLY), 2, 1),
], ids=["closed by its reader", "full"])
@pytest.mark.parametrize("option", ["--version", "--help"])
def test_output_that_is_lost_ends_the_command_quietly(opened, status, lines, option, unbuffered):
    """In a process of its own: the interpreter writes what is left when it ends."""
    target = opened()
    done = subprocess.run([sys.executable, "-m", "rankadaptor", option], stdout=target, stderr=subprocess.PIPE,
                          text=True, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    os.close(target)
    assert (done.returncode, done.stderr.count("\n")) == (status, lines)
    assert lines == 0 or "No space left on device" in done.stderr.partition("rankadaptor: ")[2]


def test_a_closed_pipe_behind_an_error_changes_no_status(typed, monkeypatch, capfd):
    target = closed_pipe()
    monkeypatch.setattr(sys, "stdout", os.fdopen(target, "w"))

    def prints_and_fails(*_):
        print("half a plan")
        raise StageFailed("killed", "by the system")

    monkeypatch.setattr(pages, "plan", prints_and_fails)
    assert main(typed(TABLE)) == 1
    assert capfd.readouterr().err == "rankadaptor: killed: by the system\n"


def test_a_pipe_to_a_worker_that_breaks_is_no_closed_output(typed, monkeypatch, capfd):
    monkeypatch.setattr(pages, "plan", lambda *_: raise_(BrokenPipeError(errno.EPIPE, "Broken pipe")))
    assert main(typed(TABLE)) == boundary.BUG
    assert "BrokenPipeError is a bug" in capfd.readouterr().err


def test_ranks_end_where_no_projection_is_wider(typed):
    architecture = read_architecture(Path(typed(["{model}"])[0]))
    assert validate_allocation((MOST_RANK,) * 6, architecture) == (MOST_RANK,) * 6
    with pytest.raises(BadInput, match="rank of layer 5 is 65537: give at most 65536"):
        validate_allocation((8, 8, 8, 8, 8, MOST_RANK + 1), architecture)
