"""Running steps in several processes. The ledger is all they share: a process that dies loses the step it was at."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
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
        BadInput: if there are no workers, or as soon as one of them dies; what was finished is in the ledger.
    """
    if workers < 1:
        raise BadInput(f"workers is {workers}: give at least 1")
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    pipes, processes = [], []
    for start in range(min(workers, len(groups))):
        receiver, sender = context.Pipe(duplex=False)
        work = (profile, ledger.folder, groups[start::workers], threads, sender)
        process = context.Process(target=_work, args=work, daemon=True)
        process.start()
        sender.close()  # the process has its own: this end closes with it
        pipes.append(receiver)
        processes.append(process)
    failed: list[int] = []
    try:
        while pipes and not failed:
            for pipe in [one for one in pipes if one in wait(pipes)]:
                try:
                    on_progress(*pipe.recv())
                except EOFError:
                    pipes.remove(pipe)
            failed = [process.exitcode for process in processes if process.exitcode]
        for process in processes if not failed else ():
            process.join()
            failed += [process.exitcode] if process.exitcode else []
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if failed:
        raise BadInput(f"one of {len(processes)} workers stopped with status {failed[0]}, see above: start again, what"
                       " was finished is kept")


def _work(
    profile: Profile, folder: Any, groups: Sequence[Sequence[Step]], threads: int, progress: "Connection[Any, Any]"
) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the ledger drops what is half-written
    parent = os.getppid()
    workshop = Workshop(profile, Ledger(folder), lambda step, share: progress.send((step, share)))
    for group in groups:
        for step in group:
            if os.getppid() != parent:  # whoever wanted the results was killed
                return
            workshop.run(step)
