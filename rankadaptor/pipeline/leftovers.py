"""What processes that died left in a ledger: half-written entries, leases, drafts of leases. Nothing of the living."""

import shutil
from pathlib import Path

from rankadaptor.pipeline.leases import Leases, is_dead, is_expired, is_silent, read_holder
from rankadaptor.pipeline.ledger_files import UNFINISHED, remove_tree
from rankadaptor.sealed import kind_of, names_in

MARK = "holder.json"  # beside a half-written entry: who writes it, and touches this file meanwhile


def leftovers(ledger: Path, leases: Leases) -> list[Path]:
    """Files and folders that no process uses any more.

    Args:
        ledger: The ledger's folder.
        leases: The ledger's.
    """
    unfinished = [ledger / UNFINISHED / name for name in names_in(ledger / UNFINISHED)]
    living = leases.living()  # after the listing: each has a lease by then
    dead = [path for path in unfinished if path.name not in living and _is_abandoned(path)]
    old = [path for path in ledger.glob(".????????????-*") if kind_of(path) == "a folder"]  # of an earlier layout
    return dead + leases.dead() + old


def remove_leftover(ledger: Path, leases: Leases, path: Path) -> None:
    """Remove one of `leftovers`, unless a process has begun to use it since. Raises OSError if it cannot."""
    if path.parent == leases.folder:
        leases.remove_dead(path)
    elif path in leftovers(ledger, leases):
        remove_tree(path)


def remove_unfinished(ledger: Path) -> None:
    """Remove half-written entries of processes of this host that died, as far as that is allowed."""
    for name in names_in(ledger / UNFINISHED):
        mark = ledger / UNFINISHED / name / MARK
        if kind_of(mark) and (holder := read_holder(mark)) is not None and is_dead(holder):
            shutil.rmtree(mark.parent, ignore_errors=True)


def _is_abandoned(unfinished: Path) -> bool:
    """Whether nobody writes into a half-written entry any more, whether or not its writer still has the lease."""
    if kind_of(unfinished) != "a folder":
        return True  # a process makes nothing but folders there
    return is_expired(unfinished / MARK) if kind_of(unfinished / MARK) else is_silent(unfinished)
