"""Processes of this machine that compute steps."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch

from rankadaptor.errors import BadInput
from rankadaptor.machine import usable_cores
from rankadaptor.pipeline.execution import GRACE_S, Progress, note_ended, run_group, run_was_ended
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.processes import process_context
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step

_IDLE_DEATHS = 3  # of a worker at no step, which nothing is noted of, before that is an error


def run_in_processes(
    inputs: Inputs,
    ledger: Ledger,
    groups: Sequence[Sequence[Step]],
    workers: int,
    on_progress: Progress = lambda step, share: None,
) -> None:
    """Run groups of steps, those of one group in one process and in order; what the ledger holds is not run again, and
    what fails is passed over.

    Raises:
        BadInput: if there are no workers, or as soon as one of them ends with an error; what was finished is kept.
    """
    with LocalPool(ledger, workers, inputs.threads, on_progress) as pool:
        for done in as_completed([pool.submit(inputs, group) for group in groups]):
            done.result()


# -- processes of this machine -----------------------------------------------------------------------------------------


class _Task(NamedTuple):
    inputs: Inputs
    group: Sequence[Step]
    model: str  # key of what is loaded for it
    done: "Future[None]"


class LocalPool:
    """Processes of this machine, started when there is something to do, one a GPU where there are several.

    A process takes, of what waits, first what needs the model that it has loaded. One that is killed is replaced, and
    its group taken up again: the ledger counts how often.
    """

    def __init__(
        self, ledger: Ledger, workers: int, threads: int | None, on_progress: Progress = lambda step, share: None
    ):
        """
        Args:
            threads: Of each process; None to share out the cores among them.
            on_progress: Called, in this process and by one thread at a time, with what the workers tell.

        Raises:
            BadInput: if there are no workers.
        """
        if workers < 1:
            raise BadInput(f"workers is {workers}: give at least 1")
        self._ledger, self._workers, self._on_progress = ledger, workers, on_progress
        self._cores = threads or max(1, usable_cores() // workers)
        self._waiting: list[_Task] = []
        self._changed, self._telling = threading.Condition(), threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            for task in self._waiting:
                task.done.set_exception(run_was_ended())
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def submit(self, inputs: Inputs, group: Sequence[Step]) -> "Future[None]":
        model = Runner(inputs, self._ledger).key(next(iter(group[0].chain())))
        task = _Task(inputs, group, model, Future())
        with self._changed:
            if self._closed:
                raise run_was_ended()
            self._waiting.append(task)
            self._changed.notify_all()
            if len(self._threads) < self._workers:
                self._threads.append(threading.Thread(target=self._serve, args=(len(self._threads),), daemon=True))
                self._threads[-1].start()
        return task.done

    def _next(self, model: str) -> _Task | None:
        with self._changed:
            while not self._closed and not self._waiting:
                self._changed.wait()
            if self._closed:
                return None
            place = next((at for at, task in enumerate(self._waiting) if task.model == model), 0)
            return self._waiting.pop(place)

    def _serve(self, number: int) -> None:
        """One worker, in a thread that hands it groups, listens, and replaces it."""
        worker: _Worker | None = None
        model = ""
        while (task := self._next(model)) is not None:
            idle_deaths = 0
            try:
                while True:
                    worker = worker or _Worker(self._ledger, self._cores, number)
                    if (status := self._told(worker, task)) is None:
                        break
                    if status < 0 and worker.step is not None:
                        kind = "timed out" if worker.overdue else "killed"
                        note_ended(Runner(task.inputs, self._ledger), worker.step, kind, f"signal {-status}")
                    elif status < 0 and idle_deaths < _IDLE_DEATHS:
                        idle_deaths += 1
                    else:
                        raise BadInput(f"one of {self._workers} workers stopped with status {status}, see above: start"
                                       " again, what was finished is kept")
                    worker = None
                task.done.set_result(None)
                model = task.model
            except BaseException as error:
                if worker is not None:
                    worker.end()
                task.done.set_exception(error)
                worker = None
        if worker is not None:
            worker.end()

    def _told(self, worker: "_Worker", task: _Task) -> int | None:
        """Pass on what a worker says of a group; its exit status if it ended, None when the group is done."""
        worker.step = None
        for message in self._messages(worker, task):
            if message is None:
                return None
            if isinstance(message, str):
                raise BadInput(message)
            step, share = message
            worker.at(step, share)
            with self._telling:
                self._on_progress(step, share)
        worker.process.join()
        return worker.process.exitcode or 0

    def _messages(self, worker: "_Worker", task: _Task) -> Iterator[Any]:
        """What a worker says of a group, until it ends."""
        with contextlib.suppress(EOFError, OSError):
            worker.pipe.send((task.inputs, task.group))
        while True:
            try:
                while not worker.pipe.poll(0.2) and not self._closed:
                    worker.end_if_stuck(task.inputs.stage_limit_s)
                if self._closed:  # also where a worker that trains tells of a step every few milliseconds
                    raise run_was_ended()
                message = worker.pipe.recv()
            except (EOFError, OSError):
                return
            yield message


class _Worker:
    """A process, and the pipe to it."""

    def __init__(self, ledger: Ledger, threads: int, number: int):
        context = process_context()
        self.pipe, there = context.Pipe()
        self.step: Step | None = None  # what it is at
        self.overdue = False
        self._since = 0.0
        self.process: BaseProcess = context.Process(
            target=_work, args=(ledger.folder, threads, number, there, dict(os.environ)), daemon=True)
        self.process.start()
        there.close()  # the process has its own: this end closes with it

    def at(self, step: Step, share: float) -> None:
        """It said so."""
        self.step = step if share < 1 else None
        self._since = self._since if share else time.monotonic()

    def end_if_stuck(self, limit_s: float | None) -> None:
        """Kill it when it did not stop by itself at the limit of a stage, as it should have."""
        if limit_s is not None and self.step is not None and time.monotonic() - self._since > limit_s + GRACE_S:
            self.overdue = True
            self.process.kill()

    def end(self) -> None:
        self.process.terminate()
        self.process.join(GRACE_S)
        self.process.kill()
        self.process.join()


def _work(folder: Any, threads: int, number: int, pipe: "Connection[Any, Any]", environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)  # as it is now where results are wanted, not as it was when the first one started
    if (cards := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % cards)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # is the parent's to answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that the ledger drops what is half-written

    def tell(message: Any) -> None:
        try:
            pipe.send(message)
        except OSError:
            sys.exit(143)  # whoever wanted the results was killed

    runner: Runner | None = None
    try:
        for inputs, group in _received(pipe):
            if runner is None or runner.inputs != inputs:
                runner = Runner(inputs, Ledger(folder), lambda step, share: tell((step, share)))
            run_group(runner, group)
            tell(None)
    except BadInput as error:
        tell(str(error))
        sys.exit(2)


def _received(pipe: "Connection[Any, Any]") -> Iterator[Any]:
    with contextlib.suppress(EOFError):  # nobody wants more
        while True:
            yield pipe.recv()
