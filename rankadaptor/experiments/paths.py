"""Where results go if nobody says: into the project's own folders, whatever folder a notebook is run from."""

import os
from pathlib import Path

from rankadaptor.profiles import load_profile

_CHECKOUT = Path(__file__).parents[2]


def ledger_folder(given: str = "") -> Path:
    """The folder of finished results: the one given, relative to the current folder, or the project's."""
    return Path(given) if given else _project() / "ledger"


def reports_folder(profile: str, given: str = "") -> Path:
    """The folder of a profile's tables and figures: the one given, or the project's.

    Raises:
        BadInput: on an unknown profile.
    """
    return Path(given) if given else _project() / "reports" / load_profile(profile).name


def _project() -> Path:
    """The checkout that this package is used from, seen from the current folder; that folder where there is none."""
    return Path(os.path.relpath(_CHECKOUT)) if (_CHECKOUT / "pyproject.toml").is_file() else Path()
