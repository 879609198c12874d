"""Bounds of numbers and texts that users give. The dataclasses that hold them call these where they are made.

A bound from above is far beyond any use: it is there so that a slip of the keyboard is told at once, and not by a
machine that runs out of memory hours later.
"""

import numbers
import re
from typing import Any

from rankadaptor.errors import BadInput, shown

SEEDS = (0, 2**32 - 1)  # NumPy's and lm-eval's generators take no larger one
LAYERS = 1_024  # decoder layers of a model
RANKS = 4_096  # rank of an adapter
TOKENS = 131_072  # of a row, a window or a continuation
ROWS = 65_536  # of a batch
ITEMS = 10**9  # of a data set
WORKERS = 1_024  # processes, and threads of one
LABEL = 300  # characters of a label: the name of any file is a label, too
PATH = 4_096  # characters

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


def check_whole(name: str, value: Any, least: int, most: int) -> None:
    """Raises BadInput unless a value is a whole number within its bounds."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise BadInput(f"{name} is {shown(value)}: give a whole number")
    if int(value) < least:
        raise BadInput(f"{name} is {shown(value)}: give at least {least}")
    if int(value) > most:
        raise BadInput(f"{name} is {shown(value)}: give at most {most}")


def check_amount(name: str, value: Any, least: float, most: float) -> None:
    """Raises BadInput unless a value is a finite number within its bounds."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and least <= value <= most):  # as not a number is not
        raise BadInput(f"{name} is {shown(value)}: give a finite number from {least:g} to {most:g}")


def check_positive(name: str, value: Any, most: float) -> None:
    """Raises BadInput unless a value is a finite number above 0 and within its bound."""
    check_amount(name, value, 0, most)
    if not value > 0:
        raise BadInput(f"{name} is {shown(value)}: give a number above 0")


def check_seed(name: str, value: Any) -> None:
    """Raises BadInput unless a value is a seed that every generator takes."""
    check_whole(name, value, *SEEDS)


def check_line(name: str, text: str, most: int = LABEL) -> None:
    """Raises BadInput unless a text is one line of printable characters, of bounded length, and not blank."""
    if not text.isprintable() or not text.strip():
        raise BadInput(f"{name} is {shown(text)}: give one line of printable text")
    if len(text) > most:
        raise BadInput(f"{name} has {len(text):,} characters ({shown(text)}): give at most {most:,}")


def check_plain_name(name: str, text: str) -> None:
    """Raises BadInput unless a text is the name of a file, and of no other folder."""
    if not _PLAIN_NAME.fullmatch(text):
        raise BadInput(f"{name} is {shown(text)}: give a name of at most 100 letters, digits, dots, dashes and"
                       " underscores that starts with none of dot and dash")
