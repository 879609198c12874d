"""The measured table as people read it, and the paper's rows of the same blocks."""

from typing import Any

import pandas as pd

from rankadaptor.experiments.methods import DENSE
from rankadaptor.experiments.results import TableResult
from rankadaptor.reporting.labels import MEAN, paper_method, task_label
from rankadaptor.reporting.paper import published_rows
from rankadaptor.reporting.tables.accuracy import cells

_OPTIONAL = ("trained", "perplexity", "training loss")  # columns that some tables have no entry of


def measured_table(result: TableResult) -> pd.DataFrame:
    """Percent with 95 % intervals, parameters, and the published mean beside ours; a method without result says why."""
    numbers = cells(result)
    averages = published_rows(result.contents.published).set_index(["block", "method"])["average"]
    lines: list[dict[str, Any]] = []
    for row in result.rows():
        columns = numbers[(numbers["block"] == row.block) & (numbers["method"] == row.method)].set_index("column")
        key = (row.block, paper_method(row.method))
        lines.append({
            "block": "" if row.method == DENSE else row.block,
            "method": row.method,
            "parameters": f"{row.parameters / 1e6:,.1f} M",
            "trained": f"{row.trainable_parameters:,}" if row.trainable_parameters else "",
            **{task_label(str(column)): _percent(cell) for column, cell in columns.iterrows()},
            "perplexity": "" if row.perplexity is None else f"{row.perplexity:,.2f}",
            "training loss": "" if row.training_loss is None else f"{row.training_loss:.3f}",
            "gold probability": f"{100 * float(columns['gold_probability'][MEAN]):.1f}",
            "published mean": f"{averages[key]:.2f}" if key in averages.index else "",
        })
    for name, block in result.blocks.items():
        lines += [{"block": name, "method": method, MEAN: why.split(":")[0]} for method, why in block.failed.items()]
    lines += [{"block": name, "method": "all", MEAN: why.split(":")[0]} for name, why in result.unfinished.items()]
    frame = pd.DataFrame(lines).fillna("")
    return frame.drop(columns=[column for column in _OPTIONAL if not frame[column].any()])


def _percent(cell: pd.Series) -> str:
    return f"{100 * cell['value']:.1f} [{100 * cell['low']:.0f}, {100 * cell['high']:.0f}]"


def published_block_table(result: TableResult) -> pd.DataFrame:
    """The paper's rows of the same blocks and methods, as printed."""
    rows = published_rows(result.contents.published)
    methods = {paper_method(row.method) for row in result.rows()}
    rows = rows[rows["block"].isin(result.blocks) & rows["method"].isin(methods)]
    rows = rows.rename(columns=task_label).rename(columns={"average": "mean"})
    return rows.sort_values("block", key=lambda blocks: blocks.map(list(result.blocks).index), kind="stable")
