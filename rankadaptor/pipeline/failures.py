"""Stages that ran out of memory or time, or whose process was killed: their class, attempts per machine, and retries.

The result of a stage depends on its spec alone, but whether a machine can compute it does not, so a failure is no entry
of the ledger. It is noted in `ledger/failures/KEY/`, where attempts on machines of one kind are counted. Notes are
sealed: one that was edited, copied, or written for another key counts no attempt. A recovery that diverged would
diverge on every machine, and is a result.
"""

import errno
import itertools
import os
import re
import time
from typing import Any

import torch

from rankadaptor.errors import Damaged, StageFailed
from rankadaptor.machine import machine
from rankadaptor.pipeline.ledger import FAILURES, Ledger
from rankadaptor.pipeline.ledger_files import set_aside, writing_into
from rankadaptor.pipeline.time_limits import TimedOut
from rankadaptor.sealed import kind_of as kind_at
from rankadaptor.sealed import names_in, plain, read_sealed, write_sealed

# Attempts of a stage on one kind of machine, by kind of failure.
ATTEMPTS = {"out of memory": 2, "timed out": 2, "killed": 3}
_REMEDIES = {
    "out of memory": "lower micro_batch_rows or the evaluation's batch, or take a machine with more",
    "timed out": "see what hangs or is slow, or raise the profile's stage_limit_s",
    "killed": "look for what kills processes here, often the system when memory ends",
}
_NO_MEMORY = re.compile(r"can(?:'t|not) allocate memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)


def kind_of(error: BaseException) -> str:
    """The kind of a failure after which a stage may be tried again, a key of ATTEMPTS; empty for bugs and bad input."""
    if isinstance(error, StageFailed):
        return ""  # an earlier stage failed, and its failure is noted already
    if isinstance(error, TimedOut):
        return "timed out"
    no_memory = (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    )
    return "out of memory" if no_memory else ""


def note(ledger: Ledger, key: str, stage: str, kind: str, message: str) -> None:
    """Write into the ledger that a stage failed on this machine, and why."""
    content = {
        "stage": stage,
        "kind": kind,
        "message": " ".join(message.split())[:300],
        "noted": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
    }
    folder, name = ledger.folder / FAILURES / key, f"{os.urandom(8).hex()}.json"
    if (place := kind_at(folder)) not in ("", "a folder"):
        set_aside(ledger.folder, folder, f"failures of {key[:12]}: it is {place}, not a folder", then="")
    with writing_into(ledger.folder):
        write_sealed(folder / name, content, _place(key, name))


def notes_of(ledger: Ledger, key: str) -> list[dict[str, Any]]:
    """Notes of a key's failures, oldest first; those that are not as they were written are set aside."""
    return check_notes(ledger, key)[0]


def check_notes(ledger: Ledger, key: str) -> tuple[list[dict[str, Any]], list[str]]:
    """`notes_of`, and a line for each note that was not believed."""
    folder = ledger.folder / FAILURES / key
    notes: list[dict[str, Any]] = []
    faults: list[str] = []
    try:
        names = names_in(folder)
    except OSError as error:
        return [], [f"failures of {plain(key[:12])} cannot be read ({error.strerror})"]
    for name in names:
        if not name.endswith(".json") or name.startswith("."):
            continue
        try:
            notes.append(read_sealed(folder / name, _place(key, name)))
        except Damaged as damage:
            faults.append(f"failure of {plain(key[:12])}: {damage}")
            set_aside(ledger.folder, folder / name, faults[-1], then=", and counts no attempt")
        except OSError as error:
            faults.append(f"failure of {plain(key[:12])}: {plain(name)} cannot be read ({error.strerror})")
    return sorted(notes, key=lambda content: str(content.get("noted"))), faults


def _place(key: str, name: str) -> dict[str, Any]:
    return {"failure": key, "name": name}


def given_up(ledger: Ledger, key: str) -> StageFailed | None:
    """The error to raise in place of another attempt at a stage; None if it may be tried."""
    notes = notes_of(ledger, key)
    if not notes:
        return None
    kinds_here = _kinds_of_machine_here()
    noted_kinds = {_kind_of_machine(content["machine"]) for content in notes}
    for kind_of_machine, (kind, most) in itertools.product(noted_kinds, ATTEMPTS.items()):
        if kinds_here is not None and kind_of_machine not in kinds_here:
            continue
        attempts = [content for content in notes
                    if content["kind"] == kind and _kind_of_machine(content["machine"]) == kind_of_machine]
        if len(attempts) >= most:
            return StageFailed(kind, f"{attempts[-1]['stage']} {key[:12]} in {len(attempts)} attempts:"
                                     f" {_REMEDIES[kind]}; to try it again: ledger gc --failures")
    return None


def _kind_of_machine(content: dict[str, Any]) -> tuple[Any, ...]:
    """(processor, accelerator, memory in GiB) of a machine as `machine.machine` describes it."""
    memory = content.get("memory_bytes")
    gigabytes = round(memory / 2**30) if isinstance(memory, int) else None  # machines of one kind differ by some pages
    return content.get("processor"), content.get("accelerator"), gigabytes


def _kinds_of_machine_here() -> set[tuple[Any, ...]] | None:
    """Kinds of machine that a stage may run on from here, one an accelerator; None for any kind, on a cluster."""
    if os.environ.get("RANKADAPTOR_EXECUTOR") == "ray":
        return None
    here = machine()
    cards = [torch.cuda.get_device_name(card) for card in range(torch.cuda.device_count())]
    return {_kind_of_machine(here | {"accelerator": card}) for card in cards} or {_kind_of_machine(here)}
