"""What every method gains over LoRA of the same block, paired by item and training seed, and the verdicts on it."""

from collections import Counter
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.experiments.methods import CEILINGS, LORA, NO_RECOVERY
from rankadaptor.experiments.results import BlockResult, Row, TableResult
from rankadaptor.power import noise_of, smallest_gain
from rankadaptor.reporting.labels import MEAN, paper_method, result_tasks, task_label
from rankadaptor.reporting.paper import published_rows
from rankadaptor.reporting.tables.accuracy import bootstrapped, headroom_intervals, interval_column
from rankadaptor.statistics import (
    Interval,
    adjusted_level,
    adjusted_p,
    bootstrap_draws,
    interval_of,
    macro_interval,
    two_sided_p,
)
from rankadaptor.verdicts import Evidence, has_headroom, verdict

_POINTS = ["difference", "low", "high", "adjusted_low", "adjusted_high", "gold_probability", "smallest_gain"]
COLUMNS = ["block", "method", *_POINTS, "share", "published", "p_adjusted", "verdict"]


@lru_cache(maxsize=64)
def differences_to_lora(result: TableResult) -> pd.DataFrame:
    """Paired differences of every other row to LoRA of the same block, in points, with the claim's verdict.
    Computed once a result: copy it to change it.

    Returns:
        Columns block, method, difference, low, high (accuracy, mean over tasks, 95 %), adjusted_low, adjusted_high (of
        rows that a claim is about: 95 % for the method's blocks together), gold_probability (its difference),
        smallest_gain (that such a comparison tells from 0 with 80 % power), share (the difference as a share of what
        LoRA wins back, where there is headroom), published (the paper's difference), p_adjusted (two-sided, adjusted
        for the method's number of blocks), verdict (of rows that a claim is about; else empty).
    """
    averages = published_rows(result.contents.published).set_index(["block", "method"])["average"]
    judged = Counter(row.method for block in result.blocks.values() for row, _ in _pairs(block)
                     if row.method in result.contents.claims)
    lines = []
    for name, block in result.blocks.items():
        for row, lora in _pairs(block):
            line: dict[str, Any] = {"block": name, "method": row.method}
            line |= _compared(result, block, row, lora, judged[row.method])
            key = (name, paper_method(row.method))
            line["published"] = averages[key] - averages[name, LORA] if key in averages.index else np.nan
            lines.append(line)
    frame = pd.DataFrame(lines, columns=COLUMNS)
    frame[_POINTS] = 100 * frame[_POINTS].astype(float)
    return frame


def _compared(result: TableResult, block: BlockResult, row: Row, lora: Row, judged: int) -> dict[str, Any]:
    """One line of `differences_to_lora`, as proportions.

    Args:
        judged: On how many blocks the row's method is judged.
    """
    differences = differences_by_task(row, lora, result_tasks(result))
    draws = bootstrap_draws(differences, subjects=row.subjects)
    interval, noise = macro_interval(differences, draws), noise_of(differences, row.subjects)
    level = adjusted_level(judged)
    line: dict[str, Any] = {**interval._asdict(), "difference": interval.value, "verdict": "", "share": np.nan}
    line["gold_probability"] = float(np.mean(
        [(row.gold_probability[task] - lora.gold_probability[task]).mean() for task in differences]))
    line["smallest_gain"] = smallest_gain(noise, len(result.seeds), level)
    headroom = headroom_intervals(result, block)
    if headroom and has_headroom(*headroom):
        line["share"] = interval.value / headroom[1].value
    if judged:
        low, high = interval_of(draws, level)
        line |= {"adjusted_low": low, "adjusted_high": high, "p_adjusted": adjusted_p(two_sided_p(draws), judged)}
        line["verdict"] = verdict(Evidence(
            Interval(interval.value, low, high), result.contents.claims[row.method], line["smallest_gain"],
            lost=headroom[0] if headroom else None, recovered=headroom[1] if headroom else None,
            ceiling=ceiling_of(result, block, row.method),
        ), result.decided)
    return line


def differences_by_task(row: Row, lora: Row, tasks: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Task -> outcomes of a row less those of LoRA.  # (seeds, items)"""
    return {task: row.outcomes[task] - lora.outcomes[task] for task in tasks}


def ceiling_of(result: TableResult, block: BlockResult, method: str) -> Interval | None:
    """What the largest rank in every layer adds over LoRA on a block, under the method's scaling; None where it is no
    row."""
    lora, largest = lora_of(block), block.row(CEILINGS.get(method, ""))
    if lora is None or largest is None:
        return None
    return bootstrapped(differences_by_task(largest, lora, result_tasks(result)), lora)


def _pairs(block: BlockResult) -> list[tuple[Row, Row]]:
    """Every other row with LoRA's; none where LoRA has no result."""
    lora = lora_of(block)
    return [(row, lora) for row in block.rows if row is not lora] if lora else []


def lora_of(block: BlockResult) -> Row | None:
    """The row of LoRA; None where it has no result."""
    return block.row(LORA)


def difference_table(result: TableResult) -> pd.DataFrame:
    """`differences_to_lora` as people read it."""
    frame = differences_to_lora(result)
    return pd.DataFrame({
        "block": frame["block"],
        "method": frame["method"],
        "accuracy - LoRA (points)": interval_column(frame, "difference", "low", "high"),
        "95 % for all blocks": interval_column(
            frame, "difference", "adjusted_low", "adjusted_high", "[{1:+.1f}, {2:+.1f}]"),
        "share of LoRA's gain": _cells(100 * frame["share"], "{:+.0f} %"),
        "gold probability - LoRA": _cells(frame["gold_probability"], "{:+.2f}"),
        "published": _cells(frame["published"], "{:+.2f}"),
        "smallest gain seen": _cells(frame["smallest_gain"], "{:.1f}"),
        "p (adjusted)": _cells(frame["p_adjusted"], "{:.2f}"),
        "verdict": frame["verdict"],
    })


def _cells(numbers: pd.Series, layout: str) -> list[str]:
    """Numbers as text, empty where there is none."""
    return [layout.format(number) if np.isfinite(number) else "" for number in numbers]


@lru_cache(maxsize=64)
def task_differences(result: TableResult) -> pd.DataFrame:
    """Paired differences of every row to LoRA of the same block by task, in points. LoRA's own are 0.
    Computed once a result: copy it to change it.

    Returns:
        Columns block, method, column (a task or `mean`), value, low, high (95 %).
    """
    tasks = result_tasks(result)
    columns = {task: [task] for task in tasks} | {MEAN: list(tasks)}
    lines = []
    for name, block in result.blocks.items():
        if (lora := lora_of(block)) is None:
            continue
        for row in block.rows:
            for column, mean_of in columns.items():
                differences = {task: row.outcomes[task] - lora.outcomes[task] for task in mean_of}
                lines.append((name, row.method, column, *(100 * np.array(bootstrapped(differences, row)))))
    return pd.DataFrame(lines, columns=["block", "method", "column", "value", "low", "high"])


def task_table(result: TableResult) -> pd.DataFrame:
    """`task_differences` as people read them: one line per method, points with 95 % intervals."""
    frame = task_differences(result)
    frame = frame[~frame["method"].isin([LORA, NO_RECOVERY])]
    wide = frame.assign(cell=interval_column(frame, "value", "low", "high")).pivot(
        index=["block", "method"], columns="column", values="cell")[[*result_tasks(result), MEAN]]
    order = list(dict.fromkeys(zip(frame["block"], frame["method"], strict=True)))
    return wide.loc[order].rename(columns=task_label).reset_index()
