"""Watching the runners that experiments make for themselves."""

from concurrent.futures import as_completed

import pytest

from rankadaptor.pipeline.local_pool import LocalPool
from rankadaptor.pipeline.runner import Runner


def recorded_runners(monkeypatch: pytest.MonkeyPatch) -> list[Runner]:
    """A list that every runner made from now on is appended to; those that only plan are left out."""
    runners: list[Runner] = []
    original = Runner.__init__

    def recorded(self, *arguments, **options):
        original(self, *arguments, **options)
        if not self.is_planning:
            runners.append(self)

    monkeypatch.setattr(Runner, "__init__", recorded)
    return runners


def run_in_processes(inputs, ledger, groups, workers, on_progress=lambda step, share: None) -> None:
    """Run groups of steps in worker processes; raises what ends a worker."""
    with LocalPool(ledger, workers, inputs.threads, on_progress) as pool:
        for done in as_completed([pool.submit(inputs, group) for group in groups]):
            done.result()
