"""Numbers as text prints them, rounded half away from zero: numbers on disk are rounded already, often to ties."""

from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

_NOISE = 9  # decimals beyond which a float's digits are its own


def rounded(value: float, places: int) -> Decimal:
    """A number with so many decimals."""
    return Decimal(str(round(float(value), _NOISE))).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)


def plain(value: float, places: int = 1) -> str:
    """A number with so many decimals, thousands apart."""
    return f"{rounded(value, places):,}"


def signed(value: float, places: int = 1) -> str:
    """A difference with its sign: `+0.5`."""
    return f"{rounded(value, places):+}"


def span(values: Iterable[float], places: int = 1, sign: bool = False) -> str:
    """The least and the largest of some numbers, `0.03 to 0.15`; one number where they print alike."""
    numbers = list(values)
    low, high = ((signed if sign else plain)(number, places) for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def interval(value: float, low: float, high: float, places: int = 1, sign: bool = False) -> str:
    """A number with its 95 % interval, `-0.1 [-0.9, +0.7]`."""
    shown = [(signed if sign else plain)(number, places) for number in (value, low, high)]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"
