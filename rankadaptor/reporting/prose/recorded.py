"""What templates say of recorded results that no page shows yet. Public methods are functions of templates."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.errors import BadInput
from rankadaptor.experiments.methods import DENSE
from rankadaptor.pipeline.records import RESULTS, read_table, recorded_hours
from rankadaptor.reporting.numbers import plain


class RecordedModel(NamedTuple):
    """A recorded evaluation on the report split."""

    label: str  # such as `Dense`, `llm-pruner:50` or `llm-pruner:50, recovered, seed 0`
    is_recovered: bool
    accuracy: float  # mean over tasks, each under its metric, in percent
    items: int  # at most, of a task


class Recorded:
    """The vocabulary of records, which lie in `records/PROFILE/` beside the reports."""

    def __init__(self, folder: Path):
        """
        Args:
            folder: Of all profiles' records.
        """
        self._folder = folder
        self.recorded_models = cache(self._models)

    def has_records(self, profile: str) -> bool:
        """Whether results of a profile are recorded."""
        return (self._folder / profile / RESULTS).is_file()

    def hours_recorded(self, profile: str) -> str:
        """Hours that all recorded stages of a profile took together."""
        return plain(recorded_hours(self._folder / profile))

    def _models(self, profile: str) -> list[RecordedModel]:
        """Every recorded evaluation of a profile on the report split: models without an adapter first."""
        rows = read_table(self._folder / profile, RESULTS)
        identities = {key: json.loads(text) for key, text in zip(rows["key"], rows["identity"], strict=True)}
        models = []
        for key, text in zip(rows["key"], rows["result"], strict=True):
            if identities[key]["stage"] == "evaluate" and identities[key]["spec"]["split"] == "report":
                metrics = json.loads(text).get("metrics", {})
                if metrics:
                    scores = [values[BENCHMARKS[task].metric] for task, values in metrics.items()]
                    items = max(int(values["items"]) for values in metrics.values())
                    parts = _parts(identities, key)
                    models.append(RecordedModel(", ".join(parts) or DENSE, len(parts) > 1, 100 * float(np.mean(scores)),
                                                items))
        return sorted(models, key=lambda model: (model.label != DENSE, model.is_recovered, model.label))


def _parts(identities: dict[str, dict[str, Any]], key: str) -> list[str]:
    """What was evaluated, by the stages that lead to it; nothing of the unpruned model.

    Raises:
        BadInput: if one of these stages is not recorded.
    """
    parts: list[str] = []
    while (key := identities[key]["parent"]) in identities:
        spec = identities[key]["spec"]
        parts.append(f"{spec['method']}:{spec['rate_percent']}" if identities[key]["stage"] == "prune" else
                     f"recovered, seed {spec['seed']}")
    roots = {identity["parent"] for identity in identities.values() if identity["stage"] == "prune"}
    if roots and key not in roots:
        raise BadInput(f"the records lack the result {key[:12]}, from which a recorded one was computed: add it")
    return parts[::-1]
