"""Options that every experiment reads in one way: blocks and seeds."""

from collections.abc import Sequence

from rankadaptor.errors import BadInput
from rankadaptor.profiles import Profile
from rankadaptor.pruning.spec import Block

DEFAULT_LEDGER = "ledger"


def report_seeds(profile: Profile, budget: str, seeds: Sequence[int]) -> tuple[int, ...]:
    """Training seeds of what is reported: those given, or the budget's.

    Raises:
        BadInput: on seeds that repeat themselves, or the one that searches use.
    """
    reported = tuple(seeds) or tuple(profile.budget(budget).training_seeds)
    if len(set(reported)) < len(reported):
        raise BadInput(f"seeds {' '.join(map(str, reported))} repeat themselves: give each once")
    if profile.search.training_seed in reported:
        raise BadInput(f"seed {profile.search.training_seed} belongs to searches: report with other seeds")
    return reported


def parse_blocks(text: str, profile: Profile) -> tuple[Block, ...]:
    """Blocks such as "llm-pruner:20 shortened:50", each once; all of the profile's where the text is empty.

    Raises:
        BadInput: on a block that the profile lacks.
    """
    named = [Block.parse(part) for part in text.replace(",", " ").split()] or profile.blocks()
    for block in named:
        profile.prune_spec(block)
    return tuple(dict.fromkeys(named))
