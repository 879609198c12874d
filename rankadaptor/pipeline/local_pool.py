"""Worker processes of this machine that compute steps."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import torch

from rankadaptor.errors import BadInput
from rankadaptor.files import hand_down_digests
from rankadaptor.machine import usable_cores
from rankadaptor.pipeline.execution import GRACE_S, Progress, note_ended, run_ended_error, run_group
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.processes import end_with_parent, process_context
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.plugins import load_plugins

_MOST_IDLE_DEATHS = 3  # of a worker that computes no step: no failure of a stage can be noted for it
_POLL_S = 0.2
_TERMINATED = 143  # exit status of a process that SIGTERM ended


class _Assignment(NamedTuple):
    """A group of steps that waits for a worker."""

    inputs: Inputs
    group: Sequence[Step]
    model: str  # key of the model that the group loads
    done: "Future[None]"


class LocalPool:
    """Worker processes of this machine, started when there is work; one a GPU where there are several.

    A worker prefers a group that needs the model in its memory. A worker that is killed is replaced, and its group is
    tried again: the ledger counts the attempts.
    """

    def __init__(
        self, ledger: Ledger, workers: int, threads: int | None, on_progress: Progress = lambda step, share: None
    ):
        """
        Args:
            ledger: Where results are.
            workers: Processes at most.
            threads: CPU threads of each process; None shares the cores among them.
            on_progress: Called with the progress of the workers, in this process and by one thread at a time.

        Raises:
            BadInput: if there are no workers.
        """
        if workers < 1:
            raise BadInput(f"workers is {workers}: give at least 1")
        self._ledger, self._workers, self._on_progress = ledger, workers, on_progress
        self._threads_per_worker = threads or max(1, usable_cores() // workers)
        self._waiting: list[_Assignment] = []
        self._changed, self._reporting = threading.Condition(), threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def __enter__(self) -> "LocalPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; futures that are not done raise."""
        with self._changed:
            self._closed = True
            for assignment in self._waiting:
                assignment.done.set_exception(run_ended_error())
            self._waiting.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def submit(self, inputs: Inputs, group: Sequence[Step]) -> "Future[None]":
        """Compute a group of steps in one worker; see `execution.Pool`.

        Raises:
            BadInput: if the pool is closed.
        """
        model = Runner(inputs, self._ledger).key(next(iter(group[0].chain())))
        assignment = _Assignment(inputs, group, model, Future())
        with self._changed:
            if self._closed:
                raise run_ended_error()
            self._waiting.append(assignment)
            self._changed.notify_all()
            if len(self._threads) < self._workers:
                self._threads.append(threading.Thread(target=self._serve, args=(len(self._threads),), daemon=True))
                self._threads[-1].start()
        return assignment.done

    def _next(self, model: str) -> _Assignment | None:
        with self._changed:
            while not self._closed and not self._waiting:
                self._changed.wait()
            if self._closed:
                return None
            index = next((i for i, assignment in enumerate(self._waiting) if assignment.model == model), 0)
            return self._waiting.pop(index)

    def _serve(self, number: int) -> None:
        """In a thread: hand groups to one worker, and replace the worker when it dies."""
        worker: _Worker | None = None
        model = ""
        while (assignment := self._next(model)) is not None:
            idle_deaths = 0
            try:
                while True:
                    worker = worker or _Worker(self._ledger, self._threads_per_worker, number)
                    if (status := self._exit_status(worker, assignment)) is None:
                        break
                    if status < 0 and worker.step is not None:
                        kind = "timed out" if worker.overdue else "killed"
                        note_ended(Runner(assignment.inputs, self._ledger), worker.step, kind, f"signal {-status}")
                    elif status < 0 and idle_deaths < _MOST_IDLE_DEATHS:
                        idle_deaths += 1
                    else:
                        raise BadInput(f"one of {self._workers} workers stopped with status {status}, see above: start"
                                       " again, what was finished is kept")
                    worker = None
                assignment.done.set_result(None)
                model = assignment.model
            except BaseException as error:
                if worker is not None:
                    worker.end()
                assignment.done.set_exception(error)
                worker = None
        if worker is not None:
            worker.end()

    def _exit_status(self, worker: "_Worker", assignment: _Assignment) -> int | None:
        """Exit status of a worker that ended before its group was done; None when the group is done.

        Passes the worker's progress on meanwhile.
        """
        worker.step = None
        for message in self._messages(worker, assignment):
            if message is None:
                return None
            if isinstance(message, str):
                raise BadInput(message)
            step, share = message
            worker.note_progress(step, share)
            with self._reporting:
                self._on_progress(step, share)
        worker.process.join()
        return worker.process.exitcode or 0

    def _messages(self, worker: "_Worker", assignment: _Assignment) -> Iterator[Any]:
        """Messages of a worker about a group, until the worker ends; see `_work`."""
        with contextlib.suppress(EOFError, OSError):
            worker.pipe.send((assignment.inputs, assignment.group))
        while True:
            try:
                while not worker.pipe.poll(_POLL_S) and not self._closed:
                    worker.kill_if_overdue(assignment.inputs.stage_limit_s)
                if self._closed:  # checked here too, as a worker may send progress every few milliseconds
                    raise run_ended_error()
                message = worker.pipe.recv()
            except (EOFError, OSError):
                return
            yield message


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, ledger: Ledger, threads: int, number: int):
        hand_down_digests()
        context = process_context()
        self.pipe, worker_end = context.Pipe()
        self.step: Step | None = None  # the step that it computes
        self.overdue = False
        self._since = 0.0
        self.process: BaseProcess = context.Process(
            target=_work, args=(ledger.folder, threads, number, worker_end, dict(os.environ)), daemon=True)
        self.process.start()
        worker_end.close()  # the worker has a copy: with only that one open, its death closes the pipe

    def note_progress(self, step: Step, share: float) -> None:
        """Remember the step that the worker computes, and since when."""
        self.step = step if share < 1 else None
        self._since = self._since if share else time.monotonic()

    def kill_if_overdue(self, limit_s: float | None) -> None:
        """Kill the process if it did not stop by itself at the time limit of its stage."""
        if limit_s is not None and self.step is not None and time.monotonic() - self._since > limit_s + GRACE_S:
            self.overdue = True
            self.process.kill()

    def end(self) -> None:
        """Terminate the process, and kill it if it does not stop."""
        self.process.terminate()
        self.process.join(GRACE_S)
        self.process.kill()
        self.process.join()


def _work(folder: Any, threads: int, number: int, pipe: "Connection[Any, Any]", environment: dict[str, str]) -> None:
    """In a worker: compute groups of steps until the pipe closes.

    Sends (step, share) as progress, None after each group, and the text of a BadInput, after which it ends.
    """
    os.environ.clear()
    os.environ.update(environment)  # of the parent now; a forked worker has that of the fork server's start
    if (cards := torch.cuda.device_count()) > 1:
        torch.cuda.set_device(number % cards)
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles an interrupt, and ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))  # unwinds, so that half-written entries are removed
    end_with_parent()

    def send(message: Any) -> None:
        try:
            pipe.send(message)
        except OSError:
            sys.exit(_TERMINATED)  # the parent was killed

    runner: Runner | None = None
    try:
        load_plugins()
        for inputs, group in _received(pipe):
            if runner is None or runner.inputs != inputs:
                runner = Runner(inputs, Ledger(folder), lambda step, share: send((step, share)))
            run_group(runner, group)
            send(None)
    except BadInput as error:
        send(str(error))
        sys.exit(2)


def _received(pipe: "Connection[Any, Any]") -> Iterator[Any]:
    with contextlib.suppress(EOFError):  # the parent closed the pipe
        while True:
            yield pipe.recv()
