"""Stages that take longer than they may are stopped, whatever they wait for in Python."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

_AGAIN_S = 10.0  # the limit is called out anew, should the first call have been swallowed


class TimedOut(Exception):
    """A stage took longer than its profile allows."""


@contextlib.contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Raises TimedOut inside, once so many seconds of wall time have passed.

    That is between two operations of Python: one that never comes back is ended from outside, with its process, see
    `execution.LocalPool`. None sets no limit; nor can there be one in a thread that is not the main one, or where the
    system has no interval timers; and an alarm of someone else's that rings sooner is left to ring.
    """
    if seconds is None or not _may_ring(seconds):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimedOut(f"longer than {seconds:g} s")

    began = time.monotonic()
    former = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        if left:  # someone else's, which goes on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


def _may_ring(seconds: float) -> bool:
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        return False
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    return not 0 < left <= seconds
