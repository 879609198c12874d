"""A process with workers of every kind, for a test of what becomes of them when it is killed."""

import time
from pathlib import Path

import psutil

from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.local_pool import LocalPool
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.ranktable import worker_processes


def main(profile: str, folder: str, ready: str) -> None:
    """Start two idle workers of replays, and one of a pool that waits in the middle of a step; then wait.

    Args:
        folder: Of a ledger.
        ready: A file to be made when all of them work.
    """
    list(worker_processes._executor(2).map(abs, range(4)))
    loaded, ledger = load_profile(profile), Ledger(Path(folder))
    step = Step("prune", loaded.prune_spec(Block("shortened", 20)))
    with ledger.exclusive(Runner(loaded.inputs(), ledger).key(step)):  # else the step would end
        pool = LocalPool(ledger, 1, 1)
        pool.submit(loaded.inputs(), [step])
        while len(psutil.Process().children(recursive=True)) < 5:  # fork server, multiprocessing's tracker, workers
            time.sleep(0.1)
        time.sleep(1)
        Path(ready).touch()
        time.sleep(600)
