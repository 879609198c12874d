"""Which machine, which versions: kept beside every result, part of no key and of no table."""

import importlib.metadata
import os
import platform
import resource
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import rankadaptor

_PACKAGES = ("torch", "transformers", "peft", "lm-eval", "datasets", "safetensors", "numpy", "pandas")


def machine() -> dict[str, Any]:
    """Processor, accelerator and library versions of this process."""
    return _machine() | {"torch_threads": torch.get_num_threads()}


@lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"rankadaptor": rankadaptor.__version__}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


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


def peak_memory_bytes() -> int:
    """Most memory this process has held so far: on the accelerator if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
