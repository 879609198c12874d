"""Running steps in several processes. They share nothing but the ledger: when a process dies, another one computes its
step again.

    with LocalPool(ledger, 2, None) as pool:      # or ray_pool.RayPool
        follow([(runner, batches)], pool, 1)      # computes every batch, the steps of a batch side by side

`RANKADAPTOR_EXECUTOR` (local or ray) and `RANKADAPTOR_WORKERS` set the execution of the command line, make and
notebooks.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from typing import Any, NamedTuple, Protocol

import torch

from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.machine import usable_cores
from rankadaptor.pipeline import failures
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step

Progress = Callable[[Step, float], None]  # called when a step begins (0.0), goes on, and is finished (1.0)
Batches = Generator[list[Step], None, Any]  # batches of steps, each computable once the earlier ones are computed
EXECUTORS = ("local", "ray")
MOST_WORKERS = 1024
GRACE_S = 30.0  # for which a worker may stop by itself after a stage's time limit


class Execution(NamedTuple):
    """Where steps are computed, and in how many processes."""

    executor: str  # one of EXECUTORS
    workers: int


def execution_from_environment(workers: int, environment: Mapping[str, str] = os.environ) -> Execution:
    """Execution by `RANKADAPTOR_EXECUTOR` and `RANKADAPTOR_WORKERS`; by default local, and with one worker a GPU.

    Args:
        workers: Processes where the environment sets no number and there is at most one GPU; limited to the cores.
        environment: This process's by default.

    Raises:
        BadInput: on an unknown executor, or a number of workers that is not a whole number from 1 to MOST_WORKERS.
    """
    executor = environment.get("RANKADAPTOR_EXECUTOR") or "local"
    if executor not in EXECUTORS:
        raise BadInput(f"unknown executor {executor!r}: use one of {', '.join(EXECUTORS)}")
    number = environment.get("RANKADAPTOR_WORKERS") or ""
    if not number:
        return Execution(executor, max(torch.cuda.device_count(), min(workers, usable_cores())))
    if not re.fullmatch("[0-9]{1,9}", number) or not 1 <= int(number) <= MOST_WORKERS:
        raise BadInput(f"workers is {number!r}: give a whole number from 1 to {MOST_WORKERS}")
    return Execution(executor, int(number))


class Workload(Protocol):
    """Work that several processes can compute, such as a table. Picklable."""

    @property
    def ledger(self) -> Ledger:
        """That they share."""

    def threads(self) -> int | None:
        """CPU threads of the process that follows the work; None leaves them as they are."""

    def parts(self) -> list[tuple[Runner, Batches]]:
        """Parts that do not depend on each other."""


class Pool(Protocol):
    """Computes groups of steps in other processes."""

    def submit(self, inputs: Inputs, group: Sequence[Step]) -> "Future[None]":
        """Compute steps of one set of inputs, in order. Failures of stages are noted in the ledger, and other steps go
        on; the future raises every other error."""

    def close(self) -> None:
        """End running steps and drop waiting ones: their futures raise."""


def follow(parts: Sequence[tuple[Runner, Batches]], pool: Pool, at_once: int) -> None:
    """Follow several parts of work, every batch computed by a pool.

    Between batches, results are read and predictions are made in this process, by one part at a time. A part ends at a
    stage that failed; the code that reads the results raises that failure again.

    Args:
        parts: Each with the runner that reads its results.
        pool: Closed on an error.
        at_once: Parts that are followed at the same time, in the order given.
    """
    lock = threading.Lock()
    failed = threading.Event()

    def next_batch(runner: Runner, batches: Batches) -> list[Step] | None:
        with lock, runner.reading_only():
            return None if failed.is_set() else next(batches, None)

    def follow_part(runner: Runner, batches: Batches) -> None:
        try:
            with contextlib.suppress(StageFailed):
                while (batch := next_batch(runner, batches)) is not None:
                    wait_for([pool.submit(runner.inputs, group) for group in groups_of(runner, batch)])
                    runner.ledger.refresh()
        except BaseException:
            failed.set()
            raise

    threads = ThreadPoolExecutor(max(1, min(at_once, len(parts))))
    try:
        for done in as_completed([threads.submit(follow_part, *part) for part in parts]):
            done.result()
    except BaseException:
        failed.set()
        pool.close()  # else the other threads would wait for their batches
        raise
    finally:
        threads.shutdown()


def wait_for(futures: "Sequence[Future[None]]") -> None:
    """Wait until all futures are done, or one has raised; raises its error."""
    wait(futures, return_when="FIRST_EXCEPTION")
    for future in futures:
        if future.done():
            future.result()


def groups_of(runner: Runner, batch: Sequence[Step]) -> list[list[Step]]:
    """Steps of a batch that the ledger lacks, grouped by the stage that they wait for.

    Returns:
        Groups whose steps are computed in order; last those whose first stage another process computes.
    """
    groups: dict[str, list[Step]] = {}
    for step in batch:
        if not runner.is_settled(step):
            first = next(link for link in step.chain() if runner.find(link) is None)
            groups.setdefault(runner.key(first), []).append(step)
    return sorted(groups.values(), key=lambda group: runner.is_elsewhere(group[0]))


def run_group(runner: Runner, group: Iterable[Step]) -> None:
    """Run steps in this process, past those that fail."""
    for step in group:
        with contextlib.suppress(StageFailed):
            runner.run(step)


def note_ended(runner: Runner, step: Step, kind: str, message: str) -> None:
    """Note in the ledger that the process of a step was killed or timed out; see `failures.ATTEMPTS` for kinds."""
    failures.note(runner.ledger, runner.key(step), step.stage, kind, message)


def run_ended_error() -> BadInput:
    """The error that futures of a closed pool raise."""
    return BadInput("the run was ended: start again, what was finished is kept")
