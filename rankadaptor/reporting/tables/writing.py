"""Tables as Markdown, CSV and LaTeX."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.escaping import Markup, latex_text, markdown_text
from rankadaptor.experiments.methods import ADALORA
from rankadaptor.experiments.results import TableResult
from rankadaptor.reporting.tables.accuracy import cells
from rankadaptor.reporting.tables.captions import caption, caption_text
from rankadaptor.reporting.tables.differences import difference_table, differences_to_lora
from rankadaptor.reporting.tables.measured import measured_table, published_block_table
from rankadaptor.reporting.tables.pooled import pooled_frame, pooled_table
from rankadaptor.reporting.tables.power import power_frame, power_table
from rankadaptor.reporting.tables.pruned import block_table
from rankadaptor.reporting.tables.ranks import rank_spread_table


def write_table(result: TableResult, folder: Path | str) -> list[Path]:
    """Write NAME.md, NAME.csv (long, proportions), NAME.tex (booktabs); NAME-differences.csv where LoRA is a row,
    NAME-pooled.csv and NAME-power.csv where a claim is judged, NAME-searches.csv where allocations are searched,
    NAME-spread.csv where AdaLoRA is a row.

    Returns:
        The files.
    """
    folder, name = Path(folder), result.contents.name
    folder.mkdir(parents=True, exist_ok=True)
    measured = measured_table(result)
    parts = [f"# {markdown_text(result.contents.title)}, measured here", caption(result), markdown(measured),
             "## Blocks", markdown(block_table(result))]
    if result.recovered:
        parts += ["## Difference to LoRA r=8 (paired by item and seed)", markdown(difference_table(result))]
        parts += judged_parts(result)
    parts += [f"## Published ({markdown_text(result.contents.published)})", markdown(published_block_table(result))]
    paths = [folder / f"{name}{suffix}" for suffix in (".md", ".csv", ".tex")]
    write_markdown(parts, paths[0])
    cells(result).to_csv(paths[1], index=False, float_format="%.6f")
    paths[2].write_text(_latex(measured, caption_text(result), name), encoding="utf-8")
    if result.recovered:
        paths.append(folder / f"{name}-differences.csv")
        differences_to_lora(result).to_csv(paths[-1], index=False, float_format="%.4f")
    if result.recovered and result.contents.claims:
        for suffix, frame in (("pooled", pooled_frame(result)), ("power", power_frame(result))):
            paths.append(folder / f"{name}-{suffix}.csv")
            frame.to_csv(paths[-1], index=False, float_format="%.4f")
    if result.searched:
        paths.append(folder / f"{name}-searches.csv")
        searches_frame(result).to_csv(paths[-1], index=False)
    if len(spread := rank_spread_table(result, ADALORA)):
        paths.append(folder / f"{name}-spread.csv")
        spread.to_csv(paths[-1], index=False, float_format="%.4f")
    return paths


def judged_parts(result: TableResult) -> list[str]:
    """Sections of a table with claims, as Markdown: all blocks together, and what the comparisons could see."""
    if not result.contents.claims:
        return []
    parts = ["## All blocks together", markdown(pooled_table(result)),
             "## Noise (standard deviations in points) and power (80 %)", markdown(power_table(result))]
    return parts if len(power_frame(result)) else parts[:2]


def searches_frame(result: TableResult) -> pd.DataFrame:
    """How long each search was.

    Returns:
        Columns block, method, search (its number, from 1), recoveries, rounds (those of the initialization left out),
        most_rounds (of the budget: a search of fewer was ended by its stopping rule).
    """
    lines = [
        (name, method, number, sum(len(entry.proposals) for entry in search.rounds), len(search.rounds) - 1,
         result.budget.search.rounds)
        for name, block in result.blocks.items() for method, searches in block.searches.items()
        for number, (search, _) in enumerate(searches, start=1)
    ]
    return pd.DataFrame(lines, columns=["block", "method", "search", "recoveries", "rounds", "most_rounds"])


def write_markdown(parts: Iterable[str], path: Path) -> None:
    """Write a page of parts with a blank line between them. What a part has of users' text is escaped already."""
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown: text renders as itself, numbers get two places, counts none."""
    shown = table.map(_cell).set_axis(list(map(markdown_text, table.columns)), axis="columns")
    return shown.to_markdown(index=False, disable_numparse=True)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.2f}"
    return markdown_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _latex(table: pd.DataFrame, text: str, name: str) -> str:
    """A booktabs table. Needs \\usepackage{booktabs}."""
    escaped = table.map(latex_text)
    escaped.columns = pd.Index(list(map(latex_text, table.columns)))
    label = re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)
    return escaped.style.hide(axis="index").to_latex(hrules=True, caption=latex_text(text), label=f"tab:{label}")
