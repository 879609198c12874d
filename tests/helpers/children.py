"""A process with children of every kind, for tests of what becomes of them when it is killed."""

import signal
import sys
import time
from pathlib import Path

from rankadaptor.pipeline.execution import Future
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.local_pool import LocalPool
from rankadaptor.pipeline.processes import end_with_parent, process_context
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable import worker_processes


def deaf(started) -> None:
    """Computes without end, and ignores every signal that can be ignored."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()
    started.set()
    while True:
        sum(range(10_000))


def start_replay_workers() -> None:
    """Two processes that replay searches, idle."""
    executor = worker_processes._executor(2)
    list(executor.map(abs, range(4)))


def main(profile: str, folder: str) -> None:
    """Start a worker of a pool in the middle of a step, two idle ones of replays and a deaf one; wait to be killed."""
    start_replay_workers()
    context = process_context()
    started = context.Event()
    context.Process(target=deaf, args=(started,)).start()
    loaded, ledger = load_profile(profile), Ledger(Path(folder))
    step = Step("prune", loaded.prune_spec(Block("shortened", 20)))
    begun: Future[None] = Future()
    with ledger.exclusive(Runner(loaded.inputs(), ledger).key(step)):  # else the step would end
        pool = LocalPool(ledger, 1, 1, lambda *_: begun.done() or begun.set_result(None))
        pool.submit(loaded.inputs(), [step])
        begun.result(timeout=60)
        started.wait(60)
        print("ready", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
