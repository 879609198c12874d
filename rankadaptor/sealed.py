"""Files that this package writes and reads again: unchanged and in their own place, or named as damaged.

A sealed folder holds `checksums.json`, the SHA-256 of every other file: results of a ledger, unpacked wheels, converted
models. A sealed file is a JSON object whose `seal` is the SHA-256 of its content and of its place: rounds of a search,
notes of failures. Links, pipes and sockets are never followed or waited for.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from rankadaptor.errors import BadInput, Damaged
from rankadaptor.files import file_digest, fsync, make_folder, settle, sha256_file, write_atomically
from rankadaptor.keys import canonical_json, sha256_text

CHECKSUMS = "checksums.json"
_SEAL = "seal"
_MOST_BYTES = 2**28  # of a JSON file; more would fill the memory before it is known to be damaged
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG)
_KINDS = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
          stat.S_IFDIR: "a folder", stat.S_IFREG: "a file"}


# -- JSON --------------------------------------------------------------------------------------------------------------


def json_text(content: dict[str, Any]) -> str:
    """JSON as this package stores it: sorted keys, indented by one space. Raises ValueError on NaN and infinity."""
    return json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        Damaged: if the path is missing or no regular file, or its content is not one JSON object in UTF-8 with distinct
            names and finite numbers.
        OSError: if the system cannot read it, for example without the rights.
    """
    return parse_object(read_bytes(path), path.name)


def given_object(path: Path, most_bytes: int = 2**26) -> dict[str, Any]:
    """A JSON object from a file that a user gave. Reads what other programs write, NaN and links included.

    Args:
        most_bytes: That are read: a file of another kind would fill the memory first.

    Raises:
        BadInput: if the file is larger, cannot be read, or is not a JSON object in UTF-8.
    """
    try:
        if (size := path.stat().st_size) > most_bytes:
            raise BadInput(f"{path} has {size:,} bytes, no more than {most_bytes:,} are read: restore it")
        content = json.loads(path.read_text(encoding="utf-8"))
    except BadInput:
        raise
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BadInput(f"{path} is not a JSON object: restore it")
    return content


def read_bytes(path: Path) -> bytes:
    """Content of a small regular file. Raises as `read_object` does."""
    try:
        handle = os.open(path, _OPEN)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        kind = kind_of(path)
        raise Damaged(f"{plain(path.name)} is {'missing' if kind in ('', 'a file') else kind}") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise Damaged(f"{plain(path.name)} is {_KINDS.get(stat.S_IFMT(status.st_mode), 'a device')}")
        if status.st_size > _MOST_BYTES:
            raise Damaged(f"{path.name} has {status.st_size:,} bytes")
        parts = [os.read(handle, status.st_size + 1)]
        while len(parts[-1]) > 0 and sum(map(len, parts)) != status.st_size:
            parts.append(os.read(handle, 2**16))
        return b"".join(parts)
    finally:
        os.close(handle)


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object that the bytes of a file are. Raises Damaged as `read_object` does."""
    try:
        content = _DECODER.decode(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Damaged(f"{name} is not JSON") from None
    if not isinstance(content, dict):
        raise Damaged(f"{name} is not a JSON object")
    return content


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name is there twice")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if number in (math.inf, -math.inf):
        raise ValueError(f"{text} is too large")
    return number


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_refuse, parse_float=_finite)


# -- sealed files ------------------------------------------------------------------------------------------------------


def seal_of(content: dict[str, Any], place: dict[str, Any]) -> str:
    """SHA-256 of a file's content and of what makes its place: the same content elsewhere has another seal.

    Raises:
        ValueError: on NaN and infinity.
    """
    return sha256_text(canonical_json({"content": content, "place": place}))


def write_sealed(path: Path, content: dict[str, Any], place: dict[str, Any]) -> None:
    """Write a JSON object and its seal, atomically and onto the disk. Raises ValueError on NaN and infinity."""
    write_atomically(path, json_text(content | {_SEAL: seal_of(content, place)}))


def read_sealed(path: Path, place: dict[str, Any]) -> dict[str, Any]:
    """The content that `write_sealed` wrote at a place.

    Raises:
        Damaged: if it was edited, was written at another place, or has no seal; and as `read_object` does.
        OSError: if the system cannot read it.
    """
    content, seal = read_with_seal(path)
    if seal is None:
        raise Damaged(f"{path.name} has no seal")
    check_seal(path.name, content, seal, place)
    return content


def read_with_seal(path: Path) -> tuple[dict[str, Any], Any]:
    """Content and seal of a file, the seal not checked; None where there is none. Raises as `read_object` does."""
    content = read_object(path)
    return content, content.pop(_SEAL, None)


def check_seal(name: str, content: dict[str, Any], seal: Any, place: dict[str, Any]) -> None:
    """Raises Damaged unless a seal is that of a content at a place."""
    try:
        is_own = seal == seal_of(content, place)
    except (ValueError, RecursionError):  # numbers and texts that `json_text` never writes
        is_own = False
    if not is_own:
        raise Damaged(f"{name} does not match its seal")


# -- sealed folders ----------------------------------------------------------------------------------------------------


def seal_folder(folder: Path) -> None:
    """Write `checksums.json` into a complete folder, and force all of it onto the disk.

    Its files get the rights that the user's umask leaves to new files: libraries make some of them for the user alone.

    Raises:
        ValueError: if the folder holds a link, a pipe or a socket.
    """
    try:
        files, folders = contents(folder)
    except Damaged as error:
        raise ValueError(f"{folder} cannot be sealed: {error}") from None
    checksums = {name: sha256_file(folder / name) for name in sorted(files) if name != CHECKSUMS}
    write_atomically(folder / CHECKSUMS, json_text(checksums))
    rights = stat.S_IMODE((folder / CHECKSUMS).stat().st_mode)
    for path in map(folder.joinpath, checksums):
        if stat.S_IMODE(path.stat().st_mode) != rights:
            path.chmod(rights)
        fsync(path)
    for path in map(folder.joinpath, [*folders, "."]):
        opened = stat.S_IMODE(path.stat().st_mode) | rights | (rights & 0o444) >> 2  # who may read may enter
        if stat.S_IMODE(path.stat().st_mode) != opened:
            path.chmod(opened)
        fsync(path)


def check_folder(
    folder: Path, texts: tuple[str, ...] = (), digest: Callable[[Path], str] = sha256_file
) -> tuple[list[str], dict[str, bytes]]:
    """Hold a sealed folder against its `checksums.json`.

    Args:
        texts: Names of small files that the folder has to hold.
        digest: SHA-256 of a file; `files.file_digest` reads large files once a run.

    Returns:
        Names of files that are not listed, without hidden ones: a file browser leaves some, and nothing here reads
        them. And the content of `texts`, as it was held against the checksums.

    Raises:
        Damaged: if a listed file is missing or changed, or something in the folder is a link, a pipe or a socket.
        OSError: if the system cannot read it.
    """
    checksums = read_checksums(folder)
    files, _ = contents(folder)
    if missing := sorted((checksums.keys() | set(texts)) - files):
        raise Damaged(f"{plain(missing[0])} is missing")
    read = check_texts(folder, checksums, texts)
    for name, checksum in checksums.items():
        if name not in read and digest(folder / name) != checksum:
            raise Damaged(f"{plain(name)} does not match its checksum")
    extra = files - checksums.keys() - {CHECKSUMS}
    return sorted(name for name in extra if not any(part.startswith(".") for part in name.split("/"))), read


def read_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a sealed folder, by relative path. Raises as `check_folder` does."""
    if (kind := kind_of(folder)) != "a folder":
        raise Damaged(f"it is {kind or 'missing'}, not a folder")
    return read_object(folder / CHECKSUMS)


def check_texts(folder: Path, checksums: dict[str, str], names: tuple[str, ...]) -> dict[str, bytes]:
    """Content of small files of a sealed folder, held against its checksums. Raises as `check_folder` does."""
    read = {name: read_bytes(folder / name) for name in names}
    for name, content in read.items():
        if name not in checksums:
            raise Damaged(f"{CHECKSUMS} does not hold {name}")
        if hashlib.sha256(content).hexdigest() != checksums[name]:
            raise Damaged(f"{name} does not match its checksum")
    return read


def contents(folder: Path) -> tuple[set[str], set[str]]:
    """Relative paths of the files and of the folders below a folder.

    Raises:
        Damaged: on a link, a pipe, a socket or a device.
    """
    files: set[str] = set()
    folders: set[str] = set()
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            entries = list(os.scandir(f"{folder}/{inside}"))
        except FileNotFoundError:
            raise Damaged(f"{plain(inside) or 'its folder'} is missing") from None
        for entry in entries:
            name = inside + entry.name
            if entry.is_file(follow_symlinks=False):
                files.add(name)
            elif entry.is_dir(follow_symlinks=False):
                folders.add(name)
                pending.append(f"{name}/")
            else:
                raise Damaged(f"{plain(name)} is {kind_of(Path(entry.path)) or 'missing'}")
    return files, folders


def kind_of(path: Path) -> str:
    """What is at a path, in words, a link not followed; empty where nothing is."""
    try:
        return _KINDS.get(stat.S_IFMT(os.lstat(path).st_mode), "a device")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def plain(name: str) -> str:
    """A name as it is, or in ASCII where it holds what a terminal would not show."""
    return name if name.isprintable() else ascii(name)


def names_in(folder: Path) -> list[str]:
    """Sorted names in a folder; none where it is missing or no folder. Raises OSError if it cannot be read."""
    return sorted(os.listdir(folder)) if kind_of(folder) == "a folder" else []


def names_of_files(folder: Path) -> list[str]:
    """Relative paths of the files below a folder; none where it is missing, no folder, or cannot be read."""
    try:
        return sorted(contents(folder)[0])
    except (Damaged, OSError):
        return []


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    total = 0
    for place, folders, files in os.walk(path):
        for name in [*files, *(name for name in folders if os.path.islink(os.path.join(place, name)))]:
            total += _size(os.path.join(place, name))
    return total if kind_of(path) == "a folder" else _size(path)


def _size(path: Path | str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


# -- the user's cache --------------------------------------------------------------------------------------------------


def cached_folder(
    folder: Path, build: Callable[[Path], None], lacks: Callable[[Path], str] = lambda _: ""
) -> Path:
    """A folder of the user's cache as it was built; built again where it is missing, damaged, or lacks something.

    Files are read for their checksums once a run, see `files.file_digest`.

    Args:
        folder: Its place.
        build: Makes the folder that it is given, which does not exist yet, in an empty one.
        lacks: What an undamaged folder lacks, for a message; empty for nothing.

    Raises:
        BadInput: if the cache cannot be written.
    """
    try:
        reason = damage_of(folder) or lacks(folder)
        if not reason:
            return folder
        if kind_of(folder):
            print(f"cache: {folder}: {reason}; it is made anew", file=sys.stderr, flush=True)
        make_folder(folder.parent)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as name:
            scratch = Path(name)
            build(scratch / "built")
            seal_folder(scratch / "built")
            with contextlib.suppress(FileNotFoundError):
                os.rename(folder, scratch / "former")
            settle(scratch / "built", folder)
        fsync(folder.parent)
    except OSError as error:
        if error.errno is None:
            raise  # of a library, about something else
        raise BadInput(f"cannot use the cache {folder.parent} ({error.strerror or error}): mend its rights or free some"
                       " of its disk, or name another folder in RANKADAPTOR_CACHE") from None
    return folder


def damage_of(folder: Path) -> str:
    """In what way a sealed folder is not as it was built; empty if it is. Raises OSError if it cannot be read."""
    try:
        unlisted, _ = check_folder(folder, digest=file_digest)
    except Damaged as damage:
        return str(damage)
    return f"{plain(unlisted[0])} is not of it" if unlisted else ""


def is_there(folder: Path) -> bool:
    """Whether a sealed folder and all files that it lists are there. Reads none of them: see `damage_of`."""
    try:
        return read_checksums(folder).keys() <= contents(folder)[0]
    except (Damaged, OSError):
        return False
