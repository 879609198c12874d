"""Inspects and cleans a ledger: as a table, by key, against its checksums, and without its leftovers.

    frame = ledger_frame("ledger")                            # one row an entry
    frame[frame["stage"] == "evaluate"].groupby("spec.split")["result.metrics.piqa.acc"].mean()
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from rankadaptor.errors import BadInput
from rankadaptor.keys import identity_key
from rankadaptor.pipeline import failures as failure_notes
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_files import DAMAGED, Entry
from rankadaptor.pipeline.stages import STAGES

_SHORTEST_PREFIX = 6  # digits of a key that are enough to name it


def ledger_frame(folder: Path | str) -> pd.DataFrame:
    """Every entry of a ledger as one row; an unreadable entry has only its key and its bytes.

    Columns: `key`, `stage`, `numerics_version`, `parent`, `started`, `seconds`, `bytes`, the machine's `processor` and
    `accelerator`, and the fields of spec and result, `spec.NAME` and `result.NAME` (nested names joined by dots, such
    as `result.metrics.piqa.acc`), empty for stages without that field. Reads no arrays and verifies nothing; see
    `verify`.
    """
    rows = [_row(entry) for entry in existing(folder).entries()]
    leading = ["key", "stage", "numerics_version", "parent", "started", "seconds", "bytes", "processor", "accelerator"]
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*leading, *sorted(set(table.columns) - set(leading))])


def existing(folder: Path | str) -> Ledger:
    """The ledger of a folder that exists.

    Raises:
        BadInput: if the folder does not exist.
    """
    if not Path(folder).is_dir():
        raise BadInput(f"there is no ledger at {folder}: name the folder that results were kept in")
    return Ledger(folder)


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"key": entry.key}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        identity, content = entry.spec, entry.result
        made, machine = content["provenance"], content["provenance"]["machine"]
        row |= {"stage": identity["stage"], "numerics_version": identity["numerics_version"],
                "parent": identity["parent"], "started": made["started"], "seconds": made["seconds"],
                "processor": machine["processor"], "accelerator": machine["accelerator"]}
        row |= _flat("spec", identity["spec"]) | _flat("result", content["result"])
    row["bytes"] = size_of(entry.folder)
    return row


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested objects as one level with joined names; lists as JSON text."""
    if isinstance(value, dict):
        return {name: leaf for key, item in value.items() for name, leaf in _flat(f"{prefix}.{key}", item).items()}
    return {prefix: json.dumps(value) if isinstance(value, list) else value}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def export(folder: Path | str, target: Path) -> int:
    """Write `ledger_frame` as .csv or .parquet.

    Returns:
        Number of rows.

    Raises:
        BadInput: if the file has another ending or cannot be written.
    """
    if target.suffix not in (".csv", ".parquet"):
        raise BadInput(f"cannot export to {target}: name a file that ends in .csv or .parquet")
    table = ledger_frame(folder)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".csv":
            table.to_csv(draft, index=False)
        else:
            _with_uniform_columns(table).to_parquet(draft, index=False)
        os.replace(draft, target)
    except OSError as error:
        raise BadInput(f"cannot write {target} ({error.strerror or error}): name another file") from None
    finally:
        draft.unlink(missing_ok=True)
    return len(table)


def _with_uniform_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of mixed types, such as booleans and strings, as JSON text: a Parquet column has one type."""
    mixed = [name for name in table.columns if table[name].dropna().map(type).nunique() > 1]
    return table.assign(**{name: table[name].map(json.dumps, na_action="ignore") for name in mixed})


def find_by_prefix(folder: Path | str, prefix: str) -> Entry:
    """The entry whose key begins with a prefix.

    Raises:
        BadInput: if the prefix is too short, or no key or several keys begin with it.
    """
    ledger = existing(folder)
    if len(prefix) < _SHORTEST_PREFIX:
        raise BadInput(f"key {prefix!r} is too short: give at least {_SHORTEST_PREFIX} of its 64 digits")
    entries = [entry for entry in ledger.entries() if entry.key.startswith(prefix.lower())]
    if len(entries) != 1:
        number = "no entry" if not entries else f"{len(entries)} entries"
        raise BadInput(f"{number} of {folder} begin with {prefix!r}: `ledger list` has the keys")
    return entries[0]


def verify(folder: Path | str) -> list[str]:
    """Read every file of a ledger against its checksum, and every key against the identity that it is the hash of.

    Damaged entries are set aside, as `Ledger.find` does.

    Returns:
        One line for each entry that is damaged or has another key.
    """
    ledger = existing(folder)
    faults = []
    for entry in ledger.entries():
        if ledger.find(entry.key) is None:
            faults.append(f"{entry.key[:12]}: damaged, see {ledger.folder / DAMAGED}")
        elif identity_key(entry.spec) != entry.key:
            faults.append(f"{entry.key[:12]}: its spec.json is that of {identity_key(entry.spec)[:12]}, remove it")
    return faults


@dataclass(frozen=True)
class Rubbish:
    """A file or folder that no result needs."""

    path: Path
    why: str  # reason, as `ledger gc` prints it
    bytes: int  # size on disk


def rubbish(
    folder: Path | str, damaged: bool = False, outdated: bool = False, failures: bool = False,
    versions: Mapping[str, int] = MappingProxyType({}),
) -> list[Rubbish]:  # fmt: skip
    """Files that can be removed: half-written files of dead processes.

    Args:
        folder: The ledger's.
        damaged: Also damaged entries that were set aside.
        outdated: Also entries of numerics versions that this code does not read any more.
        failures: Also notes of failures, so that stages that were given up are tried again.
        versions: Numerics versions of entries that no stage makes, by what stands as their stage.
    """
    ledger = existing(folder)
    pieces = [(path, "left by a process that died") for path in ledger.leftovers()]
    if damaged:
        pieces += [(path, "damaged") for path in sorted((ledger.folder / DAMAGED).glob("*"))]
    if failures:
        pieces += [(path, "notes of failures") for path in sorted((ledger.folder / failure_notes.FOLDER).glob("*"))]
    if outdated:
        pieces += [(entry.folder, "of an older numerics version") for entry in ledger.entries()
                   if _is_outdated(entry, versions)]
    return [Rubbish(path, why, size_of(path)) for path, why in pieces]


def _is_outdated(entry: Entry, versions: Mapping[str, int]) -> bool:
    try:
        identity = entry.spec
        stage, version, spec = identity["stage"], identity["numerics_version"], identity["spec"]
    except (OSError, ValueError, KeyError, TypeError):
        return False  # `verify` reports damage
    if stage in versions:
        return version != versions[stage]
    if stage not in STAGES:
        return False  # of a plugin that is not loaded
    try:
        return version != STAGES[stage].current_version(spec)
    except BadInput:
        return False  # of a method that is registered by a plugin
    except (KeyError, TypeError):
        return True  # its spec has other fields than this code's


def remove(pieces: list[Rubbish]) -> list[Rubbish]:
    """Remove files and folders; returns those that could not be removed, for example without the rights."""
    for piece in pieces:
        if piece.path.is_dir():
            shutil.rmtree(piece.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                piece.path.unlink(missing_ok=True)
    return [piece for piece in pieces if piece.path.exists()]


def summary(folder: Path | str) -> str:
    """Entries, bytes and seconds by stage, as text."""
    table = ledger_frame(folder)
    if table.empty:
        return f"{folder}: no entries"
    by_stage = table.fillna({"stage": "unreadable"}).groupby("stage").agg(
        entries=("key", "size"), megabytes=("bytes", lambda sizes: round(sizes.sum() / 1e6, 1)),
        minutes=("seconds", lambda seconds: round(seconds.sum() / 60, 1)))  # fmt: skip
    return by_stage.to_string()


def listing(folder: Path | str, stage: str = "") -> str:
    """One line an entry, oldest first: key, stage, start, seconds, size.

    Raises:
        BadInput: if no entry is of the stage.
    """
    table = ledger_frame(folder)
    stages = sorted(set(table["stage"].dropna()))
    if stage and stage not in stages:
        raise BadInput(f"no entry of {folder} is of stage {stage!r}: it has {', '.join(stages) or 'none'}")
    if stage:
        table = table[table["stage"] == stage]
    columns = ("key", "stage", "started", "seconds", "bytes")
    lines = [f"{key[:12]}  {stage!s:<10}  {started!s:<20}  {seconds:>9.1f} s  {size / 1e6:>9.2f} MB"
             for key, stage, started, seconds, size in
             table.sort_values(["started", "key"])[list(columns)].itertuples(index=False, name=None)]
    return "\n".join(lines)


def shown(entry: Entry) -> str:
    """An entry as JSON: identity, result with provenance, and files with their sizes in bytes."""
    files = {str(path.relative_to(entry.folder)): size_of(path)
             for path in sorted(entry.folder.rglob("*")) if path.is_file()}
    content = {"key": entry.key, "folder": str(entry.folder), "identity": entry.spec, "content": entry.result,
               "files": files}
    return json.dumps(content, indent=1)
