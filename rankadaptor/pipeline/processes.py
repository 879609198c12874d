"""How processes of this machine are started, and how they end with the process that started them."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from typing import Any

_UNWIND_S = 3.0  # for which a process may remove its half-written files


def process_context() -> Any:
    """A context of `multiprocessing` whose processes start in milliseconds.

    On Linux, processes are forks of a server that has imported the package. The server has computed nothing: threads
    and GPUs that are in use do not survive a fork.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rankadaptor.pipeline.runner"])
    return context


def end_with_parent() -> None:
    """End this process soon after the one that started it, however that one ends; call it first in a child process.

    A process that is killed cannot end its children, and they hold the pipes on which they wait for work open for each
    other. `multiprocessing` gives each child a pipe of its parent's, which the system closes: a thread waits for that.
    The signal of Linux for a parent's death (`PR_SET_PDEATHSIG`) would be of the fork server, which outlives its
    children.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("end_with_parent was called in a process that multiprocessing did not start")

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)  # unwinds where the process has a handler
        time.sleep(_UNWIND_S)
        os.kill(os.getpid(), signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()
