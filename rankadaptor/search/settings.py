"""Settings of a search, checked where they are made."""

from dataclasses import dataclass
from typing import Literal, get_args

from rankadaptor.allocation import Encoding
from rankadaptor.bounds import check_amount, check_whole
from rankadaptor.errors import BadInput
from rankadaptor.keys import later
from rankadaptor.search.predictors import PREDICTORS, find_predictor

Acquisition = Literal["greedy", "upper confidence", "thompson", "each task"]
Proposals = Literal["uniform", "near"]
Heads = Literal["mean", "tasks"]
Selection = Literal["measured", "predicted"]
Start = Literal["random", "LoRA and random"]
Learning = Literal["restart", "continue"]
ThresholdUnit = Literal["spread", "score"]
Labels = Literal["measured", "shuffled"]

_MOST_RECOVERIES, _MOST_CANDIDATES = 100_000, 10_000_000
MOST_THRESHOLD = 1e9
MOST_SEED = 2**32 - 1  # of NumPy's old generator, which scikit-learn's estimators are made with
BOUNDS = {  # of the counts among a search's settings
    "initial": (1, _MOST_RECOVERIES), "rounds": (0, _MOST_RECOVERIES), "batch": (1, _MOST_RECOVERIES),
    "candidates_per_round": (1, _MOST_CANDIDATES), "patience": (1, _MOST_RECOVERIES + 1),
}
_WORDS = {"acquisition": Acquisition, "proposals": Proposals, "heads": Heads, "inputs": Encoding,
          "selection": Selection, "start": Start, "threshold_unit": ThresholdUnit, "learning": Learning,
          "labels": Labels}


@dataclass(frozen=True)
class SearchSettings:
    """How a search predicts, proposes, converges and selects. A part of the key of every search."""

    initial: int  # allocations that are recovered before the first prediction
    rounds: int  # online rounds at most
    batch: int  # allocations that are recovered per round
    candidates_per_round: int  # allocations that are sampled and predicted per round
    threshold: float  # a round agrees if its mean |Q - P| is at most this many units
    patience: int  # rounds in a row that must agree before the search has converged
    seed: int
    predictor: str = "paper"  # a name in `predictors.PREDICTORS`
    inputs: Encoding = "ranks"  # how an allocation is encoded, see `allocation.SolutionSpace.encode`
    heads: Heads = "mean"  # what is predicted: the mean over tasks, or every task
    # Highest Q (paper), Q plus its spread over members, Q of a random member, or for each task its own highest Q: a
    # round then recovers as many allocations as there are tasks, and every task learns from all of them.
    acquisition: Acquisition = "greedy"
    proposals: Proposals = "uniform"  # sampled from all of S (paper), or half of them near the best measured
    selection: Selection = "measured"  # the result is the best P, or the best Q (paper); rivals have no Q
    # Whether LoRA's own allocation is among the initial ones.
    start: Start = later("random", nested=True)  # noqa: RUF009
    # A unit is the spread of all P so far, or 1, as the paper words it.
    threshold_unit: ThresholdUnit = later("spread", nested=True)  # noqa: RUF009
    # Online learning starts again on everything measured, or goes on with the newest round alone (paper).
    learning: Learning = later("restart", nested=True)  # noqa: RUF009
    # What the performance model is told: the scores, or, as a control, the same ones shuffled over the allocations.
    labels: Labels = later("measured", nested=True)  # noqa: RUF009

    def __post_init__(self) -> None:
        for name, kind in _WORDS.items():
            if getattr(self, name) not in get_args(kind):
                raise BadInput(f"unknown {name} {getattr(self, name)!r}: use one of {', '.join(get_args(kind))}")
        for name, (least, most) in BOUNDS.items():
            check_whole(f"{name} of a search", getattr(self, name), least, most)
        check_amount("threshold of a search", self.threshold, 0, MOST_THRESHOLD)
        check_whole("seed of a search", self.seed, 0, MOST_SEED)
        entry = find_predictor(self.predictor)
        if not entry.goes_on and self.learning == "continue":
            usable = [name for name, entry in PREDICTORS.items() if entry.goes_on]
            raise BadInput(f"learning goes on with the newest round alone, and predictor {self.predictor!r} cannot: use"
                           f" one of {', '.join(usable)}")
        if self.acquisition == "each task" and self.heads != "mean":
            raise BadInput(f"acquisition 'each task' predicts every task for itself, and heads are {self.heads!r}: use"
                           " heads mean")
        if not entry.has_members and self.acquisition == "thompson":
            usable = [name for name, entry in PREDICTORS.items() if entry.has_members]
            raise BadInput(f"acquisition thompson draws members, and predictor {self.predictor!r} has none: use one of"
                           f" {', '.join(usable)}")
