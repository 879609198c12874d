"""Leases: one process at a time computes a key, among all processes and hosts that share a ledger.

A lease is a file that only one process can create. It names its holder, and the holder's heartbeat touches it. A
waiting process takes the lease over from a dead holder: at once if the holder's process is gone from this host, else
when the heartbeat has stopped for `PATIENCE_S` of the waiting process's own clock, so that wrong clocks do no harm. If
two processes ever compute one key, only time is lost: the ledger keeps the first result.
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
_ABANDONED_S = 86_400.0  # clocks of one cluster differ by less
_POLL_S = 0.25
_ANNOUNCE_AFTER_S = 5.0
_UNKNOWN = "alive"  # start time of a process that exists but cannot be inspected
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems without hard links


class Holder(NamedTuple):
    """The process that holds a lease, as its file stores it."""

    host: str  # on Linux with the boot and the process-id namespace
    pid: int
    born: str  # start time of the process, because process ids are used again
    token: str  # unique to this lease

    def to_json(self) -> str:
        """Content of the lease's file."""
        return json.dumps(self._asdict())

    @classmethod
    def here(cls) -> "Holder":
        """This process, with a new token."""
        return cls(_this_host(), os.getpid(), _start_time(os.getpid()), os.urandom(8).hex())


class Leases:
    """The leases of one ledger: files in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @contextlib.contextmanager
    def held(self, key: str, is_done: Callable[[], bool]) -> Iterator[Holder | None]:
        """Waits until no other living process holds a key's lease, and holds it inside the context.

        Args:
            key: Name of the lease.
            is_done: Whether no work is left; ends the waiting.

        Yields:
            The holder; None if `is_done` ended the waiting.
        """
        path = self.folder / key
        if _held_paths.get(path) == threading.get_ident():
            yield Holder.here()  # this thread holds the lease already, and must not wait for itself
            return
        holder = self._acquire(path, is_done)
        if holder is None:
            yield None
            return
        _start_heartbeat(path)
        try:
            yield holder
        finally:
            _stop_heartbeat(path)
            if read_holder(path) == holder:
                path.unlink(missing_ok=True)

    def _acquire(self, path: Path, is_done: Callable[[], bool]) -> Holder | None:
        began = time.monotonic()
        last_state: tuple[str, int] | None = None
        unchanged_since = began
        announced = False
        while not is_done():
            if (created := _create(path)) is not None:
                return created
            now, state = time.monotonic(), _state(path)
            if state != last_state:
                last_state, unchanged_since = state, now
            holder = read_holder(path)
            if (holder is not None and is_dead(holder)) or now - unchanged_since > PATIENCE_S:
                _remove_stale(path, state)
                continue
            if not announced and holder is not None and now - began > _ANNOUNCE_AFTER_S:
                announced = True
                print(f"ledger: {path.name[:12]} is being computed by process {holder.pid} of"
                      f" {holder.host.split(' ')[0]}, waiting for it", file=sys.stderr, flush=True)
            time.sleep(_POLL_S)
        return None

    def is_held(self, key: str) -> bool:
        """Whether a key's lease is held by a thread or process that may be alive, other than this thread."""
        path = self.folder / key
        return _held_paths.get(path) != threading.get_ident() and path.exists() and not _is_expired(path)

    def living(self) -> set[str]:
        """Tokens of leases whose holders may be alive."""
        holders = [read_holder(path) for path in self._files() if not _is_expired(path)]
        return {holder.token for holder in holders if holder is not None}

    def dead(self) -> list[Path]:
        """Leases that are no longer held."""
        return [path for path in self._files() if _is_expired(path)]

    def _files(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []


def read_holder(path: Path) -> Holder | None:
    """The holder that a lease's file names; None if the file is missing or is no lease."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def is_dead(holder: Holder) -> bool:
    """Whether a holder's process is known to be dead; processes of other hosts cannot be inspected."""
    if holder.host != _this_host():
        return False
    start = _start_time(holder.pid)
    return start == "" or (_UNKNOWN not in (start, holder.born) and start != holder.born)


def _is_expired(path: Path) -> bool:
    """Whether a lease's holder is dead, or has had no heartbeat for a day by any clock.

    A file that names no holder may be half-written, and expires after `PATIENCE_S`.
    """
    holder = read_holder(path)
    if holder is not None and is_dead(holder):
        return True
    with contextlib.suppress(FileNotFoundError):
        silent_s = abs(time.time() - path.stat().st_mtime)
        return silent_s > (PATIENCE_S if holder is None else _ABANDONED_S)
    return False


def _create(path: Path) -> Holder | None:
    """The holder of a new lease; None if the lease exists. A hard link makes the file appear with its content."""
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


def _remove_stale(path: Path, state: object) -> None:
    """Remove a dead holder's lease; restore it if another process has taken it over since `state` was read."""
    aside = path.with_name(f".{path.name}-{os.urandom(8).hex()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _state(aside) != state:
            with contextlib.suppress(OSError):
                os.link(aside, path)
        aside.unlink()


def _state(path: Path) -> tuple[str, int] | None:
    """What changes while a holder lives: the lease's content and the time of the last heartbeat, in ns."""
    try:
        return path.read_text(), path.stat().st_mtime_ns
    except OSError:
        return None


@cache
def _this_host() -> str:
    """This host, its boot, and its process-id namespace: each container has its own."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if it does not exist or is a zombie.

    psutil counts from the epoch, by a clock that may be set while a lease is held, and takes a process that the system
    hides from this user for a dead one.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except ProcessLookupError:
        return ""  # the process ended during the read
    except (OSError, IndexError):
        pass  # a system without /proc, or one that hides the processes of other users
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return _UNKNOWN


# -- heartbeats: one thread a process ----------------------------------------------------------------------------------

_held_paths: dict[Path, int] = {}  # lease -> identifier of the thread that holds it
_lock = threading.Lock()
_heart: threading.Thread | None = None


def _start_heartbeat(path: Path) -> None:
    global _heart
    with _lock:
        _held_paths[path] = threading.get_ident()
        if _heart is None or not _heart.is_alive():
            _heart = threading.Thread(target=_touch_leases, daemon=True, name="lease heartbeat")
            _heart.start()


def _stop_heartbeat(path: Path) -> None:
    with _lock:
        _held_paths.pop(path, None)


def _touch_leases() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        with _lock:
            for path in _held_paths:
                with contextlib.suppress(OSError):
                    os.utime(path)
