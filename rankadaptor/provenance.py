"""Which machine, which versions: kept beside every result, part of no key and of no table."""

import importlib.metadata
import os
import platform
import resource
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

import rankadaptor

_PACKAGES = ("torch", "transformers", "peft", "lm-eval", "datasets", "safetensors", "numpy", "pandas")


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Processor, accelerator and library versions of this process."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {"rankadaptor": rankadaptor.__version__}
        | {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def of_stage(started: float, base_model: str) -> dict[str, Any]:
    """What a stage that began at `started` (seconds since the epoch) and ends now took, and where."""
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 3),
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
