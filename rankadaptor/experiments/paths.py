"""Where results go by default: into the project's own folders, whatever folder a notebook is run from."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rankadaptor.destinations import require_writable
from rankadaptor.experiments.parameters import named_profile, text

if TYPE_CHECKING:
    from rankadaptor.profiles import Profile

_CHECKOUT = Path(__file__).parents[2]


def ledger_folder(folder: object = "") -> Path:
    """The folder of finished results: the one given, relative to the current folder, or the project's.

    Raises:
        BadInput: on what is no text.
    """
    return Path(text("ledger", folder, str(_project() / "ledger")))


def reports_folder(profile: object, folder: object = "", budget: object = "") -> Path:
    """The folder of a run's tables and figures: the one given, or reports/PROFILE/BUDGET of the project.

    Args:
        profile: Name of a profile, or path of a YAML file.
        folder: In place of the project's; empty for that one.
        budget: One of the profile's; empty for its default.

    Raises:
        BadInput: on an unknown profile or budget, or a folder that cannot be written to: before anything is computed.
    """
    run = run_folder(_project() / "reports", named_profile(profile), text("budget", budget))
    return require_writable("reports", text("reports", folder, str(run)))


def run_folder(reports: Path | str, profile: "Profile", budget: str = "") -> Path:
    """REPORTS/PROFILE/BUDGET, where the files of a run go. Git ignores it: no run changes a committed page.

    Args:
        reports: Folder of all profiles' reports.
        budget: One of the profile's; empty for its default.

    Raises:
        BadInput: if the profile has no budget of that name. Its own names are names of folders.
    """
    if budget:
        profile.budget(budget)
    return Path(reports) / profile.name / (budget or profile.default_budget)


def committed_folder(profile: str) -> Path:
    """The folder of a profile's committed pages, in the project.

    Args:
        profile: Its name.
    """
    return _project() / "reports" / profile


def _project() -> Path:
    """The checkout of this package, relative to the current folder; the current folder where there is no checkout."""
    return Path(os.path.relpath(_CHECKOUT)) if (_CHECKOUT / "pyproject.toml").is_file() else Path()


def records_folder(profile: str) -> Path:
    """The folder of a profile's committed records, in the project.

    Args:
        profile: Its name.
    """
    return _project() / "records" / profile


def build_folder() -> Path:
    """The folder of what can be made again at any time; git ignores it."""
    return _project() / "build"


def costs_file() -> Path:
    """The file of measured costs, in the project."""
    return _project() / "records" / "costs.yaml"


def project_folder() -> Path:
    """The checkout, with README.md, docs, reports and records."""
    return _project()
