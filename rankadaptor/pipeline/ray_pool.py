"""Steps on a Ray cluster: one task a group of steps. The ledger is a folder that every node sees.

The cluster is the one at `RAY_ADDRESS`, or one that is started on this machine. A separate process, the conductor,
submits the work and reports progress to the process that started it. It goes on when that process dies, and it is
started again when the cluster's head was restarted.
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
from rankadaptor.files import DIGESTS_VARIABLE, hand_down_digests
from rankadaptor.machine import computing_with, usable_cores
from rankadaptor.pipeline.execution import (
    GRACE_S,
    Progress,
    Workload,
    follow,
    note_ended,
    run_ended_error,
    run_group,
)
from rankadaptor.pipeline.failures import ATTEMPTS
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.plugins import VARIABLE as PLUGINS_VARIABLE
from rankadaptor.plugins import load_plugins

LOST_CLUSTER_S = 900.0  # for which a lost cluster is tried again
_PAUSE_S = 5.0
_SILENCE_S = 60.0  # of the cluster's head, after which the cluster is lost
_STILL_S = 1800.0  # without a task that begins, computes or ends, after which no more is waited for
_STUCK = 76  # exit status of a task that passed its time limit
_LOST = 75  # exit status of a conductor that lost its cluster
_CONNECTED = ("connected", 0.0)  # a conductor's first message


def conduct(workloads: Sequence[Workload], workers: int, on_progress: Progress) -> None:
    """Compute on a cluster what the ledger lacks of several workloads.

    Args:
        workloads: Of one ledger, whose path should be absolute.
        workers: Groups of steps at once, at most.
        on_progress: Called with the progress of the cluster's tasks.

    Raises:
        BadInput: if Ray is not installed, the cluster cannot be found, or a stage ends with an error; finished results
            are kept.
    """
    _imported_ray()
    hand_down_digests()
    context = multiprocessing.get_context("spawn")  # the conductor gets the environment as it is now
    lost_since: float | None = None
    was_connected = False
    while True:
        here, conductor_end = context.Pipe(duplex=False)
        # Not a daemon: the conductor outlives this process, and so do its tasks.
        process = context.Process(target=_conduct, args=(workloads, workers, was_connected, conductor_end))
        process.start()
        multiprocessing.process._children.discard(process)  # type: ignore[attr-defined]  # not joined at exit either
        conductor_end.close()
        print(f"ray: conducted by process {process.pid}, which goes on if this one ends: kill {process.pid} to stop it",
              file=sys.stderr, flush=True)
        with contextlib.suppress(EOFError):
            while True:
                message = here.recv()
                if isinstance(message, str):
                    process.join()
                    raise BadInput(message)
                was_connected = True
                if message != _CONNECTED:
                    lost_since = None
                    on_progress(*message)
        process.join()
        if process.exitcode == 0:
            return
        if process.exitcode == -signal.SIGTERM:
            raise run_ended_error()
        lost_since = lost_since or time.monotonic()
        if time.monotonic() - lost_since > LOST_CLUSTER_S:
            raise BadInput(f"the Ray cluster went away, and was not found again in {LOST_CLUSTER_S / 60:.0f} minutes:"
                           " start it, and start again; what was finished is kept")
        print(f"ray: the conductor ended with status {process.exitcode}, it is started anew; what was finished is kept",
              file=sys.stderr, flush=True)
        time.sleep(_PAUSE_S)


def _imported_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise BadInput("executor is 'ray', and Ray is not installed: pip install 'rankadaptor[ray]'") from None
    return ray


def _conduct(workloads: Sequence[Workload], workers: int, was_connected: bool, pipe: "Connection[Any, Any]") -> None:
    """In the conductor: its own process in its own session, which an interrupt of a notebook's kernel does not reach.

    Sends _CONNECTED, then (step, share) as progress; or the text of an error, after which it ends.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    lock = threading.Lock()  # Ray calls back from its own threads

    def send(*message: Any) -> None:
        with lock, contextlib.suppress(OSError):  # the parent is dead: the ledger has the results
            pipe.send(message if len(message) > 1 else message[0])

    ledger = workloads[0].ledger
    try:
        load_plugins()
        with ledger.exclusive("conductor"):  # a kernel that was restarted waits for the conductor of its predecessor
            try:
                pool = RayPool(ledger, workers, send)
            except BadInput:
                if was_connected:
                    sys.exit(_LOST)  # the cluster may come back
                raise
            send(*_CONNECTED)
            with pool, computing_with(workloads[0].threads()):
                follow([part for workload in workloads for part in workload.parts()], pool, workers)
    except BadInput as error:
        send(str(error))
    except Exception as error:  # a bug: it would end every new attempt in the same way
        traceback.print_exc()
        send(f"the work on Ray's cluster stopped with {type(error).__name__} ({_last_line(error)}): start again, what"
             " was finished is kept")


class RayPool:
    """A Ray cluster, see `execution.Pool`. A task whose process or node died is tried again."""

    def __init__(self, ledger: Ledger, workers: int, on_progress: Progress = lambda step, share: None):
        """
        Args:
            ledger: Where results are; a folder that every node sees.
            workers: Groups of steps at once, at most; `submit` waits for a free one.
            on_progress: Called with finished steps.

        Raises:
            BadInput: if Ray is not installed, or there is no cluster at `RAY_ADDRESS`.
        """
        self._ray, self._ledger, self._workers, self._on_progress = _imported_ray(), ledger, workers, on_progress
        self._open: dict[Future[None], list[str]] = {}  # with the keys that its group may compute
        self._moved = time.monotonic()  # when a task was last seen to begin, to compute or to end
        self._changed = threading.Condition()
        address = os.environ.get("RAY_ADDRESS") or None
        # A cluster started here has a processor per worker, even where the machine has fewer cores.
        settings = {} if address else {"num_cpus": max(workers, usable_cores()), "include_dashboard": False}
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_task_oom_retries", str(ATTEMPTS["killed"] - 1))  # Ray's default is without end
        try:
            self._ray.init(address=address or "local", logging_level="ERROR", log_to_driver=False, **settings)
        except (ConnectionError, RuntimeError, ValueError, self._ray.exceptions.RayError) as error:
            raise BadInput(f"cannot use a Ray cluster at {address or 'this machine'} ({_last_line(error)}): start it,"
                           " see RAY_ADDRESS and RAY_AUTH_MODE, or take executor local") from None
        self._node, self._requests = self._ray.get_runtime_context().get_node_id(), ThreadPoolExecutor(1)
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="cluster watch").start()
        self._has_gpus = bool(self._ray.cluster_resources().get("GPU"))

    def __enter__(self) -> "RayPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; futures that are not done raise."""
        with self._changed:
            self._closed.set()
            unfinished, self._open = self._open, {}
            self._changed.notify_all()
        for ended in unfinished:
            ended.set_exception(run_ended_error())
        self._ray.shutdown()

    def _watch(self) -> None:
        """In a thread: end this process when its cluster is lost, and the waiting when nothing moves on it: Ray's own
        calls would wait forever."""
        while not self._closed.wait(_PAUSE_S):
            self._end_if_lost()
            with contextlib.suppress(OSError):  # of a ledger on a network that pauses
                self._end_if_still()

    def _end_if_still(self) -> None:
        """Fail all open futures when for `_STILL_S` no task of theirs began, held a lease of the ledger or ended."""
        with self._changed:
            keys = [key for group in self._open.values() for key in group]
        if not keys or any(map(self._ledger.is_elsewhere, keys)):
            self._moved = time.monotonic()
        if time.monotonic() - self._moved < _STILL_S:
            return
        with self._changed:
            still, self._open = self._open, {}
            self._changed.notify_all()
        for ended in still:
            ended.set_exception(BadInput(
                f"none of {len(still)} tasks on the Ray cluster began or ended in {_STILL_S / 60:.0f} minutes: see what"
                " holds it (ray status), end other clusters of this machine (ray stop), and start again; what was"
                " finished is kept"))

    def _end_if_lost(self) -> None:
        try:
            nodes = self._requests.submit(self._ray.nodes).result(_SILENCE_S)
            lost = self._node not in {node["NodeID"] for node in nodes if node["Alive"]}
        except Exception:  # Ray raises errors of many kinds when its head does not answer
            lost = True
        if lost and not self._closed.is_set():
            os._exit(_LOST)

    def submit(self, inputs: Inputs, group: Sequence[Step]) -> "Future[None]":
        """Compute a group of steps in one task; see `execution.Pool`. Waits while all workers are busy.

        Raises:
            BadInput: if the pool is closed.
        """
        gpus = 1 if self._has_gpus or inputs.needs_accelerator else 0
        task = self._ray.remote(
            num_cpus=1 if gpus else inputs.threads or 1,
            num_gpus=gpus,
            max_calls=1 if gpus else 0,  # a process that used a GPU is not used again
            max_retries=ATTEMPTS["killed"] - 1,
            retry_exceptions=False,
        )(_run)
        ended: Future[None] = Future()
        runner = Runner(inputs, self._ledger)
        keys = list(dict.fromkeys(runner.key(link) for step in group for link in step.chain()))
        with self._changed:
            while len(self._open) >= self._workers and not self._closed.is_set():
                self._changed.wait()
            if self._closed.is_set():
                raise run_ended_error()
            self._open[ended] = keys
            self._moved = time.monotonic()
        hand_down_digests()
        environment = {name: os.environ[name] for name in (DIGESTS_VARIABLE, PLUGINS_VARIABLE) if name in os.environ}
        reference = task.remote(inputs, self._ledger.folder, list(group), os.getcwd(), environment)
        reference.future().add_done_callback(lambda done: self._settle(done, ended, inputs, group))
        return ended

    def _settle(self, done: "Future[Any]", ended: "Future[None]", inputs: Inputs, group: Sequence[Step]) -> None:
        """Called by Ray when a task has ended, with a result or an error."""
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
            was_open = self._open.pop(ended, None) is not None
            self._moved = time.monotonic()
            self._changed.notify_all()
        if was_open and failed is not None:
            ended.set_exception(failed)
        elif was_open:
            ended.set_result(None)

    def _give_up(self, inputs: Inputs, group: Sequence[Step], error: Exception) -> None:
        """Note failures of the first step that has no result: Ray has made all the attempts that the ledger allows."""
        runner = Runner(inputs, self._ledger)
        for step in group:
            for link in step.chain():
                if not runner.is_settled(link):
                    for _ in range(ATTEMPTS["killed"]):
                        note_ended(runner, link, "killed", _last_line(error))
                    return


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1][:200]


def _run(
    inputs: Inputs, folder: Path, group: Sequence[Step], working_folder: str, environment: dict[str, str]
) -> list[Step]:
    """A Ray task: compute a group of steps in a process of the cluster.

    Args:
        folder: The ledger's.
        working_folder: Where relative paths of profiles start from.
        environment: Variables to set.

    Returns:
        The steps that it computed.
    """
    os.environ.update(environment)
    load_plugins()
    with contextlib.suppress(OSError):
        os.chdir(working_folder)
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
    """End this process, because its step did not stop by itself at the time limit."""
    note_ended(runner, step, "timed out", "it did not stop by itself")
    os._exit(_STUCK)
