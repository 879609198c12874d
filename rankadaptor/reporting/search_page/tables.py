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


def searches_table(curves: pd.DataFrame, base: str, recoveries: int) -> pd.DataFrame:
    """Recoveries that each method needs to reach the top, and what its choice is worth after so many recoveries.

    Medians and quartiles over searches; the regret beside that of `base`, see `comparisons.regret_differences`.
    """
    most = int(curves["recoveries"].max())
    needed = {top: recoveries_needed(curves, top) for top in TOPS}
    lines = []
    for method, rows in curves[curves["recoveries"] == recoveries].groupby("method", sort=False):
        line: dict[str, Any] = {"method": method}
        for top, table in needed.items():
            low, middle, high = (f"> {most}" if count > most else f"{count:.0f}"
                                 for count in np.quantile(table[method], [0.25, 0.5, 0.75]))
            line[f"recoveries to the top {100 * top:.0f} %"] = f"{middle} [{low}, {high}]"
            line[f"reach it ({100 * top:.0f} %)"] = f"{100 * (table[method] <= most).mean():.0f} %"
        lines.append(line | {
            "recoveries spent": f"{rows['spent'].mean():.0f}",
            f"regret after {recoveries}, gold probability (points)": _quartiles(rows["regret"], "{:.2f}"),
            f"regret after {recoveries}, accuracy (points)": _quartiles(rows["regret in accuracy"], "{:.1f}"),
            "worse allocations (%)": _quartiles(100 * rows["share"], "{:.0f}"),
        })
    differences = regret_differences(curves, base, recoveries)
    return pd.DataFrame(lines).merge(differences, on="method", how="left").fillna("")


def _quartiles(values: pd.Series, layout: str) -> str:
    low, middle, high = (layout.format(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return f"{middle} [{low}, {high}]"


def predictor_table(statistics: pd.DataFrame) -> pd.DataFrame:
    """Rank statistics as people read them: value and 95 % interval.

    Args:
        statistics: As `ranktable.cross_validation.rank_statistics` returns them.
    """
    shown = statistics[["predictor", "size"]].copy()
    for name in statistics.columns:
        if f"{name}, low" in statistics:
            shown[name] = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in
                           zip(statistics[name], statistics[f"{name}, low"], statistics[f"{name}, high"], strict=True)]
    return shown


def uniform_table(table: pd.DataFrame, block: str, scaling: str) -> pd.DataFrame:
    """Rules of thumb under two training seeds: parameters, report scores, losses.

    Args:
        table: The rank table, as `ranktable.meta_records.read_table` returns it.
    """
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
