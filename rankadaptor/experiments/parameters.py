"""Parameters of experiments, read in one way: from papermill (`-p seeds "3 4"`), from the command line and from make.

A number, a text of several (`"3 4"` or `"3,4"`) and a list (`[3, 4]`, also as papermill's command line passes it on, as
text) mean the same; None means what an empty text means.
"""

import ast
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rankadaptor.allocation import RankAllocation, parse_allocation
from rankadaptor.bounds import SEEDS
from rankadaptor.errors import BadInput, did_you_mean

if TYPE_CHECKING:  # they import torch, which the command line does without until something is computed
    from rankadaptor.pipeline.ledger import Ledger
    from rankadaptor.profiles import Profile
    from rankadaptor.pruning.spec import Block

Words = str | int | Sequence[str] | Sequence[int] | None

DEFAULT_PROFILE, DEFAULT_LEDGER = "tiny", "ledger"
MOST_SEED = SEEDS[1]
_INJECTED = "# Parameters\n"  # the first line of the cell that papermill adds
_WHOLE = re.compile(r"-?[0-9]{1,20}")  # int() reads digits of other scripts, underscores and spaces, too


def text(name: str, value: object, default: str = "") -> str:
    """A parameter that is one text, such as a budget or a folder.

    Args:
        name: What an error calls it.
        value: A text or a path. A whole number is taken as its digits, since papermill reads `-p ledger 2024` so.
        default: In place of None and of an empty text.

    Raises:
        BadInput: on anything else, and on nothing but spaces.
    """
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, str | int | os.PathLike):
        raise BadInput(f"{name} is {value!r}: give a text (papermill keeps one as it is after -r)")
    if not (words := str(value)).strip():
        raise BadInput(f"{name} is {words!r}: give a name, or nothing")
    return words


def named_profile(name: object) -> "Profile":
    """The profile of a parameter; the embedded model's where there is none. Raises BadInput on anything else."""
    from rankadaptor.profiles import load_profile

    return load_profile(text("profile", name, DEFAULT_PROFILE))


def named_ledger(folder: object) -> "Ledger":
    """The ledger of a parameter, in the folder `ledger` where there is none. Raises BadInput on anything else."""
    from rankadaptor.pipeline.ledger import Ledger

    return Ledger(text("ledger", folder, DEFAULT_LEDGER))


def split_words(value: Words) -> list[str]:
    """The parts of a text, a list or a single number, as texts; none of None. Raises BadInput on commas alone."""
    if value is None:
        return []
    if isinstance(value, str):
        inner = value.strip()
        inner = inner[1:-1] if inner[:1] + inner[-1:] == "[]" else inner
        words = inner.replace(",", " ").split()
        if inner and not words:
            raise BadInput(f"{value!r} holds nothing but commas: give words, or leave it empty")
        return words
    return list(map(str, value)) if isinstance(value, Sequence) else [str(value)]


def whole_numbers(name: str, value: Words, least: int = 0, most: int = MOST_SEED) -> tuple[int, ...]:
    """Whole numbers, such as training seeds.

    Raises:
        BadInput: on anything else, or on one that is out of range; `name` is what the error calls them.
    """
    words = split_words(value)
    if not all(map(_WHOLE.fullmatch, words)):
        raise BadInput(f"{name} {' '.join(words)!r} are not whole numbers: write them as '2 4 8'")
    numbers = tuple(map(int, words))
    for number in numbers:
        if not least <= number <= most:
            raise BadInput(f"{name} hold {number}: give whole numbers from {least} to {most}")
    return numbers


def whole_number(name: str, value: Words, least: int = 1, most: int = MOST_SEED) -> int:
    """One whole number. Raises BadInput on anything else, or on one that is out of range."""
    words = split_words(value)
    if len(words) != 1 or not _WHOLE.fullmatch(words[0]) or not least <= int(words[0]) <= most:
        raise BadInput(f"{name} is {' '.join(words)!r}: give a whole number from {least} to {most}")
    return int(words[0])


def number_range(text: str) -> tuple[int, int]:
    """Layers written as "4:30": the first, and the one after the last.

    Raises:
        BadInput: on anything else, or where the end is not behind the first.
    """
    first, separator, end = text.partition(":")
    if not (separator and _WHOLE.fullmatch(first) and _WHOLE.fullmatch(end)):
        raise BadInput(f"layers {text!r} are no range: write FIRST:END, such as 4:30")
    if not 0 <= int(first) < int(end):
        raise BadInput(f"layers {text!r} hold no layer: write FIRST:END with END behind FIRST, such as 4:30")
    return int(first), int(end)


def report_seeds(profile: "Profile", budget: str, seeds: Words) -> tuple[int, ...]:
    """Training seeds of reported recoveries: those given, or the budget's where there are none.

    Raises:
        BadInput: on seeds that repeat themselves, or one that searches use.
    """
    reported = whole_numbers("seeds", seeds) or tuple(profile.budget(budget).training_seeds)
    if len(set(reported)) < len(reported):
        raise BadInput(f"seeds {' '.join(map(str, reported))} repeat themselves: give each once")
    first = profile.search.training_seed
    if taken := [seed for seed in reported if first <= seed < first + profile.budget(budget).searches]:
        raise BadInput(f"seed {taken[0]} belongs to searches: report with other seeds")
    return reported


def parse_blocks(blocks: Words, profile: "Profile") -> tuple["Block", ...]:
    """Blocks such as "llm-pruner:20 shortened:50", each once; all of the profile's where there are none.

    Raises:
        BadInput: on a block that the profile lacks.
    """
    from rankadaptor.pruning.spec import Block

    parsed = []
    for word in split_words(blocks):
        try:
            parsed.append(Block.parse(word))
            profile.prune_spec(parsed[-1])
        except BadInput as error:
            raise BadInput(f"{error}{did_you_mean(word, map(str, profile.blocks()))}") from None
    return tuple(dict.fromkeys(parsed or profile.blocks()))


def parse_ranks(allocation: Words) -> RankAllocation:
    """Ranks by layer, such as "8 8 4 12" or [8, 8, 4, 12]; an empty allocation where there are none.

    Raises:
        BadInput: on anything that is no whole number.
    """
    return parse_allocation(" ".join(split_words(allocation)))


def check_parameters(cells: Sequence[str]) -> None:
    """Refuse parameters of papermill that a notebook does not declare, such as `-p seed 3` for `seeds`.

    Papermill adds a cell with the parameters that it was given, behind the one that declares them with their defaults.

    Args:
        cells: The code cells that ran so far, which is `In` of IPython.

    Raises:
        BadInput: on a parameter that is not declared.
    """
    positions = [position for position, cell in enumerate(cells) if cell.startswith(_INJECTED)]
    if positions:
        declared = _assigned(cells[positions[-1] - 1])
        check_declared(_assigned(cells[positions[-1]]), declared)


def check_declared(names: Sequence[str], declared: Sequence[str]) -> None:
    """Raises BadInput on the first name of a parameter that a notebook does not declare."""
    for name in names:
        if name not in declared:
            raise BadInput(f"unknown parameter {name}: the notebook takes {', '.join(declared)}"
                           f"{did_you_mean(name, declared)}")


def _assigned(cell: str) -> list[str]:
    """Names that a cell of assignments gives values to."""
    return [target.id for statement in ast.parse(cell).body if isinstance(statement, ast.Assign)
            for target in statement.targets if isinstance(target, ast.Name)]
