"""Running steps in several processes. The ledger is all they share: a process that dies loses the step it was at."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

import torch

from rankadaptor.errors import BadInput
from rankadaptor.ledger import Ledger
from rankadaptor.profiles import Profile
from rankadaptor.stages import Step, Workshop

Progress = Callable[[Step, float], None]  # told of every step that begins (0.0) and is finished (1.0)
Item = TypeVar("Item")


def run_in_processes(
    profile: Profile,
    ledger: Ledger,
    groups: Sequence[Sequence[Step]],
    workers: int,
    on_progress: Progress = lambda step, share: None,
) -> None:
    """Run groups of steps, those of one group in one process and in order; what the ledger holds is not run again.

    What groups need in common must be in the ledger before, or each process computes it. Otherwise as `share_out`.
    """
    share_out(partial(_run_groups, profile, ledger.folder), groups, workers, on_progress)


def _run_groups(profile: Profile, folder: Any, groups: Iterable[Sequence[Step]], progress: Progress) -> None:
    workshop = Workshop(profile, Ledger(folder), progress)
    for group in groups:
        for step in group:
            workshop.run(step)


def share_out(
    function: Callable[[Iterable[Item], Progress], None],
    items: Sequence[Item],
    workers: int,
    on_progress: Progress = lambda step, share: None,
) -> None:
    """Call a function once in every process, with some of the items: each takes the next one when it is free.

    Small models leave a second thread little to do: two processes of one thread do about 1.5 times the work of one
    process of two.

    Args:
        workers: Processes; the cores are shared out among them.
        on_progress: Called, in this process, with what the function reports.

    Raises:
        BadInput: if there are no workers, or as soon as one of them dies; what was finished is in the ledger.
    """
    if workers < 1:
        raise BadInput(f"workers is {workers}: give at least 1")
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    pipes, processes = [], []
    queue = context.Queue()
    for item in [*items, *[None] * workers]:
        queue.put(item)
    for _ in range(min(workers, len(items))):
        receiver, sender = context.Pipe(duplex=False)
        work = (function, queue, threads, sender)
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
        queue.cancel_join_thread()  # what nobody took is nobody's
    if failed:
        raise BadInput(f"one of {len(processes)} workers stopped with status {failed[0]}, see above: start again, what"
                       " was finished is kept")


def _work(
    function: Callable[[Iterable[Item], Progress], None],
    queue: "multiprocessing.Queue[Item | None]",
    threads: int,
    pipe: "Connection[Any, Any]",
) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the ledger drops what is half-written
    parent = os.getppid()

    def progress(step: Step, share: float) -> None:
        if os.getppid() != parent:
            sys.exit(143)  # whoever wanted the results was killed
        pipe.send((step, share))

    function(cast(Iterable[Item], iter(queue.get, None)), progress)
