"""Plugins: modules outside the package that register stages, methods, rivals or benchmarks when they are imported.

    RANKADAPTOR_PLUGINS="my_stage my_rival" make reproduce-table2     # separated by spaces or commas

Worker processes start without the imports of their parent, so each of them loads the plugins itself.
"""

import importlib
import os
from typing import TypeVar

from rankadaptor.errors import BadInput

VARIABLE = "RANKADAPTOR_PLUGINS"
_Entry = TypeVar("_Entry")


def add_entry(registry: dict[str, _Entry], kind: str, name: str, entry: _Entry) -> None:
    """Put an entry into a registry under its name.

    Args:
        kind: Of the registry's entries, such as "pruner".

    Raises:
        BadInput: if another entry has that name.
    """
    if name in registry:
        raise BadInput(f"{kind} {name!r} is registered already: give it another name")
    registry[name] = entry


def load_plugins() -> tuple[str, ...]:
    """Import every module that RANKADAPTOR_PLUGINS names; a module that is imported already is not run again.

    Returns:
        Names of the modules, in the order of the variable.

    Raises:
        BadInput: if a module, or one that it imports, is not installed.
    """
    names = tuple(os.environ.get(VARIABLE, "").replace(",", " ").split())
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise BadInput(f"plugin {name!r} of {VARIABLE} cannot be imported ({error}): install it, or add its folder"
                           " to PYTHONPATH") from None
    return names
