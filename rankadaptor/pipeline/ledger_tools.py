"""Inspects and cleans a ledger: as a table, by key, against its checksums, and without its leftovers.

    frame = ledger_frame("ledger")                            # one row an entry
    frame[frame["stage"] == "evaluate"].groupby("spec.split")["result.metrics.piqa.acc"].mean()
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from rankadaptor.errors import BadInput, Damaged
from rankadaptor.pipeline.failures import check_notes
from rankadaptor.pipeline.ledger import FAILURES, SEARCHES, Ledger
from rankadaptor.pipeline.ledger_files import DAMAGED, UNFINISHED, Entry, is_key, remove_tree
from rankadaptor.pipeline.leftovers import leftovers, remove_leftover
from rankadaptor.pipeline.stages import STAGES
from rankadaptor.pipeline.traces import Trace
from rankadaptor.pipeline.trial_scores import MeasuredTrials
from rankadaptor.sealed import bytes_of, contents, names_in, plain, read_object

_SHORTEST_PREFIX = 6  # digits of a key that are enough to name it


def ledger_frame(folder: Path | str) -> pd.DataFrame:
    """Every entry of a ledger as one row; an entry that is damaged or cannot be read has only its key and its bytes.

    Columns: `key`, `stage`, `numerics_version`, `parent`, `started`, `seconds`, `bytes`, the machine's `processor` and
    `accelerator`, and the fields of spec and result, `spec.NAME` and `result.NAME` (nested names joined by dots, such
    as `result.metrics.piqa.acc`), empty for stages without that field. Specs and results are verified, arrays
    are not read; see `verify`.
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
    with contextlib.suppress(OSError, Damaged, KeyError, TypeError, AttributeError):
        identity, content = entry.read()
        made, machine = content["provenance"], content["provenance"]["machine"]
        row |= {"stage": identity["stage"], "numerics_version": identity["numerics_version"],
                "parent": identity["parent"], "started": made["started"], "seconds": made["seconds"],
                "processor": machine["processor"], "accelerator": machine["accelerator"]}
        row |= _flat("spec", identity["spec"]) | _flat("result", content["result"])
    row["bytes"] = bytes_of(entry.folder)
    return row


def _flat(prefix: str, value: Any) -> dict[str, Any]:
    """Nested objects as one level with joined names; lists as JSON text."""
    if isinstance(value, dict):
        return {name: leaf for key, item in value.items() for name, leaf in _flat(f"{prefix}.{key}", item).items()}
    return {prefix: json.dumps(value) if isinstance(value, list) else value}


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
    """Hold everything that is read from a ledger against its checksums, seals and keys: entries, searches, failures.

    Damaged files are set aside, as they are when they are read.

    Returns:
        One line for each fault.

    Raises:
        BadInput: if a folder of the ledger cannot be read.
    """
    with _readable(folder):
        return _faults(existing(folder))


@contextlib.contextmanager
def _readable(folder: Path | str) -> Iterator[None]:
    """Turns errors of the system about folders that may not be read into one line."""
    try:
        yield
    except OSError as error:
        raise BadInput(f"cannot read {error.filename or folder} ({error.strerror}): mend its rights") from None


def _faults(ledger: Ledger) -> list[str]:
    faults = [f"{look.fault}; {_remains(look.is_in_the_way, ledger)}"
              for look in (ledger.look(entry.key) for entry in ledger.entries()) if look.fault]
    searches = names_in(ledger.folder / SEARCHES)
    trials = MeasuredTrials(ledger)
    for key in filter(is_key, searches):
        trace = Trace(ledger, key)
        try:
            trace.read(functools.partial(_doubt, ledger, trials, key))
            faults += [trace.fault] if trace.fault else []
        except BadInput as unreadable:
            faults.append(str(unreadable))
    for key in names_in(ledger.folder / FAILURES):
        faults += check_notes(ledger, key)[1]
    return faults


def _remains(is_in_the_way: bool, ledger: Ledger) -> str:
    return "it is not used, and stays where it is" if is_in_the_way else f"see {ledger.folder / DAMAGED}"


def _doubt(ledger: Ledger, trials: MeasuredTrials, key: str, content: dict[str, Any]) -> str:
    """Why a round without a seal is not believed. Without its search's `spec.json`, only the search itself can tell."""
    try:
        search = read_object(ledger.folder / SEARCHES / key / "spec.json")
        return trials.doubt(search, content)
    except (Damaged, KeyError, TypeError, AttributeError):
        return ""


def passed_over(folder: Path | str) -> list[str]:
    """Names in a ledger's folder that are none of a ledger's, fit to be printed; nothing reads or changes them."""
    return [plain(name) for name in existing(folder).strangers()]


@dataclass(frozen=True)
class Rubbish:
    """A file or folder that no result needs."""

    path: Path
    why: str  # reason, as `ledger gc` prints it
    bytes: int  # size on disk
    left_in: Ledger | None = None  # the ledger, where a process left it: another one may have begun to use it since


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

    Raises:
        BadInput: if a folder of the ledger cannot be read.
    """
    with _readable(folder):
        return _pieces(existing(folder), damaged, outdated, failures, versions)


def _pieces(
    ledger: Ledger, damaged: bool, outdated: bool, failures: bool, versions: Mapping[str, int]
) -> list[Rubbish]:  # fmt: skip
    pieces = [Rubbish(path, "left by a process that died", bytes_of(path), ledger)
              for path in leftovers(ledger.folder, ledger.leases)]
    other: list[tuple[Path, str]] = []
    if damaged:
        other += [(ledger.folder / DAMAGED / name, "damaged") for name in names_in(ledger.folder / DAMAGED)]
    if failures:
        other += [(ledger.folder / FAILURES / name, "notes of failures") for name in names_in(ledger.folder / FAILURES)]
    if outdated:
        other += [(entry.folder, "of an older numerics version") for entry in ledger.entries()
                  if _is_outdated(entry, versions)]
    return pieces + [Rubbish(path, why, bytes_of(path)) for path, why in other]


def _is_outdated(entry: Entry, versions: Mapping[str, int]) -> bool:
    try:
        identity, _ = entry.read()
        stage, version, spec = identity["stage"], identity["numerics_version"], identity["spec"]
    except (OSError, Damaged, KeyError, TypeError):
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
    """Remove files and folders; returns those that could not be removed, for example without the rights.

    What a process has begun to use since it was listed stays.
    """
    left = []
    for piece in pieces:
        try:
            if piece.left_in is not None:
                remove_leftover(piece.left_in.folder, piece.left_in.leases, piece.path)
            else:
                _remove_whole(piece.path)
        except FileNotFoundError:
            continue  # another process removed it
        except OSError:
            left.append(piece)
    return left


def _remove_whole(path: Path) -> None:
    """Remove an entry so that no other process ever sees half of it."""
    if not is_key(path.name) or path.parent.name in (FAILURES, DAMAGED):
        remove_tree(path)
        return
    aside = path.parent / UNFINISHED / os.urandom(8).hex()
    aside.parent.mkdir(exist_ok=True)
    os.rename(path, aside)
    remove_tree(aside)


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
    """An entry as JSON: identity, result with provenance, and files with their sizes in bytes.

    Raises:
        BadInput: if the entry is damaged or cannot be read.
    """
    try:
        identity, content = entry.read()
        files = {name: bytes_of(entry.folder / name) for name in sorted(contents(entry.folder)[0])}
    except (Damaged, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BadInput(f"entry {entry.key[:12]} cannot be shown ({why}): `ledger verify` sets damaged entries aside"
                       ) from None
    shown = {"key": entry.key, "folder": str(entry.folder), "identity": identity, "content": content, "files": files}
    return json.dumps(shown, indent=1)
