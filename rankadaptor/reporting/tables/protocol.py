"""The paper's protocol: what it prints for each player, and what is left of that on unseen questions."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.experiments.methods import LARGEST, LARGEST_CONSTANT
from rankadaptor.experiments.paper_protocol import PLAYERS, ProtocolResult
from rankadaptor.experiments.results import TableResult
from rankadaptor.reporting.labels import result_tasks
from rankadaptor.reporting.numbers import span
from rankadaptor.reporting.paper import published_differences
from rankadaptor.reporting.tables.accuracy import in_points, interval_column, paired_interval
from rankadaptor.reporting.tables.captions import caption
from rankadaptor.reporting.tables.differences import lora_of
from rankadaptor.reporting.tables.measured import measured_table
from rankadaptor.reporting.tables.writing import markdown, write_markdown, write_table
from rankadaptor.statistics import Interval

PUBLISHED = "published"
_ENDS = ("", "_low", "_high")
COLUMNS = ["block", "method", "least_recoveries", "most_recoveries",
           *(f"{view}{end}" for view in ("reported", "unseen") for end in _ENDS)]


def protocol_frame(result: ProtocolResult) -> pd.DataFrame:
    """What each player gains over LoRA, paired by item, mean over tasks, in accuracy points with 95 % intervals.

    Returns:
        Columns block, method, least_recoveries, most_recoveries (that it chose among, over tasks), reported,
        reported_low, reported_high (as the protocol prints it: one training seed, the questions that chose), unseen,
        unseen_low, unseen_high (the same choices with fresh seeds, on questions that chose nothing). Of each block
        also a line `published` (the paper's printed average of RankAdaptor less that of LoRA, without an interval)
        where the paper has that block, and lines of the largest rank in every layer, whose trainings chose nothing:
        their gain on the reported questions stands under `unseen`.
    """
    published, lines = published_differences("RankAdaptor"), []
    for block in result.reported.blocks:
        if block in published:
            lines.append({"block": block, "method": PUBLISHED, "reported": published[block]})
        for method in (LARGEST, LARGEST_CONSTANT):
            gain = _gain(result.ceiling, block, method)
            lines += [{"block": block, "method": method} | _points("unseen", gain)] if gain else []
        counts = result.recoveries.get(block, {}).values()
        for method in PLAYERS:
            views = {view: _gain(getattr(result, view), block, method) for view in ("reported", "unseen")}
            if all(views.values()):
                line: dict[str, Any] = {"block": block, "method": method, "least_recoveries": min(counts),
                                        "most_recoveries": max(counts)}
                for view, gain in views.items():
                    line |= _points(view, gain) if gain else {}
                lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS)


def _gain(result: TableResult, block: str, method: str) -> Interval | None:
    """What a method gains over LoRA, a proportion; None where one of the two has no row."""
    if block not in result.blocks:
        return None
    lora = lora_of(result.blocks[block])
    row = result.blocks[block].row(method)
    return paired_interval(row, lora, list(result_tasks(result))) if row and lora else None


def _points(view: str, gain: Interval) -> dict[str, float]:
    return in_points(gain, *(f"{view}{end}" for end in _ENDS))


def protocol_table(result: ProtocolResult) -> pd.DataFrame:
    """`protocol_frame` as people read it."""
    frame = protocol_frame(result)
    reported = interval_column(frame, "reported", "reported_low", "reported_high")
    printed = [text or ("" if np.isnan(value) else f"{value:+.1f}")
               for text, value in zip(reported, frame["reported"], strict=True)]
    counts = ["" if np.isnan(least) else f"{least:.0f}" if least == most else f"{least:.0f} to {most:.0f}"
              for least, most in frame[["least_recoveries", "most_recoveries"]].astype(float).to_numpy()]
    return pd.DataFrame({
        "block": frame["block"], "method": frame["method"], "recoveries a task": counts,
        "as the protocol prints it (points)": printed,
        "fresh seeds, unseen questions": interval_column(frame, "unseen", "unseen_low", "unseen_high"),
    })


def best_of_frame(result: ProtocolResult) -> pd.DataFrame:
    """What the best of N training seeds of LoRA, chosen for each task by its reported questions, gains over their mean.

    Returns:
        Columns block, seeds (N), gain (accuracy points, mean over tasks: the expected gain of the best of N that are
        drawn without replacement from all that were trained).
    """
    lines = []
    for block, by_task in result.seed_scores.items():
        count = min(map(len, by_task.values()))
        lines += [{"block": block, "seeds": many,
                   "gain": 100 * float(np.mean([expected_best(scores[:count], many) - np.mean(scores[:count])
                                                for scores in by_task.values()]))}
                  for many in range(1, count + 1)]
    return pd.DataFrame(lines, columns=["block", "seeds", "gain"])


def expected_best(scores: Sequence[float], many: int) -> float:
    """The mean, over all subsets of so many scores, of the highest one.

    Args:
        scores: At least as many.
        many: 1 or more.
    """
    ordered = sorted(scores)
    subsets = math.comb(len(ordered), many)
    return sum(score * math.comb(place, many - 1) for place, score in enumerate(ordered)) / subsets


def protocol_text(result: ProtocolResult) -> str:
    """What the page says: what the protocol prints for each player, and what is left of it."""
    frame = protocol_frame(result)
    if not (frame["method"].isin(PLAYERS)).any():
        return "No player finished on any block."
    blocks = list(dict.fromkeys(frame["block"]))
    parts = []
    for method in PLAYERS:
        rows = frame[frame["method"] == method]
        above = int((rows["unseen_low"] > 0).sum())
        parts.append(f"{method} {span(rows['reported'], sign=True)} points, of which {span(rows['unseen'], sign=True)}"
                     f" are left with fresh seeds on unseen questions (above 0 on {above} of {len(rows)})")
    return f"Over LoRA on {' and '.join(blocks)}, the protocol prints for {'; for '.join(parts)}."


def write_protocol(result: ProtocolResult, folder: Path | str) -> list[Path]:
    """Write the files of the three tables, the page's own Markdown (paper.md), paper-gains.csv and paper-seeds.csv.

    Returns:
        All files.
    """
    folder = Path(folder)
    paths = [path for table in (result.reported, result.unseen, result.ceiling) for path in write_table(table, folder)]
    for frame, name in ((protocol_frame(result), "paper-gains.csv"), (best_of_frame(result), "paper-seeds.csv")):
        frame.to_csv(folder / name, index=False, float_format="%.4f")
        paths.append(folder / name)
    write_markdown([
        "# The paper's protocol, and what is left of its gains", protocol_text(result),
        markdown(protocol_table(result)),
        "## As the protocol prints it", caption(result.reported), markdown(measured_table(result.reported)),
        "## The same choices with fresh seeds, on unseen questions", caption(result.unseen),
        markdown(measured_table(result.unseen)),
    ], folder / "paper.md")
    return paths
