"""Watching the runners that experiments make for themselves."""

import pytest

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
