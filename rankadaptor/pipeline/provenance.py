"""When and where a stage was computed: kept beside every result, part of no key and of no table."""

import time
from dataclasses import dataclass
from typing import Any

from rankadaptor.machine import machine, peak_memory_bytes


@dataclass(frozen=True)
class Started:
    """When something began: by the clock on the wall, to be told, and by one that never jumps, to be measured."""

    at: float  # seconds since the epoch
    ticks: float

    @classmethod
    def now(cls) -> "Started":
        return cls(time.time(), time.monotonic())


def of_stage(started: Started, base_model: str) -> dict[str, Any]:
    """What a stage that began then and ends now took, and where."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started.at)),
        "seconds": round(time.monotonic() - started.ticks, 3),
        "peak_memory_bytes": peak_memory_bytes(),
        "base_model": base_model,
        "machine": machine(),
    }
