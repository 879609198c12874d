"""Forms of locations: nothing but a name and a version ever reaches pip, and nothing but a pinned id reaches the hub.

pip takes much more for a requirement than a name: options (`--index-url`, `-r`), addresses (`git+https://...`) and
paths, and builds what it finds there, which runs code. So a wheel's location is checked before anything else sees it.
"""

import re
from pathlib import PurePosixPath

from rankadaptor.bounds import PATH, check_line
from rankadaptor.errors import BadInput, shown

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?"
# A public version of PEP 440. Local ones are left out: `1.0+a.zip` would be the name of an archive in this folder.
_VERSION = r"(?:[0-9]{1,9}!)?[0-9]{1,9}(?:\.[0-9]{1,9}){0,9}(?:(?:a|b|rc)[0-9]{1,9})?(?:\.post[0-9]{1,9})?" \
           r"(?:\.dev[0-9]{1,9})?"
_WHEEL = re.compile(rf"{_NAME}=={_VERSION}")
_ID = r"\w[\w.-]{0,95}/\w[\w.-]{0,95}"
_HUB = re.compile(rf"{_ID}(?:@[0-9a-f]{{40}}(?:/[\w-][\w. -]{{0,199}})?)?", re.ASCII)
_SEED = re.compile(r"[0-9]{1,9}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def check_location(kind: str, location: str, sha256: str | None) -> None:
    """Check a source's location and pin by its kind; see `sources.Source`.

    Raises:
        BadInput: on a location of another form, or a pin that is missing, malformed, or would not be looked at.
    """
    if kind == "wheel" and not _WHEEL.fullmatch(location):
        raise BadInput(f"wheel is {shown(location)}: give NAME==VERSION, such as ai2-olmo==0.6.0, and nothing else")
    if kind == "hub" and not _HUB.fullmatch(location):
        raise BadInput(f"location is {shown(location)}, no id of the hub: give organisation/model@ followed by 40 hex"
                       " digits, of a data file with /FILE behind them, or name a folder that is there")
    if kind == "testbed" and not _SEED.fullmatch(location):
        raise BadInput(f"testbed {shown(location)} is not a world: give the number of its seed, such as 1")
    if kind == "dir":
        check_line("location of a folder", location, PATH)
    if kind in ("wheel", "testbed"):
        is_unpinned_world = kind == "testbed" and sha256 is None  # a world is made anew, and has no file to pin
        if not is_unpinned_world and not _SHA256.fullmatch(sha256 or ""):
            raise BadInput(f"{kind} {location} has sha256 {shown(sha256)}: pin it by its 64 hex digits, in lower case")
    elif sha256 is not None:
        reason = "its commit pins it" if kind == "hub" else "its contents are hashed when a key is made"
        raise BadInput(f"{shown(location)} of kind {kind} has sha256 {shown(sha256)}, which nothing would look at"
                       f" ({reason}): set it to null")


def check_member(name: str, path: str) -> None:
    """Raises BadInput unless a path leads to a file within a source, such as `folder/model.gguf`."""
    check_line(name, path, PATH)
    parts = PurePosixPath(path).parts
    if "\\" in path or ".." in parts or PurePosixPath(path).is_absolute() or path != "/".join(parts) or ":" in parts[0]:
        raise BadInput(f"{name} is {shown(path)}: give the name of a file within the source, without .. or a drive")
