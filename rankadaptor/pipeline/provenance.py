"""When and where a stage was computed: stored beside every result, part of no key and of no table."""

import time
from dataclasses import dataclass
from typing import Any

from rankadaptor.machine import machine, peak_memory_bytes


@dataclass(frozen=True)
class Started:
    """When a computation began, by two clocks."""

    at: float  # wall clock, seconds since the epoch: for the record
    ticks: float  # monotonic clock, seconds: for durations

    @classmethod
    def now(cls) -> "Started":
        """Both clocks now."""
        return cls(time.time(), time.monotonic())


def of_stage(started: Started, base_model: str) -> dict[str, Any]:
    """Provenance of a stage that ends now.

    Args:
        base_model: Label of the base model.

    Returns:
        Start, seconds of wall time, peak memory in bytes, base model, and `machine.machine`.
    """
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started.at)),
        "seconds": round(time.monotonic() - started.ticks, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "base_model": base_model,
        "machine": machine(),
    }
