"""The ledger: one folder per key, written once, never computed twice.

An entry holds `spec.json`, `result.json`, arrays beside them and `checksums.json`. It is written under a temporary name
on the same file system, fsynced and renamed, so that an entry either is there whole or is not there. Damaged entries
are set aside under `damaged/` and named. Searches keep a trace beside the entries, one file a round.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankadaptor.errors import BadInput, DamagedEntry


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fchmod(stream.fileno(), 0o644)
        os.fsync(stream.fileno())
    os.replace(name, path)
    _fsync(path.parent)


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
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            raise BadInput(f"cannot use {self.folder} as a ledger, {existing} is not a folder that you may write:"
                           " name one")

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

    def _set_aside(self, path: Path, damage: str) -> None:
        aside = self.folder / "damaged" / f"{path.name}-{os.urandom(4).hex()}"
        aside.parent.mkdir(exist_ok=True)
        os.replace(path, aside)
        print(f"ledger: {damage}; set aside as {aside}, to be computed again", file=sys.stderr)

    def _verify(self, entry: Entry) -> None:
        try:
            recorded = json.loads((entry.folder / "checksums.json").read_text())
        except (OSError, ValueError):
            raise DamagedEntry(f"entry {entry.key[:12]} has no readable checksums.json") from None
        for name, digest in recorded.items():
            path = entry.folder / name
            if not path.is_file() or sha256_file(path) != digest:
                raise DamagedEntry(f"entry {entry.key[:12]}: {name} does not match its checksum")

    def compute(
        self, key: str, spec: dict[str, Any], work: Callable[[Path], dict[str, Any]]
    ) -> tuple[Entry, bool]:
        """The entry of `key`, computed by `work` if it is missing.

        Args:
            key: From `specs.identity_key`.
            spec: The identity that the key is the hash of, stored as `spec.json`.
            work: Gets an empty folder, writes its arrays there and returns the content of `result.json`.

        Returns:
            The entry, and whether it was computed now.
        """
        if (found := self.find(key)) is not None:
            return found, False
        with self._scratch(key) as scratch:
            result = work(scratch)
            (scratch / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")
            (scratch / "result.json").write_text(json.dumps(result, indent=1, sort_keys=True, allow_nan=False) + "\n")
            files = sorted(path for path in scratch.rglob("*") if path.is_file())
            sums = {str(path.relative_to(scratch)): sha256_file(path) for path in files}
            (scratch / "checksums.json").write_text(json.dumps(sums, indent=1, sort_keys=True) + "\n")
            for path in [*files, scratch / "checksums.json", scratch]:
                _fsync(path)
            # Another process may have finished the same key meanwhile: its entry is as good, and ours is dropped.
            with contextlib.suppress(OSError):
                os.rename(scratch, self.folder / key)
                _fsync(self.folder)
        entry = self.find(key)
        if entry is None:
            raise BadInput(f"could not write entry {key[:12]} into {self.folder}: check its free space and rights")
        return entry, True

    @contextlib.contextmanager
    def _scratch(self, key: str) -> Iterator[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{key[:12]}-"))
        scratch.chmod(0o755)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

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
        if not (folder / "spec.json").is_file():
            write_atomically(folder / "spec.json", json.dumps(identity, indent=1, sort_keys=True) + "\n")
        write_atomically(self._round_path(key, number), json.dumps(content, indent=1, sort_keys=True) + "\n")

    def _round_path(self, key: str, number: int) -> Path:
        return self.folder / "searches" / key / f"round-{number:03d}.json"
