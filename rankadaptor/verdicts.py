"""The rules by which a claimed difference is judged.

A verdict is about one comparison on one base model; `docs/protocol.md` has the reasons, and when the rules were fixed.
"""

from dataclasses import dataclass
from typing import Literal

from rankadaptor.statistics import Interval

Status = Literal[
    "supported", "smaller than claimed", "not supported", "above the ceiling test", "no headroom", "undecided"
]
SUPPORTED: Status = "supported"
SMALLER: Status = "smaller than claimed"
NOT_SUPPORTED: Status = "not supported"
ABOVE_CEILING: Status = "above the ceiling test"
NO_HEADROOM: Status = "no headroom"
UNDECIDED: Status = "undecided"
STATUSES: tuple[Status, ...] = (SUPPORTED, SMALLER, NOT_SUPPORTED, ABOVE_CEILING, NO_HEADROOM, UNDECIDED)


@dataclass(frozen=True)
class Evidence:
    """What a verdict stands on. All numbers are proportions."""

    difference: Interval  # paired, method - LoRA; its interval adjusted where several are judged together
    claimed: float  # the least difference that the paper claims, negative for a loss
    smallest_gain: float  # that would have been told from 0 with 80 % power
    lost: Interval | None = None  # dense - pruned; None where nothing is known
    recovered: Interval | None = None  # LoRA - no recovery
    ceiling: Interval | None = None  # what the most that ranks can give adds over LoRA


def has_headroom(lost: Interval, recovered: Interval) -> bool:
    """Whether there is anything to win: pruning cost accuracy, and LoRA wins some of it back."""
    return lost.low > 0 and recovered.low > 0


def verdict(evidence: Evidence, decided: bool = True) -> Status:
    """The verdict on a claimed difference.

    1. *undecided* where the budget has one training seed or a small search.
    2. *no headroom* where pruning costs nothing, or LoRA wins nothing back: no allocation can show a gain there.
    3. The interval lies above 0: *supported* if the estimate reaches the claim, else *smaller than claimed*.
    4. *not supported* where the interval lies below the claim, and a gain of its size would have been seen.
    5. *above the ceiling test* where the claim is more than the whole interval of what ranks add in that test.
    6. *undecided* otherwise.

    A claimed loss is judged as a gain of the other method.

    Args:
        decided: False where the budget has one training seed or a small search.
    """
    if not decided:
        return UNDECIDED
    if evidence.lost and evidence.recovered and not has_headroom(evidence.lost, evidence.recovered):
        return NO_HEADROOM
    gain, claimed = evidence.difference, abs(evidence.claimed)
    if evidence.claimed < 0:
        gain = Interval(-gain.value, -gain.high, -gain.low)
    if gain.low > 0:
        return SUPPORTED if gain.value >= claimed else SMALLER
    if gain.high < claimed and evidence.smallest_gain <= claimed:
        return NOT_SUPPORTED
    if evidence.ceiling and evidence.claimed > 0 and evidence.ceiling.high < claimed:
        return ABOVE_CEILING
    return UNDECIDED
