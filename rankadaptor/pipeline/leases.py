"""Who computes what: a lease a key, so that processes that share a ledger, on one host or several, do nothing twice.

A lease is a file that one process can create. It names its holder, whose heartbeat touches it. Waiting processes take
over from a holder that is dead: at once where they can see that (same host), else when the heartbeat has stood still
for `PATIENCE_S` of their own clock, so that clocks which differ or jump do no harm. Should two processes ever compute
one key, nothing is lost but time: the ledger keeps the first result.
"""

import contextlib
import errno
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

HEARTBEAT_S = 15.0
PATIENCE_S = 150.0  # above the minute for which network file systems may hide a change
_SURELY_S = 86_400.0  # for which no clocks of one cluster differ
_POLL_S = 0.25
_SAY_AFTER_S = 5.0
_UNKNOWN = "alive"  # when it started: it is there, and that is all we can see
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems that know none


class Holder(NamedTuple):
    """Whose lease it is."""

    host: str  # and, on Linux, which boot and which space of process numbers
    pid: int
    born: str  # when the process started, as far as the system says: numbers of processes come again
    token: str  # of this lease alone

    def to_json(self) -> str:
        return json.dumps(self._asdict())

    @classmethod
    def here(cls) -> "Holder":
        """This process, and a token that nobody else has."""
        return cls(_here(), os.getpid(), _born(os.getpid()), os.urandom(8).hex())


class Leases:
    """The leases of one ledger, files of a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @contextlib.contextmanager
    def held(self, key: str, is_done: Callable[[], bool]) -> Iterator[Holder | None]:
        """Waits while another living process holds a key's lease, and holds it then.

        Args:
            is_done: Whether nothing is left to be done; ends the waiting.

        Yields:
            Who holds it now; None where `is_done` ended the waiting.
        """
        path = self.folder / key
        if _beating.get(path) == threading.get_ident():
            yield Holder.here()  # whoever holds it cannot wait for itself
            return
        mine = self._awaited(path, is_done)
        if mine is None:
            yield None
            return
        _beat(path)
        try:
            yield mine
        finally:
            _rest(path)
            if read_holder(path) == mine:
                path.unlink(missing_ok=True)

    def _awaited(self, path: Path, is_done: Callable[[], bool]) -> Holder | None:
        began = time.monotonic()
        seen: tuple[object, float] = None, began  # the lease as it was, and since when it has been so
        said = False
        while not is_done():
            if (mine := _create(path)) is not None:
                return mine
            now, state = time.monotonic(), _state(path)
            if state != seen[0]:
                seen = state, now
            holder = read_holder(path)
            if holder is not None and is_dead(holder):
                _take_away(path, state)
                continue
            if now - seen[1] > PATIENCE_S:
                _take_away(path, state)
                continue
            if not said and holder is not None and now - began > _SAY_AFTER_S:
                said = True
                print(f"ledger: {path.name[:12]} is being computed by process {holder.pid} of"
                      f" {holder.host.split(' ')[0]}, waiting for it", file=sys.stderr, flush=True)
            time.sleep(_POLL_S)
        return None

    def is_held(self, key: str) -> bool:
        """Whether someone who may live has a key's lease, other than this thread."""
        path = self.folder / key
        return _beating.get(path) != threading.get_ident() and path.exists() and not _is_over(path)

    def living(self) -> set[str]:
        """Tokens of leases that may be held."""
        holders = [read_holder(path) for path in self._files() if not _is_over(path)]
        return {holder.token for holder in holders if holder is not None}

    def dead(self) -> list[Path]:
        """Leases that are no longer held."""
        return [path for path in self._files() if _is_over(path)]

    def _files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []


def _is_over(path: Path) -> bool:
    """Whether a lease's holder is known to be dead; or has been still for a day, whatever clocks say; or whether it is
    none, and not just being written."""
    holder = read_holder(path)
    if holder is not None and is_dead(holder):
        return True
    with contextlib.suppress(FileNotFoundError):
        still = abs(time.time() - path.stat().st_mtime)
        return still > (PATIENCE_S if holder is None else _SURELY_S)
    return False


def _create(path: Path) -> Holder | None:
    """A new lease's holder, None if there is one already. It appears with its content, by a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Holder.here()
    draft = path.with_name(f".{path.name}-{holder.token}")
    try:
        draft.write_text(holder.to_json())
        try:
            os.link(draft, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with path.open("x") as stream:
                stream.write(holder.to_json())
    except FileExistsError:
        return None
    finally:
        draft.unlink(missing_ok=True)
    return holder


def _take_away(path: Path, state: object) -> None:
    """Remove a dead holder's lease, and not that of whoever was faster in taking over."""
    aside = path.with_name(f".{path.name}-{os.urandom(8).hex()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _state(aside) != state:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _state(path: Path) -> tuple[str, int] | None:
    """What changes while a holder lives: the lease's content and the time of its last heartbeat."""
    try:
        return path.read_text(), path.stat().st_mtime_ns
    except OSError:
        return None


def read_holder(path: Path) -> Holder | None:
    """Whose lease a file is; None if it is gone, or not one."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_dead(holder: Holder) -> bool:
    """Whether a holder is known to be dead; of another host's, nothing is known."""
    if holder.host != _here():
        return False
    born = _born(holder.pid)
    return born == "" or (_UNKNOWN not in (born, holder.born) and born != holder.born)


@cache
def _here() -> str:
    """This host, this boot, and this space of process numbers (containers have their own)."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _born(pid: int) -> str:
    """When a process started, in the system's own count; empty if there is no such process. A zombie is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except ProcessLookupError:
        return ""  # it ended while we read
    except (OSError, IndexError):
        pass  # no such system, or it hides the processes of others
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return _UNKNOWN


# -- heartbeats: one thread a process ----------------------------------------------------------------------------------

_beating: dict[Path, int] = {}  # -> the thread that holds it
_lock = threading.Lock()
_heart: threading.Thread | None = None


def _beat(path: Path) -> None:
    global _heart
    with _lock:
        _beating[path] = threading.get_ident()
        if _heart is None or not _heart.is_alive():
            _heart = threading.Thread(target=_beat_on, daemon=True, name="lease heartbeat")
            _heart.start()


def _rest(path: Path) -> None:
    with _lock:
        _beating.pop(path, None)


def _beat_on() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        with _lock:
            for path in _beating:
                with contextlib.suppress(OSError):
                    os.utime(path)
