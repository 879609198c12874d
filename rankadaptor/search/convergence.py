"""When a search has converged: the predicted performance Q has met the measured performance P (Section 3.3)."""

from collections.abc import Sequence

import numpy as np

from rankadaptor.search.rounds import Round, mean_score, measured_scores
from rankadaptor.search.settings import SearchSettings


def has_converged(rounds: Sequence[Round], settings: SearchSettings) -> bool:
    """Whether |Q - P| stayed within the threshold for `patience` rounds in a row.

    The paper leaves its threshold open. By default it is a share of the standard deviation of all scores measured so
    far: a gap in the scores' own unit (`threshold_unit` "score") means nothing where allocations differ by less.

    Source: Section 3.3, "Convergence Phase".
    """
    latest = range(len(rounds) - settings.patience, len(rounds))
    return latest.start > 0 and all(_agrees(rounds[: number + 1], settings) for number in latest)


def _agrees(rounds: Sequence[Round], settings: SearchSettings) -> bool:
    """Whether the last round's mean |Q - P| is within the threshold."""
    gap = rounds[-1].gap
    means = [mean_score(scores) for scores in measured_scores(rounds).values()]
    rounding = 1e-6 * np.abs(means).max()  # of single precision: equal scores are predicted no closer
    unit = 1.0 if settings.threshold_unit == "score" else float(np.std(means))
    return gap is not None and gap <= settings.threshold * unit + rounding
