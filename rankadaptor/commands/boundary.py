"""How a command ends: its exit status, and the one line that says what went wrong.

| status | meaning |
|---|---|
| 0 | done |
| 1 | a stage or a notebook failed, or memory ended; `ledger verify` set damaged entries aside |
| 2 | bad input: an option, a file, a folder, a disk that is full |
| 70 | a bug: its traceback stands above the line |
| 130 | interrupted (Ctrl-C) |
| 141 | whoever read the output closed it, as `| head -1` does; nothing is printed |
"""

import contextlib
import errno
import io
import json
import os
import select
import sys
import traceback
from collections.abc import Sequence

import typer

from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.plugins import VARIABLE as PLUGINS_VARIABLE

FAILED, BAD_INPUT, BUG, INTERRUPTED, OUTPUT_CLOSED = 1, 2, 70, 130, 141
_MOST_CHARACTERS = 1500  # of a message
_NESTED = ("json", "yaml")  # readers that recurse into what they read

# What to do about errors of the system: all that a path, a disk, a network or a limit of the user's can cause.
_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.EACCES: "mend its rights, or name another",
    errno.EPERM: "mend its rights, or name another",
    errno.EROFS: "name a place that can be written to",
    errno.ENOTDIR: "a part of the path is a file, name a folder",
    errno.EISDIR: "it is a folder, name a file",
    errno.EEXIST: "name another, or remove it",
    errno.ENOTEMPTY: "name another, or empty it",
    errno.ENAMETOOLONG: "give a shorter one",
    errno.ELOOP: "the link leads to itself, mend it",
    errno.EXDEV: "name a place on the same disk",
    errno.EBUSY: "end what uses it",
    errno.ENXIO: "name a file",
    errno.ENOSPC: "free some of the disk, what was finished is kept",
    errno.EDQUOT: "free some of the quota, what was finished is kept",
    errno.EFBIG: "allow larger files (ulimit -f), or free some of the disk",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "end processes that hold files open",
    errno.EAGAIN: "allow more processes (ulimit -u), or take fewer workers",
    errno.EIO: "check the disk, or the network folder",
    errno.ESTALE: "the network folder changed, start again",
    errno.ECONNREFUSED: "check the network",
    errno.ECONNRESET: "check the network",
    errno.ETIMEDOUT: "check the network",
    errno.EHOSTUNREACH: "check the network",
    errno.ENETUNREACH: "check the network",
}


def check_arguments(arguments: Sequence[str]) -> None:
    """Refuse text that no path, no JSON and no notebook can hold, in arguments and in RANKADAPTOR_* variables.

    Raises:
        BadInput: on bytes that are not UTF-8, which Python reads as surrogates, and on NUL characters.
    """
    variables = {name: value for name, value in os.environ.items() if name.startswith("RANKADAPTOR_")}
    for what, text in [*(("argument", text) for text in arguments), *variables.items()]:
        if "\0" in text:
            raise BadInput(f"{what} {text!r} holds a NUL character: leave it out")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise BadInput(f"{what} {text!r} is not UTF-8: write it in UTF-8, or rename the file")


def show_all_characters() -> None:
    """Let the streams of this process escape what their encoding lacks: a table with ± is no error under ASCII."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # a stream may be closed, or replaced
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def flushed(status: int) -> int:
    """Write what print left in its buffer; the exit status is of an error of that where the command had none."""
    error = _lost_output()
    return status if status or error is None else _status_of_lost_output(error)


def status_of(error: BaseException) -> int:
    """Print the one line of an error that ended a command, and return the exit status."""
    if isinstance(error, OSError) and (lost := _lost_output(error)) is not None:
        return _status_of_lost_output(lost)
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return print_line("interrupted: start again, what was finished is kept", INTERRUPTED)
    if isinstance(error, StageFailed):
        return print_line(str(error), FAILED)
    if _is_out_of_memory(error):
        return print_line(f"out of memory ({_first_line(error)}): free memory, or take fewer workers; what was finished"
                          " is kept", FAILED)
    if line := _explained(error):
        return print_line(line, BAD_INPUT)
    traceback.print_exception(error)
    plugins = os.environ.get(PLUGINS_VARIABLE)
    where = f"rankadaptor, or in a plugin ({plugins})" if plugins else "rankadaptor"
    return print_line(f"{type(error).__name__} is a bug in {where}, see above: report it with these lines; what was"
                      " finished is kept", BUG)


def print_line(message: str, status: int) -> int:
    """Print one line on standard error, without characters that would break it or the terminal; return the status."""
    if len(message) > _MOST_CHARACTERS:
        message = f"{message[:_MOST_CHARACTERS // 2]} ... {message[-_MOST_CHARACTERS // 2:]}"
    line = "".join(character if character.isprintable() else repr(character)[1:-1] for character in message)
    with contextlib.suppress(OSError):
        print(f"rankadaptor: {line}", file=sys.stderr, flush=True)
    return status


def _explained(error: BaseException) -> str:
    """What is wrong with the input, the value and the remedy; empty where the error is no input's."""
    match error:
        case BadInput():
            return str(error)
        case OSError() if error.errno in _REMEDIES:
            place = f": {os.fspath(error.filename)!r}" if isinstance(error.filename, str | bytes | os.PathLike) else ""
            return f"{error.strerror}{place}: {_REMEDIES[error.errno]}"
        case io.UnsupportedOperation():
            return ""
        case OSError() if error.errno is None and error.args:  # of the hub's libraries, about files of a model
            return f"{_first_line(error)}: check the folder or the id"
        case UnicodeDecodeError():
            return (f"a file that was read is not UTF-8 text (byte {error.start}, {error.object[error.start]:#04x}):"
                    " convert it")
        case UnicodeEncodeError():
            return (f"{error.object[error.start:error.end]!r} cannot be written as {error.encoding}: set"
                    " PYTHONUTF8=1, or leave the character out")
        case json.JSONDecodeError():
            return f"a file that was read is not JSON ({error}), it starts with {error.doc[:40]!r}: mend it"
        case RecursionError() if _raised_within(error, _NESTED):
            return f"a file that was read is nested too deeply ({error}): mend it"
    if type(error).__name__ == "SafetensorError":  # not imported here, since that takes long
        return f"a safetensors file is damaged ({_first_line(error)}): fetch it, or make it, anew"
    return ""


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if "torch" not in sys.modules or not isinstance(error, RuntimeError):
        return False
    from rankadaptor.pipeline.failures import kind_of

    return kind_of(error) == "out of memory"


def _raised_within(error: BaseException, packages: Sequence[str]) -> bool:
    """Whether the innermost frame of an error is one of some packages."""
    frame, name = error.__traceback__, ""
    while frame is not None:
        name = frame.tb_frame.f_globals.get("__name__", "")
        frame = frame.tb_next
    return name.partition(".")[0] in packages


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _lost_output(raised: OSError | None = None) -> OSError | None:
    """The error of standard output where it cannot be written to; it leads nowhere from then on, and fails once.

    Args:
        raised: An error that may be its: without a buffer (PYTHONUNBUFFERED), nothing is left to fail again.
    """
    if sys.stdout is None or sys.stdout.closed:
        return None
    try:
        sys.stdout.flush()
        if isinstance(raised, BrokenPipeError) and _reader_is_gone():
            raise raised
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None


def _reader_is_gone() -> bool:
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll in this system, or no file behind the stream
        return False


def _status_of_lost_output(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):
        return OUTPUT_CLOSED
    return print_line(f"cannot write the output ({error.strerror}): {_REMEDIES.get(error.errno or 0, 'redirect it')}",
                      BAD_INPUT)
