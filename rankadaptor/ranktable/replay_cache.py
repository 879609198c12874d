"""Replays in the ledger: what was replayed once on a table of measured allocations is read the next time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from rankadaptor.keys import identity_key, stage_identity
from rankadaptor.models.base_model import base_model_identity
from rankadaptor.pipeline import provenance
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.result_schema import declare
from rankadaptor.pipeline.traced_search import described
from rankadaptor.profiles import Profile
from rankadaptor.ranktable.cross_validation import Variant, cross_validated
from rankadaptor.ranktable.replay import Job, Replay
from rankadaptor.ranktable.replayed_searches import run_replays
from rankadaptor.recovery.recipe import Scaling

REPLAY = "replay"  # in place of a stage's name
declare(REPLAY, {"rows": int})


@dataclass(frozen=True)
class ReplaySpec:
    """Everything that determines the replays of one block, beside the table and the base model."""

    numerics_version: ClassVar[int] = 1

    what: str  # "searches" or "predictions"
    block: str
    scaling: Scaling
    space: dict[str, Any]
    jobs: dict[str, Any]  # by label
    over: tuple[int, ...]  # the seeds of searches; the numbers of training rows of predictions


class ReplayCache:
    """`run_replays` and `cross_validated` on blocks of one table, through a ledger."""

    def __init__(
        self, ledger: Ledger, profile: Profile, table_sha256: str, replays: Mapping[str, Replay], scaling: Scaling,
        workers: int,
    ):  # fmt: skip
        """
        Args:
            table_sha256: Of the table that the replays are of.
            replays: By block.
            workers: Processes; their number changes no result.
        """
        self.ledger, self._profile, self._table, self._workers = ledger, profile, table_sha256, workers
        self._replays, self._scaling = replays, scaling
        self._revisions = {"base_model": base_model_identity(profile.base_model)}
        self.keys: dict[str, None] = {}  # of everything that was read or replayed, in order

    def searches(self, block: str, jobs: Sequence[Job], seeds: Sequence[int]) -> pd.DataFrame:
        """As `replayed_searches.run_replays`."""
        spec = self._spec("searches", block, {job.label: job for job in jobs}, seeds)
        return self._read(spec, lambda: run_replays(self._replays[block], jobs, seeds, self._workers))

    def predictions(self, block: str, variants: Mapping[str, Variant], sizes: Sequence[int]) -> pd.DataFrame:
        """As `cross_validation.cross_validated`."""
        by_label = {label: [settings, list(records)] for label, (settings, records) in variants.items()}
        spec = self._spec("predictions", block, by_label, sizes)
        return self._read(spec, lambda: cross_validated(self._replays[block], variants, sizes, workers=self._workers))

    def _spec(self, what: str, block: str, jobs: dict[str, Any], over: Sequence[int]) -> ReplaySpec:
        return ReplaySpec(what, block, self._scaling, described(self._replays[block].pool.space), jobs, tuple(over))

    def _read(self, spec: ReplaySpec, work: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The ledger's table of a spec; `work` makes it where the ledger has none."""
        identity = stage_identity(REPLAY, spec, self._table, self._revisions)

        def fill(folder: Path) -> dict[str, Any]:
            started = provenance.Started.now()
            table = work()
            table.to_parquet(folder / "replays.parquet", index=False)
            return {"stage": REPLAY, "result": {"rows": len(table)},
                    "provenance": provenance.of_stage(started, self._profile.base_model.label)}

        key = identity_key(identity)
        self.keys[key] = None
        entry, _ = self.ledger.compute(key, identity, fill)
        return pd.read_parquet(entry.path("replays.parquet"))
