"""Whether there is anything to win: what pruning took from a model, and what LoRA gives back of it.

Where the dense model is not above the pruned one, or LoRA wins nothing back, no allocation of ranks can be told from
another: such a block has no headroom, and a difference of zero on it says nothing about ranks.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.experiments.methods import LORA, NO_RECOVERY
from rankadaptor.experiments.results import Row, TableResult
from rankadaptor.reporting.labels import MEAN, result_tasks, task_label
from rankadaptor.reporting.tables.accuracy import in_points, interval_column, paired_interval
from rankadaptor.verdicts import NO_HEADROOM, has_headroom

HEADROOM = "headroom"


def headroom_frame(result: TableResult) -> pd.DataFrame:
    """What pruning costs and LoRA wins back, by block and task, in accuracy points, paired by item.

    Returns:
        Columns block, column (a task, or `mean`), dense, pruned, lora (percent), lost, lost_low, lost_high (dense -
        pruned, 95 % interval), won, won_low, won_high (LoRA - pruned), seeds (of LoRA); of the mean also share (of what
        was lost, won back; not a number where nothing was lost) and verdict, `headroom` where both intervals lie above
        0, else `no headroom`. No line of blocks on which one of the two rows is missing.
    """
    tasks = result_tasks(result)
    lines = []
    for name, block in result.blocks.items():
        rows = {row.method: row for row in block.rows}
        if not {NO_RECOVERY, LORA} <= rows.keys():
            continue
        pruned, lora = rows[NO_RECOVERY], rows[LORA]
        for column, averaged in [(MEAN, list(tasks)), *((task, [task]) for task in tasks)]:
            lost, won = paired_interval(result.dense, pruned, averaged), paired_interval(lora, pruned, averaged)
            line: dict[str, Any] = {"block": name, "column": column}
            line |= {label: 100 * _accuracy(row, averaged) for label, row in
                     (("dense", result.dense), ("pruned", pruned), ("lora", lora))}
            for label, interval in (("lost", lost), ("won", won)):
                line |= in_points(interval, label, f"{label}_low", f"{label}_high")
            line |= {"seeds": len(lora.outcomes[tasks[0]])}
            if column == MEAN:
                line |= {"share": won.value / lost.value if lost.low > 0 else np.nan,
                         "verdict": HEADROOM if has_headroom(lost, won) else NO_HEADROOM}
            lines.append(line)
    return pd.DataFrame(lines)


def _accuracy(row: Row, tasks: list[str]) -> float:
    return float(np.mean([row.outcomes[task].mean() for task in tasks]))


def headroom_table(result: TableResult) -> pd.DataFrame:
    """The means of `headroom_frame` as people read them, a line a block."""
    frame = headroom_frame(result)
    frame = frame[frame["column"] == MEAN]
    return pd.DataFrame({
        "block": frame["block"],
        **{f"{label} (%)": [f"{value:.1f}" for value in frame[column]] for label, column in
           (("dense", "dense"), ("pruned", "pruned"), ("LoRA r=8", "lora"))},
        "pruning took (points)": interval_column(frame, "lost", "lost_low", "lost_high"),
        "LoRA won back (points)": interval_column(frame, "won", "won_low", "won_high"),
        "share won back": ["" if np.isnan(share) else f"{100 * share:.0f} %" for share in frame["share"]],
        "training seeds": frame["seeds"],
        "verdict": frame["verdict"],
    })


def headroom_task_table(result: TableResult) -> pd.DataFrame:
    """What LoRA won back by task (points with 95 % intervals), a line a block."""
    frame = headroom_frame(result)
    cells = interval_column(frame, "won", "won_low", "won_high")
    wide = frame.assign(cell=cells).pivot(index="block", columns="column", values="cell")
    order = [*result_tasks(result), MEAN]
    return wide.loc[list(dict.fromkeys(frame["block"])), order].rename(columns=task_label).reset_index()


def write_headroom(result: TableResult, folder: Path | str) -> Path:
    """Write NAME-headroom.csv, NAME the table's, and return it."""
    path = Path(folder) / f"{result.contents.name}-headroom.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    headroom_frame(result).to_csv(path, index=False, float_format="%.4f")
    return path
