"""Reading the committed table of measured allocations: records for offline meta-learning, and pools to replay on.

`rank_table` makes the table; README, Schemas, says what its columns hold.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation, parse_allocation
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.keys import canonical_json, sha256_text
from rankadaptor.recovery.spec import Scaling
from rankadaptor.search.loop import Record, Scores

COMMITTED = Path(__file__).parent / "rank_table.parquet"
ORIGINS = ("random", "mutant", "uneven")  # of drawn allocations; any other is the name of a rule of thumb
SIGNALS = ("gold_probability", "accuracy", "held_out_loss")


def read_table(path: Path | str = COMMITTED) -> pd.DataFrame:
    """A table as `rank_table` wrote it.

    Raises:
        BadInput: if it is not there, or not such a table.
    """
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read a rank table from {path} ({' '.join(str(error).split())[:80]}): make one with"
                       " make rank-table, and name it as TABLE") from None
    needed = {"block", "scaling", "origin", "seed", "allocation", "within_budget", "held_out_loss", "training_loss"}
    needed |= {f"{split}_{task}_{metric}" for split in ("search", "report") for task in TASKS
               for metric in ("accuracy", "gold_probability")}
    if lacking := needed - set(table.columns):
        raise BadInput(f"{path} is no rank table, it lacks the column {min(lacking)}: make one with make rank-table")
    return table


def task_scores(row: pd.Series, split: str, signal: str) -> Scores:
    """Scores of one row as a search sees them: by task, larger is better.

    Args:
        split: "search" or "report".
        signal: One of `SIGNALS`; the held-out loss is one of text, and knows neither tasks nor splits.
    """
    if signal not in SIGNALS:
        raise BadInput(f"unknown signal {signal!r}: use one of {', '.join(SIGNALS)}")
    if signal == "held_out_loss":
        return {"text": -float(row["held_out_loss"])}
    return {task: float(row[f"{split}_{task}_{signal}"]) for task in TASKS}


def rows_of(table: pd.DataFrame, block: str, scaling: Scaling, seed: int | None = None) -> pd.DataFrame:
    """Rows of one block and scaling that have scores, of one training seed or of all.

    Raises:
        BadInput: if there are none.
    """
    chosen = table[(table["block"] == block) & (table["scaling"] == scaling) & table["held_out_loss"].notna()]
    if seed is not None:
        chosen = chosen[chosen["seed"] == seed]
    if chosen.empty:
        known = sorted({f"{b} with {s}" for b, s in zip(table["block"], table["scaling"], strict=True)})
        raise BadInput(f"the table holds nothing of {block} with {scaling}: use one of {', '.join(known)}")
    return chosen


def records_beside(
    table: pd.DataFrame, block: str, scaling: Scaling, signal: str, seed: int | None = None
) -> tuple[Record, ...]:
    """What the table holds of every block but one, for a search on that one, on the search split.

    Args:
        seed: Of one training alone, so that a replayed search knows nothing of the training that it is scored by; None
            for means over all.
    """
    others = sorted({other for other, s in zip(table["block"], table["scaling"], strict=True)
                     if other != block and s == scaling})
    return tuple(record(rows_of(table, other, scaling, seed), other, signal) for other in others)


def record(rows: pd.DataFrame, label: str, signal: str) -> Record:
    """Allocations of one block and their mean scores over seeds on the search split."""
    found: dict[RankAllocation, list[Scores]] = {}
    for _, row in rows.iterrows():
        found.setdefault(parse_allocation(row["allocation"]), []).append(task_scores(row, "search", signal))
    return Record(label, tuple(found), tuple(_mean(several) for several in found.values()))


def _mean(several: list[Scores]) -> Scores:
    return {task: float(np.mean([one[task] for one in several])) for task in several[0]}


def digest(records: Iterable[Record]) -> str:
    """SHA-256 over records: part of the key of a search that learns from them. Empty where there are none."""
    content = [[r.label, r.allocations, [dict(scores) for scores in r.scores]] for r in records]
    return sha256_text(canonical_json(content)) if content else ""
