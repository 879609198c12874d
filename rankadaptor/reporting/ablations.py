"""Ablations: accuracy of LoRA and RankAdaptor in every variant, and whether a variant changes either."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rankadaptor.data.tasks import TASKS
from rankadaptor.escaping import markdown_text
from rankadaptor.experiments.ablations import ABLATIONS, AblationTables
from rankadaptor.experiments.methods import LORA, NO_RECOVERY, RANKADAPTOR, RANKADAPTOR_PER_TASK
from rankadaptor.experiments.results import Row, TableResult
from rankadaptor.reporting.labels import MEAN, count_word, result_tasks
from rankadaptor.reporting.paper import published_table
from rankadaptor.reporting.provenance import entries_provenance, seconds_by_stage, write_json
from rankadaptor.reporting.style import AXIS_LINE, closed, figure_style, legend_below, reach
from rankadaptor.reporting.tables.accuracy import bootstrapped, cells, interval_column
from rankadaptor.reporting.tables.differences import differences_to_lora
from rankadaptor.reporting.tables.writing import markdown, write_markdown

_SHOWN = (NO_RECOVERY, LORA, RANKADAPTOR, RANKADAPTOR_PER_TASK)


def ablation_frame(variants: Mapping[str, TableResult]) -> pd.DataFrame:
    """Every row of every variant, means over tasks, in points.

    Returns:
        Columns variant, method, value, low, high (accuracy, percent); difference, difference_low, difference_high (to
        LoRA of the same variant); change, change_low, change_high (of the same method against the first variant, paired
        by item and seed; not a number where seeds differ); verdict.
    """
    base = {row.method: row for row in _rows(next(iter(variants.values())))}
    lines = []
    for label, result in variants.items():
        means = cells(result)
        means = means[(means["column"] == MEAN) & (means["block"] != result.dense.block)].set_index("method")
        gains = differences_to_lora(result).set_index("method")
        for row in _rows(result):
            line: dict[str, Any] = {"variant": label, "method": row.method}
            interval = 100 * means.loc[row.method, ["value", "low", "high"]].to_numpy(dtype=float)
            line |= dict(zip(("value", "low", "high"), interval, strict=True))
            if row.method in gains.index:
                gain = gains.loc[row.method]
                line |= {"difference": gain["difference"], "difference_low": gain["low"],
                         "difference_high": gain["high"], "verdict": gain["verdict"]}
            if (change := _change(row, base.get(row.method))) is not None:
                line |= dict(zip(("change", "change_low", "change_high"), change, strict=True))
            lines.append(line)
    columns = ["variant", "method", "value", "low", "high", "difference", "difference_low", "difference_high",
               "verdict", "change", "change_low", "change_high"]
    return pd.DataFrame(lines, columns=columns)


def _rows(result: TableResult) -> list[Row]:
    return [row for block in result.blocks.values() for row in block.rows if row.method in _SHOWN]


def _change(row: Row, base: Row | None) -> tuple[float, float, float] | None:
    """Difference to the base variant in points (value, low, high); None against itself, or where seeds differ."""
    if base is None or base is row:
        return None
    tasks = tuple(row.outcomes)
    if base.outcomes[tasks[0]].shape != row.outcomes[tasks[0]].shape:
        return None
    change = bootstrapped({task: row.outcomes[task] - base.outcomes[task] for task in tasks}, row)
    return 100 * change.value, 100 * change.low, 100 * change.high


def ablation_table(name: str, variants: Mapping[str, TableResult]) -> pd.DataFrame:
    """`ablation_frame` as people read it, with the mean over tasks that Table 3 prints of the variant."""
    frame = ablation_frame(variants)
    published = _published(name)
    return pd.DataFrame({
        "variant": frame["variant"],
        "method": frame["method"],
        "accuracy (%)": interval_column(frame, "value", "low", "high", "{:.1f} [{:.1f}, {:.1f}]"),
        "accuracy - LoRA (points)": interval_column(frame, "difference", "difference_low", "difference_high"),
        "change against the first variant (points)": interval_column(frame, "change", "change_low", "change_high"),
        "verdict": frame["verdict"].fillna(""),
        "published mean": [f"{published[variant]:.2f}" if method == RANKADAPTOR and variant in published else ""
                           for variant, method in zip(frame["variant"], frame["method"], strict=True)],
    })


def _published(name: str) -> dict[str, float]:
    """Variant -> mean of the seven tasks in Table 3. Our micro-batches are shares of another batch, and have none."""
    table = published_table(3)
    rows = table[table["factor"] == ABLATIONS[name].published]
    labels = {"N=10": "10 samples", "N=50": "50 samples"}
    return {labels.get(setting, setting): mean for setting, mean in
            zip(rows["setting"], rows[list(TASKS)].mean(axis=1), strict=True)}


def ablation_figure(name: str, variants: Mapping[str, TableResult]) -> Figure:
    """Accuracy by variant, and what RankAdaptor gains over LoRA in each, with 95 % intervals."""
    frame = ablation_frame(variants)
    labels = list(variants)
    with figure_style():
        height = 0.55 * len(labels) + 1.9
        figure, axes = plt.subplots(1, 2, figsize=(11, height), layout="constrained", sharey=True)
        for number, (method, rows) in enumerate(frame.groupby("method", sort=False)):
            heights = np.array([labels.index(label) for label in rows["variant"]]) + 0.15 * (number - 1.5)
            for axis, columns in zip(axes, (("value", "low", "high"),
                                            ("difference", "difference_low", "difference_high")), strict=True):
                if axis is axes[1] and method in (LORA, NO_RECOVERY):
                    continue
                value, low, high = rows[list(columns)].to_numpy(dtype=float).T
                axis.errorbar(value, heights, xerr=reach(value, low, high), fmt="osD^"[number], color=f"C{number}",
                              capsize=2, markersize=5, label=str(method))
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set(xlabel=f"accuracy, mean of {_task_count(variants)} tasks (%), 95 % interval",
                    title=ABLATIONS[name].title)
        axes[0].invert_yaxis()
        axes[1].axvline(0, **AXIS_LINE)
        axes[1].set(xlabel="points, 95 % interval", title="difference to LoRA of the same variant, paired")
        legend_below(figure, axes[0], 4)
    return closed(figure)


def _task_count(variants: Mapping[str, TableResult]) -> str:
    return count_word(len(result_tasks(next(iter(variants.values())))))


def write_ablations(work: AblationTables, results: Mapping[str, Mapping[str, TableResult]], folder: Path | str,
                    name: str = "ablations") -> Path:
    """Write NAME.md, which it returns, NAME.csv and NAME-provenance.json.

    Args:
        results: Of `work.run`: ablation -> variant -> result.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = ["# Ablations, measured here",
             f"Base model: {markdown_text(work.profile.base_model.label)}. Accuracy is the mean of"
             f" {_task_count(next(iter(results.values())))} tasks with its 95 % interval;"
             " differences are paired by item and seed."]
    for ablation, variants in results.items():
        result = next(iter(variants.values()))
        block = " ".join([*result.blocks, *result.unfinished])
        about = ABLATIONS[ablation]
        parts += [f"## {markdown_text(about.title)}",
                  markdown_text(f"{about.question} Block {block}, budget {result.budget_name}, training seeds"
                                f" {' '.join(map(str, result.seeds))}."),
                  markdown(ablation_table(ablation, variants))]
        parts += [markdown_text(f"No result of {label}: {failure}.") for label, variant in variants.items()
                  for failure in variant.failures()]
    path = folder / f"{name}.md"
    write_markdown(parts, path)
    frames = {ablation: ablation_frame(variants) for ablation, variants in results.items()}
    frame = pd.concat(frames, names=["ablation"]).reset_index("ablation")
    frame.to_csv(path.with_suffix(".csv"), index=False, float_format="%.4f")
    keys = {f"{ablation} {label} {row.method}": list(row.keys) for ablation, variants in results.items()
            for label, result in variants.items() for row in _rows(result)}
    write_json(_settings(work, results) | entries_provenance(work.profile, keys, work.ledger),
               path.with_name(f"{name}-provenance.json"))
    return path


def _settings(work: AblationTables, results: Mapping[str, Mapping[str, TableResult]]) -> dict[str, Any]:
    """What the page was made with: profile, blocks, budget, training seeds, and where the time went."""
    tables = [result for variants in results.values() for result in variants.values()]
    first = tables[0]
    stages = dict.fromkeys(stage for result in tables for stage in result.stages)
    return {"profile": work.profile.name, "blocks": [*first.blocks, *first.unfinished], "budget": first.budget_name,
            "training_seeds": list(first.seeds), "seconds": seconds_by_stage(stages, work.ledger)}
