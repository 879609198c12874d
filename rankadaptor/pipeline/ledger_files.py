"""Files of a ledger: entries, damaged files, and errors of a full or locked disk."""

import contextlib
import errno
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rankadaptor.errors import BadInput, Damaged
from rankadaptor.files import make_folder
from rankadaptor.keys import identity_key
from rankadaptor.pipeline.result_schema import check_result
from rankadaptor.sealed import (
    check_folder,
    check_texts,
    json_text,
    kind_of,
    parse_object,
    read_checksums,
    read_object,
    seal_folder,
)

DAMAGED = "damaged"  # folder of a ledger
UNFINISHED = ".unfinished"  # folder of a ledger
_SPEC, _RESULT = "spec.json", "result.json"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
_IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def is_key(name: str) -> bool:
    """Whether a name is a key as `keys.identity_key` makes them: 64 hex digits."""
    return len(name) == 64 and not name.strip("0123456789abcdef")


@dataclass(frozen=True)
class Entry:
    """A finished result: a sealed folder with `spec.json`, `result.json`, and arrays beside them."""

    key: str
    folder: Path

    @property
    def spec(self) -> dict[str, Any]:
        """The identity that the key is the hash of, see `keys.stage_identity`. Raises Damaged if it is no JSON."""
        return read_object(self.folder / _SPEC)

    @property
    def result(self) -> dict[str, Any]:
        """Stage, result and provenance. Raises Damaged if it is no JSON."""
        return read_object(self.folder / _RESULT)

    def path(self, name: str) -> Path:
        """Path of a file or folder of the entry."""
        return self.folder / name

    def verify(self) -> list[str]:
        """Hold every file against its checksum, the spec against the key, and the result against its stage's schema.

        Returns:
            Names of files that the entry does not list.

        Raises:
            Damaged: if the entry is not as it was written, or not in its place.
            OSError: if the system cannot read it.
        """
        unlisted, texts = check_folder(self.folder, (_SPEC, _RESULT))
        self._checked(texts)
        return unlisted

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Spec and result, verified as `verify` does; arrays are not read. Raises as `verify` does."""
        return self._checked(check_texts(self.folder, read_checksums(self.folder), (_SPEC, _RESULT)))

    def _checked(self, texts: dict[str, bytes]) -> tuple[dict[str, Any], dict[str, Any]]:
        spec, result = parse_object(texts[_SPEC], _SPEC), parse_object(texts[_RESULT], _RESULT)
        try:
            key = identity_key(spec)
        except (ValueError, RecursionError):  # a text that is no Unicode, or lists in lists without end
            raise Damaged(f"{_SPEC} has no key") from None
        if key != self.key:
            raise Damaged(f"its {_SPEC} is that of {key[:12]}")
        check_result(result, spec.get("stage"))
        return spec, result


def complete_entry(folder: Path, spec: dict[str, Any], result: dict[str, Any]) -> None:
    """Write spec, result and checksums beside the arrays of a folder, and force all of it onto the disk.

    Raises:
        ValueError: if the result lacks a field of its stage's schema, holds a number that is not finite, or the folder
            holds anything but files and folders.
    """
    try:
        check_result(result, spec.get("stage"))
    except Damaged as error:
        raise ValueError(f"stage {spec.get('stage')!r} returned another result than it declares: {error}") from None
    (folder / _SPEC).write_text(json_text(spec), encoding="utf-8")
    (folder / _RESULT).write_text(json_text(result), encoding="utf-8")
    seal_folder(folder)


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of what is at a path, a link not followed; None where nothing is."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


def set_aside(
    ledger: Path, path: Path, damage: str, stamp: tuple[int, int] | None = None, then: str = ", to be computed again"
) -> bool:
    """Move a damaged file or entry to the ledger's `damaged/`, and name it on standard error.

    Args:
        damage: What is wrong, for the message.
        stamp: Of what was looked at, by `stamp_of`. What another process put in its place since then stays.
        then: End of the message.

    Returns:
        Whether the path is free now, or holds what another process put there.
    """
    aside = ledger / DAMAGED / f"{re.sub(r'[^a-zA-Z0-9._-]', '_', path.name)[:80]}-{os.urandom(4).hex()}"
    try:
        if kind_of(aside.parent) not in ("", "a folder"):
            raise NotADirectoryError(errno.ENOTDIR, f"{DAMAGED} is not a folder")
        make_folder(aside.parent)
        os.replace(path, aside)
        if stamp is not None and stamp_of(aside) != stamp:
            with contextlib.suppress(OSError):  # a third process has put the same there
                os.rename(aside, path)
            return True
    except FileNotFoundError:
        return True  # another process set it aside
    except OSError as error:
        print(f"ledger: {damage}; it is not used, and stays where it is ({error.strerror})", file=sys.stderr)
        return False
    print(f"ledger: {damage}; set aside as {aside}{then}", file=sys.stderr)
    return True


def remove_tree(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it. Raises OSError if it cannot."""
    if kind_of(path) == "a folder":
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_into(ledger: Path) -> Iterator[None]:
    """Turns errors of a full disk, a locked folder or something in the way into one line with the remedy.

    Raises:
        BadInput: in place of such an error, unless it is about a file outside the ledger.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        text, number = str(error), getattr(error, "errno", None)
        place = _place(error)
        is_inside = place is not None and place.is_relative_to(ledger.absolute())
        if place is not None and not is_inside:
            raise
        if number in _FULL or "os error 28" in text:
            remedy = f"free some of the disk, {ledger} is on it, and start again: what was finished is kept"
        elif number in _LOCKED:
            remedy = "name another folder as the ledger, or mend its rights"
        elif is_inside and number in _IN_THE_WAY:
            remedy = "remove or rename what is in the way there"
        elif is_inside and number == errno.ENOENT and UNFINISHED in str(place):
            remedy = "half-written files were removed meanwhile, start again: what was finished is kept"
        else:
            raise
        raise BadInput(f"cannot write into the ledger ({text}): {remedy}") from error


def _place(error: BaseException) -> Path | None:
    """The file that an error names."""
    name = getattr(error, "filename", None)
    return Path(name).absolute() if isinstance(name, str | os.PathLike) else None
