"""What templates say of speed: records of benchmarks, and what a profile's costs add up to. Public methods are
functions of templates."""

import tempfile
from functools import cache
from typing import Any

import numpy as np

from rankadaptor.experiments.plan import Plan
from rankadaptor.pipeline.stages.evaluate import REPORT_ITEMS
from rankadaptor.reporting import pages
from rankadaptor.reporting.numbers import plain, span
from rankadaptor.reporting.prose.reports import Reports, named_profile


class Speeds:
    """The vocabulary of benchmarks. A record is named without its folder: `evaluation-smollm2`."""

    def __init__(self, reports: Reports):
        self._reports = reports

    def bench(self, name: str) -> dict[str, Any]:
        """The record of a benchmark."""
        return self._reports.record(f"benchmarks/{name}")

    def times_faster(self, name: str) -> str:
        """How many times as fast ours is: as lm-eval's backend at its best batch size, or as the Trainer (median)."""
        ratios = self.bench(name)["ratios"]
        return plain(min(ratios) if name.startswith("evaluation") else float(np.median(ratios)), 2)

    def times_faster_span(self, name: str) -> str:
        """The same from the least to the largest over seeds."""
        return span(self.bench(name)["ratios"], 2)

    def peak(self, name: str) -> str:
        """The machine's matrix-product peak in GFLOP/s."""
        return plain(self.bench(name)["peak_flops"] / 1e9, 0)

    def memory(self, name: str, engine: int) -> str:
        """Peak memory of a line of a benchmark's table, in GB."""
        return plain(float(self.bench(name)["table"][engine]["peak memory (GB)"]))

    def losses(self, name: str, way: str) -> str:
        """Held-out losses of recoveries over seeds: mean and range, in nats."""
        values = self.bench(name)["losses"][way]
        return f"{np.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"

    def recovery_seconds(self, profile: str, budget: str) -> float:
        """Seconds of one recovery, by a profile's cost."""
        loaded = named_profile(profile)
        training = loaded.budgets[budget].training
        return training.steps * training.batch_rows * loaded.cost.recovery_seconds_per_row

    def evaluation_seconds(self, profile: str) -> float:
        """Seconds of one evaluation of all report items, by a profile's cost."""
        return REPORT_ITEMS * named_profile(profile).cost.evaluation_seconds_per_item

    def report_items(self) -> str:
        """Items of the seven benchmarks' report splits."""
        return f"{REPORT_ITEMS:,}"

    def plan_hours(self, profile: str, budget: str = "", blocks: str = "") -> float:
        """Hours of Table 2 from an empty ledger, by its plan; of the profile's defaults where nothing is named."""
        return self._plan(profile, budget, blocks).missing_seconds() / 3600

    def planned_recoveries(self, profile: str, blocks: str) -> int:
        """Recoveries of Table 2 from an empty ledger, by its plan."""
        return sum(count for kind, count in self._plan(profile, "", blocks).missing.items() if kind.stage == "recover")

    @staticmethod
    @cache
    def _plan(profile: str, budget: str, blocks: str) -> Plan:
        with tempfile.TemporaryDirectory() as empty:
            given = {"profile": profile, "ledger": empty, "budget": budget, "blocks": blocks}
            return pages.plan("table2", given)

    def row_tokens(self) -> int:
        """Tokens of a row of Alpaca that plans of the paper's models count with."""
        from rankadaptor.reporting.gpu_check import ROW_TOKENS  # imports torch and transformers

        return ROW_TOKENS

    def tokens_a_second(self, name: str) -> float:
        """Tokens of real text a second of our recoveries, mean over seeds."""
        return float(np.mean(self.bench(name)["speeds"]["ours"]))

    def bench_seconds(self, name: str) -> float:
        """Seconds of the last line of an evaluation's table: ours."""
        return float(self.bench(name)["table"][-1]["seconds"])
