"""Files and folders: digests, atomic writes, scratch folders, and the user's cache."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import platformdirs

from rankadaptor.errors import BadInput

# Environment variable with the digests that a parent process computed, as JSON:
# {absolute path: [modification time in ns, size in bytes, inode, SHA-256]}.
DIGESTS_VARIABLE = "RANKADAPTOR_DIGESTS"
_SMALLEST_HANDED_DOWN = 2**20  # bytes; a smaller file is read again in a millisecond
_MOST_HANDED_DOWN = 200  # files; Linux limits an environment variable to 128 KiB

FileDigest = tuple[int, int, int, str]  # modification time in ns, size in bytes, inode, SHA-256
_computed_digests: dict[str, FileDigest] = {}  # by absolute path


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hex digits. Reads the file; see `file_digest`."""
    with open(path, "rb", buffering=0) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits. Reads the file once a run: the weights of a 7B model take a minute.

    The digest is computed again when the file's modification time, size or inode changes. Child processes use the
    digests of their parent, see `hand_down_digests`.
    """
    place, status = str(path.absolute()), path.stat()
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    for digests in (_computed_digests, _inherited_digests(os.environ.get(DIGESTS_VARIABLE, ""))):
        if place in digests and digests[place][:3] == stamp:
            return digests[place][3]
    digest = sha256_file(path)
    _computed_digests[place] = (*stamp, digest)
    return digest


def hand_down_digests() -> None:
    """Put the digests that this process knows into its environment, where processes that start later find them.

    Call it before a kernel or a worker starts. Only large files are handed down.
    """
    digests = _inherited_digests(os.environ.get(DIGESTS_VARIABLE, "")) | _computed_digests
    by_size = sorted(digests, key=lambda place: digests[place][1], reverse=True)[:_MOST_HANDED_DOWN]
    large = {place: digests[place] for place in by_size if digests[place][1] >= _SMALLEST_HANDED_DOWN}
    if large:
        os.environ[DIGESTS_VARIABLE] = json.dumps(large)


@lru_cache(maxsize=1)
def _inherited_digests(text: str) -> dict[str, FileDigest]:
    """Digests by absolute path; none if the text is not what `hand_down_digests` writes."""
    try:
        return {place: (int(modified), int(size), int(inode), str(digest))
                for place, (modified, size, inode, digest) in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def fsync(path: Path) -> None:
    """Force a file or a folder onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and force their names onto the disk; nothing happens where it is there."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    fsync(folder.parent)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8 so that a reader sees the old or the new content, never half of it.

    The file gets the rights that the user's umask leaves to new files, unlike one that `tempfile` makes.
    """
    make_folder(path.parent)
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def cache_folder() -> Path:
    """Folder of downloads and conversions: $RANKADAPTOR_CACHE, or `rankadaptor` in the user's cache folder."""
    if override := os.environ.get("RANKADAPTOR_CACHE"):
        return Path(override)
    return platformdirs.user_cache_path("rankadaptor", appauthor=False)


def settle(built: Path, folder: Path) -> None:
    """Move a complete folder to its final place, unless another process has put the same content there already."""
    try:
        os.rename(built, folder)
    except OSError:
        if not folder.is_dir():
            raise


@contextlib.contextmanager
def scratch_beside(target: Path) -> Iterator[Path]:
    """Yields an empty folder on the same disk as the target, and removes it on exit.

    Raises:
        BadInput: if the folder of the target cannot be written.
    """
    existing = next(folder for folder in (target.parent, *target.parents) if folder.exists())
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=target.parent, prefix=".prune-")
    except OSError as error:
        remedy = f"name another folder than {existing}"
        raise BadInput(f"cannot write beside {target} ({error.strerror}): {remedy}") from None
    with scratch as name:
        yield Path(name)
