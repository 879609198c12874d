"""The ledger: one folder per key, written once, never computed twice.

An entry is written under a temporary name on the same file system, fsynced and renamed, so that it is either there
whole or not there. The process that computes an entry holds its lease meanwhile; when a lease is taken over from a dead
process, its half-written files are removed. Damaged entries are moved to `damaged/` and named. Searches keep a trace
beside the entries, one file per round.
"""

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rankadaptor.errors import BadInput, DamagedEntry, NotInLedger
from rankadaptor.files import fsync, write_atomically
from rankadaptor.pipeline.leases import Holder, Leases, is_dead, read_holder
from rankadaptor.pipeline.ledger_files import Entry, complete_entry, is_key, json_text, set_aside, writing_into

_LEASES, _SCRATCH = ".leases", ".unfinished"
_RENAME_ATTEMPTS = 60  # a second apart: a network client may not show yet an entry that its server has


class Ledger:
    """A folder of finished results, addressed by key."""

    def __init__(self, folder: Path | str):
        """
        Args:
            folder: Where entries are; it is made when the first one is written.

        Raises:
            BadInput: if the folder, or one above it, is a file.
        """
        self.folder = Path(folder)
        self._verified: set[str] = set()
        self._leases = Leases(self.folder / _LEASES)
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise BadInput(f"cannot use {self.folder} as a ledger, {existing} is not a folder: name one")

    def find(self, key: str) -> Entry | None:
        """The entry of a key, its checksums verified once a process; None if the ledger lacks it.

        A damaged entry is moved to `damaged/`, named on standard error, and counts as missing.
        """
        entry = Entry(key, self.folder / key)
        if not entry.folder.is_dir():
            return None
        if key in self._verified:
            return entry
        try:
            entry.verify()
        except DamagedEntry as damage:
            set_aside(self.folder, entry.folder, str(damage))
            return None
        self._verified.add(key)
        return entry

    def entries(self) -> list[Entry]:
        """All entries, by key; verifies nothing."""
        names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        return [Entry(name, self.folder / name) for name in names if is_key(name)]

    def leftovers(self) -> list[Path]:
        """Files of processes that died: half-written entries, leases, drafts of leases."""
        unfinished = sorted(self.folder.glob(f"{_SCRATCH}/*"))  # listed before the leases: each has one by then
        living = self._leases.living()
        old = [path for path in self.folder.glob(".????????????-*") if path.is_dir()]  # of an earlier layout
        return [path for path in unfinished if path.name not in living] + self._leases.dead() + old

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
        """
        if (entry := self.find(key)) is not None:
            return entry, False
        if (self.folder / key).exists():
            raise BadInput(f"entry {key[:12]} of {self.folder} is damaged, and cannot be set aside: mend the folder's"
                           " rights, or remove the entry")
        with writing_into(self.folder), self._leases.held(key, lambda: self.find(key) is not None) as holder:
            if holder is not None:
                self.refresh()  # another process may have finished the entry before this one got the lease
            if (entry := self.find(key)) is None and holder is not None:
                with self._scratch(key, holder) as scratch:
                    result = work(scratch)
                    complete_entry(scratch, spec, result)
                    self._put(scratch, key)
                return Entry(key, self.folder / key), True
        # The other process finished a damaged entry, which is set aside now.
        return (entry, False) if entry is not None else self.compute(key, spec, work)

    def _put(self, scratch: Path, key: str) -> None:
        for attempts_left in range(_RENAME_ATTEMPTS, -1, -1):
            try:
                os.rename(scratch, self.folder / key)
                break
            except OSError as error:
                # Another process may have finished the same key: its entry is as good, and this one is dropped.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not attempts_left:
                    raise
            self.refresh()
            if self.find(key) is not None:
                break
            if (self.folder / key).exists():  # else it was damaged, and is set aside now
                time.sleep(1)
        fsync(self.folder)

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Waits while another living process is within this context, on this ledger and under this name."""
        with writing_into(self.folder), self._leases.held(name, lambda: False):
            yield

    def refresh(self) -> None:
        """Make the client of a network folder ask its server again; it remembers for a while what was missing."""
        with contextlib.suppress(OSError):
            os.utime(self.folder)

    def is_elsewhere(self, key: str) -> bool:
        """Whether another process, or another thread, computes a key."""
        return self._leases.is_held(key)

    @contextlib.contextmanager
    def _scratch(self, key: str, holder: Holder) -> Iterator[Path]:
        self._remove_unfinished()
        unfinished = self.folder / _SCRATCH / holder.token
        (unfinished / key).mkdir(parents=True)
        try:
            (unfinished / "holder.json").write_text(holder.to_json())
            yield unfinished / key
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _remove_unfinished(self) -> None:
        """Remove half-written entries of processes of this host that died."""
        for path in self.folder.glob(f"{_SCRATCH}/*/holder.json"):
            if (holder := read_holder(path)) is not None and is_dead(holder):
                shutil.rmtree(path.parent, ignore_errors=True)

    # -- search traces -------------------------------------------------------------------------------------------------

    def read_trace(self, key: str) -> list[dict[str, Any]]:
        """Finished rounds of a search, in order, up to a gap or a file that is not JSON."""
        rounds: list[dict[str, Any]] = []
        while (path := self._round_path(key, len(rounds))).is_file():
            try:
                rounds.append(json.loads(path.read_text()))
            except ValueError:
                set_aside(self.folder, path, f"search {key[:12]}: {path.name} is not JSON")
        return rounds

    def searches(self) -> list[str]:
        """Keys of the searches that have a trace."""
        folders = sorted((self.folder / "searches").glob("*"))
        return [folder.name for folder in folders if is_key(folder.name) and (folder / "spec.json").is_file()]

    def search_identity(self, key: str) -> dict[str, Any]:
        """The identity that a search's key is the hash of. Raises NotInLedger if there is no such search."""
        path = self.folder / "searches" / key / "spec.json"
        if not path.is_file():
            raise NotInLedger(f"search {key[:12]} is not in {self.folder}")
        identity: dict[str, Any] = json.loads(path.read_text())
        return identity

    def append_round(self, key: str, identity: dict[str, Any], number: int, content: dict[str, Any]) -> None:
        """Write one finished round of a search; the first also writes the search's identity as `spec.json`."""
        folder = self._round_path(key, number).parent
        with writing_into(self.folder):
            if not (folder / "spec.json").is_file():
                write_atomically(folder / "spec.json", json_text(identity))
            write_atomically(self._round_path(key, number), json_text(content))

    def _round_path(self, key: str, number: int) -> Path:
        return self.folder / "searches" / key / f"round-{number:03d}.json"
