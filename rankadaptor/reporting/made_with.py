"""How a page of a folder of reports was made, from its provenance: budget, training seeds, the command and its cost."""

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rankadaptor
from rankadaptor.data.text import read_text
from rankadaptor.experiments.parameters import DEFAULT_PROFILE, parse_blocks
from rankadaptor.profiles import Profile
from rankadaptor.reporting.costs import duration, measured_costs
from rankadaptor.reporting.pages import PAGES


@dataclass(frozen=True)
class MadeWith:
    """What a page was made with.

    Attributes:
        blocks: Empty for pages that do not name them.
        budget: Empty for pages that have none, such as replays.
        training_seeds: Of the reported recoveries, or of those that were replayed.
        seconds: Of all stages, one after the other; 0 where the provenance does not say.
    """

    blocks: tuple[str, ...]
    budget: str
    training_seeds: tuple[int, ...]
    seconds: float

    def __str__(self) -> str:
        seeds = f"seed{'s' if len(self.training_seeds) > 1 else ''} {', '.join(map(str, self.training_seeds))}"
        return ", ".join(part for part in (self.budget, seeds if self.training_seeds else "") if part)


def made_with(folder: Path | str, page: str) -> MadeWith | None:
    """What a page was made with; None where it was not made.

    Args:
        folder: A profile's reports.
        page: Name of the page.
    """
    path = Path(folder) / f"{page}-provenance.json"
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(read_text(path))
    seconds = sum(float(stage["seconds"]) for stage in content.get("seconds", {}).values())
    return MadeWith(tuple(content.get("blocks", ())), content.get("budget", ""),
                    tuple(content.get("training_seeds", ())), seconds)


def command(target: str, page: str, profile: Profile, made: MadeWith) -> str:
    """The command that makes a page as it was made: a target of make, with the options that are not its defaults.

    Args:
        target: Such as `make reproduce-table2`.
    """
    defaults = _defaults(page, profile)
    options = {} if profile.name == DEFAULT_PROFILE else {"PROFILE": profile.name}
    if made.budget and made.budget != defaults.get("budget"):
        options["BUDGET"] = made.budget
    if made.blocks and list(made.blocks) != [str(block) for block in parse_blocks(defaults.get("blocks", ""), profile)]:
        options["BLOCKS"] = f'"{" ".join(made.blocks)}"' if len(made.blocks) > 1 else made.blocks[0]
    if made.budget in profile.budgets and list(made.training_seeds) != profile.budgets[made.budget].training_seeds:
        options["SEEDS"] = f'"{" ".join(map(str, made.training_seeds))}"'
    return " ".join([target, *(f"{name}={value}" for name, value in options.items())])


def _defaults(page: str, profile: Profile) -> dict[str, Any]:
    """Parameters of a page that nothing is said of: the profile's and the page's, then those of its function."""
    if page not in PAGES:
        return {}
    function = inspect.signature(getattr(rankadaptor, PAGES[page].work)).parameters
    own = {name: parameter.default for name, parameter in function.items()
           if parameter.default is not inspect.Parameter.empty}
    of_profile = {} if profile.defaults is None else {
        "budget": profile.defaults.budget, "blocks": " ".join(profile.defaults.blocks)}
    return own | of_profile | PAGES[page].parameters({})


def cost(command_line: str, profile: Profile, made: MadeWith) -> str:
    """What a command costs: as it was measured, else by the stages of its page, shared out to the profile's processes.

    Args:
        command_line: As `command` returns it.
    """
    if (measured := measured_costs().get(command_line.removeprefix("make "))) is not None:
        return str(measured)
    if not made.seconds:
        return ""
    minutes = made.seconds / profile.workers / 60
    return f"about {duration(round(minutes))}" if minutes >= 0.5 else "seconds"
