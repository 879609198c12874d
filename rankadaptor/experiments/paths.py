"""Where results go by default: into the project's own folders, whatever folder a notebook is run from."""

import os
from pathlib import Path

from rankadaptor.profiles import load_profile

_CHECKOUT = Path(__file__).parents[2]


def ledger_folder(folder: str = "") -> Path:
    """The folder of finished results: the one given, relative to the current folder, or the project's."""
    return Path(folder) if folder else _project() / "ledger"


def reports_folder(profile: str, folder: str = "") -> Path:
    """The folder of a profile's tables and figures: the one given, or the project's.

    Raises:
        BadInput: on an unknown profile.
    """
    return Path(folder) if folder else _project() / "reports" / load_profile(profile).name


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
