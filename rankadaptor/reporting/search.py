"""The search's page: what a measurement is worth, what predictors predict, and what searches find, from replays."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from rankadaptor.profiles import Profile
from rankadaptor.ranktable.meta_records import ORIGINS, task_scores
from rankadaptor.ranktable.replay import Job, Replay
from rankadaptor.ranktable.replayed_searches import TOPS, recoveries_needed, replayed
from rankadaptor.reporting.figures import STYLE, closed, reach
from rankadaptor.reporting.tables import markdown, write_json
from rankadaptor.search.predictors import find_predictor
from rankadaptor.search.rivals import RIVALS
from rankadaptor.search.rounds import mean_score
from rankadaptor.search.settings import SearchSettings

OURS, PAPER = "RankAdaptor", "RankAdaptor (paper)"
FEW = 48  # candidates of a round, where proposals are the question
_LINES = ("-", "--", "-.", ":")
_MARKS = ((0, (1, 3)), (0, (7, 2)), (0, (4, 2, 1, 2, 1, 2)))


def method_jobs(settings: SearchSettings, paper: SearchSettings) -> list[Job]:
    """The performance model as the profile has it and as the paper has it, and its rivals."""
    return [Job(OURS, settings), Job(PAPER, paper), *(Job(name, settings, rival=name) for name in RIVALS)]


def ablation_jobs(settings: SearchSettings, paper: SearchSettings, stopping: SearchSettings) -> list[Job]:
    """One change at a time: every choice of ours, and Table 3's settings of the paper's model.

    In a pool, every round may offer all that is left; where proposals are the question it offers a few.
    """
    few = dataclasses.replace(settings, candidates_per_round=FEW)
    changes: dict[str, tuple[SearchSettings, dict[str, Any]]] = {
        "upper confidence": (settings, {"acquisition": "upper confidence"}),
        "Thompson": (settings, {"acquisition": "thompson"}),
        "one network of the eight": (settings, {"predictor": "single"}),
        "ranking loss": (settings, {"predictor": "ranking"}),
        "heads by task": (settings, {"heads": "tasks"}),
        "logarithms without squares": (settings, {"inputs": "logarithms"}),
        "ranks as they are": (settings, {"inputs": "ranks"}),
        "ridge": (settings, {"predictor": "ridge"}),
        "gaussian process": (settings, {"predictor": "gaussian process"}),
        "choice by prediction": (settings, {"selection": "predicted"}),
        f"{FEW} proposals a round, half near the best": (few, {"proposals": "near"}),
        f"{FEW} proposals a round, uniform": (few, {"proposals": "uniform"}),
        f"{FEW} proposals a round, half near the best, guessed": (few, {"proposals": "near", "predictor": "guess"}),
        "paper, setting 2": (paper, {"predictor": "setting 2"}),
        "paper, setting 3": (paper, {"predictor": "setting 3"}),
    }
    if not find_predictor(settings.predictor).has_members:
        del changes["Thompson"]  # draws one of the predictor's members
    jobs = [Job(OURS, settings), Job("no records of other blocks", settings, records=False),
            Job("stops where prediction meets reality", stopping)]
    jobs += [Job(label, dataclasses.replace(base, **change)) for label, (base, change) in changes.items()]
    return jobs + [Job(f"{signal} as signal", settings, signal=signal) for signal in ("accuracy", "held_out_loss")]


# -- tables -----------------------------------------------------------------------------------------------------------


def found_table(curves: pd.DataFrame, at: int) -> pd.DataFrame:
    """What each method found: recoveries to the top, and what its choice is worth after so many recoveries.

    Medians and quartiles over searches.
    """
    most = int(curves["recoveries"].max())
    needed = {top: recoveries_needed(curves, top) for top in TOPS}
    lines = []
    for method, rows in curves[curves["recoveries"] == at].groupby("method", sort=False):
        line: dict[str, Any] = {"method": method}
        for top, table in needed.items():
            low, middle, high = (f"> {most}" if n > most else f"{n:.0f}"
                                 for n in np.quantile(table[method], [0.25, 0.5, 0.75]))
            line[f"recoveries to the top {100 * top:.0f} %"] = f"{middle} [{low}, {high}]"
            line[f"reach it ({100 * top:.0f} %)"] = f"{100 * (table[method] <= most).mean():.0f} %"
        lines.append(line | {
            "recoveries spent": f"{rows['spent'].mean():.0f}",
            f"regret after {at}, gold probability (points)": _quartiles(rows["regret"], "{:.2f}"),
            f"regret after {at}, accuracy (points)": _quartiles(rows["regret in accuracy"], "{:.1f}"),
            "worse allocations (%)": _quartiles(100 * rows["share"], "{:.0f}"),
        })
    return pd.DataFrame(lines)


def _quartiles(values: pd.Series, layout: str) -> str:
    low, middle, high = (layout.format(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return f"{middle} [{low}, {high}]"


def compared(curves: pd.DataFrame, base: str, at: int) -> pd.DataFrame:
    """Regret of every method less that of `base`, in points: mean with its 95 % interval, and by direction.

    The interval speaks of search seeds. Both directions share one pair of trainings: where they disagree, the trainings
    decide, and not the methods.
    """
    lines, regrets = [], regrets_at(curves, at)
    for method in curves["method"].unique():
        if method == base:
            continue
        pairs = paired(regrets, method, base)
        low, high = np.quantile(paired_draws(pairs), [0.025, 0.975])
        directions = " / ".join(f"{mean:+.2f}" for mean in pairs.mean(axis=1))
        lines.append({"method": method, f"regret less that of {base} (points)":
                      f"{pairs.mean():+.3f} [{low:+.3f}, {high:+.3f}]", "by direction": directions})
    return pd.DataFrame(lines)


def regrets_at(curves: pd.DataFrame, at: int) -> pd.DataFrame:
    """One row a search seed, one column a method: regret after so many recoveries, in points."""
    return curves[curves["recoveries"] == at].pivot(index="seed", columns="method", values="regret")


def paired(by_seed: pd.DataFrame, method: str, base: str) -> np.ndarray:
    """Differences of two methods over equal search seeds.

    Args:
        by_seed: One row a search seed, one column a method.

    Returns:
        Even seeds, which search on the first training, in the first row; odd ones in the second.  # (2, searches / 2)
    """
    pairs = (by_seed[method] - by_seed[base]).sort_index().to_numpy()
    half = len(pairs) // 2
    return np.stack([pairs[0 : 2 * half : 2], pairs[1 : 2 * half : 2]])


def paired_draws(pairs: np.ndarray, draws: int = 4000) -> np.ndarray:
    """Bootstrapped means of `paired`, search seeds resampled within each direction.  # (draws,)"""
    generator = np.random.default_rng(0)
    return np.mean([generator.choice(one, (draws, len(one))).mean(axis=1) for one in pairs], axis=0)


def predictor_table(statistics: pd.DataFrame) -> pd.DataFrame:
    """Rank statistics as people read them: value and 95 % interval."""
    shown = statistics[["predictor", "size"]].copy()
    for name in statistics.columns:
        if f"{name}, low" in statistics:
            shown[name] = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in
                           zip(statistics[name], statistics[f"{name}, low"], statistics[f"{name}, high"], strict=True)]
    return shown


def uniform_table(table: pd.DataFrame, block: str, scaling: str) -> pd.DataFrame:
    """Rules of thumb under two training seeds: parameters, report scores, losses."""
    rows = table[(table["block"] == block) & (table["scaling"] == scaling)]
    rows = rows[~rows["origin"].isin(ORIGINS)]
    rows = rows.assign(**{
        metric: [100 * mean_score(task_scores(row, "report", metric)) for _, row in rows.iterrows()]
        for metric in ("gold_probability", "accuracy")
    })
    grouped = rows.groupby("origin")
    frame = pd.DataFrame({
        "trained parameters": grouped["trainable_parameters"].first(),
        "gold probability (%)": grouped["gold_probability"].apply(_mean_and_each, layout="{:.2f}"),
        "accuracy (%)": grouped["accuracy"].apply(_mean_and_each, layout="{:.1f}"),
        "training loss": grouped["training_loss"].mean(),
    })
    return frame.sort_values("trained parameters").rename_axis("allocation").reset_index()


def _mean_and_each(values: pd.Series, layout: str) -> str:
    return f"{layout.format(values.mean())} ({' '.join(map(layout.format, values))})"


# -- figures ----------------------------------------------------------------------------------------------------------


def regret_figure(curves: Mapping[str, pd.DataFrame], marks: Mapping[str, Mapping[str, float]]) -> Figure:
    """Regret of the chosen allocation against recoveries, median and quartiles over searches; a panel a block.

    Args:
        marks: By block: regrets to compare with, by label.
    """
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, len(curves), figsize=(5 * len(curves) + 0.5, 4.2), squeeze=False,
                                    layout="constrained")
        for axis, (block, table) in zip(axes[0], curves.items(), strict=True):
            for number, (method, rows) in enumerate(table.groupby("method", sort=False)):
                bands = rows.groupby("recoveries")["regret"].quantile(np.array([0.25, 0.5, 0.75])).unstack()
                axis.plot(bands.index, bands[0.5], _LINES[number % 4], color=f"C{number}", label=str(method))
                axis.fill_between(bands.index, bands[0.25], bands[0.75], color=f"C{number}", alpha=0.12, linewidth=0)
            for number, (label, regret) in enumerate(marks[block].items()):
                axis.axhline(regret, color="0.25", linewidth=1.2, linestyle=_MARKS[number], label=label)
            axis.set(title=block, xlabel="recoveries", ylabel="regret in gold probability (points)")
            axis.set_ylim(bottom=0)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return closed(figure)


def top_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Recoveries that each method needs to measure one of the pool's top, by the score it searches."""
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, len(curves), figsize=(4.2 * len(curves) + 1.5, 3.6), squeeze=False,
                                    layout="constrained", sharey=True)
        for axis, (block, table) in zip(axes[0], curves.items(), strict=True):
            for number, top in enumerate(TOPS):
                needed = recoveries_needed(table, top).iloc[:, ::-1]
                low, middle, high = np.quantile(needed, [0.25, 0.5, 0.75], axis=0)
                places = np.arange(len(middle)) - 0.12 + 0.24 * number
                axis.errorbar(middle, places, xerr=reach(middle, low, high), fmt="os"[number], color=f"C{number}",
                              capsize=3, label=f"the top {100 * top:.0f} % of the pool")
            axis.set_yticks(range(len(needed.columns)), list(needed.columns))
            axis.axvline(table["recoveries"].max() + 1, color="0.4", linestyle=":", label="never")
            axis.set(title=block, xlabel="recoveries (median, quartiles)")
            axis.set_xlim(left=0)
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return closed(figure)


def trace_figure(replay: Replay, job: Job, seeds: Sequence[int] = (0, 1, 2)) -> Figure:
    """Figure 4, measured: what was predicted (Q) and measured (P) round by round, in some replayed searches."""
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, len(seeds), figsize=(4 * len(seeds), 3.4), squeeze=False, sharey=True,
                                    layout="constrained")
        for axis, seed in zip(axes[0], seeds, strict=True):
            for one in replayed(replay, job, seed).rounds:
                measured = [100 * mean_score(scores) for scores in one.scores]
                axis.plot([one.number] * len(measured), measured, "o", color="C0", markersize=4)
                if one.predictions:
                    axis.plot([one.number] * len(measured), [100 * q for q in one.predictions], "x", color="C1")
            axis.plot([], [], "o", color="C0", label="measured (P)")
            axis.plot([], [], "x", color="C1", label="predicted (Q)")
            axis.set(title=f"search seed {seed}", xlabel="round (0: initialization)")
        axes[0][0].set_ylabel("gold probability,\nsearch split (%)")
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return closed(figure)


def prediction_figure(predictions: pd.DataFrame, predictor: str) -> Figure:
    """Out-of-sample predictions against the score that was searched, and the other training's on report items."""
    rows = predictions[predictions["predictor"] == predictor]
    rows = rows[rows["size"] == rows["size"].max()]
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        titles = {"same": "the searched score (same training, search split)",
                  "other": "another training, report split"}
        for axis, (target, title) in zip(axes, titles.items(), strict=True):
            for number, (seed, one) in enumerate(rows.groupby("seed")):
                points = 100 * one["predicted"], 100 * one[target]
                axis.plot(*points, "o", markersize=3, alpha=0.5, color=f"C{number}", label=f"training seed {seed}")
            axis.set(title=title, xlabel="predicted gold probability (%)", ylabel="measured (%)")
        axes[0].legend()
    return closed(figure)


def learning_figure(statistics: pd.DataFrame, limit: float) -> Figure:
    """Kendall's tau against the number of recoveries that a predictor learned from, with 95 % intervals."""
    with matplotlib.rc_context(STYLE), sns.axes_style("whitegrid"):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
        for axis, target in zip(axes, ("same", "other"), strict=True):
            for number, (name, rows) in enumerate(statistics.groupby("predictor", sort=False)):
                tau = f"tau, {target}"
                axis.plot(rows["size"], rows[tau], _LINES[number % 4], marker="o", markersize=3, color=f"C{number}",
                          label=str(name))
                axis.fill_between(rows["size"], rows[f"{tau}, low"], rows[f"{tau}, high"], color=f"C{number}",
                                  alpha=0.08, linewidth=0)
            axis.set(xlabel="recoveries learned from", xscale="log",
                     title={"same": "same training, search split", "other": "other training, report split"}[target])
            sizes = sorted(statistics["size"].unique())
            axis.set_xticks(sizes, list(map(str, sizes)))
            axis.minorticks_off()
        axes[1].axhline(limit, color="0.4", linestyle=(0, (1, 3)), label="one measurement as predictor")
        axes[0].set_ylabel("Kendall's tau, held-out allocations")
        figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return closed(figure)


# -- the page ---------------------------------------------------------------------------------------------------------


def write_page(
    profile: Profile,
    table: pd.DataFrame,
    digest: str,
    parts: Mapping[str, pd.DataFrame],
    verdict: str,
    keys: Iterable[str],
    folder: Path | str,
) -> Path:
    """Write search.md and search-provenance.json beside the executed notebook.

    Args:
        digest: SHA-256 of the table's file.
        parts: The page's tables by their headings, in order.
        keys: Of the replays in the ledger.
    """
    path = Path(folder) / "search.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([
        f"# The search, replayed on {len(table):,} recoveries of profile {profile.name}",
        f"Base model: {profile.base_model.label}. Scores that searches saw are of one training seed on the search"
        " split; regret is measured under the other training seed on the report split.",
        verdict,
        *(f"## {heading}\n\n{markdown(one)}" for heading, one in parts.items()),
    ]) + "\n")
    write_json({
        "profile": profile.name,
        "rank_table_sha256": digest,
        "training_seeds": sorted(map(int, table["seed"].unique())),
        "recoveries": {f"{block} {scaling}": len(rows) for (block, scaling), rows in
                       table.groupby(["block", "scaling"], sort=False)},
        "ledger_keys": {"replays": list(keys)},
        "recovery_keys": "column recovery_key of the table",
    }, path.with_name("search-provenance.json"))
    return path
