"""Ablations: what LoRA and RankAdaptor reach in every variant, and whether a variant changes either."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rankadaptor.data.tasks import TASKS
from rankadaptor.experiments.ablations import ABLATIONS, AblationTables
from rankadaptor.experiments.methods import LORA, NO_RECOVERY, RANKADAPTOR, RANKADAPTOR_PER_TASK
from rankadaptor.experiments.results import Row, TableResult
from rankadaptor.reporting.figures import STYLE, closed, reach
from rankadaptor.reporting.paper import published_table
from rankadaptor.reporting.tables import (
    MEAN,
    bootstrapped,
    cells,
    differences_to_lora,
    entries_provenance,
    markdown,
    write_json,
)

_SHOWN = (NO_RECOVERY, LORA, RANKADAPTOR, RANKADAPTOR_PER_TASK)


def ablation_frame(variants: Mapping[str, TableResult]) -> pd.DataFrame:
    """Every row of every variant, means over seven tasks, in points.

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
                found = gains.loc[row.method]
                line |= {"difference": found["difference"], "difference_low": found["low"],
                         "difference_high": found["high"], "verdict": found["verdict"]}
            if (change := _change(row, base.get(row.method))) is not None:
                line |= dict(zip(("change", "change_low", "change_high"), change, strict=True))
            lines.append(line)
    columns = ["variant", "method", "value", "low", "high", "difference", "difference_low", "difference_high",
               "verdict", "change", "change_low", "change_high"]
    return pd.DataFrame(lines, columns=columns)


def _rows(result: TableResult) -> list[Row]:
    return [row for block in result.blocks.values() for row in block.rows if row.method in _SHOWN]


def _change(row: Row, base: Row | None) -> tuple[float, float, float] | None:
    """Against the base variant, in points: value, low, high; None against itself, or where seeds differ."""
    if base is None or base is row or base.outcomes[TASKS[0]].shape != row.outcomes[TASKS[0]].shape:
        return None
    found = bootstrapped({task: row.outcomes[task] - base.outcomes[task] for task in TASKS}, row)
    return 100 * found.value, 100 * found.low, 100 * found.high


def ablation_table(name: str, variants: Mapping[str, TableResult]) -> pd.DataFrame:
    """`ablation_frame` as people read it, with the mean over tasks that Table 3 prints of the variant."""
    frame = ablation_frame(variants)
    published = _published(name)
    return pd.DataFrame({
        "variant": frame["variant"],
        "method": frame["method"],
        "accuracy (%)": _shown(frame, "value", "low", "high", "{:.1f} [{:.1f}, {:.1f}]"),
        "accuracy - LoRA (points)": _shown(frame, "difference", "difference_low", "difference_high"),
        "change against the first variant (points)": _shown(frame, "change", "change_low", "change_high"),
        "verdict": frame["verdict"].fillna(""),
        "published mean": [f"{published[variant]:.2f}" if method == RANKADAPTOR and variant in published else ""
                           for variant, method in zip(frame["variant"], frame["method"], strict=True)],
    })


def _shown(
    frame: pd.DataFrame, value: str, low: str, high: str, layout: str = "{:+.1f} [{:+.1f}, {:+.1f}]"
) -> list[str]:
    return ["" if np.isnan(row[value]) else layout.format(row[value], row[low], row[high])
            for _, row in frame.iterrows()]


def _published(name: str) -> dict[str, float]:
    """Variant -> mean of Table 3's seven tasks. Our micro-batches are shares of another batch, and have none."""
    table = published_table(3)
    rows = table[table["factor"] == ABLATIONS[name].published]
    labels = {"N=10": "10 samples", "N=50": "50 samples"}
    return {labels.get(setting, setting): mean for setting, mean in
            zip(rows["setting"], rows[list(TASKS)].mean(axis=1), strict=True)}


def ablation_figure(name: str, variants: Mapping[str, TableResult]) -> Figure:
    """Accuracy by variant, and what RankAdaptor gains over LoRA in each, with 95 % intervals."""
    frame = ablation_frame(variants)
    labels = list(variants)
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        height = 0.55 * len(labels) + 1.9
        figure, axes = plt.subplots(1, 2, figsize=(11, height), layout="constrained", sharey=True)
        for number, (method, rows) in enumerate(frame.groupby("method", sort=False)):
            places = np.array([labels.index(one) for one in rows["variant"]]) + 0.15 * (number - 1.5)
            for axis, columns in zip(axes, (("value", "low", "high"),
                                            ("difference", "difference_low", "difference_high")), strict=True):
                if axis is axes[1] and method in (LORA, NO_RECOVERY):
                    continue
                value, low, high = rows[list(columns)].to_numpy(dtype=float).T
                axis.errorbar(value, places, xerr=reach(value, low, high), fmt="osD^"[number], color=f"C{number}",
                              capsize=2, markersize=5, label=str(method))
        axes[0].set_yticks(range(len(labels)), labels)
        axes[0].set(xlabel="accuracy, mean of seven tasks (%), 95 % interval", title=ABLATIONS[name].title)
        axes[0].invert_yaxis()
        axes[1].axvline(0, color="0.4", linewidth=1)
        axes[1].set(xlabel="points, 95 % interval", title="difference to LoRA of the same variant, paired")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return closed(figure)


def write_ablations(work: AblationTables, results: Mapping[str, Mapping[str, TableResult]], folder: Path | str,
                    name: str = "ablations") -> Path:
    """Write NAME.md, NAME.csv and NAME-provenance.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = ["# Ablations, measured here",
             f"Base model: {work.profile.base_model.label}. Accuracy is the mean of seven tasks with its 95 % interval;"
             " differences are paired by item and seed."]
    for one, variants in results.items():
        result = next(iter(variants.values()))
        block = " ".join([*result.blocks, *result.unfinished])
        parts += [f"## {ABLATIONS[one].title}", f"{ABLATIONS[one].question} Block {block}, budget"
                  f" {result.budget_name}, training seeds {' '.join(map(str, result.seeds))}.",
                  markdown(ablation_table(one, variants))]
        parts += [f"No result of {label}: {why}." for label, of in variants.items() for why in of.failures()]
    path = folder / f"{name}.md"
    path.write_text("\n\n".join(parts) + "\n")
    frames = {one: ablation_frame(variants) for one, variants in results.items()}
    whole = pd.concat(frames, names=["ablation"]).reset_index("ablation")
    whole.to_csv(path.with_suffix(".csv"), index=False, float_format="%.4f")
    keys = {f"{one} {label} {row.method}": list(row.keys) for one, variants in results.items()
            for label, result in variants.items() for row in _rows(result)}
    write_json({"profile": work.profile.name} | entries_provenance(work.profile, keys, work.ledger),
               path.with_name(f"{name}-provenance.json"))
    return path
