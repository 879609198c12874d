"""Where reported numbers come from: ledger keys, data revisions, machines, versions and the time that stages took."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rankadaptor.experiments.results import TableResult
from rankadaptor.keys import canonical_json
from rankadaptor.models.conversion import conversion_of
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.profiles import Profile


def table_provenance(result: TableResult, ledger: Ledger) -> dict[str, Any]:
    """Profile, seeds, keys, data revisions, machines and versions behind a table."""
    keys = {f"{row.block} {row.method}": list(row.keys) for row in result.rows()}
    return {
        "profile": result.profile.name,
        "blocks": [*result.blocks, *result.unfinished],
        "budget": result.budget_name,
        "training_seeds": list(result.seeds),
        "search_seed": result.profile.search.training_seed,
        "search_keys": {name: block.search_key for name, block in result.blocks.items()},
        "recoveries_of_rivals": {name: {rival: recoveries for rival, (recoveries, _) in block.rivals.items()}
                                 for name, block in result.blocks.items() if block.rivals},
        "seconds": seconds_by_stage(result.stages, ledger),
        **entries_provenance(result.profile, keys, ledger),
    }


def seconds_by_stage(keys: Iterable[str], ledger: Ledger) -> dict[str, dict[str, float]]:
    """Where the time went.

    Returns:
        Stage -> `stages` (how many ran) and `seconds` (of all of them together, each as long as it took when it ran).
    """
    seconds_of: dict[str, list[float]] = {}
    for key in keys:
        if (entry := ledger.find(key)) is not None:
            result = entry.result
            seconds_of.setdefault(result["stage"], []).append(result["provenance"]["seconds"])
    return {stage: {"stages": len(seconds), "seconds": round(sum(seconds), 1)} for stage, seconds in seconds_of.items()}


def entries_provenance(profile: Profile, keys: Mapping[str, Sequence[str]], ledger: Ledger) -> dict[str, Any]:
    """What results of a ledger were computed from.

    Args:
        keys: Label of a result -> its ledger keys.

    Returns:
        ledger_keys (as given), base_model, conversion (what was read, written and mended, of a model that was
        converted), revisions (of models and data), machines (each with its versions, once), and recovery_rows: how many
        were read, and left out because they share text with scored items; empty without them.
    """
    entries = [entry for group in keys.values() for key in group if (entry := ledger.find(key)) is not None]
    machines = {canonical_json(entry.result["provenance"]["machine"]) for entry in entries}
    return {
        "ledger_keys": {label: list(group) for label, group in keys.items()},
        "base_model": profile.base_model.label,
        **({} if (conversion := conversion_of(profile.base_model.source)) is None else
           {"conversion": conversion.record}),
        "revisions": dict(sorted(item for entry in entries for item in entry.spec["revisions"].items())),
        "machines": [json.loads(machine) for machine in sorted(machines)],
        "recovery_rows": _recovery_rows([entry.result["result"] for entry in entries]),
    }


def _recovery_rows(results: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Rows of the recoveries among some results: all of one profile's read the same ones."""
    for result in results:
        if "rows_read" in result:
            return {"read": result["rows_read"], "left_out": result["rows_left_out"]}
    return {}


def write_provenance(result: TableResult, ledger: Ledger, folder: Path | str) -> dict[str, Any]:
    """Write NAME-provenance.json, NAME the result's, and return its content."""
    content = table_provenance(result, ledger)
    write_json(content, Path(folder) / f"{result.contents.name}-provenance.json")
    return content


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a report's JSON file, its folder included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
