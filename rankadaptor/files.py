"""Files and folders: digests, writing whole or not at all, scratch folders, and the user's cache."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from rankadaptor.errors import BadInput


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
    try:
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _fsync(path.parent)


def cache_folder() -> Path:
    """Where downloads and conversions live: $RANKADAPTOR_CACHE, or `rankadaptor` in the user's cache folder."""
    if override := os.environ.get("RANKADAPTOR_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rankadaptor"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read once a process as long as it stays the same: a model's takes a minute."""
    status = path.stat()
    return _digest_of(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _digest_of(path: Path, modified_ns: int, size: int) -> str:
    return sha256_file(path)


def settle(built: Path, folder: Path) -> None:
    """Give a folder that is whole its place in the cache, unless another process was faster with the same content."""
    try:
        os.rename(built, folder)
    except OSError:
        if not folder.is_dir():
            raise


@contextlib.contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """A folder on the same disk that is gone afterwards.

    Raises:
        BadInput: if none can be made there.
    """
    made = next(one for one in (target.parent, *target.parents) if one.exists())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=target.parent, prefix=".prune-")
    except OSError as error:
        raise BadInput(f"cannot write beside {target} ({error.strerror}): name another folder than {made}") from None
    with scratch as name:
        yield Path(name)
