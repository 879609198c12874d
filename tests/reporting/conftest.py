"""Fixtures of the tests of reports."""

import pytest

from rankadaptor.experiments import paths


@pytest.fixture
def empty_project(tmp_path, monkeypatch):
    """A project folder in which nothing is committed."""
    monkeypatch.setattr(paths, "_project", lambda: tmp_path)
    return tmp_path
