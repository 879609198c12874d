"""Profiles from YAML: one file may extend another, and every value is validated strictly by pydantic.

    name: mine
    extends: llama-7b             # a shipped profile's name, or the path of a YAML file, from this file's folder
    base_model:
      label: a model of my own    # mappings are merged field by field, everything else is replaced
"""

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput, shown
from rankadaptor.models.conversion import conversion_of
from rankadaptor.plugins import load_plugins
from rankadaptor.profiles.files import read_yaml
from rankadaptor.profiles.profile import IMPLICIT, Profile
from rankadaptor.pruning.spec import PRUNERS, PruningSettings

FOLDER = Path(__file__).parent
VARIABLE = "RANKADAPTOR_MODEL"
_MOST_EXTENDED = 8


def names() -> list[str]:
    """Names of the shipped profiles."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """Read a profile by name, or by the path of a YAML file.

    Where its base model is one of the hub, `RANKADAPTOR_MODEL` may name a folder, or another commit, to use instead.

    Raises:
        BadInput: on an unknown name, a missing or unknown field, or a value of the wrong type or out of its bounds; the
            message names it.
    """
    load_plugins()  # a profile may name what they register
    path = _path(name, Path())
    content = _read_yaml(path, ())
    adapter = TypeAdapter(Profile)  # made anew, since a pruner may have been registered
    try:
        # Strict validation takes lists for tuples, and text for numbers in keys, from JSON alone.
        text = json.dumps(content)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{path.name} holds what JSON cannot ({error}): use numbers, text, lists and mappings") from None
    try:
        profile = adapter.validate_json(text)
    except ValidationError as error:
        raise BadInput(_message(error.errors(include_url=False)[0], path.stem)) from None
    _check_complete(profile, content, path.stem)
    return _with_model_of_environment(profile)


def _path(name: str, folder: Path) -> Path:
    """The file of a profile; paths are read from `folder`."""
    if name in names():
        return FOLDER / f"{name}.yaml"
    path = folder / name
    try:
        is_there = path.suffix in (".yaml", ".yml") and path.is_file()
    except OSError:  # of a name that no file can have
        is_there = False
    if not is_there:
        raise BadInput(f"unknown profile {shown(name)}: use one of {', '.join(names())}, or the path of a YAML file")
    return path


def _read_yaml(path: Path, extending: Sequence[Path]) -> Any:
    """Content of a profile's file, merged over that of the profile that it extends.

    Args:
        path: Of the file.
        extending: Files that led here, by extending each other.
    """
    if path.resolve() in extending:
        chain = " -> ".join(file.name for file in (*extending, path))
        raise BadInput(f"{extending[0].name} extends itself ({chain}): break the cycle")
    if len(extending) > _MOST_EXTENDED:
        raise BadInput(f"{extending[0].name} extends more than {_MOST_EXTENDED} profiles, one after the other: put some"
                       " together")
    content = read_yaml(path)
    if not isinstance(content, dict) or "extends" not in content:
        return content
    base = content.pop("extends")
    if not isinstance(base, str):
        raise BadInput(f"{path.stem}.extends is {shown(base)}: give the name of a profile, or the path of a YAML file")
    return _merged(_read_yaml(_path(base, path.parent), (*extending, path.resolve())), content)


def _merged(base: Any, changes: Any) -> Any:
    """Mappings field by field; anything else is replaced."""
    if not (isinstance(base, dict) and isinstance(changes, dict)):
        return changes
    return base | {name: _merged(base.get(name), value) for name, value in changes.items()}


def _with_model_of_environment(profile: Profile) -> Profile:
    """The profile, with the base model that RANKADAPTOR_MODEL names in place of one of the hub; where it names none,
    with the folder that has the id of the one of the hub, whose contents are then part of keys.

    The label of a model that was converted says so.
    """
    base = profile.base_model
    given = os.environ.get(VARIABLE) or ""
    location = given or base.source.location
    if base.source.kind == "hub" and (given or Path(location).is_dir()):
        try:
            source = Source("dir" if Path(location).is_dir() else "hub", location, None)
        except (BadInput, OSError):
            raise BadInput(f"base model {shown(location)} of {VARIABLE} is no folder: give MODEL=FOLDER with a"
                           " checkpoint's files, or MODEL=organisation/model@COMMIT") from None
        base = dataclasses.replace(base, source=source)
    if (conversion := conversion_of(base.source)) is not None:
        base = dataclasses.replace(base, label=f"{base.label}, {conversion.note}")
    return dataclasses.replace(profile, base_model=base)


# -- errors -----------------------------------------------------------------------------------------------------------


# Remedies by pydantic's type of error.
_TYPES = {"finite_number": "a finite number", "int_type": "a value of type int", "float_type": "a value of type float",
          "string_type": "a value of type str", "bool_type": "a value of type bool",
          "list_type": "a list", "tuple_type": "a list"}


def _check_complete(value: Any, content: Any, where: str) -> None:
    """Raise BadInput where the YAML leaves a field to a default of its dataclass, or a key was converted.

    A field that was added later (`keys.later`) may be left out: profiles of before mean what they meant.

    Args:
        value: What was read.
        content: The YAML that it was read from.
        where: Its place, such as smollm2.search.
    """
    if isinstance(value, dict):
        if sorted(map(repr, value)) != sorted(map(repr, content)):
            raise BadInput(f"{where} has the keys {shown(list(content))[1:-1]}: give {shown(list(value))[1:-1]}")
        for name, part in value.items():
            _check_complete(part, content[name], f"{where}.{name}")
    elif dataclasses.is_dataclass(value):
        for part in dataclasses.fields(value):
            if part.name in content:
                _check_complete(getattr(value, part.name), content[part.name], f"{where}.{part.name}")
            elif not (part.metadata.get(IMPLICIT) or part.metadata.get("later")):
                raise BadInput(_missing(where, part.name))


def _missing(where: str, name: str) -> str:
    return f"{where} lacks {name}: profiles have no implicit defaults, add it"


def _message(error: ErrorDetails, profile: str) -> str:
    """One line: the place, the value, and the remedy."""
    kind, place, value = error["type"], error["loc"], error["input"]
    context = error.get("ctx", {})
    if kind == "json_invalid":
        return f"{profile} cannot be read ({error['msg']}): mend it"
    if isinstance(reason := context.get("error"), BadInput):
        return str(reason)
    if kind == "missing":
        return _missing(_named(profile, place[:-1]), str(place[-1]))
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        return (f"{_named(profile, place[:-1])} has an unknown field {place[-1]}: use"
                f" {', '.join(_fields(place[:-1]))}")
    if place[-1:] == ("[key]",):
        return f"{_named(profile, place[:-2])} has the key {shown(value)}: give a whole number"
    where = f"{_named(profile, place)} is {shown(value)}"
    if kind == "literal_error":
        allowed = re.findall("'([^']*)'", context["expected"])
        return f"{where}: use one of {', '.join(allowed)}"
    if kind in _TYPES:
        return f"{where}: give {_TYPES[kind]}"
    if kind in ("dataclass_type", "typed_dict_type", "dict_type"):
        fields = ", ".join(_fields(place))
        return f"{where}: give a mapping{' with ' if fields else ''}{fields}"
    return f"{where}: {error['msg']}, mend it"


def _named(profile: str, place: Sequence[int | str]) -> str:
    """Such as smollm2.budgets.quick.learning_rates[0]."""
    return profile + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)


def _fields(place: Sequence[int | str]) -> list[str]:
    """Names of the fields of the mapping at a place of a profile; none where any key will do."""
    kind: Any = Profile
    for part in place:
        inner = get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
        kind = inner.get(str(part)) or get_args(kind)[-1]  # of a field, or of what a list or mapping holds
        if get_args(kind)[1:] == (type(None),):  # of a mapping that may be left out
            kind = get_args(kind)[0]
        if kind is PruningSettings:
            kind = PRUNERS[str(part)].settings
    if dataclasses.is_dataclass(kind):
        return [part.name for part in dataclasses.fields(kind)]
    return list(PRUNERS) if get_args(kind)[-1:] == (PruningSettings,) else []
