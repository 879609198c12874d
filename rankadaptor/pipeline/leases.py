"""Leases: one process at a time computes a key, among all processes and hosts that share a ledger.

A lease is a file that only one process can create. It names its holder, and the holder's heartbeat touches it. A
waiting process takes the lease over from a dead holder: at once if the holder's process is gone from this host, else
when the heartbeat has stopped for `PATIENCE_S` of the waiting process's own clock, so that wrong clocks do no harm. If
two processes ever compute one key, only time is lost: the ledger keeps the first result. A holder whose lease was taken
over lets it go: its heartbeat touches a file only while the file names it.
"""

import contextlib
import errno
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rankadaptor.errors import BadInput, Damaged
from rankadaptor.pipeline.ledger_files import remove_tree, set_aside
from rankadaptor.sealed import kind_of, names_in, plain, read_object

HEARTBEAT_S = 15.0
PATIENCE_S = 150.0  # above the minute for which network file systems may hide a change
_ABANDONED_S = 86_400.0  # clocks of one cluster differ by less
_POLL_S = 0.25
_ANNOUNCE_AFTER_S = 5.0
_MOST_PID = 2**31
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
        if _threads_of_leases.get(path) == threading.get_ident() and read_holder(path) == _beating.get(path):
            yield Holder.here()  # this thread holds the lease already, and must not wait for itself
            return
        holder = self._acquire(path, is_done)
        if holder is None:
            yield None
            return
        _threads_of_leases[path] = threading.get_ident()
        try:
            with kept_alive(path, holder):
                yield holder
        finally:
            _threads_of_leases.pop(path, None)
            if read_holder(path) == holder:
                path.unlink(missing_ok=True)

    def _acquire(self, path: Path, is_done: Callable[[], bool]) -> Holder | None:
        began = time.monotonic()
        last_state: tuple[int, int, int] | None = None
        unchanged_since = began
        announced = False
        while not is_done():
            if (created := _create(path)) is not None:
                return created
            if (kind := kind_of(path)) not in ("", "a file"):
                damage = f"lease {plain(path.name[:12])} is {kind}, not a file"
                if not set_aside(self.folder.parent, path, damage, then=""):
                    raise BadInput(f"{damage}, and cannot be set aside in {self.folder}: remove it")
                continue
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
        return (_threads_of_leases.get(path) != threading.get_ident() and kind_of(path) == "a file"
                and not is_expired(path))

    def is_own(self, key: str, holder: Holder) -> bool:
        """Whether a holder still has a key's lease; else another process has taken it over."""
        return read_holder(self.folder / key) == holder

    def living(self) -> set[str]:
        """Tokens of leases whose holders may be alive."""
        holders = [read_holder(path) for path in self._files() if not is_expired(path)]
        return {holder.token for holder in holders if holder is not None}

    def dead(self) -> list[Path]:
        """Leases that are no longer held."""
        return [path for path in self._files() if is_expired(path)]

    def remove_dead(self, path: Path) -> None:
        """Remove one of `dead`, unless a process has taken it over since then."""
        state = _state(path)
        if is_expired(path):
            _remove_stale(path, state)

    def _files(self) -> list[Path]:
        return [self.folder / name for name in names_in(self.folder)]


def read_holder(path: Path) -> Holder | None:
    """The holder that a lease's file names; None if the file is missing, cannot be read, or is no lease."""
    try:
        holder = Holder(**read_object(path))
    except (OSError, Damaged, TypeError):
        return None
    texts = (holder.host, holder.born, holder.token)
    is_holder = all(isinstance(text, str) and text.isprintable() for text in texts) and type(holder.pid) is int
    return holder if is_holder and 0 < holder.pid < _MOST_PID and re.fullmatch(r"\w{1,64}", holder.token) else None


def is_dead(holder: Holder) -> bool:
    """Whether a holder's process is known to be dead; processes of other hosts cannot be inspected."""
    if holder.host != _this_host():
        return False
    start = _start_time(holder.pid)
    return start == "" or (_UNKNOWN not in (start, holder.born) and start != holder.born)


def is_expired(path: Path) -> bool:
    """Whether the holder that a file names is dead, or has had no heartbeat for a day by any clock.

    A file that names no holder may be half-written, and expires after `PATIENCE_S`; what is no file expires at once.
    """
    if kind_of(path) not in ("", "a file"):
        return True
    holder = read_holder(path)
    if holder is not None and is_dead(holder):
        return True
    return is_silent(path, PATIENCE_S if holder is None else _ABANDONED_S)


def is_silent(path: Path, seconds: float = PATIENCE_S) -> bool:
    """Whether a file or folder has been there for so long without a change, by any clock."""
    try:
        return abs(time.time() - os.lstat(path).st_mtime) > seconds
    except FileNotFoundError:
        return False


def _create(path: Path) -> Holder | None:
    """The holder of a new lease; None if the lease exists. A hard link makes the file appear with its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Holder.here()
    draft = path.with_name(f".{path.name}-{holder.token}")
    try:
        draft.write_text(holder.to_json(), encoding="utf-8")
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
    aside = path.with_name(f".{path.name[:80]}-{os.urandom(8).hex()}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        if _state(aside) != state:
            with contextlib.suppress(OSError):
                os.link(aside, path, follow_symlinks=False)
        remove_tree(aside)


def _state(path: Path) -> tuple[int, int, int] | None:
    """What changes while a holder lives: the file, and the time of the last heartbeat, in ns; None if it is missing."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


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

_threads_of_leases: dict[Path, int] = {}  # lease -> identifier of the thread that holds it
_beating: dict[Path, Holder] = {}  # files that are touched for as long as they name this holder
_lock = threading.Lock()
_heart: threading.Thread | None = None


@contextlib.contextmanager
def kept_alive(path: Path, holder: Holder) -> Iterator[None]:
    """Inside, a heartbeat touches a file that names a holder of this process, until it names another one."""
    global _heart
    with _lock:
        _beating[path] = holder
        if _heart is None or not _heart.is_alive():
            _heart = threading.Thread(target=_touch_files, daemon=True, name="lease heartbeat")
            _heart.start()
    try:
        yield
    finally:
        with _lock:
            _beating.pop(path, None)


def _touch_files() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        with _lock:
            files = list(_beating.items())
        for path, holder in files:
            if not _touch(path, holder):
                with _lock:
                    if _beating.get(path) == holder:
                        del _beating[path]


def _touch(path: Path, holder: Holder) -> bool:
    """Touch a file that names a holder; returns whether it still does, or may: it could not be read this time."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        if read_holder(path) != holder or os.fstat(handle).st_ino != os.lstat(path).st_ino:
            return False
        os.utime(handle)  # by its handle: never a file that another process has put in its place meanwhile
    except OSError:
        pass
    finally:
        os.close(handle)
    return True


def _forget_the_parents() -> None:
    """In a process that was forked off: leave its parent's leases to the parent."""
    global _heart, _lock
    _heart, _lock = None, threading.Lock()
    _beating.clear()
    _threads_of_leases.clear()


os.register_at_fork(after_in_child=_forget_the_parents)
