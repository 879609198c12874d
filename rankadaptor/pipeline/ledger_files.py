"""Files of a ledger: entries and their checksums, damaged files, and errors of a full or locked disk."""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rankadaptor.errors import BadInput, DamagedEntry
from rankadaptor.files import fsync, sha256_file

DAMAGED = "damaged"  # folder of a ledger
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)


def is_key(name: str) -> bool:
    """Whether a name is a key as `keys.identity_key` makes them: 64 hex digits."""
    return len(name) == 64 and not name.strip("0123456789abcdef")


def json_text(content: dict[str, Any], allow_nan: bool = True) -> str:
    """JSON as all files of a ledger hold it: sorted keys, indented by one space."""
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=allow_nan) + "\n"


@dataclass(frozen=True)
class Entry:
    """A finished result: a folder with `spec.json`, `result.json`, arrays beside them, and `checksums.json`."""

    key: str
    folder: Path

    @property
    def spec(self) -> dict[str, Any]:
        """The identity that the key is the hash of, see `keys.stage_identity`."""
        return json.loads((self.folder / "spec.json").read_text())

    @property
    def result(self) -> dict[str, Any]:
        """Stage, result and provenance."""
        return json.loads((self.folder / "result.json").read_text())

    def path(self, name: str) -> Path:
        """Path of a file or folder of the entry."""
        return self.folder / name

    def verify(self) -> None:
        """Read every file against its checksum.

        Raises:
            DamagedEntry: if a file is missing or does not match.
        """
        try:
            recorded = dict(json.loads((self.folder / "checksums.json").read_text()))
        except (OSError, ValueError, TypeError):
            raise DamagedEntry(f"entry {self.key[:12]} has no readable checksums.json") from None
        if lacking := {"spec.json", "result.json"} - recorded.keys():
            raise DamagedEntry(f"entry {self.key[:12]}: checksums.json does not hold {min(lacking)}")
        for name, digest in recorded.items():
            path = self.folder / name
            if not path.is_file() or sha256_file(path) != digest:
                raise DamagedEntry(f"entry {self.key[:12]}: {name} does not match its checksum")


def complete_entry(folder: Path, spec: dict[str, Any], result: dict[str, Any]) -> None:
    """Write spec, result and checksums beside the arrays of a folder, and force all of it onto the disk."""
    (folder / "spec.json").write_text(json_text(spec))
    (folder / "result.json").write_text(json_text(result, allow_nan=False))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    checksums = {str(path.relative_to(folder)): sha256_file(path) for path in files}
    (folder / "checksums.json").write_text(json_text(checksums))
    for path in [*files, folder / "checksums.json", folder]:
        fsync(path)


def set_aside(ledger: Path, path: Path, damage: str) -> None:
    """Move a damaged file or entry to the ledger's `damaged/`, and name it on standard error."""
    aside = ledger / DAMAGED / f"{path.name}-{os.urandom(4).hex()}"
    try:
        aside.parent.mkdir(exist_ok=True)
        os.replace(path, aside)
    except FileNotFoundError:
        return  # another process set it aside
    except OSError as error:
        print(f"ledger: {damage}; it is not used, and stays where it is ({error.strerror})", file=sys.stderr)
        return
    print(f"ledger: {damage}; set aside as {aside}, to be computed again", file=sys.stderr)


@contextlib.contextmanager
def writing_into(ledger: Path) -> Iterator[None]:
    """Turns errors of a full disk or a locked folder into one line with the remedy.

    Raises:
        BadInput: in place of such an error, unless it is about a file outside the ledger.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        text, place = str(error), getattr(error, "filename", None)
        if isinstance(place, str | os.PathLike) and not Path(place).absolute().is_relative_to(ledger.absolute()):
            raise
        if getattr(error, "errno", None) in _FULL or "os error 28" in text:
            remedy = f"free some of the disk, {ledger} is on it, and start again: what was finished is kept"
        elif getattr(error, "errno", None) in _LOCKED:
            remedy = "name another folder as the ledger, or mend its rights"
        else:
            raise
        raise BadInput(f"cannot write into the ledger ({text}): {remedy}") from error
