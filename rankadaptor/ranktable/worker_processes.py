"""Processes in which replays run."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from signal import SIG_IGN, SIGINT, signal
from typing import Any

import pandas as pd
import torch

from rankadaptor.errors import BadInput
from rankadaptor.pipeline.processes import end_with_parent, process_context
from rankadaptor.plugins import load_plugins


def map_in_processes(
    function: Callable[..., pd.DataFrame], work: Sequence[tuple[Any, ...]], workers: int
) -> list[pd.DataFrame]:
    """Call a function with each of some arguments, in their order; in this process where there is one worker.

    Raises:
        BadInput: if a process is killed.
    """
    if workers == 1:
        return [function(*arguments) for arguments in work]
    try:
        return list(_executor(workers).map(function, *zip(*work, strict=True),
                                           chunksize=max(1, len(work) // (8 * workers))))
    except BrokenProcessPool:
        _executor.cache_clear()
        raise BadInput(f"one of {workers} processes that replay searches was killed: free memory, and run it again"
                       ) from None


@lru_cache(maxsize=1)
def _executor(workers: int) -> ProcessPoolExecutor:
    """Processes that stay for the next call: to start them takes as long as a hundred searches."""
    return ProcessPoolExecutor(workers, process_context(), _begin)


def _begin() -> None:
    """End with the parent, know the same rivals, use one thread, and leave a keyboard interrupt to the parent."""
    end_with_parent()
    load_plugins()
    torch.set_num_threads(1)
    signal(SIGINT, SIG_IGN)
