"""Time limits of stages: an alarm that interrupts whatever a stage waits for in Python."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_REPEAT_S = 10.0  # the alarm is raised again after this time, in case the stage swallowed the first exception


class TimedOut(Exception):
    """A stage took longer than its profile allows."""


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises TimedOut inside the context once so many seconds of wall time have passed.

    The exception is raised between two operations of Python. A call that never returns is ended from outside, with its
    process, see `local_pool.LocalPool`. No limit is set outside the main thread, on systems without interval timers,
    or where an alarm of other code rings sooner.

    Args:
        seconds: Wall time; None sets no limit.
    """
    if seconds is None or not _can_set_alarm(seconds):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimedOut(f"longer than {seconds:g} s")

    began = time.monotonic()
    former = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _REPEAT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        if left:  # the alarm of other code continues
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


def _can_set_alarm(seconds: float) -> bool:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    return not 0 < left <= seconds
