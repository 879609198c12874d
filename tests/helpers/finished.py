"""A finished table: computed once a test run, read by many tests, copied by those that break or extend it."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from rankadaptor.experiments.main_table import main_table
from rankadaptor.experiments.results import TableResult
from rankadaptor.pipeline.ledger import Ledger

FINISHED_BLOCKS = "llm-pruner:50 shortened:20"


class FinishedTable(NamedTuple):
    result: TableResult  # as the run that computed every stage returned it
    ledger: Path  # to read only: all tests of a run share it


def compute_table(profile: Path, folder: Path) -> None:
    """Compute the default table of the tiny profile on two blocks, one of each pruner, into `folder`."""
    result = main_table(str(profile), FINISHED_BLOCKS, "quick", ledger=folder / "ledger").run()
    (folder / "computed.json").write_text(json.dumps(result.computed))


def read_table(profile: Path, folder: Path) -> FinishedTable:
    """What `compute_table` left in a folder; nothing is computed."""
    result = main_table(str(profile), FINISHED_BLOCKS, "quick", ledger=folder / "ledger").run()
    assert result.computed == ()
    computed = tuple(map(tuple, json.loads((folder / "computed.json").read_text())))
    return FinishedTable(dataclasses.replace(result, computed=computed), folder / "ledger")


def keys_of(ledger: Path) -> set[str]:
    """Keys of all entries of a ledger."""
    return {entry.key for entry in Ledger(ledger).entries()}


def copy_without(
    ledger: Path, target: Path, is_removed: Callable[[SimpleNamespace], bool], stage: str = "recover"
) -> None:
    """Copy a ledger less some entries, all that was computed from them, and the traces of searches.

    Args:
        is_removed: Whether an entry of `stage` is left out, by the fields of its spec.
    """
    shutil.copytree(ledger, target)
    shutil.rmtree(target / "searches")
    contents = {entry.key: entry.spec for entry in Ledger(target).entries()}
    removed = {key for key, content in contents.items()
               if content["stage"] == stage and is_removed(SimpleNamespace(**content["spec"]))}
    assert removed
    while children := {key for key, content in contents.items() if content["parent"] in removed} - removed:
        removed |= children
    for key in removed:
        shutil.rmtree(target / key)
