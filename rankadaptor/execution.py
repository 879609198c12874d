"""Running steps in several processes. The ledger is all they share: a process that dies loses the step it was at."""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch

from rankadaptor.errors import BadInput
from rankadaptor.ledger import Ledger
from rankadaptor.profiles import Profile
from rankadaptor.stages import Step, Workshop


def run_in_processes(
    profile: Profile,
    ledger: Ledger,
    groups: Sequence[Sequence[Step]],
    workers: int,
    on_progress: Callable[[Step, float], None] = lambda step, share: None,
) -> None:
    """Run groups of steps, those of one group in one process and in order; what the ledger holds is not run again.

    Small models leave a second thread little to do: two processes of one thread do about 1.5 times the work of one
    process of two. What groups need in common must be in the ledger before, or each process computes it.

    Args:
        workers: Processes; the cores are shared out among them.
        on_progress: Called with every step that a process begins (0.0) and finishes (1.0).

    Raises:
        BadInput: if there are no workers, or if one of them dies; what was finished is in the ledger.
    """
    if workers < 1:
        raise BadInput(f"workers is {workers}: give at least 1")
    context = multiprocessing.get_context("spawn")
    progress = context.SimpleQueue()
    threads = max(1, (os.cpu_count() or 1) // workers)
    started = [
        context.Process(
            target=_work, args=(profile, ledger.folder, groups[start::workers], threads, progress), daemon=True
        )
        for start in range(min(workers, len(groups)))
    ]
    for process in started:
        process.start()
    try:
        while any(process.is_alive() for process in started) or not progress.empty():
            if progress.empty():
                next((p for p in started if p.is_alive()), started[0]).join(timeout=0.2)
            else:
                on_progress(*progress.get())
    finally:
        for process in started:
            process.terminate()
            process.join()
    if failed := [process.exitcode for process in started if process.exitcode]:
        raise BadInput(f"{len(failed)} of {len(started)} workers stopped with status {failed[0]}, see above:"
                       " start again, what was finished is kept")


def _work(
    profile: Profile, folder: Any, groups: Sequence[Sequence[Step]], threads: int, progress: "SimpleQueue[Any]"
) -> None:
    torch.set_num_threads(threads)
    parent = os.getppid()
    workshop = Workshop(profile, Ledger(folder), lambda step, share: progress.put((step, share)))
    for group in groups:
        for step in group:
            if os.getppid() != parent:  # whoever wanted the results was killed
                return
            workshop.run(step)
