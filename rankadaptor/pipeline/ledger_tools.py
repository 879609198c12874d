"""Looking into a ledger, and keeping it in order: as a table, by key, against its checksums, without its leftovers.

    frame = ledger_frame("ledger")                            # one row an entry
    frame[frame["stage"] == "evaluate"].groupby("spec.split")["result.metrics.piqa.acc"].mean()
"""

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.errors import BadInput
from rankadaptor.keys import identity_key
from rankadaptor.pipeline.ledger import FAILURES, Entry, Ledger
from rankadaptor.pipeline.stages import STAGES

_PREFIX = 6  # digits of a key that are enough to ask for it


def ledger_frame(folder: Path | str) -> pd.DataFrame:
    """Every entry of a ledger as one row; of those that cannot be read, the key and the bytes.

    Columns: `key`, `stage`, `numerics_version`, `parent`, `started`, `seconds`, `bytes`, the machine's `processor` and
    `accelerator`, and of what the stage was asked and found, `spec.NAME` and `result.NAME` (nested names joined by
    dots, such as `result.metrics.piqa.acc`); empty where a stage has no such field. Reads no arrays, and verifies
    nothing: `verify` does.
    """
    rows = [_row(entry) for entry in existing(folder).entries()]
    leading = ["key", "stage", "numerics_version", "parent", "started", "seconds", "bytes", "processor", "accelerator"]
    table = pd.DataFrame(rows)
    return table.reindex(columns=[*leading, *sorted(set(table.columns) - set(leading))])


def existing(folder: Path | str) -> Ledger:
    """Raises BadInput where there is no such folder: looking at nothing is a slip of the pen."""
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
    """Nested objects with their names joined; lists as text, as they are written in JSON."""
    if isinstance(value, dict):
        return {name: found for key, one in value.items() for name, found in _flat(f"{prefix}.{key}", one).items()}
    return {prefix: json.dumps(value) if isinstance(value, list) else value}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(one.stat().st_size for one in files)


def export(folder: Path | str, target: Path) -> int:
    """Write `ledger_frame` as .csv or .parquet; returns its rows.

    Raises:
        BadInput: on another ending, or a place that cannot be written.
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
            _of_one_type(table).to_parquet(draft, index=False)
        os.replace(draft, target)
    except OSError as error:
        raise BadInput(f"cannot write {target} ({error.strerror or error}): name another file") from None
    finally:
        draft.unlink(missing_ok=True)
    return len(table)


def _of_one_type(table: pd.DataFrame) -> pd.DataFrame:
    """Columns that hold, say, both truth values and words, as JSON: Parquet knows one type a column."""
    mixed = [name for name in table.columns if table[name].dropna().map(type).nunique() > 1]
    return table.assign(**{name: table[name].map(json.dumps, na_action="ignore") for name in mixed})


def find_by_prefix(folder: Path | str, prefix: str) -> Entry:
    """The entry whose key begins so.

    Raises:
        BadInput: if none does, or several.
    """
    ledger = existing(folder)
    if len(prefix) < _PREFIX:
        raise BadInput(f"key {prefix!r} is too short: give at least {_PREFIX} of its 64 digits")
    found = [entry for entry in ledger.entries() if entry.key.startswith(prefix.lower())]
    if len(found) != 1:
        number = "no entry" if not found else f"{len(found)} entries"
        raise BadInput(f"{number} of {folder} begin with {prefix!r}: `ledger list` has the keys")
    return found[0]


def verify(folder: Path | str) -> list[str]:
    """Read every file of a ledger against its checksum, and every key against what it is the hash of.

    Damaged entries are set aside, as they are whenever one is come upon.

    Returns:
        What is wrong, a line each.
    """
    ledger = existing(folder)
    wrong = []
    for entry in ledger.entries():
        if ledger.find(entry.key) is None:
            wrong.append(f"{entry.key[:12]}: damaged, see {ledger.folder / 'damaged'}")
        elif identity_key(entry.spec) != entry.key:
            wrong.append(f"{entry.key[:12]}: its spec.json is that of {identity_key(entry.spec)[:12]}, remove it")
    return wrong


@dataclass(frozen=True)
class Rubbish:
    """Something that no result needs."""

    path: Path
    why: str
    bytes: int


def rubbish(
    folder: Path | str, damaged: bool = False, outdated: bool = False, failures: bool = False
) -> list[Rubbish]:
    """What can go: what dead processes left half-written.

    Args:
        damaged: Also what was set aside as damaged.
        outdated: Also entries of numerics versions that this code does not read any more.
        failures: Also notes of failures, so that what was given up is tried again.
    """
    ledger = existing(folder)
    found = [(path, "left by a process that died") for path in ledger.leftovers()]
    if damaged:
        found += [(path, "damaged") for path in sorted((ledger.folder / "damaged").glob("*"))]
    if failures:
        found += [(path, "notes of failures") for path in sorted((ledger.folder / FAILURES).glob("*"))]
    if outdated:
        found += [(entry.folder, "of an older numerics version") for entry in ledger.entries() if _is_outdated(entry)]
    return [Rubbish(path, why, size_of(path)) for path, why in found]


def _is_outdated(entry: Entry) -> bool:
    try:
        identity = entry.spec
        if identity["stage"] not in STAGES:
            return False  # replays of searches, whose version is their page's
        return identity["numerics_version"] != STAGES[identity["stage"]].current_version(identity["spec"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # damage is verify's


def remove(pieces: list[Rubbish]) -> list[Rubbish]:
    """Returns what is still there, for want of rights, say."""
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
    """One line an entry, oldest first: key, stage, when, how long, how large.

    Raises:
        BadInput: on a stage that no entry is of.
    """
    table = ledger_frame(folder)
    there = sorted(set(table["stage"].dropna()))
    if stage and stage not in there:
        raise BadInput(f"no entry of {folder} is of stage {stage!r}: it has {', '.join(there) or 'none'}")
    if stage:
        table = table[table["stage"] == stage]
    columns = ("key", "stage", "started", "seconds", "bytes")
    lines = [f"{key[:12]}  {stage!s:<10}  {started!s:<20}  {seconds:>9.1f} s  {size / 1e6:>9.2f} MB"
             for key, stage, started, seconds, size in
             table.sort_values(["started", "key"])[list(columns)].itertuples(index=False, name=None)]
    return "\n".join(lines)


def shown(entry: Entry) -> str:
    """An entry as JSON: what it is the result of, what it holds, where its files are."""
    files = {str(path.relative_to(entry.folder)): size_of(path)
             for path in sorted(entry.folder.rglob("*")) if path.is_file()}
    content = {"key": entry.key, "folder": str(entry.folder), "identity": entry.spec, "content": entry.result,
               "files": files}
    return json.dumps(content, indent=1)
