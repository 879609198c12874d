"""Reads the committed table of measured allocations: records for offline meta-learning (Section 3.2), rows to replay.

`experiments.rank_table` makes the table; docs/schemas.md describes its columns.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation, parse_allocation
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.keys import canonical_json, sha256_text
from rankadaptor.recovery.recipe import Scaling
from rankadaptor.search.rounds import Record, Scores

COMMITTED = Path(__file__).parent / "rank_table.parquet"
ORIGINS = ("random", "mutant", "uneven")  # of drawn allocations; any other is the name of a rule of thumb
SIGNALS = ("gold_probability", "accuracy", "held_out_loss")


def read_table(path: Path | str = COMMITTED) -> pd.DataFrame:
    """Read a table that `experiments.rank_table` wrote.

    Raises:
        BadInput: if the file cannot be read, or is no such table.
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
        signal: One of `SIGNALS`. The held-out loss is of one text: it has neither tasks nor splits.

    Raises:
        BadInput: on an unknown signal.
    """
    if signal not in SIGNALS:
        raise BadInput(f"unknown signal {signal!r}: use one of {', '.join(SIGNALS)}")
    if signal == "held_out_loss":
        return {"text": -float(row["held_out_loss"])}
    return {task: float(row[f"{split}_{task}_{signal}"]) for task in TASKS}


def best_measured(table: pd.DataFrame, block: str, scaling: Scaling, signal: str) -> RankAllocation | None:
    """The allocation within budget whose mean score on the search split, over the table's training seeds, is highest;
    None where the table has none of the block under this scaling."""
    rows = table[(table["block"] == block) & (table["scaling"] == scaling) & table["within_budget"].astype(bool)]
    if rows.empty:
        return None
    scores = pd.DataFrame({
        "allocation": rows["allocation"],
        "score": [np.mean(list(task_scores(row, "search", signal).values())) for _, row in rows.iterrows()],
    })
    means = scores.groupby("allocation")["score"].agg(["mean", "count"])
    whole = means[means["count"] == means["count"].max()]
    return parse_allocation(str(whole["mean"].idxmax()))


def rows_of(table: pd.DataFrame, block: str, scaling: Scaling, seed: int | None = None) -> pd.DataFrame:
    """Rows of one block and scaling that have scores, of one training seed or of all.

    Args:
        block: Such as llm-pruner:50.
        seed: Of training; None for all.

    Raises:
        BadInput: if there are none.
    """
    rows = table[(table["block"] == block) & (table["scaling"] == scaling) & table["held_out_loss"].notna()]
    if seed is not None:
        rows = rows[rows["seed"] == seed]
    if rows.empty:
        available = sorted({f"{b} with {s}" for b, s in zip(table["block"], table["scaling"], strict=True)})
        raise BadInput(f"the table holds nothing of {block} with {scaling}: use one of {', '.join(available)}")
    return rows


def records_beside(
    table: pd.DataFrame, block: str, scaling: Scaling, signal: str, seed: int | None = None
) -> tuple[Record, ...]:
    """Records of every block but one, for a search on that one: scores on the search split.

    Args:
        block: The block under search, which is left out.
        seed: Of one training, so that a replayed search learns nothing of the training that judges it; None for means
            over all.
    """
    labels = sorted({label for label, s in zip(table["block"], table["scaling"], strict=True)
                     if label != block and s == scaling})
    return tuple(record(rows_of(table, label, scaling, seed), label, signal) for label in labels)


def record(rows: pd.DataFrame, label: str, signal: str) -> Record:
    """Allocations of one block and their scores on the search split, means over training seeds.

    Args:
        rows: As `rows_of` gives them.
        label: Of the block.
        signal: One of `SIGNALS`.
    """
    by_allocation: dict[RankAllocation, list[Scores]] = {}
    for _, row in rows.iterrows():
        by_allocation.setdefault(parse_allocation(row["allocation"]), []).append(task_scores(row, "search", signal))
    return Record(label, tuple(by_allocation), tuple(_mean(of_seeds) for of_seeds in by_allocation.values()))


def _mean(of_seeds: list[Scores]) -> Scores:
    return {task: float(np.mean([scores[task] for scores in of_seeds])) for task in of_seeds[0]}


def records_digest(records: Iterable[Record]) -> str:
    """SHA-256 over records: part of the key of a search that learns from them. Empty where there are none."""
    content = [[record.label, record.allocations, [dict(scores) for scores in record.scores]] for record in records]
    return sha256_text(canonical_json(content)) if content else ""
