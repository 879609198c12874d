"""Steps on a Ray cluster: a task a group of steps, one fresh process each where there are GPUs, the ledger on a folder
that every node sees.

The cluster is the one of `RAY_ADDRESS`, or one that is started on this machine. Whoever asks is told of progress, and
may die: a process of its own conducts the work to its end, and connects anew when the cluster's head was restarted.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rankadaptor.errors import BadInput
from rankadaptor.machine import computing_with, usable_cores
from rankadaptor.pipeline.execution import GRACE_S, Progress, Shared, follow, note_ended, run_group, run_was_ended
from rankadaptor.pipeline.failures import ATTEMPTS
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step

LOST_CLUSTER_S = 900.0  # for which a cluster that went away is looked for
_PAUSE_S = 5.0
_SILENCE_S = 60.0  # of the cluster's head, after which it is lost
_STUCK = 76  # exit status of a task that hung
_LOST = 75  # exit status of a conductor that lost its cluster
_CONNECTED = ("connected", 0.0)


def conduct(tables: Sequence[Shared], workers: int, on_progress: Progress) -> None:
    """Compute what their ledger, whose path should be absolute, lacks of several tables on a cluster.

    Args:
        workers: Groups at once, at most.

    Raises:
        BadInput: if Ray is not installed, the cluster cannot be found, or a stage ends with an error; what was finished
            is kept.
    """
    _imported()
    context = multiprocessing.get_context("spawn")  # with the environment as it is now
    lost, found = None, False  # since when the cluster is, and whether it was ever there
    while True:
        here, there = context.Pipe(duplex=False)
        # Not a daemon: it outlives this process, and so do the tasks of it.
        process = context.Process(target=_conduct, args=(tables, workers, found, there))
        process.start()
        multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]  # nor is it waited for at exit
        there.close()
        print(f"ray: conducted by process {process.pid}, which goes on if this one ends: kill {process.pid} to stop it",
              file=sys.stderr, flush=True)
        with contextlib.suppress(EOFError):
            while True:
                message = here.recv()
                if isinstance(message, str):
                    process.join()
                    raise BadInput(message)
                found = True
                if message != _CONNECTED:
                    lost = None
                    on_progress(*message)
        process.join()
        if process.exitcode == 0:
            return
        if process.exitcode == -signal.SIGTERM:
            raise run_was_ended()
        lost = lost or time.monotonic()
        if time.monotonic() - lost > LOST_CLUSTER_S:
            raise BadInput(f"the Ray cluster went away, and was not found again in {LOST_CLUSTER_S / 60:.0f} minutes:"
                           " start it, and start again; what was finished is kept")
        print(f"ray: the conductor ended with status {process.exitcode}, it is started anew; what was finished is kept",
              file=sys.stderr, flush=True)
        time.sleep(_PAUSE_S)


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise BadInput("executor is 'ray', and Ray is not installed: pip install 'rankadaptor[ray]'") from None
    return ray


def _conduct(tables: Sequence[Shared], workers: int, found: bool, pipe: "Connection[Any, Any]") -> None:
    """In a process of its own, in a session of its own: what stops a notebook's kernel does not stop it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    turn = threading.Lock()  # Ray calls back from threads of its own

    def tell(*message: Any) -> None:
        with turn, contextlib.suppress(OSError):  # nobody listens any more: the ledger will tell
            pipe.send(message if len(message) > 1 else message[0])

    ledger = tables[0].ledger
    try:
        with ledger.alone("conductor"):  # a kernel that was started anew has its run wait for the one that goes on
            try:
                pool = RayPool(ledger, workers, tell)
            except BadInput:
                if found:
                    sys.exit(_LOST)  # it was there before, and may come again
                raise
            tell(*_CONNECTED)
            with pool, computing_with(tables[0].threads()):
                follow([work for table in tables for work in table.works()], pool, workers)
    except BadInput as error:
        tell(str(error))
    except Exception as error:  # a bug, as good as any where it ends the same way each time
        traceback.print_exc()
        tell(f"the work on Ray's cluster stopped with {type(error).__name__} ({_last_line(error)}): start again, what"
             " was finished is kept")


class RayPool:
    """A cluster; see `execution.Pool`. Tasks that were lost with their process or their node are tried again."""

    def __init__(self, ledger: Ledger, workers: int, on_progress: Progress = lambda step, share: None):
        """
        Args:
            workers: Groups at once, at most; `submit` waits for its turn.

        Raises:
            BadInput: if Ray is not installed, or there is no cluster at `RAY_ADDRESS`.
        """
        self._ray, self._ledger, self._workers, self._on_progress = _imported(), ledger, workers, on_progress
        self._open: set[Future[None]] = set()
        self._changed = threading.Condition()
        address = os.environ.get("RAY_ADDRESS") or None
        # A cluster of our own has a processor a worker, however few cores there are.
        own = {} if address else {"num_cpus": max(workers, usable_cores()), "include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_task_oom_retries", str(ATTEMPTS["killed"] - 1))  # not without end, as is the default
        try:
            self._ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise BadInput(f"cannot use a Ray cluster at {address or 'this machine'} ({_last_line(error)}): start it,"
                           " see RAY_ADDRESS and RAY_AUTH_MODE, or take executor local") from None
        self._here, self._asked = self._ray.get_runtime_context().get_node_id(), ThreadPoolExecutor(1)
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="cluster watch").start()
        self._has_gpus = bool(self._ray.cluster_resources().get("GPU"))

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._changed:
            self._closed.set()
            unfinished, self._open = self._open, set()
            self._changed.notify_all()
        for one in unfinished:
            one.set_exception(run_was_ended())
        self._ray.shutdown()

    def _watch(self) -> None:
        """Ends this process when the cluster that it belongs to is no more: Ray's own calls would wait for good."""
        while not self._closed.wait(_PAUSE_S):
            self._end_if_lost()

    def _end_if_lost(self) -> None:
        try:
            nodes = self._asked.submit(self._ray.nodes).result(_SILENCE_S)
            lost = self._here not in {node["NodeID"] for node in nodes if node["Alive"]}
        except Exception:  # of whatever Ray raises where nobody answers
            lost = True
        if lost and not self._closed.is_set():
            os._exit(_LOST)

    def submit(self, inputs: Inputs, group: Sequence[Step]) -> "Future[None]":
        gpus = 1 if self._has_gpus or inputs.needs_accelerator else 0
        task = self._ray.remote(
            num_cpus=1 if gpus else inputs.threads or 1,
            num_gpus=gpus,
            max_calls=1 if gpus else 0,  # a process that had a GPU is not used again
            max_retries=ATTEMPTS["killed"] - 1,
            retry_exceptions=False,
        )(_run)
        ended: Future[None] = Future()
        with self._changed:
            while len(self._open) >= self._workers and not self._closed.is_set():
                self._changed.wait()
            if self._closed.is_set():
                raise run_was_ended()
            self._open.add(ended)
        reference = task.remote(inputs, self._ledger.folder, list(group), os.getcwd())
        reference.future().add_done_callback(lambda done: self._settle(done, ended, inputs, group))
        return ended

    def _settle(self, done: "Future[Any]", ended: "Future[None]", inputs: Inputs, group: Sequence[Step]) -> None:
        """Called by Ray when a task has ended, however it did."""
        errors = self._ray.exceptions
        failed: BadInput | None = None
        try:
            try:
                for step in done.result():
                    self._on_progress(step, 1.0)
            except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
                self._give_up(inputs, group, error)
        except BadInput as error:
            failed = error
        except BaseException as error:
            if isinstance(error, errors.RayTaskError) and isinstance(error.cause, BadInput):
                failed = error.cause
            else:
                self._end_if_lost()
                failed = BadInput(f"a task of Ray's stopped with {_last_line(error)}: start again, what was finished is"
                                  " kept")
        with self._changed:
            was_open = ended in self._open
            self._open.discard(ended)
            self._changed.notify_all()
        if was_open and failed is not None:
            ended.set_exception(failed)
        elif was_open:
            ended.set_result(None)

    def _give_up(self, inputs: Inputs, group: Sequence[Step], error: Exception) -> None:
        """Ray tried as often as the ledger's rule says: the first step that is not there is the one it died of."""
        runner = Runner(inputs, self._ledger)
        for step in group:
            for link in step.chain():
                if not runner.is_settled(link):
                    for _ in range(ATTEMPTS["killed"]):
                        note_ended(runner, link, "killed", _last_line(error))
                    return


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:200]


def _run(inputs: Inputs, folder: Path, group: Sequence[Step], place: str) -> list[Step]:
    """A task: some steps, in a process of Ray's. Returns what was computed by it."""
    with contextlib.suppress(OSError):
        os.chdir(place)  # where relative paths of profiles are read from
    finished: list[Step] = []
    ledger, alarm = Ledger(folder), threading.Timer(0, lambda: None)

    def on_progress(step: Step, share: float) -> None:
        nonlocal alarm
        finished.extend([step] if share == 1 else [])
        if share in (0, 1):
            alarm.cancel()
        if share == 0 and inputs.stage_limit_s is not None:
            alarm = threading.Timer(inputs.stage_limit_s + GRACE_S, _end_stuck, (runner, step))
            alarm.daemon = True
            alarm.start()

    runner = Runner(inputs, ledger, on_progress)
    try:
        with computing_with(inputs.threads or 1):
            run_group(runner, group)
    finally:
        alarm.cancel()
    return finished


def _end_stuck(runner: Runner, step: Step) -> None:
    """It did not stop at its limit of time by itself, and its process does."""
    note_ended(runner, step, "timed out", "it did not stop by itself")
    os._exit(_STUCK)
