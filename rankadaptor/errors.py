"""Errors that callers are meant to catch. Every other exception is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable
from typing import Any

_MOST_SHOWN = 200  # characters of a value in a message
_MOST_SAID = 1_000  # characters of a message
_MOST_COMPARED = 100  # characters of a word that is compared with names


class BadInput(ValueError):
    """An input cannot be used. The message is one line: what is wrong, the value, and the remedy.

    Characters that do not print, such as the ends of lines in a name, are shown by their escapes, and of a message that
    is too long the middle is left out, so that any value may be put into one. The command line prints the message alone
    and exits with status 2.
    """

    def __init__(self, message: str):
        super().__init__(cut(printable(message), _MOST_SAID))


def printable(text: str) -> str:
    """A text on one line, with the escapes of all characters that do not print, such as `\\n` and `\\x1b`."""
    return text if text.isprintable() else "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text)


def shown(value: Any) -> str:
    """A value for an error message: its `repr`, of which the middle is left out where it is long."""
    try:
        return cut(repr(value))
    except ValueError:  # of an integer of more digits than Python writes
        return f"a value of type {type(value).__name__}"


def cut(text: str, most: int = _MOST_SHOWN) -> str:
    """The start and the end of a text that is too long: an error has its remedy at the end."""
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-(most // 3):]}"


class NotFinite(BadInput):
    """A model's scores are NaN or infinite, so no answer follows from them."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """What an error about an unknown word ends with: the names most like it, or nothing where none is like it."""
    close = difflib.get_close_matches(word[:_MOST_COMPARED], list(names), n=2)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def check_name(kind: str, name: str, names: Iterable[str]) -> None:
    """Raises BadInput where a name is none of those that there are."""
    listed = list(names)
    if name not in listed:
        raise BadInput(f"unknown {kind} {shown(name)}: use one of {', '.join(listed)}{did_you_mean(name, listed)}")


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


class Damaged(RuntimeError):
    """A file or folder that this package wrote is not as it was written; see `sealed`. The message says in what way."""
