"""What every method gains over LoRA of the same block, paired by item and training seed."""

from functools import lru_cache

import numpy as np
import pandas as pd

from rankadaptor.experiments.methods import LORA, NO_RECOVERY
from rankadaptor.experiments.results import BlockResult, Row, TableResult
from rankadaptor.reporting.labels import MEAN, paper_method, result_tasks, task_label
from rankadaptor.reporting.paper import published_rows
from rankadaptor.reporting.tables.accuracy import bootstrapped, interval_column
from rankadaptor.statistics import bootstrap_draws, holm, macro_interval, two_sided_p, verdict_of_claim


@lru_cache(maxsize=64)
def differences_to_lora(result: TableResult) -> pd.DataFrame:
    """Paired differences of every other row to LoRA of the same block, in points, with the claim's verdict.
    Computed once a result: copy it to change it.

    Returns:
        Columns block, method, difference, low, high (accuracy, mean over tasks), gold_probability (its difference),
        published (the paper's difference), p_holm (two-sided, adjusted for the number of rows that have a verdict),
        verdict (of rows that a claim is about; else empty).
    """
    averages = published_rows(result.contents.published).set_index(["block", "method"])["average"]
    lines = []
    for name, block in result.blocks.items():
        for row, lora in _pairs(block):
            differences = {task: row.outcomes[task] - lora.outcomes[task] for task in result_tasks(result)}
            draws = bootstrap_draws(differences, subjects=row.subjects)
            interval = macro_interval(differences, draws)
            probability = float(np.mean(
                [(row.gold_probability[task] - lora.gold_probability[task]).mean() for task in differences]
            ))
            key = (name, paper_method(row.method))
            published = averages[key] - averages[name, LORA] if key in averages.index else np.nan
            claim = result.contents.claims.get(row.method)
            verdict = verdict_of_claim(interval, claim, result.decided) if claim else ""
            p = two_sided_p(draws) if claim else np.nan
            lines.append((name, row.method, *(100 * np.array(interval)), 100 * probability, published, p, verdict))
    columns = ["block", "method", "difference", "low", "high", "gold_probability", "published", "p_holm", "verdict"]
    frame = pd.DataFrame(lines, columns=columns)
    tested = frame["p_holm"].notna()
    frame.loc[tested, "p_holm"] = holm(frame.loc[tested, "p_holm"].tolist())
    return frame


def _pairs(block: BlockResult) -> list[tuple[Row, Row]]:
    """Every other row with LoRA's; none where LoRA has no result."""
    lora = _lora(block)
    return [(row, lora) for row in block.rows if row is not lora] if lora else []


def _lora(block: BlockResult) -> Row | None:
    return next((row for row in block.rows if row.method == LORA), None)


def difference_table(result: TableResult) -> pd.DataFrame:
    """`differences_to_lora` as people read it."""
    frame = differences_to_lora(result)
    return pd.DataFrame({
        "block": frame["block"],
        "method": frame["method"],
        "accuracy - LoRA (points)": interval_column(frame, "difference", "low", "high"),
        "gold probability - LoRA": [f"{difference:+.2f}" for difference in frame["gold_probability"]],
        "published": ["" if np.isnan(difference) else f"{difference:+.2f}" for difference in frame["published"]],
        "p (Holm)": ["" if np.isnan(p) else f"{p:.2f}" for p in frame["p_holm"]],
        "verdict": frame["verdict"],
    })


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
        if (lora := _lora(block)) is None:
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
