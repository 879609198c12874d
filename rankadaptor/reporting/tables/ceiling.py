"""The ceiling test: what ranks can add at all, before any search.

One rank in every layer, from the smallest candidate to the largest, per scaling, each at a learning rate of its own;
beside it the best allocation of LoRA's size that a measured table holds, retrained with fresh seeds. It is a reference
and no bound: under alpha / r a larger rank also takes smaller steps, and a table holds some allocations of very many.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.experiments.methods import BEST_MEASURED, LORA, UNIFORM
from rankadaptor.experiments.results import TableResult
from rankadaptor.experiments.tables import LEAST_GAIN
from rankadaptor.reporting.labels import result_tasks
from rankadaptor.reporting.numbers import span
from rankadaptor.reporting.tables.accuracy import bootstrapped, in_points, paired_interval
from rankadaptor.reporting.tables.differences import lora_of

SCALING_LABELS = {"fixed_alpha": "alpha / r", "constant": "constant scaling", "rslora": "rsLoRA"}
_MEASURED = {label: scaling for scaling, label in BEST_MEASURED.items()}


def ceiling_frame(result: TableResult) -> pd.DataFrame:
    """What uniform ranks, and the best measured allocations, add over LoRA of the same block, paired, in points.

    Returns:
        Columns block, scaling, rank (0 for the best of the rank table), method, parameters (trained), learning_rate,
        difference, low, high (accuracy, mean over tasks, 95 %), gold_probability, gold_low, gold_high (likewise).
        LoRA's own lines, one a scaling, are 0.
    """
    tasks, lines = list(result_tasks(result)), []
    for name, block in result.blocks.items():
        lora = lora_of(block)
        for row in block.rows if lora else ():
            assert lora is not None
            if row.method == LORA:
                kinds = [(scaling, result.profile.adapters.lora_rank) for scaling in _scalings(result)]
            elif row.method in UNIFORM or row.method in _MEASURED:
                rank, scaling = UNIFORM.get(row.method, (0, _MEASURED.get(row.method, "")))
                kinds = [(scaling, rank)]
            else:
                continue
            gold = bootstrapped({task: row.gold_probability[task] - lora.gold_probability[task] for task in tasks}, row)
            for scaling, rank in kinds:
                line: dict[str, Any] = {"block": name, "scaling": scaling, "rank": rank, "method": row.method,
                                        "parameters": row.trainable_parameters, "learning_rate": row.learning_rate}
                lines.append(line | in_points(paired_interval(row, lora, tasks), "difference", "low", "high")
                             | in_points(gold, "gold_probability", "gold_low", "gold_high"))
    frame = pd.DataFrame(lines, columns=["block", "scaling", "rank", "method", "parameters", "learning_rate",
                                         "difference", "low", "high", "gold_probability", "gold_low", "gold_high"])
    return frame.sort_values(["scaling", "rank"], key=lambda column: column.map({"constant": 1, "fixed_alpha": 0})
                             if column.name == "scaling" else column, kind="stable").reset_index(drop=True)


def _scalings(result: TableResult) -> list[str]:
    """The scalings that a result has rows of."""
    methods = {row.method for block in result.blocks.values() for row in block.rows}
    return list(dict.fromkeys([result.profile.adapters.scaling, *(UNIFORM[name][1] for name in UNIFORM
                                                                  if name in methods)]))


def ceiling_table(result: TableResult) -> pd.DataFrame:
    """`ceiling_frame` as people read it, without LoRA's lines."""
    frame = ceiling_frame(result)
    frame = frame[frame["method"] != LORA].sort_values("block", kind="stable",
                                                       key=lambda names: names.map(list(result.blocks).index))
    layout = "{:+.2f} [{:+.2f}, {:+.2f}]"
    return pd.DataFrame({
        "block": frame["block"],
        "scaling": frame["scaling"].map(SCALING_LABELS),
        "ranks": ["best of the rank table" if rank == 0 else f"{rank} everywhere" for rank in frame["rank"]],
        "trained": [f"{count:,}" for count in frame["parameters"]],
        "learning rate": [f"{rate:g}" for rate in frame["learning_rate"]],
        "accuracy - LoRA (points)": [layout.format(*row) for row in frame[["difference", "low", "high"]].to_numpy()],
        "gold probability - LoRA": [layout.format(*row) for row in
                                    frame[["gold_probability", "gold_low", "gold_high"]].to_numpy()],
    })


def ceiling_text(result: TableResult) -> str:
    """What the test says, one sentence a scaling: what the largest rank adds, and on how many blocks the least gain
    that the paper claims lies above its whole interval."""
    frame, sentences = ceiling_frame(result), []
    for scaling, rows in frame[frame["rank"] > result.profile.adapters.lora_rank].groupby("scaling", sort=False):
        largest = rows[rows["rank"] == rows["rank"].max()]
        above = int((largest["high"] < 100 * LEAST_GAIN).sum())
        sentences.append(
            f"Under {SCALING_LABELS[str(scaling)]}, rank {largest['rank'].iloc[0]} in every layer adds"
            f" {span(largest['difference'], sign=True)} points to LoRA with rank {result.profile.adapters.lora_rank}"
            f" ({len(largest)} {'block' if len(largest) == 1 else 'blocks'}); the least gain that the paper claims,"
            f" {100 * LEAST_GAIN:.1f}, lies above the whole interval on {above} of them.")
    return " ".join(sentences) or "No rank above LoRA's was measured."


def write_ceiling(result: TableResult, folder: Path | str) -> Path:
    """Write NAME-ranks.csv, NAME the table's, and return it."""
    path = Path(folder) / f"{result.contents.name}-ranks.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    ceiling_frame(result).to_csv(path, index=False, float_format="%.6g")
    return path
