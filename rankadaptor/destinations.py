"""Folders that results go to, probed before work begins: where writing fails at the end, hours are lost."""

import os
import tempfile
from pathlib import Path

from rankadaptor.errors import BadInput

_PROBE_BYTES = 4096  # a full disk still makes empty files


def require_writable(what: str, folder: Path | str) -> Path:
    """Refuse a folder that cannot be written to, or cannot be made. Leaves nothing behind, and makes no folder.

    Args:
        what: What an error calls it, such as "the ledger".
        folder: That is there, or will be made.

    Returns:
        The folder.

    Raises:
        BadInput: with the reason.
    """
    target = Path(folder)
    try:
        there = _nearest(target)
        if not there.is_dir():
            reason = "a broken link" if there.is_symlink() and not there.exists() else "not a folder"
            raise BadInput(f"{what} cannot be in {str(folder)!r}, {there} is {reason}: name another folder")
        _require_short_names(what, target)
        with tempfile.TemporaryFile(dir=there, prefix=".probe-") as stream:
            stream.write(b"\0" * _PROBE_BYTES)
    except OSError as error:
        raise BadInput(f"{what} cannot be written to {str(folder)!r} ({error.strerror}): name another folder, or mend"
                       " its rights and its disk") from None
    return target


def require_new_folder(what: str, folder: Path | str) -> Path:
    """Refuse a folder that is there already, or that cannot be made. Returns it.

    Raises:
        BadInput: with the reason.
    """
    target = _named(what, folder)
    try:
        is_there = os.path.lexists(target)
    except OSError:
        is_there = False  # `require_writable` says why
    if is_there:
        raise BadInput(f"{target} is there already: name a folder that is not, or remove it")
    require_writable(what, target)
    return target


def require_file(what: str, file: Path | str) -> Path:
    """Refuse a file that cannot be written, or replaced. Returns its path.

    Raises:
        BadInput: with the reason.
    """
    target = _named(what, file)
    _require_short_names(what, target)
    if os.path.lexists(target) and not target.is_file():
        raise BadInput(f"{what} cannot be written to {str(file)!r}, it is not a file: name one")
    require_writable(what, target.parent)
    return target


def require_apart(ledger: Path | str, reports: Path | str) -> None:
    """Refuse one folder for finished results and for reports: reports may be removed, results should not go with them.

    Raises:
        BadInput: if both are the same folder.
    """
    if os.path.realpath(ledger) == os.path.realpath(reports):
        raise BadInput(f"ledger and reports are one folder, {str(ledger)!r}: name two, since reports may be removed")


def _named(what: str, path: Path | str) -> Path:
    if not str(path).strip() or Path(path) == Path():
        raise BadInput(f"{what} is {str(path)!r}: name a folder or a file to be made")
    return Path(path)


def _nearest(target: Path) -> Path:
    """The path itself, or the first above it that is there."""
    return next(path for path in (target, *target.absolute().parents) if os.path.lexists(path))


def _require_short_names(what: str, target: Path) -> None:
    """Raises BadInput where a name that is to be made is longer than the file system takes."""
    most = os.pathconf(_nearest(target.parent), "PC_NAME_MAX")
    size = max((len(os.fsencode(part)) for part in target.parts), default=0)
    if size > most:
        raise BadInput(f"{what} cannot be written, a name of its path has {size} bytes: give at most {most}")
