"""Running steps in several processes. The ledger is all they share: a process that dies loses the step it was at, which
another one takes up.

    with LocalPool(ledger, 2, None) as pool:      # or Ray's, see `ray_execution`
        follow([(runner, work)], pool, 1)       # what can be computed at once is

`RANKADAPTOR_EXECUTOR` (local or ray) and `RANKADAPTOR_WORKERS` choose for the command line, for make and for notebooks.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
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

Progress = Callable[[Step, float], None]  # told of every step that begins (0.0) and is finished (1.0)
Work = Generator[list[Step], None, Any]  # batches of steps, each computable once the ones before it are
EXECUTORS = ("local", "ray")
GRACE_S = 30.0  # for a worker to stop by itself at a stage's limit of time


class Execution(NamedTuple):
    """Where, and in how many processes, steps are computed."""

    executor: str
    workers: int


def chosen_execution(workers: int) -> Execution:
    """By environment, else some processes on this machine, or one a GPU where there are several.

    Args:
        workers: Processes where the environment names no number, as many as there are cores at most.

    Raises:
        BadInput: on an unknown executor, or a number that is none.
    """
    executor = os.environ.get("RANKADAPTOR_EXECUTOR") or "local"
    if executor not in EXECUTORS:
        raise BadInput(f"unknown executor {executor!r}: use one of {', '.join(EXECUTORS)}")
    given = os.environ.get("RANKADAPTOR_WORKERS") or ""
    if not given:
        return Execution(executor, max(torch.cuda.device_count(), min(workers, usable_cores())))
    if not given.isdecimal() or not int(given):
        raise BadInput(f"workers is {given!r}: give a whole number from 1")
    return Execution(executor, int(given))


class Shared(Protocol):
    """What can be computed by several processes, such as a table."""

    @property
    def ledger(self) -> Ledger:
        """That they share."""

    def threads(self) -> int | None:
        """Of the process that follows the work; None to leave them as they are."""

    def works(self) -> list[tuple[Runner, Work]]:
        """Pieces that do not depend on each other."""


class Pool(Protocol):
    """Computes groups of steps somewhere."""

    def submit(self, inputs: Inputs, group: Sequence[Step]) -> "Future[None]":
        """Steps of one set of inputs, in order; what fails is noted, and passed over. The future raises on all else."""

    def close(self) -> None:
        """Ends what runs, and drops what waits: their futures raise."""


def follow(works: Sequence[tuple[Runner, Work]], pool: Pool, at_once: int) -> None:
    """Follow several pieces of work, so many at once and in order, every batch computed by a pool.

    What is read and predicted between batches is so in this process, by one of them at a time. A piece that comes to a
    stage which failed ends there: whoever reads its results is told.
    """
    turn = threading.Lock()
    failed = threading.Event()

    def advanced(runner: Runner, work: Work) -> list[Step] | None:
        with turn, runner.reading_only():
            return None if failed.is_set() else next(work, None)

    def followed(runner: Runner, work: Work) -> None:
        try:
            with contextlib.suppress(StageFailed):
                while (batch := advanced(runner, work)) is not None:
                    wait_for([pool.submit(runner.inputs, group) for group in groups_of(runner, batch)])
                    runner.ledger.look_again()
        except BaseException:
            failed.set()
            raise

    threads = ThreadPoolExecutor(max(1, min(at_once, len(works))))
    try:
        for done in as_completed([threads.submit(followed, *one) for one in works]):
            done.result()
    except BaseException:
        failed.set()
        pool.close()  # or the threads would wait for what nobody wants any more
        raise
    finally:
        threads.shutdown()


def wait_for(futures: "Sequence[Future[None]]") -> None:
    """Until all are done, or one raised, which is raised here."""
    wait(futures, return_when="FIRST_EXCEPTION")
    for one in futures:
        if one.done():
            one.result()


def groups_of(runner: Runner, batch: Sequence[Step]) -> list[list[Step]]:
    """What the ledger lacks of a batch. Steps that wait for one and the same stage are one group, in order; groups that
    wait for what another process is at come last."""
    groups: dict[str, list[Step]] = {}
    for step in batch:
        if not runner.is_settled(step):
            first = next(link for link in step.chain() if runner.find(link) is None)
            groups.setdefault(runner.key(first), []).append(step)
    return sorted(groups.values(), key=lambda group: runner.is_elsewhere(group[0]))


def run_group(runner: Runner, group: Iterable[Step]) -> None:
    """In this process; what fails is passed over."""
    for step in group:
        with contextlib.suppress(StageFailed):
            runner.run(step)


def note_ended(runner: Runner, step: Step, kind: str, message: str) -> None:
    """Keep that the process at a step was killed, or that it had to be, for the step had timed out."""
    failures.note(runner.ledger, runner.key(step), step.stage, kind, message)


def run_was_ended() -> BadInput:
    """What futures raise whose pool was closed."""
    return BadInput("the run was ended: start again, what was finished is kept")
