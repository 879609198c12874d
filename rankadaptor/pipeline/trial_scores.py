"""Scores of a search's trials as the ledger holds them: what searches are given, and what rounds are held against."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.errors import Damaged
from rankadaptor.keys import identity_key
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_files import Entry
from rankadaptor.search.rounds import Scores

HELD_OUT_LOSS = "held_out_loss"  # the signal that is no metric of tasks
_LOSS_OF_NOTHING = 20.0  # nats per token: above that of any guess


def tasks_of(search: Mapping[str, Any]) -> Sequence[str]:
    """The tasks whose scores a search sees, by the spec in its identity."""
    return [search["task"]] if search.get("task") else search["evaluation"].get("tasks", ())


def trial_scores(outcome: Mapping[str, Any], signal: str, tasks: Sequence[str]) -> Scores:
    """Scores by task, larger is better. A recovery that diverged has finite scores, none above a real one.

    Args:
        outcome: Result of an evaluation or of a perplexity stage.
        signal: Of `profile.search`.
        tasks: That were evaluated, or those of them that are wanted.
    """
    if signal == HELD_OUT_LOSS:
        return {"text": -_LOSS_OF_NOTHING if "diverged" in outcome else -float(np.log(outcome["perplexity"]))}
    if "diverged" in outcome:
        return dict.fromkeys(tasks, 0.0)
    metrics = outcome["metrics"]
    return {task: metrics[task][BENCHMARKS[task].metric if signal == "accuracy" else signal] for task in tasks}


class MeasuredTrials:
    """All trials of a ledger, by the search that they may belong to."""

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        # (key of the trial of an empty allocation, which is a search's parent; allocation) -> key of the trial
        self._keys: dict[tuple[str, tuple[int, ...]], str] = {}
        for entry in ledger.entries():
            try:
                trial, _ = entry.read()
                if trial["stage"] in ("evaluate", "perplexity"):
                    self._add(entry.key, trial)
            except (Damaged, OSError, KeyError, TypeError):
                continue  # it confirms nothing

    def _add(self, key: str, trial: dict[str, Any]) -> None:
        recovery = Entry(trial["parent"], self._ledger.folder / trial["parent"]).spec
        allocation = tuple(recovery["spec"]["allocation"])
        empty = identity_key(recovery | {"spec": recovery["spec"] | {"allocation": []}})
        self._keys[identity_key(trial | {"parent": empty}), allocation] = key

    def doubt(self, search: Mapping[str, Any], content: Mapping[str, Any]) -> str:
        """Why a round of a search is not believed; empty if the results of all of its trials confirm it.

        Args:
            search: The search's identity.
            content: Of the round.
        """
        spec = search["spec"]
        for allocation, scores in zip(content["proposals"], content["scores"], strict=True):
            key = self._keys.get((search["parent"], tuple(allocation)))
            if key is None or (entry := self._ledger.find(key)) is None:
                return "the ledger lacks a trial of it"
            outcome = entry.result["result"]
            if trial_scores(outcome, spec["signal"], tasks_of(spec)) != scores:
                return f"trial {key[:12]} has other scores"
        return ""
