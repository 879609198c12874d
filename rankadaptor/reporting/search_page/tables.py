"""The page's tables as people read them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.ranktable.meta_records import ORIGINS, task_scores
from rankadaptor.ranktable.replayed_searches import TOPS, recoveries_needed
from rankadaptor.reporting.search_page.comparisons import regret_differences
from rankadaptor.search.rounds import mean_score


def by_block(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of several blocks as one, with a column that names the block first."""
    return pd.concat(tables, names=["block"]).reset_index("block").reset_index(drop=True)


def searches_frame(curves: pd.DataFrame, base: str, recoveries: int) -> pd.DataFrame:
    """What each method's searches reach, as numbers; medians and quartiles over searches.

    Returns:
        Columns method; for every top of the pool, such as 5 (%), recoveries to it (top_5, top_5_low, top_5_high; one
        more than a search has where it never gets there) and the share of searches that reach it (reach_5); spent
        (recoveries, mean); regret after so many recoveries in gold probability, regret_accuracy, and the share of
        worse allocations (points and percent, each with _low and _high); and those of
        `comparisons.regret_differences`, without a number for `base`.
    """
    most = int(curves["recoveries"].max())
    needed = {f"{100 * top:.0f}": recoveries_needed(curves, top) for top in TOPS}
    lines = []
    for method, rows in curves[curves["recoveries"] == recoveries].groupby("method", sort=False):
        line: dict[str, Any] = {"method": method}
        for top, table in needed.items():
            line |= _quartiles(f"top_{top}", table[method]) | {f"reach_{top}": (table[method] <= most).mean()}
        lines.append(line | {"spent": rows["spent"].mean()} | _quartiles("regret", rows["regret"])
                     | _quartiles("regret_accuracy", rows["regret in accuracy"])
                     | _quartiles("worse", 100 * rows["share"]))
    return pd.DataFrame(lines).merge(regret_differences(curves, base, recoveries), on="method", how="left")


def _quartiles(name: str, values: pd.Series) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def searches_table(frame: pd.DataFrame, base: str, recoveries: int) -> pd.DataFrame:
    """`searches_frame` as people read it.

    Args:
        frame: As `searches_frame` returns it, of searches of so many recoveries.
        base: The method that regrets are compared with.
    """
    tops = [column.removeprefix("reach_") for column in frame.columns if column.startswith("reach_")]
    shown: dict[str, Any] = {"method": frame["method"]}
    for top in tops:
        counts = [frame[f"top_{top}{suffix}"].map(lambda count: f"> {recoveries}" if count > recoveries else
                                                  f"{count:.0f}") for suffix in ("", "_low", "_high")]
        shown[f"recoveries to the top {top} %"] = [f"{middle} [{low}, {high}]"
                                                   for middle, low, high in zip(*counts, strict=True)]
        shown[f"reach it ({top} %)"] = [f"{100 * share:.0f} %" for share in frame[f"reach_{top}"]]
    return pd.DataFrame(shown | {
        "recoveries spent": [f"{spent:.0f}" for spent in frame["spent"]],
        f"regret after {recoveries}, gold probability (points)": _shown(frame, "regret", "{:.2f}"),
        f"regret after {recoveries}, accuracy (points)": _shown(frame, "regret_accuracy", "{:.1f}"),
        "worse allocations (%)": _shown(frame, "worse", "{:.0f}"),
        f"regret less that of {base} (points)": _shown(frame, "difference", "{:+.3f}"),
        "by direction": ["" if np.isnan(first) else f"{first:+.2f} / {second:+.2f}" for first, second in
                         zip(frame["difference_first"], frame["difference_second"], strict=True)],
    })


def _shown(frame: pd.DataFrame, name: str, layout: str) -> list[str]:
    """Such as `0.22 [0.10, 0.37]`; empty where there is no number."""
    rows = zip(frame[name], frame[f"{name}_low"], frame[f"{name}_high"], strict=True)
    return ["" if np.isnan(middle) else f"{layout.format(middle)} [{layout.format(low)}, {layout.format(high)}]"
            for middle, low, high in rows]


def predictor_table(statistics: pd.DataFrame) -> pd.DataFrame:
    """Rank statistics as people read them: value and 95 % interval.

    Args:
        statistics: As `ranktable.cross_validation.rank_statistics` returns them.
    """
    named = [name for name in ("block", "predictor", "meta-learned on", "size") if name in statistics]
    shown = statistics[named].copy()
    for name in statistics.columns:
        if f"{name}, low" in statistics:
            shown[name] = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in
                           zip(statistics[name], statistics[f"{name}, low"], statistics[f"{name}, high"], strict=True)]
    return shown


def rules_frame(table: pd.DataFrame, block: str, scaling: str) -> pd.DataFrame:
    """Rules of thumb under every training seed of a block, on report items.

    Args:
        table: The rank table, as `ranktable.meta_records.read_table` returns it.

    Returns:
        Columns allocation (the rule), seed, trained (parameters), gold_probability and accuracy (percent, means over
        tasks), training_loss.
    """
    rows = table[(table["block"] == block) & (table["scaling"] == scaling) & ~table["origin"].isin(ORIGINS)]
    scores = {metric: [100 * mean_score(task_scores(row, "report", metric)) for _, row in rows.iterrows()]
              for metric in ("gold_probability", "accuracy")}
    frame = pd.DataFrame({"allocation": rows["origin"], "seed": rows["seed"], "trained": rows["trainable_parameters"],
                          **scores, "training_loss": rows["training_loss"]})
    return frame.reset_index(drop=True)


def rules_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`rules_frame` as people read it: means over training seeds, and in brackets each seed."""
    grouped = frame.groupby("allocation")
    shown = pd.DataFrame({
        "trained parameters": grouped["trained"].first(),
        "gold probability (%)": grouped["gold_probability"].apply(_mean_and_each, layout="{:.2f}"),
        "accuracy (%)": grouped["accuracy"].apply(_mean_and_each, layout="{:.1f}"),
        "training loss": grouped["training_loss"].mean(),
    })
    return shown.sort_values("trained parameters").reset_index()


def _mean_and_each(values: pd.Series, layout: str) -> str:
    return f"{layout.format(values.mean())} ({' '.join(map(layout.format, values))})"
