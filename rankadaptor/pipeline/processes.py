"""How processes of this machine are started."""

import multiprocessing
import sys
from typing import Any


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
