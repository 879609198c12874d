"""This machine: its cores, the threads that a process computes with, and its description in a result's provenance."""

import contextlib
import importlib.metadata
import os
import platform
import resource
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil
import torch

_PACKAGES = ("rankadaptor", "torch", "transformers", "peft", "lm-eval", "datasets", "safetensors", "numpy", "pandas")


def usable_cores() -> int:
    """Number of cores that this process may use; a scheduler may allow fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Sets the number of PyTorch's CPU threads in this process, and restores it on exit.

    Args:
        threads: Number of threads; None leaves it as it is.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """Processor, accelerator and library versions of this process."""
    return _machine() | {"torch_threads": torch.get_num_threads()}


@lru_cache(maxsize=1)
def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def peak_memory_bytes() -> int:
    """Peak memory of this process in bytes: on the accelerator if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
