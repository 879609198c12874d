"""Counts as sentences have them. Everything in `WORDS` is a function of templates."""

from collections.abc import Callable, Iterable
from typing import Any

from rankadaptor.reporting.labels import count_word
from rankadaptor.reporting.numbers import interval, plain, signed, span


def word(count: int) -> str:
    """A count as a word up to twelve, in digits above; `none` of nothing."""
    return count_word(int(count)) if count else "none"


def how_many(count: int, total: int) -> str:
    """`none of the eight`, `one of the eight`, `all eight`, `both`: what stands in front of a noun in the plural."""
    if total == 1:
        return f"{word(count)} of one"
    if total == 2 and count != 1:
        return "both" if count else "neither of the two"
    return f"all {word(total)}" if count == total else f"{word(count)} of the {word(total)}"


def agree(count: int, singular: str, plural: str) -> str:
    """The form of a verb or noun that goes with `how_many` or `word`: the singular with none and one."""
    return singular if count <= 1 else plural


def listed(names: Iterable[Any], joint: str = "and") -> str:
    """`a, b and c`; `none` where there is none."""
    texts = list(map(str, names))
    if not texts:
        return "none"
    return f" {joint} ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else texts[0]


def excludes_zero(low: float, high: float) -> bool:
    """Whether an interval lies above or below 0."""
    return low > 0 or high < 0


WORDS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (word, how_many, agree, listed, plain, signed, span, interval)}
