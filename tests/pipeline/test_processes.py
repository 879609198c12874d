"""Nothing that a run started outlives it, even where the run is killed and can end nothing itself."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rankadaptor.pipeline import processes
from rankadaptor.pipeline.processes import end_with_parent

TESTS = Path(__file__).parents[1]
FORK = multiprocessing.get_context("fork")
# As papermill does it: a light process starts a kernel, and the kernel starts workers.
PARENT = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
client.execute_interactive("from helpers import children; children.main(*" + repr(sys.argv[1:]) + ")")
"""


def left_after(children: list[psutil.Process], seconds: float) -> list[str]:
    """Those that still run, ended afterwards."""
    deadline = time.monotonic() + seconds
    while (living := [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
           ) and time.monotonic() < deadline:
        time.sleep(0.05)
    names = [" ".join(child.cmdline())[:200] for child in living]
    for child in living:
        child.kill()
    return names


def wait_idle(started) -> None:
    end_with_parent()
    started.release()
    time.sleep(600)


def compute_deaf(started) -> None:
    """Without end, ignoring every signal that can be ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    started.release()
    while True:
        sum(range(10_000))


def start_both(started) -> None:
    for target in (wait_idle, compute_deaf):
        FORK.Process(target=target, args=(started,)).start()
    time.sleep(600)


def test_children_end_with_a_parent_that_was_killed(monkeypatch):
    monkeypatch.setattr(processes, "_UNWIND_S", 0.3)
    started = FORK.Semaphore(0)
    parent = FORK.Process(target=start_both, args=(started,))
    parent.start()
    for _ in range(2):
        assert started.acquire(timeout=60)
    children = psutil.Process(parent.pid).children()
    assert len(children) == 2
    time.sleep(0.2)
    assert all(child.is_running() for child in children)  # while the parent lives
    parent.kill()
    assert left_after(children, 5) == []


@pytest.mark.slow
@pytest.mark.notebook
def test_a_kernel_and_workers_of_every_kind_end_with_papermill(tiny_profile, tmp_path):
    ready, ledger = tmp_path / "ready", tmp_path / "ledger"
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tiny_profile), str(ledger), str(ready)],
                              env=os.environ | {"PYTHONPATH": path})
    deadline = time.monotonic() + 200
    while not ready.exists() and parent.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.wait()
    assert ready.exists()
    assert len(children) == 6  # the kernel; its fork server and multiprocessing's tracker; a worker in a step, two idle
    assert left_after(children, 20) == []


def test_only_a_child_can_end_with_its_parent():
    with pytest.raises(RuntimeError, match="in a process that multiprocessing did not start"):
        end_with_parent()
