"""The ledger: one folder per key, written once, never computed twice.

An entry holds `spec.json`, `result.json`, arrays beside them and `checksums.json`. It is written under a temporary name
on the same file system, fsynced and renamed, so that an entry either is there whole or is not there. Whoever computes
one holds its lease meanwhile; what a dead process left half-written goes when its lease is taken over. Damaged entries
are set aside under `damaged/` and named. Searches keep a trace beside the entries, one file a round.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rankadaptor.errors import BadInput, DamagedEntry
from rankadaptor.files import _fsync, sha256_file, write_atomically
from rankadaptor.pipeline.leases import Holder, Leases, is_dead, read_holder

_LEASES, _SCRATCH, _DAMAGED, FAILURES = ".leases", ".unfinished", "damaged", "failures"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOOKS = 60  # at an entry that the server has and its client does not show yet, a second apart
_LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)


def is_key(name: str) -> bool:
    """Whether this is what `specs.identity_key` makes."""
    return len(name) == 64 and not name.strip("0123456789abcdef")


def _finish(scratch: Path, spec: dict[str, Any], result: dict[str, Any]) -> None:
    """What makes an entry of a folder of arrays, and all of it onto the disk."""
    (scratch / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")
    (scratch / "result.json").write_text(json.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n")
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    sums = {str(path.relative_to(scratch)): sha256_file(path) for path in files}
    (scratch / "checksums.json").write_text(json.dumps(sums, indent=1, sort_keys=True) + "\n")
    for path in [*files, scratch / "checksums.json", scratch]:
        _fsync(path)


@dataclass(frozen=True)
class Entry:
    """A finished result."""

    key: str
    folder: Path

    @property
    def spec(self) -> dict[str, Any]:
        return json.loads((self.folder / "spec.json").read_text())

    @property
    def result(self) -> dict[str, Any]:
        return json.loads((self.folder / "result.json").read_text())

    def path(self, name: str) -> Path:
        return self.folder / name


class Ledger:
    """A folder of finished results, addressed by key."""

    def __init__(self, folder: Path | str):
        """Looks, but makes nothing: the folder appears with its first entry."""
        self.folder = Path(folder)
        self._verified: set[str] = set()
        self._leases = Leases(self.folder / _LEASES)
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise BadInput(f"cannot use {self.folder} as a ledger, {existing} is not a folder: name one")

    def find(self, key: str) -> Entry | None:
        """The entry of a key, its checksums verified once a process; None if it is not there.

        A damaged entry is moved to `damaged/`, named on standard error, and counts as not there.
        """
        entry = Entry(key, self.folder / key)
        if not entry.folder.is_dir():
            return None
        if key in self._verified:
            return entry
        try:
            self._verify(entry)
        except DamagedEntry as damage:
            self._set_aside(entry.folder, str(damage))
            return None
        self._verified.add(key)
        return entry

    def entries(self) -> list[Entry]:
        """All of them, by key; nothing is verified."""
        names = sorted(path.name for path in self.folder.iterdir()) if self.folder.is_dir() else []
        return [Entry(name, self.folder / name) for name in names if is_key(name)]

    def leftovers(self) -> list[Path]:
        """What processes that died left behind: half-written entries, leases, drafts of them."""
        unfinished = sorted(self.folder.glob(f"{_SCRATCH}/*"))  # before the leases: what begins now has one by then
        living = self._leases.living()
        old = [path for path in self.folder.glob(".????????????-*") if path.is_dir()]  # of an earlier layout
        return [path for path in unfinished if path.name not in living] + self._leases.dead() + old

    def _set_aside(self, path: Path, damage: str) -> None:
        aside = self.folder / _DAMAGED / f"{path.name}-{os.urandom(4).hex()}"
        try:
            aside.parent.mkdir(exist_ok=True)
            os.replace(path, aside)
        except FileNotFoundError:
            return  # another process set it aside
        except OSError as error:
            print(f"ledger: {damage}; it is not used, and stays where it is ({error.strerror})", file=sys.stderr)
            return
        print(f"ledger: {damage}; set aside as {aside}, to be computed again", file=sys.stderr)

    def _verify(self, entry: Entry) -> None:
        try:
            recorded = dict(json.loads((entry.folder / "checksums.json").read_text()))
        except (OSError, ValueError, TypeError):
            raise DamagedEntry(f"entry {entry.key[:12]} has no readable checksums.json") from None
        if lacking := {"spec.json", "result.json"} - recorded.keys():
            raise DamagedEntry(f"entry {entry.key[:12]}: checksums.json does not hold {min(lacking)}")
        for name, digest in recorded.items():
            path = entry.folder / name
            if not path.is_file() or sha256_file(path) != digest:
                raise DamagedEntry(f"entry {entry.key[:12]}: {name} does not match its checksum")

    def compute(
        self, key: str, spec: dict[str, Any], work: Callable[[Path], dict[str, Any]]
    ) -> tuple[Entry, bool]:
        """The entry of `key`, computed by `work` if it is missing, or by the process that is at it already.

        Args:
            key: From `specs.identity_key`.
            spec: The identity that the key is the hash of, stored as `spec.json`.
            work: Gets an empty folder, writes its arrays there and returns the content of `result.json`.

        Returns:
            The entry, and whether it was computed now, and here.

        Raises:
            BadInput: where the folder cannot be written, or is full; what was finished is there all the same.
        """
        if (found := self.find(key)) is not None:
            return found, False
        if (self.folder / key).exists():
            raise BadInput(f"entry {key[:12]} of {self.folder} is damaged, and cannot be set aside: mend the folder's"
                           " rights, or remove the entry")
        with self._written_to(), self._leases.held(key, lambda: self.find(key) is not None) as holder:
            if holder is not None:
                self.look_again()  # it may have been finished elsewhere while we waited
            if (found := self.find(key)) is None and holder is not None:
                with self._scratch(key, holder) as scratch:
                    result = work(scratch)
                    _finish(scratch, spec, result)
                    self._put(scratch, key)
                return Entry(key, self.folder / key), True
        # Waited for, and damaged: to be computed after all.
        return (found, False) if found is not None else self.compute(key, spec, work)

    def _put(self, scratch: Path, key: str) -> None:
        for patience in range(_LOOKS, -1, -1):
            try:
                os.rename(scratch, self.folder / key)
                break
            except OSError as error:
                # Another process may have finished the same key after all: its entry is as good, and ours is dropped.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or not patience:
                    raise
            self.look_again()
            if self.find(key) is not None:
                break
            if (self.folder / key).exists():  # else it was damaged, and is set aside now
                time.sleep(1)
        _fsync(self.folder)

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Waits while another living process is within, on this ledger and under this name."""
        with self._written_to(), self._leases.held(name, lambda: False):
            yield

    def look_again(self) -> None:
        """Makes clients of a network folder ask its server, which they do not for a while about what was not there."""
        with contextlib.suppress(OSError):
            os.utime(self.folder)

    def is_elsewhere(self, key: str) -> bool:
        """Whether another process, or thread, is at a key."""
        return self._leases.is_held(key)

    @contextlib.contextmanager
    def _scratch(self, key: str, holder: Holder) -> Iterator[Path]:
        self._sweep()
        own = self.folder / _SCRATCH / holder.token
        (own / key).mkdir(parents=True)
        try:
            (own / "holder.json").write_text(holder.to_json())
            yield own / key
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what processes of this host left half-written when they died."""
        for path in self.folder.glob(f"{_SCRATCH}/*/holder.json"):
            if (holder := read_holder(path)) is not None and is_dead(holder):
                shutil.rmtree(path.parent, ignore_errors=True)

    @contextlib.contextmanager
    def _written_to(self) -> Iterator[None]:
        """Tells in one line of a folder that is full, or may not be written."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            text, place = str(error), getattr(error, "filename", None)
            whole = self.folder.absolute()
            if isinstance(place, str | os.PathLike) and not Path(place).absolute().is_relative_to(whole):
                raise  # of a file that the work reads or writes elsewhere
            if getattr(error, "errno", None) in _FULL or "os error 28" in text:
                remedy = f"free some of the disk, {self.folder} is on it, and start again: what was finished is kept"
            elif getattr(error, "errno", None) in _LOCKED:
                remedy = "name another folder as the ledger, or mend its rights"
            else:
                raise
            raise BadInput(f"cannot write into the ledger ({text}): {remedy}") from error

    # -- failures -----------------------------------------------------------------------------------------------------

    def note_failure(self, key: str, content: dict[str, Any]) -> None:
        """Keep why a key could not be computed, beside what was kept before; see `failures`."""
        path = self.folder / FAILURES / key / f"{os.urandom(8).hex()}.json"
        with self._written_to():
            write_atomically(path, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def failures(self, key: str) -> list[dict[str, Any]]:
        """What was noted of a key, oldest first; notes that cannot be read are passed over."""
        found = []
        for path in sorted((self.folder / FAILURES / key).glob("*.json")):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found.append(dict(json.loads(path.read_text())))
        return sorted(found, key=lambda one: str(one.get("noted")))

    # -- search traces ----------------------------------------------------------------------------------------------

    def read_trace(self, key: str) -> list[dict[str, Any]]:
        """Finished rounds of a search, in order; a gap ends the list, and so does a file that is not JSON."""
        rounds: list[dict[str, Any]] = []
        while (path := self._round_path(key, len(rounds))).is_file():
            try:
                rounds.append(json.loads(path.read_text()))
            except ValueError:
                self._set_aside(path, f"search {key[:12]}: {path.name} is not JSON")
        return rounds

    def append_round(self, key: str, identity: dict[str, Any], number: int, content: dict[str, Any]) -> None:
        """Write one finished round, and with the first what is searched, as `spec.json`."""
        folder = self._round_path(key, number).parent
        with self._written_to():
            if not (folder / "spec.json").is_file():
                write_atomically(folder / "spec.json", json.dumps(identity, indent=1, sort_keys=True) + "\n")
            write_atomically(self._round_path(key, number), json.dumps(content, indent=1, sort_keys=True) + "\n")

    def _round_path(self, key: str, number: int) -> Path:
        return self.folder / "searches" / key / f"round-{number:03d}.json"
