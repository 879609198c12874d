"""How many cores there are, and how many of them a process computes with: what the last bits of sums depend on."""

import contextlib
import os
from collections.abc import Iterator

import torch


def usable_cores() -> int:
    """Cores that this process may use, which a scheduler may have made fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Within, products and sums on a CPU take so many threads of this process; None to leave that as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
