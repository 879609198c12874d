"""The ledger: one folder per key, written once, never computed twice.

An entry is written under a temporary name on the same file system, fsynced and renamed, so that it is either there
whole or not there. The process that computes an entry holds its lease meanwhile; when a lease is taken over from a dead
process, its half-written files are removed. An entry is used only where its spec hashes to its key, every file matches
its checksum and the result is of its stage's schema; others are moved to `damaged/` and named.
"""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rankadaptor.errors import BadInput, Damaged
from rankadaptor.files import fsync, make_folder
from rankadaptor.keys import identity_key
from rankadaptor.pipeline.leases import Holder, Leases, kept_alive
from rankadaptor.pipeline.ledger_files import (
    DAMAGED,
    UNFINISHED,
    Entry,
    complete_entry,
    is_key,
    set_aside,
    stamp_of,
    writing_into,
)
from rankadaptor.pipeline.leftovers import MARK, remove_unfinished
from rankadaptor.sealed import kind_of, names_in, plain

_LEASES, SEARCHES, FAILURES = ".leases", "searches", "failures"
UNPACKED = "RECORDS"  # file of a ledger that was unpacked from records
_RENAME_ATTEMPTS = 60  # a second apart: a network client may not show yet an entry that its server has
_LOOKS = 5  # at an entry that other processes replace under our eyes


class Look(NamedTuple):
    """What is at a key's place."""

    entry: Entry | None  # where it is whole
    fault: str = ""  # what was wrong with what was there
    is_in_the_way: bool = False  # and could not be moved


class Ledger:
    """A folder of finished results, addressed by key.

    Attributes:
        folder: Where entries are.
        leases: Who computes what.
    """

    def __init__(self, folder: Path | str):
        """
        Args:
            folder: Where entries are; it is made when the first one is written.

        Raises:
            BadInput: if the folder, or one above it, is a file, or may not be entered.
        """
        self.folder = Path(folder)
        self._verified: dict[str, tuple[int, int]] = {}  # key -> stamp of its folder
        self.leases = Leases(self.folder / _LEASES)
        _prepare(self.folder)

    def find(self, key: str) -> Entry | None:
        """The entry of a key, verified once a process; None if the ledger lacks it.

        A damaged entry is moved to `damaged/`, named on standard error, and counts as missing.
        """
        return self.look(key).entry

    def look(self, key: str) -> Look:
        """`find`, with what was wrong where an entry was damaged."""
        entry = Entry(key, self.folder / key)
        for looks_left in range(_LOOKS, -1, -1):
            if (stamp := stamp_of(entry.folder)) is None:
                return Look(None)
            if self._verified.get(key) == stamp:
                return Look(entry)
            try:
                unlisted = entry.verify()
            except Damaged as damage:
                # Another process may have finished the entry, or set the damaged one aside, while this one read it.
                if looks_left and (stamp_of(entry.folder) != stamp or looks_left == _LOOKS):
                    self.refresh()
                    continue
                fault = f"entry {key[:12]}: {damage}"
                if not set_aside(self.folder, entry.folder, fault, stamp):
                    return Look(None, fault, True)
                if stamp_of(entry.folder) is None or not looks_left:
                    return Look(None, fault)
                continue
            except OSError as error:
                fault = f"entry {key[:12]} cannot be read ({error.strerror})"
                return Look(None, fault, True)
            faults = [f"entry {key[:12]}: {plain(name)} is not of it" for name in unlisted]
            for name, fault in zip(unlisted, faults, strict=True):
                if not set_aside(self.folder, entry.path(name), fault, then=""):
                    return Look(None, fault, True)
            self._verified[key] = stamp
            return Look(entry, faults[0] if faults else "")
        return Look(None)

    def entries(self) -> list[Entry]:
        """All entries, by key; verifies nothing."""
        return [Entry(name, self.folder / name) for name in names_in(self.folder) if is_key(name)]

    def strangers(self) -> list[str]:
        """Names in the folder that are none of a ledger's; nothing reads them."""
        own = {_LEASES, UNFINISHED, SEARCHES, FAILURES, DAMAGED, UNPACKED}
        return [name for name in names_in(self.folder) if name not in own and not is_key(name)]

    def compute(
        self, key: str, spec: dict[str, Any], work: Callable[[Path], dict[str, Any]]
    ) -> tuple[Entry, bool]:
        """The entry of a key, computed by `work` if the ledger lacks it and no other process computes it.

        Args:
            key: From `keys.identity_key`.
            spec: The identity that the key is the hash of, stored as `spec.json`.
            work: Gets an empty folder, writes its arrays there and returns the content of `result.json`.

        Returns:
            The entry, and whether this call computed it.

        Raises:
            BadInput: if the folder cannot be written or is full; finished entries are kept.
            ValueError: if the key is not that of the spec, or the result is not of its stage's schema.
        """
        if identity_key(spec) != key:
            raise ValueError(f"key {key} is not that of its spec, {identity_key(spec)}")
        if (look := self.look(key)).entry is not None:
            return look.entry, False
        if look.is_in_the_way:
            raise BadInput(f"{look.fault}, and cannot be set aside in {self.folder}: mend the folder's rights, or"
                           " remove the entry")
        with writing_into(self.folder), self.leases.held(key, lambda: self.find(key) is not None) as holder:
            if holder is not None:
                self.refresh()  # another process may have finished the entry before this one got the lease
            if (entry := self.find(key)) is None and holder is not None:
                with self._scratch(key, holder) as scratch:
                    result = work(scratch)
                    complete_entry(scratch, spec, result)
                    return self._put(scratch, key, holder), True
        # The other process finished a damaged entry, which is set aside now.
        return (entry, False) if entry is not None else self.compute(key, spec, work)

    def _put(self, scratch: Path, key: str, holder: Holder) -> Entry:
        """Move a whole entry to its place, or drop it where another process has finished the key: that one is as good.

        Without a lease any more (the machine slept, and another process took it over), the other's entry comes first.
        """
        if not self.leases.is_own(key, holder):
            self.refresh()
            if (entry := self.find(key)) is not None:
                return entry
        for attempts_left in range(_RENAME_ATTEMPTS, -1, -1):
            try:
                os.rename(scratch, self.folder / key)
                fsync(self.folder)
                return Entry(key, self.folder / key)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR) or not attempts_left:
                    raise
            self.refresh()
            if (entry := self.find(key)) is not None:
                return entry
            if os.path.lexists(self.folder / key):  # else it was damaged, and is set aside now
                time.sleep(1)
        raise AssertionError("the last attempt returns or raises")

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Waits while another living process is within this context, on this ledger and under this name."""
        with writing_into(self.folder), self.leases.held(name, lambda: False):
            yield

    def refresh(self) -> None:
        """Make the client of a network folder ask its server again; it remembers for a while what was missing."""
        with contextlib.suppress(OSError):
            os.utime(self.folder)

    def is_elsewhere(self, key: str) -> bool:
        """Whether another process, or another thread, computes a key."""
        return self.leases.is_held(key)

    @contextlib.contextmanager
    def _scratch(self, key: str, holder: Holder) -> Iterator[Path]:
        remove_unfinished(self.folder)
        unfinished = self.folder / UNFINISHED / holder.token
        make_folder(unfinished.parent)
        unfinished.mkdir()
        try:
            (unfinished / MARK).write_text(holder.to_json(), encoding="utf-8")
            (unfinished / key).mkdir()
            with kept_alive(unfinished / MARK, holder):
                yield unfinished / key
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _prepare(folder: Path) -> None:
    """Raise BadInput where a ledger cannot be; set aside links, files and pipes where it has folders of its own."""
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{existing} is not a folder")
        if existing == folder:
            os.listdir(folder)  # raises where it may not be read
        for path in (folder / name for name in (_LEASES, UNFINISHED, SEARCHES, FAILURES)):
            if (kind := kind_of(path)) not in ("", "a folder"):
                set_aside(folder, path, f"{path.name} is {kind}, not a folder", then="")
    except OSError as error:
        raise BadInput(f"cannot use {folder} as a ledger, {error.strerror}: name another folder, or mend its rights"
                       ) from None
