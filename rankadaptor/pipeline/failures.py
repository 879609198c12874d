"""Stages that failed for want of memory or time, or whose process was killed: classed, counted by machine, tried again
by rule.

A stage is a function of its spec, but whether a machine can compute it is not: a failure is no entry of the ledger. It
is noted in `ledger/failures/KEY/`, where attempts on machines like this one are counted. A recovery that diverged would
diverge everywhere, and is a result.
"""

import errno
import itertools
import os
import re
import time
from typing import Any

import torch

from rankadaptor.errors import StageFailed
from rankadaptor.machine import machine
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.time_limits import TimedOut

# How often a stage is tried on one kind of machine, by what became of it.
ATTEMPTS = {"out of memory": 2, "timed out": 2, "killed": 3}
_REMEDIES = {
    "out of memory": "lower micro_batch_rows or the evaluation's batch, or take a machine with more",
    "timed out": "see what hangs or is slow, or raise the profile's stage_limit_s",
    "killed": "look for what kills processes here, often the system when memory ends",
}
_NO_MEMORY = re.compile(r"can(?:'t|not) allocate memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)


def kind_of(error: BaseException) -> str:
    """The class of an error that a stage may be tried again after; empty for bugs and bad input."""
    if isinstance(error, StageFailed):
        return ""  # of what this one is computed from, and noted there
    if isinstance(error, TimedOut):
        return "timed out"
    told = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    full = isinstance(error, OSError) and error.errno == errno.ENOMEM
    return "out of memory" if told or full or isinstance(error, MemoryError | torch.OutOfMemoryError) else ""


def note(ledger: Ledger, key: str, stage: str, kind: str, message: str) -> None:
    """Keep that a stage failed here, and why."""
    ledger.note_failure(key, {
        "stage": stage,
        "kind": kind,
        "message": " ".join(message.split())[:300],
        "noted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
    })


def given_up(ledger: Ledger, key: str) -> StageFailed | None:
    """What to raise in place of trying a stage once more; None if it may be tried."""
    noted = [one for one in ledger.failures(key) if _is_note(one)]
    if not noted:
        return None
    known = _kinds_of_machine_here()
    counted = itertools.product({_kind_of_machine(one["machine"]) for one in noted}, ATTEMPTS.items())
    for kind_of_machine, (kind, most) in counted:
        found = [one for one in noted if one["kind"] == kind and _kind_of_machine(one["machine"]) == kind_of_machine]
        if len(found) >= most and (known is None or kind_of_machine in known):
            times = "" if most == 1 else f" in {len(found)} attempts"
            return StageFailed(kind, f"{found[-1]['stage']} {key[:12]}{times}: {_REMEDIES[kind]}; to try it again:"
                                     " ledger gc --failures")
    return None


def _is_note(content: dict[str, Any]) -> bool:
    """Whether it says what `note` does; anyone may have edited the file."""
    return {"stage", "kind"} <= content.keys() and isinstance(content.get("machine"), dict)


def _kind_of_machine(machine: dict[str, Any]) -> tuple[Any, ...]:
    memory = machine.get("memory_bytes")
    gigabytes = round(memory / 2**30) if isinstance(memory, int) else None  # machines of one kind differ by some pages
    return machine.get("processor"), machine.get("accelerator"), gigabytes


def _kinds_of_machine_here() -> set[tuple[Any, ...]] | None:
    """One for every accelerator that its processes may have; None where they may be any, on a cluster."""
    if os.environ.get("RANKADAPTOR_EXECUTOR") == "ray":
        return None
    here = machine()
    cards = [torch.cuda.get_device_name(card) for card in range(torch.cuda.device_count())]
    return {_kind_of_machine(here | {"accelerator": card}) for card in cards} or {_kind_of_machine(here)}
