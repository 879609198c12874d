"""Records: the results that committed reports stand on, without weights, in four Parquet files per profile.

| file | a row is | columns |
|---|---|---|
| results.parquet | a finished stage | key, stage, and as JSON identity, result, provenance |
| items.parquet | an item of a reported model | key, task, item, gold, acc, acc_norm, gold_probability, ... |
| rounds.parquet | a round of a search | key, number, and as JSON identity, content |
| files.parquet | a small file beside a result, such as importance.json | key, name, content |

The last two columns of items, log_likelihoods and choice_characters, are filled for models without an adapter only.

`unpack_records` makes a ledger of them, from which every page is drawn without computing anything. A run never reads
records for its results: it computes into its own ledger, and `record_comparison` says afterwards how far apart the
two are.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rankadaptor.errors import BadInput
from rankadaptor.files import scratch_beside
from rankadaptor.keys import canonical_json, identity_key, sha256_text
from rankadaptor.pipeline.ledger import SEARCHES, UNPACKED, Ledger
from rankadaptor.pipeline.ledger_files import Entry, is_key
from rankadaptor.pipeline.traces import Trace
from rankadaptor.pipeline.trial_scores import MeasuredTrials
from rankadaptor.sealed import names_in, read_object

RESULTS, ITEMS, ROUNDS, FILES = "results.parquet", "items.parquet", "rounds.parquet", "files.parquet"
_ITEMS = "items.parquet"  # the file of an evaluation in a ledger
_WEIGHTS = ("adapter", "model")  # folders of an entry, of which only the configuration of a model is kept
MODEL_STAGES = ("prune", "recover")  # that leave weights beside their results
_OWN = ("spec.json", "result.json", "checksums.json")  # of every entry
_MOST_BYTES = 2**22  # of a file beside a result: weights are larger, and never recorded

_RESULT_COLUMNS = pa.schema([(name, pa.string()) for name in ("key", "stage", "identity", "result", "provenance")])
_ITEM_COLUMNS = pa.schema([
    ("key", pa.dictionary(pa.int32(), pa.string())), ("task", pa.dictionary(pa.int8(), pa.string())),
    ("item", pa.int32()), ("gold", pa.int8()), ("acc", pa.bool_()), ("acc_norm", pa.bool_()),
    ("gold_probability", pa.float32()), ("log_likelihoods", pa.list_(pa.float32())),
    ("choice_characters", pa.list_(pa.int32())),
])
_ROUND_COLUMNS = pa.schema([("key", pa.string()), ("identity", pa.string()), ("number", pa.int32()),
                            ("content", pa.string())])
_FILE_COLUMNS = pa.schema([("key", pa.string()), ("name", pa.string()), ("content", pa.binary())])
_SCHEMAS = {RESULTS: _RESULT_COLUMNS, ITEMS: _ITEM_COLUMNS, ROUNDS: _ROUND_COLUMNS, FILES: _FILE_COLUMNS}


def recorded_keys(ledger: Ledger, base_identity: str) -> list[str]:
    """Keys of all results of a ledger that a base model's identity leads to.

    Args:
        base_identity: As `base_model_identity` gives it; it is the parent of pruning steps and of scores of the base
            model, and a revision of replays.
    """
    parents = {entry.key: entry.spec["parent"] for entry in ledger.entries()}
    replays = {entry.key for entry in ledger.entries() if entry.spec["revisions"].get("base_model") == base_identity}
    root = sha256_text(base_identity)

    def leads_to_root(key: str) -> bool:
        while key in parents:
            key = parents[key]
        return key == root

    return [key for key in parents if key in replays or leads_to_root(key)]


def recorded_searches(ledger: Ledger) -> list[str]:
    """Keys of the searches that a ledger has rounds of."""
    return [key for key in names_in(ledger.folder / SEARCHES) if is_key(key)]


# -- writing ----------------------------------------------------------------------------------------------------------


def write_records(ledger: Ledger, keys: Iterable[str], searches: Iterable[str], folder: Path) -> None:
    """Write results of a ledger, and rounds of its searches, as records. Equal results give equal files.

    Outcomes by item are kept of evaluations on every split but the search split; of trials, which are scored on that
    one, the means in their results are enough.

    Args:
        keys: Of the results; each has to be in the ledger.
        searches: Keys of searches.
        folder: Is made; files of records in it are replaced.

    Raises:
        BadInput: if the ledger lacks a result.
    """
    entries = [_entry(ledger, key) for key in sorted(set(keys))]
    folder.mkdir(parents=True, exist_ok=True)
    results = [{"key": entry.key, "stage": entry.result["stage"], "identity": canonical_json(entry.spec),
                "result": canonical_json(entry.result["result"]),
                "provenance": canonical_json(entry.result["provenance"])} for entry in entries]
    _write(pa.Table.from_pylist(results, _RESULT_COLUMNS), folder / RESULTS, _RESULT_COLUMNS)
    tables = [_items(entry, _is_adapted(ledger, entry)) for entry in entries if _keeps_items(entry)]
    _write(pa.concat_tables(map(_plain, tables)) if tables else _ITEM_COLUMNS.empty_table(), folder / ITEMS,
           _ITEM_COLUMNS)
    trials = MeasuredTrials(ledger)
    rounds = [row for key in sorted(set(searches)) for row in _rounds(ledger, trials, key)]
    _write(pa.Table.from_pylist(rounds, _ROUND_COLUMNS), folder / ROUNDS, _ROUND_COLUMNS)
    files = [row for entry in entries for row in _files(entry)]
    _write(pa.Table.from_pylist(files, _FILE_COLUMNS), folder / FILES, _FILE_COLUMNS)


def add_records(ledger: Ledger, keys: Iterable[str], searches: Iterable[str], folder: Path) -> None:
    """Add results of a ledger to records that are there, in the place of those of the same keys.

    Records of one ledger, added in any order and number of pieces, have the same bytes as when written at once.

    Args:
        keys: Of the results; each has to be in the ledger.
        searches: Keys of searches.
        folder: Of the records; made where nothing is recorded yet.

    Raises:
        BadInput: if the ledger lacks a result, or the records that are there are damaged; nothing is changed then.
    """
    if not (folder / RESULTS).is_file():
        write_records(ledger, keys, searches, folder)
        return
    there = {name: _read(folder, name) for name in _SCHEMAS}
    with scratch_beside(folder) as scratch:
        write_records(ledger, keys, searches, scratch)
        for name, old in there.items():
            new = _read(scratch, name)
            unchanged = old.filter(pc.invert(pc.is_in(_keys(old), value_set=_keys(new))))
            both = pa.concat_tables([_plain(unchanged), _plain(new)])
            _write(both.take(pc.sort_indices(both, [("key", "ascending")])), scratch / name, _SCHEMAS[name])
        for name in there:
            os.replace(scratch / name, folder / name)


def _keys(table: pa.Table) -> pa.Array:
    return table["key"].cast(pa.string()).combine_chunks()


def _plain(table: pa.Table) -> pa.Table:
    """A table whose texts are no entries of dictionaries, which differ from table to table."""
    return table.cast(pa.schema([(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type)
                                 for field in table.schema]))


def _entry(ledger: Ledger, key: str) -> Entry:
    entry = ledger.find(key)
    if entry is None:
        raise BadInput(f"{ledger.folder} holds no result {key[:12]}, which is to be recorded: finish the run first")
    return entry


def _write(table: pa.Table, path: Path, schema: pa.Schema) -> None:
    """Rows as a file. The same rows give the same bytes: in one piece, with dictionaries in the order of the rows, and
    no bits behind the last row of a column of truth values."""
    plain = _plain(table).combine_chunks()
    for place, column in enumerate(plain.columns):
        if pa.types.is_boolean(column.type):
            plain = plain.set_column(place, plain.column_names[place], pa.array(column.to_numpy(), pa.bool_()))
    pq.write_table(plain.cast(schema), path, compression="zstd", compression_level=19)


def _keeps_items(entry: Entry) -> bool:
    return entry.path(_ITEMS).is_file() and entry.spec["spec"].get("split") != "search"


def _is_adapted(ledger: Ledger, entry: Entry) -> bool:
    parent = ledger.find(entry.spec["parent"])
    return parent is not None and parent.spec["stage"] == "recover"


def _items(entry: Entry, is_adapted: bool) -> pa.Table:
    """Outcomes of one evaluation in the columns of records; of an adapted model without its log-likelihoods."""
    table = pd.read_parquet(entry.path(_ITEMS))
    columns = {name: table[name] for name in ("task", "item", "gold", "gold_probability")}
    columns |= {name: table[name].astype(bool) for name in ("acc", "acc_norm")}
    for name in ("log_likelihoods", "choice_characters"):
        columns[name] = pd.Series([None] * len(table)) if is_adapted else table[name]
    frame = pd.DataFrame(columns).assign(key=entry.key)
    return pa.Table.from_pandas(frame[_ITEM_COLUMNS.names], _ITEM_COLUMNS, preserve_index=False)


def _rounds(ledger: Ledger, trials: MeasuredTrials, key: str) -> Iterator[dict[str, Any]]:
    """Rounds of one search: those that their seals or the ledger's own results confirm."""
    identity = read_object(ledger.folder / SEARCHES / key / "spec.json")
    for number, content in enumerate(Trace(ledger, key).read(lambda content: trials.doubt(identity, content))):
        yield {"key": key, "identity": canonical_json(identity), "number": number, "content": canonical_json(content)}


def _files(entry: Entry) -> Iterator[dict[str, Any]]:
    """Small files beside a result: not its items, which have a table of their own, and no weights."""
    for path in sorted(path for path in entry.folder.rglob("*") if path.is_file()):
        name = path.relative_to(entry.folder).as_posix()
        is_weights = name.split("/")[0] in _WEIGHTS and name != "model/config.json"
        if name in (*_OWN, _ITEMS) or is_weights or path.stat().st_size > _MOST_BYTES:
            continue
        yield {"key": entry.key, "name": name, "content": path.read_bytes()}


# -- reading ----------------------------------------------------------------------------------------------------------


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """One table of records: `RESULTS`, `ITEMS`, `ROUNDS` or `FILES`.

    Raises:
        BadInput: if the file is missing, or is no table of records.
    """
    frame: pd.DataFrame = _read(folder, name).to_pandas()
    return frame


def _read(folder: Path, name: str) -> pa.Table:
    path, columns = folder / name, _SCHEMAS[name]
    if not path.is_file():
        raise BadInput(f"no records {path}: restore the file, `git checkout` has it")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} is no whole Parquet file ({' '.join(str(error).split())[:100]}): restore it") from None
    if table.schema.names != columns.names:
        raise BadInput(f"{path} has the columns {', '.join(table.schema.names)}: records have"
                       f" {', '.join(columns.names)}, restore it")
    return table


def recorded_hours(folder: Path) -> float:
    """Hours that the stages took which records are of, one after the other, each on the machine that computed it."""
    return sum(json.loads(text)["seconds"] for text in read_table(folder, RESULTS)["provenance"]) / 3600


def unpack_records(folder: Path, target: Path, with_models: bool = True) -> Ledger:
    """Make a ledger of records, from which pages are drawn. Models and adapters are not in it.

    Args:
        folder: Of the records.
        target: Of the ledger; what it holds already stays.
        with_models: Whether results are unpacked that had a model or an adapter beside them. Without them a run makes
            a model again where another result needs it.

    Raises:
        BadInput: if a file of the records is missing or damaged, or a key is not the hash of its identity.
    """
    ledger = Ledger(target)
    items = {str(key): group for key, group in read_table(folder, ITEMS).groupby("key", observed=True, sort=False)}
    files: dict[str, list[tuple[str, bytes]]] = {}
    for key, name, content in read_table(folder, FILES).itertuples(index=False, name=None):
        files.setdefault(key, []).append((name, content))
    for row in _rows(folder, RESULTS):
        identity = _identity(row, folder)
        if not with_models and row["stage"] in MODEL_STAGES:
            continue
        content = {"stage": row["stage"], "result": json.loads(row["result"]),
                   "provenance": json.loads(row["provenance"])}

        def fill(scratch: Path, key: str = row["key"], content: dict[str, Any] = content) -> dict[str, Any]:
            for name, text in files.get(key, ()):
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(text)
            if key in items:
                items[key].drop(columns="key").astype({"task": str, "acc": float, "acc_norm": float}).to_parquet(
                    scratch / _ITEMS, index=False)
            return content

        ledger.compute(row["key"], identity, fill)
    by_search: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(folder, ROUNDS):
        by_search.setdefault(row["key"], []).append(row)
    for key, rows in by_search.items():
        trace = Trace(ledger, key)
        there = len(trace.read(lambda _: "it was not unpacked from records"))
        for row in rows[there:]:
            trace.append(_identity(row, folder), json.loads(row["content"]))
    return ledger


def mark_unpacked(ledger: Ledger) -> None:
    """Say in the folder of a ledger that all of it was unpacked from records, and nothing computed."""
    (ledger.folder / UNPACKED).write_text("unpacked from committed records\n", encoding="utf-8")


def is_unpacked(ledger: Ledger) -> bool:
    """Whether `mark_unpacked` marked a ledger."""
    return (ledger.folder / UNPACKED).is_file()


def _rows(folder: Path, name: str) -> list[dict[str, Any]]:
    frame = read_table(folder, name)
    return [dict(zip(frame.columns, values, strict=True)) for values in frame.itertuples(index=False, name=None)]


def _identity(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    identity: dict[str, Any] = json.loads(row["identity"])
    if identity_key(identity) != row["key"]:
        raise BadInput(f"result {row['key'][:12]} of the records in {folder} is not that of its identity: restore them")
    return identity
