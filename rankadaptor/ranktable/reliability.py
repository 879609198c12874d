"""How far two measurements of the same allocations agree: the ceiling of what any predictor can reach."""

import numpy as np
import pandas as pd
from scipy.stats import kendalltau, spearmanr

from rankadaptor.ranktable.meta_records import SIGNALS
from rankadaptor.ranktable.replay import Replay
from rankadaptor.search.rounds import mean_score


def reliability(replay: Replay) -> pd.DataFrame:
    """Agreement of one measurement with another of the same allocations, that is its value as a predictor of it.

    Returns:
        One row per pair of measurements: Kendall's tau and Spearman's rho over the pool, means over both directions.
    """
    first, second = replay.seeds

    def column(seed: int, split: str, signal: str) -> list[float]:
        return [mean_score(replay.scores[seed, split, signal][allocation]) for allocation in replay.pool.allocations]

    differences = {
        "split, same training": [((seed, "search"), (seed, "report")) for seed in replay.seeds],
        "training, same split": [((first, split), (second, split)) for split in ("search", "report")],
        "both": [((first, "search"), (second, "report")), ((second, "search"), (first, "report"))],
    }
    lines = []
    for signal in SIGNALS:
        for difference, pairs in differences.items():
            if signal == "held_out_loss" and difference != "training, same split":
                continue  # the held-out loss is taken on one text, which has no splits
            columns = [(column(*left, signal), column(*right, signal)) for left, right in pairs]
            lines.append({"signal": signal, "what differs": difference,
                          "Kendall tau": float(np.mean([kendalltau(*pair).statistic for pair in columns])),
                          "Spearman rho": float(np.mean([spearmanr(*pair).statistic for pair in columns]))})
    return pd.DataFrame(lines)
