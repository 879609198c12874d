"""Parameters of experiments, read in one way: from papermill (`-p seeds "3 4"`), from the command line and from make.

A number, a text of several (`"3 4"` or `"3,4"`) and a list (`[3, 4]`) mean the same.
"""

import ast
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rankadaptor.allocation import RankAllocation, parse_allocation
from rankadaptor.errors import BadInput, did_you_mean

if TYPE_CHECKING:  # they import torch, which the command line does without until something is computed
    from rankadaptor.profiles import Profile
    from rankadaptor.pruning.spec import Block

Words = str | int | Sequence[str] | Sequence[int]

DEFAULT_LEDGER = "ledger"
_INJECTED = "# Parameters\n"  # the first line of the cell that papermill adds


def split_words(value: Words) -> list[str]:
    """The parts of a text, a list or a single number, as texts."""
    if isinstance(value, str):
        return value.replace(",", " ").split()
    return list(map(str, value)) if isinstance(value, Sequence) else [str(value)]


def whole_numbers(name: str, value: Words) -> tuple[int, ...]:
    """Whole numbers, such as training seeds.

    Raises:
        BadInput: on anything else; `name` is what the error calls them.
    """
    try:
        return tuple(int(word) for word in split_words(value))
    except ValueError:
        shown = " ".join(split_words(value))
        raise BadInput(f"{name} {shown!r} are not whole numbers: write them as '2 4 8'") from None


def whole_number(name: str, value: Words, least: int = 1) -> int:
    """One whole number. Raises BadInput on anything else, or on less than `least`."""
    words = split_words(value)
    if len(words) != 1 or not words[0].isdecimal() or int(words[0]) < least:
        raise BadInput(f"{name} is {' '.join(words)!r}: give a whole number from {least}")
    return int(words[0])


def number_range(text: str) -> tuple[int, int]:
    """Layers written as "4:30": the first, and the one after the last.

    Raises:
        BadInput: on anything else.
    """
    first, separator, end = text.partition(":")
    if not (separator and first.isdecimal() and end.isdecimal()):
        raise BadInput(f"layers {text!r} are no range: write FIRST:END, such as 4:30")
    return int(first), int(end)


def report_seeds(profile: "Profile", budget: str, seeds: Words) -> tuple[int, ...]:
    """Training seeds of reported recoveries: those given, or the budget's where there are none.

    Raises:
        BadInput: on seeds that repeat themselves, or the one that searches use.
    """
    reported = whole_numbers("seeds", seeds) or tuple(profile.budget(budget).training_seeds)
    if len(set(reported)) < len(reported):
        raise BadInput(f"seeds {' '.join(map(str, reported))} repeat themselves: give each once")
    if profile.search.training_seed in reported:
        raise BadInput(f"seed {profile.search.training_seed} belongs to searches: report with other seeds")
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
