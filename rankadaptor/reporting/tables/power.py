"""How small a gain each comparison of a table could see, and what it would take to see the gain that is claimed."""

from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.experiments.results import BlockResult, Row, TableResult
from rankadaptor.power import MOST_SEEDS, MOST_TIMES, items_needed, noise_of, seeds_needed, smallest_gain
from rankadaptor.reporting.labels import result_tasks
from rankadaptor.reporting.tables.differences import differences_by_task, lora_of
from rankadaptor.statistics import adjusted_level

_NOISES = {"items": "noise_items", "trainings": "noise_trainings", "seeds": "noise_seeds"}


def power_frame(result: TableResult) -> pd.DataFrame:
    """Noise and power of every comparison with LoRA that a claim is about.

    Returns:
        Columns block, method, items (of all tasks), seeds (of training), claimed, smallest_gain (told from 0 with 80 %
        power by a 95 % interval), smallest_gain_adjusted (by the interval for all of the method's blocks together);
        noise_items, noise_trainings, noise_seeds (standard deviations that `power.Noise` names); all of them in points;
        seeds_needed (for the claimed gain and a 95 % interval; not a number where 99 do not suffice), items_needed
        (how many times the items, with the table's seeds; likewise) and hours (of recovering and scoring so many
        seeds of this row and of LoRA, by the profile's costs).
    """
    lines = []
    for name, block in result.blocks.items():
        lora = lora_of(block)
        for row in block.rows if lora else ():
            if row.method in result.contents.claims and lora:
                lines.append({"block": name, "method": row.method, **_power(result, row, lora)})
    return pd.DataFrame(lines)


def _power(result: TableResult, row: Row, lora: Row) -> dict[str, Any]:
    """One line of `power_frame`."""
    differences = differences_by_task(row, lora, result_tasks(result))
    noise, seeds = noise_of(differences, row.subjects), len(result.seeds)
    items = sum(values.shape[1] for values in differences.values())
    claimed = abs(result.contents.claims[row.method])
    level = adjusted_level(sum(_has(block, row.method) for block in result.blocks.values()))
    more_seeds = seeds_needed(noise, claimed) if seeds > 1 else None
    more_items = items_needed(noise, claimed, seeds) if seeds > 1 else None
    cost, training = result.profile.cost, result.budget.training
    seconds = (training.steps * training.batch_rows * cost.recovery_seconds_per_row
               + items * cost.evaluation_seconds_per_item)
    return {
        "items": items, "seeds": seeds, "claimed": 100 * claimed,
        "smallest_gain": 100 * smallest_gain(noise, seeds),
        "smallest_gain_adjusted": 100 * smallest_gain(noise, seeds, level),
        **{column: 100 * float(np.sqrt(getattr(noise, part))) for part, column in _NOISES.items()},
        "seeds_needed": np.nan if more_seeds is None else more_seeds,
        "items_needed": np.nan if more_items is None else more_items,
        "hours": np.nan if more_seeds is None else 2 * more_seeds * seconds / 3600,
    }


def _has(block: BlockResult, method: str) -> bool:
    return any(row.method == method for row in block.rows)


def power_table(result: TableResult) -> pd.DataFrame:
    """`power_frame` as people read it."""
    frame = power_frame(result)
    if frame.empty:
        return frame
    return pd.DataFrame({
        "block": frame["block"],
        "method": frame["method"],
        "items": [f"{items:,}" for items in frame["items"]],
        "seeds": frame["seeds"].astype(str),
        "noise of items": _numbers(frame["noise_items"], "{:.2f}"),
        "of single trainings": _numbers(frame["noise_trainings"], "{:.2f}"),
        "of training seeds": _numbers(frame["noise_seeds"], "{:.2f}"),
        "smallest gain seen": _numbers(frame["smallest_gain"], "{:.2f}"),
        "for all blocks": _numbers(frame["smallest_gain_adjusted"], "{:.2f}"),
        "seeds for the claim": _numbers(frame["seeds_needed"], "{:.0f}", f"> {MOST_SEEDS}"),
        "times the items": _numbers(frame["items_needed"], "{:.1f}", f"> {MOST_TIMES}"),
        "hours": _numbers(frame["hours"], "{:.2g}"),
    })


def _numbers(values: pd.Series, layout: str, none: str = "") -> list[str]:
    """Numbers as text, and what stands where there is none."""
    return [layout.format(value) if np.isfinite(value) else none for value in values]
