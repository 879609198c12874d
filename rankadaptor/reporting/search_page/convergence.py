"""What the stopping rule says: how often it ends a search whose predictor has learned, and one that draws numbers."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from scipy.stats import fisher_exact

from rankadaptor.reporting.search_page.jobs import OURS, RANDOM_NUMBERS
from rankadaptor.statistics import wilson_interval

TOGETHER = "all blocks"
MORE, LESS, ALIKE = "more often than random numbers", "less often than random numbers", "not told from random numbers"
_LEVEL = 0.05


def convergence_frame(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """How many searches the stopping rule ended before their last round.

    Args:
        curves: Block -> searches that may stop, as `ranktable.replayed_searches.run_replays` returns them.

    Returns:
        Columns block, predictor, searches, ended, share, low, high (percent, Wilson, 95 %); of all blocks together also
        p (Fisher's exact test against random numbers) and verdict.
    """
    last = pd.concat({name: table[table["recoveries"] == table["recoveries"].max()] for name, table in curves.items()},
                     names=["block"]).reset_index("block")  # one row a search
    last["ended"] = last["spent"] < last["recoveries"]
    lines = []
    for name, rows in [*last.groupby("block", sort=False), (TOGETHER, last)]:
        counts = rows.groupby("method", sort=False)["ended"].agg(["size", "sum"])
        for method, searches, ended in counts.itertuples():
            share, low, high = wilson_interval(ended, searches)
            line: dict[str, Any] = {"block": name, "predictor": method, "searches": searches, "ended": ended,
                                    "share": 100 * share, "low": 100 * low, "high": 100 * high}
            if name == TOGETHER and method != RANDOM_NUMBERS:
                others, fired = counts.loc[RANDOM_NUMBERS]
                line["p"] = fisher_exact([[ended, searches - ended], [fired, others - fired]]).pvalue
                line["verdict"] = (ALIKE if line["p"] > _LEVEL else
                                   MORE if ended / searches > fired / others else LESS)
            lines.append(line)
    return pd.DataFrame(lines, columns=["block", "predictor", "searches", "ended", "share", "low", "high", "p",
                                        "verdict"])


def convergence_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`convergence_frame` as people read it."""
    return pd.DataFrame({
        "block": frame["block"],
        "predictor": frame["predictor"],
        "ended by the rule": [f"{row.ended} of {row.searches}" for row in frame.itertuples()],
        "share (%)": [f"{row.share:.0f} [{row.low:.0f}, {row.high:.0f}]" for row in frame.itertuples()],
        "p": ["" if pd.isna(p) else f"{p:.3f}" for p in frame["p"]],
        "verdict": frame["verdict"].fillna(""),
    })


def convergence_text(frame: pd.DataFrame) -> str:
    """Two sentences: how often the rule fires, and what follows for "converged"."""
    rows = frame[frame["block"] == TOGETHER].set_index("predictor")
    ours, chance = rows.loc[OURS], rows.loc[RANDOM_NUMBERS]
    follows = {
        MORE: "that a search has converged does say something about its predictor",
        LESS: "the rule ends searches of a worse predictor sooner, and says nothing good about one",
        ALIKE: "that a search has converged says nothing about its predictor",
    }[str(ours["verdict"])]
    return (f"Agreement of prediction and measurement ended {ours['ended']} of {ours['searches']} of RankAdaptor's"
            f" searches, and {chance['ended']} of {chance['searches']} of those of a predictor that knows nothing"
            f" (random order, the mean of all scores; p {ours['p']:.3f}): {follows}.")
