"""Figures 5 and 6: the continuations of models side by side, and statistics of them."""

from pathlib import Path

import numpy as np
import pandas as pd

from rankadaptor.escaping import html_text, markdown_text
from rankadaptor.experiments.results import TableResult
from rankadaptor.reporting.tables.writing import markdown, write_markdown
from rankadaptor.statistics import bootstrap_macro_mean

_STATISTICS = {"own_perplexity": "own perplexity", "dense_perplexity": "perplexity under the dense model",
               "repetition": "repeated 4-grams (%)", "distinct_1": "distinct-1 (%)", "distinct_2": "distinct-2 (%)"}


def continuations(result: TableResult) -> pd.DataFrame:
    """All continuations of a table: block, method, then the columns of `evaluation.generation` and the seed."""
    tables = {(row.block, row.method): row.continuations for row in result.rows() if row.continuations is not None}
    return pd.concat(tables, names=["block", "method"]).reset_index(["block", "method"]).reset_index(drop=True)


def sample_statistics(result: TableResult) -> pd.DataFrame:
    """Means over prompts with 95 % intervals, by model and decoding; perplexities are geometric means.

    Intervals resample prompts, and training seeds as the outer level; a prompt's samples are averaged first. Missing
    values, such as the perplexity of an empty continuation, are left out.

    Returns:
        Columns block, method, decoding, continuations, tokens (mean), and each statistic as text.
    """
    lines = []
    for key, rows in continuations(result).groupby(["block", "method", "decoding"], sort=False):
        line = dict(zip(("block", "method", "decoding"), key, strict=True))
        line |= {"continuations": len(rows), "tokens": f"{rows['tokens'].mean():.1f}"}
        for column, label in _STATISTICS.items():
            is_perplexity = column.endswith("perplexity")
            values = rows.assign(value=np.log(rows[column]) if is_perplexity else 100 * rows[column])
            wide = values.pivot_table(index="seed", columns="prompt", values="value").dropna(axis="columns")
            if wide.empty:
                line[label] = ""
                continue
            interval = bootstrap_macro_mean({label: wide.to_numpy()})
            shown = np.exp(interval) if is_perplexity else np.clip(interval, 0, 100)
            line[label] = "{:.1f} [{:.1f}, {:.1f}]".format(*shown)
        lines.append(line)
    return pd.DataFrame(lines)


def side_by_side(result: TableResult, block: str, decoding: str = "greedy") -> str:
    """HTML: one table a prompt, one column a model, the first training seed and the first sample."""
    texts = continuations(result)
    texts = texts[texts["block"].isin([block, result.dense.block]) & (texts["decoding"] == decoding)]
    texts = texts[texts["seed"] == min(result.seeds)]
    parts = []
    for prompt, rows in texts.groupby("prompt", sort=False):
        first = rows.drop_duplicates(["block", "method"])
        heads = "".join(f"<th>{html_text(method)}</th>" for method in first["method"])
        cells = "".join(f"<td>{html_text(text.strip())}</td>" for text in first["text"])
        parts.append(f"<p><strong>{html_text(str(prompt).strip())}</strong> ...</p>\n<table class=\"texts\">\n"
                     f"<thead><tr>{heads}</tr></thead>\n<tbody><tr>{cells}</tr></tbody>\n</table>")
    return "\n".join(parts)


def write_samples(result: TableResult, folder: Path | str) -> list[Path]:
    """Write NAME-samples.csv (every continuation) and NAME-samples.md (statistics, then texts side by side)."""
    folder, name = Path(folder), result.contents.name
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}-samples.csv", folder / f"{name}-samples.md"]
    continuations(result).to_csv(paths[0], index=False, float_format="%.4f")
    parts = [f"# {markdown_text(result.contents.title)}, measured here",
             f"Base model: {markdown_text(result.profile.base_model.label)}.",
             markdown(sample_statistics(result))]
    for block in result.blocks:
        parts += [f"## {markdown_text(block)}", *(f"### {decoding}\n\n{side_by_side(result, block, decoding)}"
                                   for decoding in ("greedy", "sampled"))]
    write_markdown(parts, paths[1])
    return paths
