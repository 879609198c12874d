"""One key, one process at work: waiting, taking over from the dead, and clocks that lie."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from rankadaptor.pipeline import leases
from rankadaptor.pipeline.leases import Holder, Leases, is_dead, read_holder
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.leftovers import leftovers

KEY = "k"
FORK = multiprocessing.get_context("fork")


def never():
    return False


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(leases, "PATIENCE_S", 1.0)


def of_another_host(folder):
    """A lease whose holder nobody here can look at."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / KEY).write_text(json.dumps(Holder("elsewhere", 1, "1", "t")._asdict()))
    return folder / KEY


def test_a_lease_names_its_holder_and_goes_with_it(tmp_path):
    with Leases(tmp_path).held(KEY, never) as holder:
        assert read_holder(tmp_path / KEY) == holder
        assert holder.pid == os.getpid()
        assert Leases(tmp_path).living() == {holder.token}
    assert list(tmp_path.iterdir()) == []


def test_an_error_inside_gives_the_lease_back(tmp_path):
    with pytest.raises(ZeroDivisionError), Leases(tmp_path).held(KEY, never):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_whoever_holds_it_does_not_wait_for_itself(tmp_path):
    held = Leases(tmp_path)
    with held.held(KEY, never) as outer, held.held(KEY, never) as inner:
        assert inner.token != outer.token


def test_threads_take_turns(tmp_path):
    inside, most = [], []

    def work():
        with Leases(tmp_path).held(KEY, never):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


def _hold(folder, started):
    with Leases(folder).held(KEY, never):
        started.set()
        time.sleep(60)


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path):
    started = FORK.Event()
    process = FORK.Process(target=_hold, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)  # not joined yet: a zombie is dead, too
    began = time.monotonic()
    with Leases(tmp_path).held(KEY, never) as holder:
        assert time.monotonic() - began < 5
        assert read_holder(tmp_path / KEY) == holder
    process.join()


def test_waiting_ends_when_the_work_is_done(tmp_path):
    of_another_host(tmp_path)
    began = time.monotonic()
    with Leases(tmp_path).held(KEY, lambda: time.monotonic() - began > 0.5) as holder:
        assert holder is None
    assert read_holder(tmp_path / KEY).host == "elsewhere"


def test_a_heartbeat_that_stands_still_is_a_dead_holders(tmp_path, impatient):
    of_another_host(tmp_path)
    began = time.monotonic()
    with Leases(tmp_path).held(KEY, never) as holder:
        assert time.monotonic() - began >= 1
        assert read_holder(tmp_path / KEY) == holder


@pytest.mark.slow
@pytest.mark.parametrize("year", [1990, 2100])
def test_a_heartbeat_is_waited_for_whatever_its_clock(year, tmp_path, impatient):
    path = of_another_host(tmp_path)
    stop = threading.Event()

    def beat():
        for count in range(100):
            os.utime(path, (0, (year - 1970) * 31_557_600 - 0.1 * count))  # a clock that even runs backwards
            if stop.wait(0.1):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    began = time.monotonic()
    with Leases(tmp_path).held(KEY, lambda: time.monotonic() - began > 3) as holder:
        assert holder is None
    stop.set()
    thread.join()


def test_the_heart_beats_while_a_lease_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(leases, "_heart", None)
    with Leases(tmp_path).held(KEY, never):
        os.utime(tmp_path / KEY, (0, 0))
        deadline = time.monotonic() + 10
        while (tmp_path / KEY).stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert (tmp_path / KEY).stat().st_mtime > 0


def test_a_process_number_that_came_again_is_not_the_holder():
    holder = Holder.here()
    assert not is_dead(holder)
    assert is_dead(holder._replace(born="1"))
    assert not is_dead(holder._replace(host="elsewhere", born="1"))  # nothing is known of other hosts


def test_a_process_that_is_there_but_hidden_is_not_dead(monkeypatch):
    monkeypatch.setattr(leases, "_start_time", lambda pid: leases._UNKNOWN)
    assert not is_dead(Holder.here()._replace(born="12345"))
    monkeypatch.undo()
    assert not is_dead(Holder.here()._replace(born=leases._UNKNOWN))  # its holder could not read when it was born
    monkeypatch.setattr(leases, "_start_time", lambda pid: "")
    assert is_dead(Holder.here()._replace(born=leases._UNKNOWN))


def test_a_foreign_lease_counts_as_held_for_a_day(tmp_path):
    path = of_another_host(tmp_path)
    os.utime(path, (time.time() - 3600,) * 2)
    assert Leases(tmp_path).dead() == []
    assert Leases(tmp_path).living() == {read_holder(path).token}
    os.utime(path, (time.time() - 100_000,) * 2)
    assert Leases(tmp_path).dead() == [path]
    assert Leases(tmp_path).living() == set()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "x"}'])
def test_a_lease_without_a_holder_is_waited_for_then_taken(content, tmp_path, impatient):
    (tmp_path / KEY).write_text(content)
    assert Leases(tmp_path).dead() == []  # it may just be being written
    os.utime(tmp_path / KEY, (0, 0))
    assert Leases(tmp_path).dead() == [tmp_path / KEY]
    with Leases(tmp_path).held(KEY, never) as holder:
        assert read_holder(tmp_path / KEY) == holder


def test_a_lease_that_was_taken_over_meanwhile_stays(tmp_path):
    path = of_another_host(tmp_path)
    stale = leases._state(path)
    path.write_text(Holder.here().to_json())  # another process took over meanwhile
    leases._remove_stale(path, stale)
    assert read_holder(path).pid == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def test_file_systems_without_links_have_leases_too(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with Leases(tmp_path).held(KEY, never) as holder:
        assert read_holder(tmp_path / KEY) == holder
        assert leases._create(tmp_path / KEY) is None


def test_an_exclusive_context_waits_for_another(tmp_path):
    ledger, order, inside = Ledger(tmp_path), [], threading.Event()

    def first():
        with ledger.exclusive("conductor"):
            inside.set()
            time.sleep(0.5)
            order.append("first")

    other = threading.Thread(target=first)
    other.start()
    assert inside.wait(10)
    with ledger.exclusive("another name"):
        assert order == []
    with ledger.exclusive("conductor"):
        order.append("second")
    other.join()
    assert order == ["first", "second"]
    assert leftovers(tmp_path, ledger.leases) == []


def test_a_lease_that_was_taken_over_is_let_go(tmp_path, monkeypatch):
    """The holder slept; another process has the lease now, and its own death must be noticed."""
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(leases, "_heart", None)
    with Leases(tmp_path).held(KEY, never) as holder:
        assert Leases(tmp_path).is_own(KEY, holder)
        (tmp_path / KEY).unlink()
        path = of_another_host(tmp_path)
        os.utime(path, (0, 0))
        assert not Leases(tmp_path).is_own(KEY, holder)
        deadline = time.monotonic() + 10
        while path in leases._beating and time.monotonic() < deadline:
            time.sleep(0.02)
        assert path not in leases._beating
        assert path.stat().st_mtime == 0
    assert read_holder(path).host == "elsewhere"  # and it is not removed


def test_a_child_that_was_forked_off_keeps_no_lease_alive(tmp_path):
    with Leases(tmp_path).held(KEY, never):
        assert leases._beating
        if not (child := os.fork()):
            os._exit(len(leases._beating) + len(leases._threads_of_leases))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_lease_that_was_taken_since_it_was_listed_is_kept(tmp_path):
    path = of_another_host(tmp_path)
    os.utime(path, (0, 0))
    assert Leases(tmp_path).dead() == [path]
    os.utime(path)  # its holder lives after all
    Leases(tmp_path).remove_dead(path)
    assert read_holder(path).host == "elsewhere"
    os.utime(path, (0, 0))
    Leases(tmp_path).remove_dead(path)
    assert list(tmp_path.iterdir()) == []
