"""The pruning page: which heads and layers went, importance by layer, what each rate does to perplexity."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rankadaptor.data.text import perplexity_label
from rankadaptor.escaping import markdown_text
from rankadaptor.experiments.pruned_models import PrunedModelsResult
from rankadaptor.pipeline.records import is_unpacked
from rankadaptor.pruning.spec import PRUNERS
from rankadaptor.reporting.provenance import entries_provenance, write_json
from rankadaptor.reporting.style import HEAT_MAP, closed, figure_style, integer_ticks, layer_ticks, save_figures
from rankadaptor.reporting.tables.writing import markdown, write_markdown


def page_figures(models: PrunedModelsResult) -> dict[str, Figure]:
    """Name -> figure; a pruner's figures only where one of its blocks is on the page."""
    figures: dict[str, Figure] = {}
    if models.of("llm-pruner"):
        figures |= {"heads": heads_figure(models), "importance": unit_importance_figure(models)}
    if models.of("shortened"):
        figures["blocks"] = blocks_figure(models)
    return figures | {"perplexity": perplexity_figure(models)}


def footprint_text(models: PrunedModelsResult) -> str:
    """Memory and speed of every model as Markdown, measured now; where only records are here, that they are not."""
    if is_unpacked(models.ledger):
        return ("Not measured: this page was drawn from committed records, which hold no models. `make"
                " reproduce-pruning` makes them, and measures.")
    return markdown(models.footprints())


def heads_figure(models: PrunedModelsResult) -> Figure:
    """LLM-Pruner: of every KV head, the first rate at which it goes; the heads of empty squares always stay."""
    rates = models.head_rates().T  # (heads, layers)
    with figure_style(grid=False):
        figure, axis = plt.subplots(figsize=(0.32 * rates.shape[1] + 2, 0.32 * rates.shape[0] + 1.2),
                                    layout="constrained")
        sns.heatmap(rates, fmt=".0f", linewidths=0.5, linecolor="0.85", square=True, ax=axis, annot_kws={"size": 7},
                    xticklabels=list(range(1, rates.shape[1] + 1)), **HEAT_MAP | {"cmap": "cividis_r"})
        axis.set(xlabel="decoder layer", ylabel="KV head", title="LLM-Pruner: a head goes from this rate (%) on")
        layer_ticks(axis)
    return closed(figure)


def unit_importance_figure(models: PrunedModelsResult) -> Figure:
    """LLM-Pruner: importance of heads (each a dot) and of MLP channels (median, 10 to 90 % of them) by layer."""
    layers = models.importance(models.of("llm-pruner")[0])["layers"]
    numbers = np.arange(1, len(layers) + 1)
    with figure_style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
        for number, layer in zip(numbers, layers, strict=True):
            left.plot([number] * len(layer["kv_heads"]), layer["kv_heads"], "o", color="C0", markersize=3)
        left.set(title="KV heads", xlabel="decoder layer", ylabel="importance", yscale="log")
        low, middle, high = np.array([np.quantile(layer["channels"], (0.1, 0.5, 0.9)) for layer in layers]).T
        right.fill_between(numbers, low, high, color="C0", alpha=0.25, label="10 to 90 %")
        right.plot(numbers, middle, "o-", color="C0", markersize=3, label="median")
        right.set(title="MLP channels", xlabel="decoder layer", yscale="log")
        right.legend()
        for axis in (left, right):
            integer_ticks(axis)
    return closed(figure)


def blocks_figure(models: PrunedModelsResult) -> Figure:
    """Shortened LLaMA: importance of every decoder block, and the first rate at which it goes."""
    block = models.of("shortened")[0]
    scores, rates = models.importance(block)["blocks"], models.block_rates()
    spec = models.profile.prune_spec(block)
    with figure_style():
        figure, axis = plt.subplots(figsize=(0.32 * len(scores) + 2, 3.2), layout="constrained")
        for layer, (score, rate) in enumerate(zip(scores, rates, strict=True)):
            protected = not spec.first_layer <= layer < spec.end_layer
            color = "0.75" if protected else "C0" if np.isnan(rate) else "C1"
            bar = axis.bar(layer + 1, score, color=color)
            axis.bar_label(bar, ["" if np.isnan(rate) else f"{rate:.0f}"], fontsize=7)
        axis.set(xlabel="decoder block (grey: protected)", ylabel="importance", xticks=range(1, len(scores) + 1),
                 title="Shortened LLaMA: a block goes from this rate (%) on")
        axis.grid(visible=False, axis="x")
        axis.tick_params(axis="x", labelsize=7)
    return closed(figure)


def perplexity_figure(models: PrunedModelsResult) -> Figure:
    """Perplexity against the share of parameters left, one panel a pruner."""
    frame = models.losses().set_index("block")
    pruners = [pruner for pruner in PRUNERS if any(name.startswith(f"{pruner}:") for name in frame.index)]
    with figure_style():
        figure, axes = plt.subplots(1, len(pruners), figsize=(4.8 * len(pruners), 3.4), sharey=True, squeeze=False,
                                    layout="constrained")
        for number, (axis, pruner) in enumerate(zip(axes[0], pruners, strict=True)):
            names = ["Dense", *(name for name in frame.index if name.startswith(f"{pruner}:"))]
            rows = frame.loc[names].sort_values("parameters left (%)")
            axis.plot(rows["parameters left (%)"], rows["perplexity"], "o-", color=f"C{number}")
            for left, value in zip(rows["parameters left (%)"], rows["perplexity"], strict=True):
                axis.annotate(f"{value:,.2f}" if value < 1e4 else f"{value:.1e}", (left, value), fontsize=8,
                              xytext=(4, 4), textcoords="offset points")
            axis.set(title=f"{pruner}, no recovery", xlabel="parameters left (%)", yscale="log")
            axis.tick_params(axis="y", which="both", labelleft=False)  # each point is labelled
            axis.margins(0.15)
        axes[0][0].set_ylabel("perplexity (log scale)")
    return closed(figure)


def write_page(
    models: PrunedModelsResult, losses: pd.DataFrame, figures: dict[str, Figure], folder: Path | str
) -> Path:
    """Write pruning.md, which it returns, pruning.csv, pruning-provenance.json and the figures.

    Times and memory of this machine go into none of them.

    Args:
        losses: Of `PrunedModelsResult.losses`.
        figures: Of `page_figures`.
    """
    path = Path(folder) / "pruning.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    profile, text = models.profile, models.profile.evaluation.perplexity
    criteria = ", ".join(f"{settings.importance} ({PRUNERS[pruner].title})"
                         for pruner, settings in profile.pruning.items())
    windows = f"the first {text.max_windows} windows" if text.max_windows else "windows"
    write_markdown([
        f"# Pruned models of profile {profile.name}",
        markdown_text(f"Base model: {profile.base_model.label}. Importance: {criteria}. Perplexity of "
                      f"{perplexity_label(profile.benchmarks)}, {windows} of {text.window_tokens} tokens, BOS:"
                      f" {text.bos}."),
        markdown(losses),
        *(f"![{name}](pruning-{name}.png)" for name in figures),
    ], path)
    losses.to_csv(path.with_suffix(".csv"), index=False, float_format="%.6f")
    origin = {"profile": profile.name} | entries_provenance(profile, models.keys(), models.ledger)
    write_json(origin, path.with_name("pruning-provenance.json"))
    save_figures(figures, path.parent, "pruning")
    return path
