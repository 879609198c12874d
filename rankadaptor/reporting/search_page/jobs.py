"""The searches that the page replays: RankAdaptor, its rivals, and RankAdaptor with one thing changed at a time."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rankadaptor.profiles import Profile
from rankadaptor.ranktable.replay import Job
from rankadaptor.search.predictors import find_predictor
from rankadaptor.search.rivals import RIVALS
from rankadaptor.search.settings import SearchSettings

OURS, PAPER, RANDOM_NUMBERS = "RankAdaptor", "RankAdaptor (paper)", "random numbers"
INITIAL, BATCH = 8, 4  # recoveries before the first prediction, and of every round
THRESHOLD, PATIENCE = 0.25, 2  # of the search that stops
SINGLE_ROUNDS = 12  # of one recovery each, as in the tables, where the stopping rule is the question
FEW = 48  # candidates of a round, where proposals are the question


@dataclass(frozen=True)
class PageSettings:
    """Settings of the three searches that everything on the page is derived from."""

    ours: SearchSettings  # as the profile has them
    paper: SearchSettings  # one MLP on plain ranks, whose best prediction is chosen
    stopping: SearchSettings  # ours, and may end before its last round


def page_settings(profile: Profile, rounds: int) -> PageSettings:
    """Settings of searches that take so many rounds."""
    shared = SearchSettings(
        initial=INITIAL, rounds=rounds, batch=BATCH, candidates_per_round=100_000, threshold=0.0,
        patience=rounds + 1, seed=0,
    )
    ours = dataclasses.replace(shared, **dataclasses.asdict(profile.search.method))
    return PageSettings(
        ours=ours,
        paper=dataclasses.replace(shared, selection="predicted"),
        stopping=dataclasses.replace(ours, threshold=THRESHOLD, patience=PATIENCE),
    )


def method_jobs(settings: PageSettings) -> list[Job]:
    """The performance model as the profile has it and as the paper has it, and its rivals."""
    rivals = [Job(name, settings.ours, rival=name) for name in RIVALS]
    return [Job(OURS, settings.ours), Job(PAPER, settings.paper), *rivals]


def convergence_jobs(settings: PageSettings) -> list[Job]:
    """Searches as tables make them, one recovery a round, that may end before their last: ours, and one whose
    predictions are random numbers."""
    single = dataclasses.replace(settings.stopping, batch=1, rounds=SINGLE_ROUNDS)
    return [Job(OURS, single), Job(RANDOM_NUMBERS, dataclasses.replace(single, predictor="guess"))]


def ablation_jobs(settings: PageSettings) -> list[Job]:
    """One change at a time: every choice of ours, and Table 3's settings of the paper's model.

    In a pool, every round may offer all that is left; where proposals are the question it offers a few.

    Returns:
        RankAdaptor unchanged, then every change.
    """
    ours, paper = settings.ours, settings.paper
    few = dataclasses.replace(ours, candidates_per_round=FEW)
    changes: dict[str, tuple[SearchSettings, dict[str, Any]]] = {
        "upper confidence": (ours, {"acquisition": "upper confidence"}),
        "Thompson": (ours, {"acquisition": "thompson"}),
        "one network of the eight": (ours, {"predictor": "single"}),
        "ranking loss": (ours, {"predictor": "ranking"}),
        "heads by task": (ours, {"heads": "tasks"}),
        "logarithms without squares": (ours, {"inputs": "logarithms"}),
        "ranks as they are": (ours, {"inputs": "ranks"}),
        "ridge": (ours, {"predictor": "ridge"}),
        "gaussian process": (ours, {"predictor": "gaussian process"}),
        "choice by prediction": (ours, {"selection": "predicted"}),
        f"{FEW} proposals a round, half near the best": (few, {"proposals": "near"}),
        f"{FEW} proposals a round, uniform": (few, {"proposals": "uniform"}),
        f"{FEW} proposals a round, half near the best, guessed": (few, {"proposals": "near", "predictor": "guess"}),
        "paper, setting 2": (paper, {"predictor": "setting 2"}),
        "paper, setting 3": (paper, {"predictor": "setting 3"}),
    }
    if not find_predictor(ours.predictor).has_members:
        del changes["Thompson"]  # draws one of the predictor's members
    jobs = [Job(OURS, ours), Job("no records of other blocks", ours, records=False),
            Job("stops where prediction meets reality", settings.stopping)]
    jobs += [Job(label, dataclasses.replace(base, **change)) for label, (base, change) in changes.items()]
    return jobs + [Job(f"{signal} as signal", ours, signal=signal) for signal in ("accuracy", "held_out_loss")]
