"""Regrets of replayed methods, their differences over equal search seeds with intervals, and the verdict by rule."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from rankadaptor.escaping import bold_markdown, markdown_text
from rankadaptor.ranktable.replay import Replay
from rankadaptor.ranktable.replayed_searches import TOPS, recoveries_needed
from rankadaptor.reporting.search_page.jobs import OURS, PAPER
from rankadaptor.search.rivals import RIVALS
from rankadaptor.search.rounds import mean_score
from rankadaptor.statistics import adjusted_level, adjusted_p, interval_of, two_sided_p

_NEEDED, _REGRET = "recoveries to the top 1 %", "regret (points)"
_LEVEL = 0.05  # of a family of comparisons, adjusted for their number (Bonferroni)


def regrets_at(curves: pd.DataFrame, recoveries: int) -> pd.DataFrame:
    """One row per search seed, one column per method: regret after so many recoveries, in points.

    Args:
        curves: As `ranktable.replayed_searches.run_replays` returns them.
    """
    return curves[curves["recoveries"] == recoveries].pivot(index="seed", columns="method", values="regret")


def unsearched_regrets(replay: Replay) -> dict[str, float]:
    """Regrets of choices without a search, and of the whole pool searched, in points of gold probability.

    Returns:
        Label of the choice -> mean over both directions (which training seed is searched, and which scores the choice).
    """
    space = replay.pool.space
    lora = space.fill([space.fixed_rank] * len(space.free_layers))
    regrets: dict[str, list[float]] = {}
    for seed in replay.seeds:
        truth, searched = replay.truth(seed), replay.searched(seed, "gold_probability")
        best = max(truth.values())
        luckiest = max(truth, key=lambda allocation: mean_score(searched[allocation]))
        regrets.setdefault("a random allocation", []).append(best - float(np.mean(list(truth.values()))))
        if lora in truth:
            regrets.setdefault(f"LoRA r={space.fixed_rank}", []).append(best - truth[lora])
        regrets.setdefault("the whole pool searched", []).append(best - truth[luckiest])
    return {label: 100 * float(np.mean(values)) for label, values in regrets.items()}


def paired(by_seed: pd.DataFrame, method: str, base: str) -> np.ndarray:
    """Differences of two methods over equal search seeds.

    Args:
        by_seed: One row per search seed, one column per method.

    Returns:
        Even seeds, which search on the first training, in the first row; odd ones in the second.  # (2, searches / 2)
    """
    pairs = (by_seed[method] - by_seed[base]).sort_index().to_numpy()
    half = len(pairs) // 2
    return np.stack([pairs[0 : 2 * half : 2], pairs[1 : 2 * half : 2]])


def paired_draws(pairs: np.ndarray, draws: int = 4000) -> np.ndarray:
    """Bootstrapped means of `paired`, search seeds resampled within each direction.  # (draws,)"""
    generator = np.random.default_rng(0)
    resampled = [generator.choice(direction, (draws, len(direction))).mean(axis=1) for direction in pairs]
    return np.mean(resampled, axis=0)


def regret_differences(curves: pd.DataFrame, base: str, recoveries: int) -> pd.DataFrame:
    """Regret of every method less that of `base`, in points.

    The interval covers search seeds. Both directions share one pair of trainings: where they disagree, the trainings
    decide, and not the methods.

    Returns:
        Columns method, difference (mean), difference_low, difference_high (95 %), difference_first, difference_second
        (means of the searches on the first and on the second training).
    """
    lines, regrets = [], regrets_at(curves, recoveries)
    for method in curves["method"].unique():
        if method == base:
            continue
        pairs = paired(regrets, method, base)
        low, high = np.quantile(paired_draws(pairs), [0.025, 0.975])
        lines.append((method, pairs.mean(), low, high, *pairs.mean(axis=1)))
    return pd.DataFrame(lines, columns=["method", "difference", "difference_low", "difference_high",
                                        "difference_first", "difference_second"])


def rival_differences(curves: Mapping[str, pd.DataFrame], recoveries: int) -> pd.DataFrame:
    """RankAdaptor less its rivals, on every block.

    Args:
        curves: Block -> as `ranktable.replayed_searches.run_replays` returns them.
        recoveries: After which the regret is compared.

    Returns:
        Columns of (recoveries to the top 1 %, or regret in points), block, rival, difference (mean over searches),
        low, high (95 % for all comparisons of the same thing together), p_adjusted (for their number), verdict.
    """
    compared = {_NEEDED: {name: recoveries_needed(table, TOPS[-1]) for name, table in curves.items()},
                _REGRET: {name: regrets_at(table, recoveries) for name, table in curves.items()}}
    lines = []
    for label, tables in compared.items():
        pairs = {(name, rival): paired(table, OURS, rival)
                 for name, table in tables.items() for rival in (PAPER, *RIVALS)}
        for key, differences in pairs.items():
            draws = paired_draws(differences)
            low, high = interval_of(draws, adjusted_level(len(pairs)))
            p = adjusted_p(two_sided_p(draws), len(pairs))
            lines.append((label, *key, differences.mean(), low, high, p, _verdict(differences, p)))
    columns = ["of", "block", "rival", "difference", "low", "high", "p_adjusted", "verdict"]
    return pd.DataFrame(lines, columns=columns)


def _verdict(differences: np.ndarray, p: float) -> str:
    """Less or more where the adjusted p value is at most 0.05 and both directions agree; else undecided."""
    if p > _LEVEL or np.ptp(np.sign(differences.mean(axis=1))) != 0:
        return "undecided against"
    return "less than" if differences.mean() < 0 else "more than"


def verdict_text(differences: pd.DataFrame) -> str:
    """The verdict on two things, as Markdown: recoveries until one of the top 1 % of what is searched is measured, and
    regret of the choice.

    Args:
        differences: As `rival_differences` returns them.
    """
    top = f"recoveries until it has measured one of the top {100 * TOPS[-1]:.0f} % of the scores that it searches"
    return "\n".join([
        f"What is searched: {top}.", "", *_lines(differences[differences["of"] == _NEEDED], "{:+.0f}"), "",
        "What it is worth: regret of the choice, in points of gold probability, under another training.", "",
        *_lines(differences[differences["of"] == _REGRET], "{:+.2f}"), "",
        f"P values are adjusted for {len(differences) // 2} comparisons each. They speak of searches on the two"
        " trainings that the table holds, not of other trainings.",
    ])


def _lines(differences: pd.DataFrame, layout: str) -> list[str]:
    """One line per block."""
    lines = []
    for block, rows in differences.groupby("block", sort=False):
        verdicts = [f"{row.verdict} {row.rival} ({layout.format(row.difference)}, p {row.p_adjusted:.2f})"
                    for row in rows.itertuples()]
        lines.append(f"- {bold_markdown(block)}, RankAdaptor: {markdown_text(', '.join(verdicts))}.")
    return lines
