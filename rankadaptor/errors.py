"""Errors that callers are meant to catch. Every other exception is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """An input cannot be used. The message is one line: what is wrong, the value, and the remedy.

    The command line prints the message alone and exits with status 2.
    """


class NotFinite(BadInput):
    """A model's scores are NaN or infinite, so no answer follows from them."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """What an error about an unknown word ends with: the names most like it, or nothing where none is like it."""
    close = difflib.get_close_matches(word, list(names), n=2)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def check_name(kind: str, name: str, names: Iterable[str]) -> None:
    """Raises BadInput where a name is none of those that there are."""
    listed = list(names)
    if name not in listed:
        raise BadInput(f"unknown {kind} {name!r}: use one of {', '.join(listed)}{did_you_mean(name, listed)}")


class StageFailed(RuntimeError):
    """A stage has no result and is not tried again; tables show this in place of its row.

    Attributes:
        kind: "diverged", or one of `failures.ATTEMPTS`.
        reason: What is wrong, and the remedy.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind, self.reason = kind, message


class RecoveryDiverged(StageFailed):
    """A recovery's loss or gradient became NaN or infinite, as it would on any machine: a search scores it lowest."""

    def __init__(self, message: str):
        super().__init__("diverged", message)


class NotInLedger(LookupError):
    """The ledger lacks a result, and computing it is not allowed."""


class DamagedEntry(RuntimeError):
    """The files of a ledger entry do not match their recorded checksums."""
