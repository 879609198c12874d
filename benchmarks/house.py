"""Holds a rebuild of the code against what was there before: keys of results, and every number of the tables.

    python benchmarks/house.py record LEDGER REPORTS OUT.json COMMIT    # with a ledger and reports made at that commit
    python benchmarks/house.py compare LEDGER REPORTS RECORD.json       # with reports that were drawn anew

A record holds, without weights and items: the results of every stage in a ledger by key, the rounds of its searches,
the keys behind each page, and the CSV files of its reports. `tests/experiments/test_before_house.py` plans the pages on
a ledger that is made of the record alone, and finds nothing to compute.
"""

import json
import sys
from pathlib import Path
from typing import Any

PAGES = ("table2", "table6", "ablations", "search")
_KEPT = ("metrics", "perplexity", "layer_shapes", "original_layers", "diverged")


def record(ledger: Path, reports: Path, commit: str) -> dict[str, Any]:
    """Everything that `compare` and the test need, as JSON-able data."""
    entries = {}
    for path in sorted(ledger.glob("[0-9a-f]*/result.json")):
        content = json.loads(path.read_text())
        result = {name: value for name, value in content["result"].items() if name in _KEPT}
        entries[path.parent.name] = {"stage": content["stage"], "result": result}
    searches = {folder.name: [json.loads(path.read_text()) for path in sorted(folder.glob("round-*.json"))]
                for folder in sorted((ledger / "searches").iterdir())}
    pages = {page: sorted(_keys(json.loads((reports / f"{page}-provenance.json").read_text())["ledger_keys"]))
             for page in PAGES if (reports / f"{page}-provenance.json").is_file()}
    tables = {path.name: path.read_text() for page in PAGES for path in sorted(reports.glob(f"{page}*.csv"))}
    return {"commit": commit, "pages": pages, "tables": tables, "entries": entries, "searches": searches}


def _keys(value: Any) -> set[str]:
    """Every key in nested mappings and lists."""
    if isinstance(value, str):
        return {value}
    return {key for part in (value.values() if isinstance(value, dict) else value) for key in _keys(part)}


def compare(ledger: Path, reports: Path, before: dict[str, Any]) -> list[str]:
    """One line a difference; empty where keys and cells are equal."""
    now = record(ledger, reports, before["commit"])
    differences = [f"{name}: {key} is gone" for name, keys in before["pages"].items()
                   for key in sorted(set(keys) - set(now["pages"].get(name, [])))]
    differences += [f"{name}: {key} is new" for name, keys in now["pages"].items()
                    for key in sorted(set(keys) - set(before["pages"].get(name, [])))]
    for name, text in before["tables"].items():
        cells = [line.split(",") for line in text.splitlines()]
        other = [line.split(",") for line in now["tables"].get(name, "").splitlines()]
        if len(cells) != len(other):
            differences.append(f"{name}: {len(other)} lines, {len(cells)} before")
        differences += [f"{name}, line {number + 1}: {new} in place of {old}"
                        for number, (olds, news) in enumerate(zip(cells, other, strict=False))
                        for old, new in zip(olds, news, strict=False) if old != new]
    return differences


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0, 1 on differences, 2 on bad arguments."""
    if len(arguments) == 5 and arguments[0] == "record":
        content = record(Path(arguments[1]), Path(arguments[2]), arguments[4])
        Path(arguments[3]).write_text(json.dumps(content, sort_keys=True, separators=(",", ":")) + "\n")
        return 0
    if len(arguments) == 4 and arguments[0] == "compare":
        before = json.loads(Path(arguments[3]).read_text())
        differences = compare(Path(arguments[1]), Path(arguments[2]), before)
        cells = sum(text.count(",") + text.count("\n") for text in before["tables"].values())
        keys = sum(map(len, before["pages"].values()))
        print("\n".join(differences) or f"equal: {keys} keys of {len(before['pages'])} pages, {cells} cells")
        return 1 if differences else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
