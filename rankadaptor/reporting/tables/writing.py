"""Tables as Markdown, CSV and LaTeX."""

from pathlib import Path

import pandas as pd

from rankadaptor.experiments.results import TableResult
from rankadaptor.reporting.tables.accuracy import cells
from rankadaptor.reporting.tables.captions import caption
from rankadaptor.reporting.tables.differences import difference_table, differences_to_lora
from rankadaptor.reporting.tables.measured import measured_table, published_block_table
from rankadaptor.reporting.tables.pruned import block_table


def write_table(result: TableResult, folder: Path | str) -> list[Path]:
    """Write NAME.md, NAME.csv (long, proportions), NAME.tex (booktabs); NAME-differences.csv where LoRA is a row.

    Returns:
        The files.
    """
    folder, name = Path(folder), result.contents.name
    folder.mkdir(parents=True, exist_ok=True)
    measured = measured_table(result)
    parts = [f"# {result.contents.title}, measured here", caption(result), markdown(measured), "## Blocks",
             markdown(block_table(result))]
    if result.recovered:
        parts += ["## Difference to LoRA r=8 (paired by item and seed)", markdown(difference_table(result))]
    parts += [f"## Published ({result.contents.published})", markdown(published_block_table(result))]
    paths = [folder / f"{name}{suffix}" for suffix in (".md", ".csv", ".tex")]
    paths[0].write_text("\n\n".join(parts) + "\n")
    cells(result).to_csv(paths[1], index=False, float_format="%.6f")
    paths[2].write_text(_latex(measured, caption(result), name))
    if result.recovered:
        paths.append(folder / f"{name}-differences.csv")
        differences_to_lora(result).to_csv(paths[3], index=False, float_format="%.4f")
    return paths


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown: text stays as it is, numbers get two places, counts none."""
    shown = table.map(lambda value: f"{value:.2f}" if isinstance(value, float) else value)
    return shown.to_markdown(index=False, disable_numparse=True)


def _latex(table: pd.DataFrame, text: str, name: str) -> str:
    """A booktabs table. Needs \\usepackage{booktabs}."""
    special = str.maketrans({character: f"\\{character}" for character in "_&#%$"})
    escaped = table.map(lambda value: str(value).translate(special))
    escaped.columns = pd.Index([str(name).translate(special) for name in table.columns])
    return escaped.style.hide(axis="index").to_latex(hrules=True, caption=text.translate(special), label=f"tab:{name}")
