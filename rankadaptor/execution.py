"""Running steps in several processes. The ledger is all they share: a process that dies loses the step it was at, which
another one takes up."""

import contextlib
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch

from rankadaptor import failures
from rankadaptor.cores import usable_cores
from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.ledger import Ledger
from rankadaptor.profiles import Profile
from rankadaptor.stages import Step, Workshop

Progress = Callable[[Step, float], None]  # told of every step that begins (0.0) and is finished (1.0)
Item = TypeVar("Item")

_IDLE_DEATHS = 3  # of workers at no step, which nothing is noted of, before that is an error


def run_in_processes(
    profile: Profile,
    ledger: Ledger,
    groups: Sequence[Sequence[Step]],
    workers: int,
    on_progress: Progress = lambda step, share: None,
) -> None:
    """Run groups of steps, those of one group in one process and in order; what the ledger holds is not run again, and
    what fails is passed over.

    What groups need in common is best in the ledger before: all but one process wait for it. Otherwise as `share_out`.
    """
    workshop = Workshop(profile, ledger)

    def killed(group: Sequence[Step], step: Step, by: int) -> None:
        note_killed(workshop, step, by)

    share_out(partial(_run_groups, profile, ledger.folder), groups, workers, profile.threads, on_progress, killed)


def note_killed(workshop: Workshop, step: Step, by: int) -> None:
    """Keep that the process at a step was killed by a signal."""
    failures.note(workshop.ledger, workshop.key(step), step.stage, "killed", f"signal {by}")


def _run_groups(profile: Profile, folder: Any, groups: Iterable[Sequence[Step]], progress: Progress) -> None:
    workshop = Workshop(profile, Ledger(folder), progress)
    for group in groups:
        for step in group:
            with contextlib.suppress(StageFailed):
                workshop.run(step)


@dataclass
class _Worker(Generic[Item]):
    process: BaseProcess
    pipe: "Connection[Any, Any]"
    item: Item | None = None  # what it is at
    step: Step | None = None


def share_out(
    function: Callable[[Iterable[Item], Progress], None],
    items: Sequence[Item],
    workers: int,
    threads: int | None = None,
    on_progress: Progress = lambda step, share: None,
    on_killed: Callable[[Item, Step, int], None] = lambda item, step, by: None,
) -> None:
    """Call a function once in every process, with some of the items: each takes the next one when it is free.

    Small models leave a second thread little to do: two processes of one thread do about 1.5 times the work of one
    process of two.

    Args:
        workers: Processes.
        threads: Of each; None to share out the cores among them.
        on_progress: Called, in this process, with what the function reports.
        on_killed: Called, in this process, when a worker was killed by a signal, with its item, the step it was at, and
            the signal. A new one takes up the item: whoever is told has to see to it that this comes to an end.

    Raises:
        BadInput: if there are no workers, or as soon as one of them ends with an error, or several were killed at no
            step; what was finished is in the ledger.
    """
    if workers < 1:
        raise BadInput(f"workers is {workers}: give at least 1")
    each = threads or max(1, usable_cores() // workers)
    count = min(workers, len(items))
    waiting = deque(items)
    running = [_started(function, each) for _ in range(count)]
    idle_deaths = 0
    try:
        while running:
            ready = wait([worker.pipe for worker in running])
            for worker in [one for one in running if one.pipe in ready]:
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    running.remove(worker)
                    worker.process.join()
                    status = worker.process.exitcode or 0
                    if status < 0 and worker.step is not None and worker.item is not None:
                        on_killed(worker.item, worker.step, -status)
                    elif status < 0 and idle_deaths < _IDLE_DEATHS:
                        idle_deaths += 1
                    elif status:
                        raise BadInput(f"one of {count} workers stopped with status {status}, see above: start again,"
                                       " what was finished is kept") from None
                    if status:
                        waiting.extendleft([worker.item] if worker.item is not None else [])
                        running.append(_started(function, each))
                    continue
                if message is None:
                    worker.item, worker.step = waiting.popleft() if waiting else None, None
                    with contextlib.suppress(OSError):  # it died: the next round is told
                        worker.pipe.send(worker.item)
                else:
                    step, share = message
                    worker.step = step if share < 1 else None
                    on_progress(step, share)
    finally:
        for worker in running:
            worker.process.terminate()
            worker.process.join()


def _started(function: Callable[[Iterable[Item], Progress], None], threads: int) -> "_Worker[Item]":
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(function, threads, there), daemon=True)
    process.start()
    there.close()  # the process has its own: this end closes with it
    return _Worker(process, here)


def _work(
    function: Callable[[Iterable[Item], Progress], None], threads: int, pipe: "Connection[Any, Any]"
) -> None:
    torch.set_num_threads(threads)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the ledger drops what is half-written
    parent = os.getppid()

    def tell(message: Any) -> None:
        if os.getppid() != parent:
            sys.exit(143)  # whoever wanted the results was killed
        pipe.send(message)

    def given() -> Iterator[Item]:
        tell(None)
        while (item := pipe.recv()) is not None:
            yield item
            tell(None)

    try:
        function(given(), lambda step, share: tell((step, share)))
    except BadInput as error:
        print(f"rankadaptor: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
