"""Accuracy of every row of a table with its interval, by task and as a mean."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from rankadaptor.experiments.methods import LORA, NO_RECOVERY
from rankadaptor.experiments.results import BlockResult, Row, TableResult
from rankadaptor.reporting.labels import MEAN, MEAN_WITHOUT_BOOLQ, result_tasks
from rankadaptor.statistics import Interval, bootstrap_macro_mean, wilson_interval


@lru_cache(maxsize=64)
def cells(result: TableResult) -> pd.DataFrame:
    """Every number of the table, one a line, as proportions. Computed once a result: copy it to change it.

    Returns:
        Columns block, method, column (a task, `mean` or `mean without BoolQ`), value, low, high (95 %),
        gold_probability.
    """
    columns = _columns(result_tasks(result))
    lines = []
    for row in result.rows():
        for column, tasks in columns.items():
            interval = accuracy_interval(row, tasks)
            probability = float(np.mean([row.gold_probability[task].mean() for task in tasks]))
            lines.append((row.block, row.method, column, *interval, probability))
    return pd.DataFrame(lines, columns=["block", "method", "column", "value", "low", "high", "gold_probability"])


def _columns(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Column -> the tasks that it is the mean of."""
    columns = {task: [task] for task in tasks} | {MEAN: list(tasks)}
    without_boolq = [task for task in tasks if task != "boolq"]
    if 0 < len(without_boolq) < len(tasks):
        columns[MEAN_WITHOUT_BOOLQ] = without_boolq
    return columns


def accuracy_interval(row: Row, tasks: list[str]) -> Interval:
    """Mean accuracy over tasks, a proportion, with its 95 % interval.

    Wilson's for one task of independent items and one seed; otherwise the bootstrap over seeds and subjects, whose ends
    are cut at 0 and 1: Student's tails of few seeds reach beyond.
    """
    outcomes = {task: row.outcomes[task] for task in tasks}
    values = outcomes[tasks[0]]  # (seeds, items)
    if len(tasks) == 1 and values.shape[0] == 1 and not row.subjects:
        return wilson_interval(int(values.sum()), values.size)
    value, low, high = bootstrapped(outcomes, row)
    return Interval(value, max(0.0, low), min(1.0, high))


def bootstrapped(outcomes: Mapping[str, np.ndarray], row: Row) -> Interval:
    """Plain mean over tasks with its 95 % interval, items about one subject drawn together.

    Args:
        outcomes: Task -> outcomes of the row's items, or their differences to another row's.  # (seeds, items)
        row: Whose items these are.
    """
    return bootstrap_macro_mean(outcomes, subjects=row.subjects)


def paired_interval(first: Row, second: Row, tasks: list[str]) -> Interval:
    """Mean over tasks of the paired difference of two rows, resampled over items, and over seeds where one of them has
    several; a proportion."""
    return bootstrapped({task: first.outcomes[task] - second.outcomes[task] for task in tasks}, first)


def in_points(interval: Interval, *columns: str) -> dict[str, float]:
    """An interval of proportions in points, under the names of its value and its two ends."""
    return dict(zip(columns, (100 * end for end in interval), strict=True))


def headroom_intervals(result: TableResult, block: BlockResult) -> tuple[Interval, Interval] | None:
    """What pruning took from a block's model (dense - pruned) and what LoRA wins back (LoRA - pruned), as proportions;
    None where one of the two has no row."""
    rows, tasks = {row.method: row for row in block.rows}, list(result_tasks(result))
    if not {NO_RECOVERY, LORA} <= rows.keys():
        return None
    pruned = rows[NO_RECOVERY]
    return paired_interval(result.dense, pruned, tasks), paired_interval(rows[LORA], pruned, tasks)


def interval_column(
    frame: pd.DataFrame, value: str, low: str, high: str, layout: str = "{:+.1f} [{:+.1f}, {:+.1f}]"
) -> list[str]:
    """Numbers with their intervals, from three columns, as a column of text; empty where there is no number."""
    return ["" if np.isnan([middle, least, most]).any() else layout.format(middle, least, most)
            for middle, least, most in zip(frame[value], frame[low], frame[high], strict=True)]
