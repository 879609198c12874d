"""What a method gains over LoRA on all blocks together: one estimate with one interval, and one verdict."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.experiments.results import Row, TableResult
from rankadaptor.power import noise_of, smallest_gain
from rankadaptor.reporting.labels import result_tasks
from rankadaptor.reporting.tables.accuracy import headroom_intervals, in_points, interval_column
from rankadaptor.reporting.tables.differences import differences_by_task, lora_of
from rankadaptor.statistics import bootstrap_macro_mean
from rankadaptor.verdicts import NO_HEADROOM, UNDECIDED, Evidence, has_headroom, verdict

COLUMNS = ["method", "blocks", "left_out", "difference", "low", "high", "gold_probability", "gold_low", "gold_high",
           "smallest_gain", "verdict", "all_difference", "all_low", "all_high"]


def pooled_frame(result: TableResult) -> pd.DataFrame:
    """Every claimed method's mean paired difference to LoRA over the blocks that have headroom, in points.

    Blocks are averaged before anything is resampled: they share items and training seeds, which are drawn together.
    Which blocks have headroom is told by LoRA's own gain, so that its luck helps to choose them; the estimate for all
    blocks, which nothing chose, stands beside it.

    Returns:
        Columns method, blocks (how many are pooled), left_out (blocks without headroom), difference, low, high
        (accuracy, 95 %), gold_probability, gold_low, gold_high (the same of gold probability), smallest_gain (told from
        0 with 80 % power), verdict; all_difference, all_low, all_high (accuracy, of all blocks).
    """
    methods = dict.fromkeys(row.method for block in result.blocks.values() if lora_of(block) for row in block.rows
                            if row.method in result.contents.claims)
    return pd.DataFrame([_pooled(result, method) for method in methods], columns=COLUMNS)


def _pooled(result: TableResult, method: str) -> dict[str, Any]:
    """One line of `pooled_frame`."""
    pairs: list[tuple[Row, Row]] = []
    without: list[tuple[Row, Row]] = []
    for block in result.blocks.values():
        row, lora = block.row(method), lora_of(block)
        if row is not None and lora is not None:
            headroom = headroom_intervals(result, block)
            (without if headroom and not has_headroom(*headroom) else pairs).append((row, lora))
    whole, _ = _averaged(result, pairs + without)
    subjects = (pairs + without)[0][0].subjects
    line: dict[str, Any] = {"method": method, "blocks": len(pairs), "left_out": len(without)}
    line |= in_points(bootstrap_macro_mean(whole, subjects=subjects), "all_difference", "all_low", "all_high")
    if not pairs:
        return line | {"verdict": NO_HEADROOM if result.decided else UNDECIDED}
    outcomes, probabilities = _averaged(result, pairs)
    difference, gold = (bootstrap_macro_mean(drawn, subjects=subjects) for drawn in (outcomes, probabilities))
    least = smallest_gain(noise_of(outcomes, subjects), len(result.seeds))
    evidence = Evidence(difference, result.contents.claims[method], least)
    return {**line, **in_points(difference, "difference", "low", "high"),
            **in_points(gold, "gold_probability", "gold_low", "gold_high"), "smallest_gain": 100 * least,
            "verdict": verdict(evidence, result.decided)}


def _averaged(
    result: TableResult, pairs: Sequence[tuple[Row, Row]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Paired differences, means over blocks: of outcomes and of gold probabilities, by task.  # (seeds, items)"""
    tasks = result_tasks(result)
    outcomes = [differences_by_task(row, lora, tasks) for row, lora in pairs]
    return ({task: np.mean([of_block[task] for of_block in outcomes], axis=0) for task in tasks},
            {task: np.mean([row.gold_probability[task] - lora.gold_probability[task] for row, lora in pairs], axis=0)
             for task in tasks})


def pooled_table(result: TableResult) -> pd.DataFrame:
    """`pooled_frame` as people read it."""
    frame = pooled_frame(result)
    return pd.DataFrame({
        "method": frame["method"],
        "blocks": [f"{blocks}" + (f" ({left_out} without headroom left out)" if left_out else "")
                   for blocks, left_out in zip(frame["blocks"], frame["left_out"], strict=True)],
        "accuracy - LoRA (points)": interval_column(frame, "difference", "low", "high"),
        "gold probability - LoRA": interval_column(
            frame, "gold_probability", "gold_low", "gold_high", "{:+.2f} [{:+.2f}, {:+.2f}]"),
        "smallest gain seen": ["" if not np.isfinite(gain) else f"{gain:.2f}" for gain in frame["smallest_gain"]],
        "verdict": frame["verdict"],
        "all blocks": interval_column(frame, "all_difference", "all_low", "all_high"),
    })
