"""Nothing that a run started outlives it, even where the run is killed and can end nothing itself."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rankadaptor.pipeline.processes import end_with_parent

TESTS = Path(__file__).parents[1]
KERNEL = """
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3")
reply = client.execute_interactive("from helpers import children; children.start_replay_workers()")
assert reply["content"]["status"] == "ok", reply
print("ready", flush=True)
client.execute_interactive("import time; time.sleep(600)")
"""


def killed(arguments: list[str]) -> list[psutil.Process]:
    """What is left of a process's descendants when it is killed with SIGKILL as soon as it is ready."""
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    parent = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True,
                              env=os.environ | {"PYTHONPATH": path})
    assert parent.stdout.readline() == "ready\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    parent.kill()
    parent.communicate()
    return children


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


@pytest.mark.slow
def test_children_end_with_a_parent_that_was_killed(tiny_profile, tmp_path):
    children = killed(["-m", "helpers.children", str(tiny_profile), str(tmp_path / "ledger")])
    workers = [child for child in children if child.ppid() != children[0].ppid()]
    assert len(children) == 6  # the fork server, multiprocessing's tracker, and four workers
    assert left_after(children, 20) == []
    assert not list((tmp_path / "ledger").glob(".unfinished/*")), workers


@pytest.mark.notebook
def test_a_kernel_and_its_workers_end_with_what_started_it():
    children = killed(["-c", KERNEL])
    assert len(children) == 5  # the kernel; its fork server, tracker and two workers
    assert left_after(children, 20) == []


def test_only_children_can_end_with_a_parent():
    with pytest.raises(RuntimeError, match="in a process that multiprocessing did not start"):
        end_with_parent()
