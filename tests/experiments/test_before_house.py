"""Keys of finished results survive: on a ledger made before the packages were, no page has anything to compute."""

import hashlib
import json
from pathlib import Path

import pytest

from rankadaptor import testbed
from rankadaptor.experiments.ablations import ablation_tables
from rankadaptor.experiments.main_table import main_table
from rankadaptor.keys import identity_key
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.stages import STAGES

RECORD = Path(__file__).with_name("before_house.json")  # by `benchmarks/house.py record`


@pytest.fixture(scope="module")
def record():
    return json.loads(RECORD.read_text())


@pytest.fixture
def ledger(record, tmp_path, monkeypatch):
    """The recorded results, without weights, items and losses. The record has keys, but not the specs that they are of:
    an entry is written when a step with its key is named, and a step with any other key has none."""
    identity_of = Runner._identity

    def identity_with_entry(runner, step):
        identity = identity_of(runner, step)
        key = identity_key(identity)
        if key in record["entries"] and not (tmp_path / key).exists():
            _write(tmp_path / key, _files(identity, record["entries"][key]))
        return identity

    monkeypatch.setattr(Runner, "_identity", identity_with_entry)
    for key, rounds in record["searches"].items():
        for content in rounds:
            _write(tmp_path / "searches" / key, {f"round-{content['number']:03d}.json": content})
    return tmp_path


def _files(identity, entry):
    blank = {name: kind() for name, kind in STAGES[entry["stage"]].result_fields.items()}
    files = {"spec.json": identity,
             "result.json": {"stage": entry["stage"], "result": blank | entry["result"], "provenance": {}}}
    if entry["stage"] == "prune":
        layers = entry["result"]["original_layers"]
        config = json.loads((testbed.MODEL / "config.json").read_text())
        files["model/config.json"] = config | {
            "layer_shapes": entry["result"]["layer_shapes"], "original_layers": layers,
            "num_hidden_layers": len(layers), "original_layer_count": config["num_hidden_layers"]}
    return files


def _write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files}
    if "result.json" in files:
        (folder / "checksums.json").write_text(json.dumps(sums))


@pytest.mark.parametrize("table", ["table2", "table6"])
def test_tables_of_before_have_nothing_to_compute(table, record, ledger):
    plan = main_table("tiny", ledger=ledger, table=table).plan()
    assert plan.missing.total() == 0
    assert plan.needed.total() >= len(record["pages"][table]) > 0


@pytest.mark.slow
def test_ablations_of_before_have_nothing_to_compute(record, ledger):
    plan = ablation_tables("tiny", ledger=ledger).plan()
    assert plan.missing.total() == 0
    assert plan.needed.total() >= len(set(record["pages"]["ablations"])) > 0


def test_an_empty_ledger_has_everything_to_compute(tmp_path):
    plan = main_table("tiny", ledger=tmp_path).plan()
    assert plan.missing == plan.needed
    assert plan.needed.total() > 200
