"""How processes of this machine are started."""

import multiprocessing
import sys
from typing import Any


def process_context() -> Any:
    """A context of `multiprocessing`.

    On Linux processes are forks of one that imported what they need, so that they start in milliseconds in place of
    seconds. It has computed nothing, neither on threads nor on a GPU, which forks would not survive.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rankadaptor.pipeline.runner"])
    return context
