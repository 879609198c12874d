"""Records of results: written the same from the same results, a ledger again, compared number by number."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.finished import FINISHED_BLOCKS

from rankadaptor.errors import BadInput
from rankadaptor.experiments.main_table import main_table
from rankadaptor.models.base_model import base_model_identity
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.record_comparison import compare_with_records
from rankadaptor.pipeline.records import (
    FILES,
    ITEMS,
    RESULTS,
    ROUNDS,
    add_records,
    read_table,
    recorded_keys,
    recorded_searches,
    unpack_records,
    write_records,
)
from rankadaptor.profiles import load_profile

ALL = (RESULTS, ITEMS, ROUNDS, FILES)


@pytest.fixture(scope="module")
def recorded(finished, tiny_profile, tmp_path_factory):
    """Records of the finished table, its ledger's keys among them."""
    folder = tmp_path_factory.mktemp("records")
    ledger = Ledger(finished.ledger)
    base = base_model_identity(load_profile(str(tiny_profile)).base_model)
    write_records(ledger, recorded_keys(ledger, base), recorded_searches(ledger), folder)
    return folder


@pytest.fixture
def copy(recorded, tmp_path):
    """Records to break."""
    return shutil.copytree(recorded, tmp_path / "records")


def rewrite(folder, name, change):
    table = pq.read_table(folder / name)
    pq.write_table(pa.Table.from_pandas(change(table.to_pandas()), table.schema, preserve_index=False), folder / name)


def test_every_result_of_the_ledger_is_recorded(finished, recorded):
    ledger = Ledger(finished.ledger)
    assert set(read_table(recorded, RESULTS)["key"]) == {entry.key for entry in ledger.entries()}
    assert set(read_table(recorded, ROUNDS)["key"]) == set(recorded_searches(ledger)) != set()


def test_no_weights_are_recorded(recorded):
    names = set(read_table(recorded, FILES)["name"])
    assert {"importance.json", "kept.json", "model/config.json"} <= names
    assert not [name for name in names if name.endswith((".safetensors", "tokenizer.json"))]


def test_a_table_is_complete_on_an_unpacked_ledger(finished, recorded, tiny_profile, tmp_path):
    unpack_records(recorded, tmp_path / "ledger")
    table = main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=tmp_path / "ledger")
    assert table.is_complete()
    again = table.run()
    assert not again.computed
    for row, other in zip(again.rows(), finished.result.rows(), strict=True):
        assert (row.block, row.method, row.keys) == (other.block, other.method, other.keys)
        for task, outcomes in row.outcomes.items():
            np.testing.assert_array_equal(outcomes, other.outcomes[task])
            np.testing.assert_allclose(row.gold_probability[task], other.gold_probability[task], atol=1e-7)


def test_records_of_an_unpacked_ledger_have_the_same_bytes(recorded, tmp_path):
    ledger = unpack_records(recorded, tmp_path / "ledger")
    write_records(ledger, [entry.key for entry in ledger.entries()], recorded_searches(ledger), tmp_path / "again")
    for name in ALL:
        assert (tmp_path / "again" / name).read_bytes() == (recorded / name).read_bytes(), name


def test_records_added_in_pieces_have_the_same_bytes(finished, recorded, tmp_path):
    ledger = Ledger(finished.ledger)
    keys, searches = sorted(entry.key for entry in ledger.entries()), recorded_searches(ledger)
    pieces = [(keys[1::2], searches[:1]), (keys[:10], []), (keys[::2], searches)]  # with some of them twice
    for some_keys, some_searches in pieces:
        add_records(ledger, some_keys, some_searches, tmp_path / "pieces")
    for name in ALL:
        assert (tmp_path / "pieces" / name).read_bytes() == (recorded / name).read_bytes(), name


def test_nothing_is_added_to_damaged_records(finished, copy):
    before = (copy / RESULTS).read_bytes()
    (copy / ITEMS).write_bytes(b"PAR1")
    ledger = Ledger(finished.ledger)
    with pytest.raises(BadInput, match="restore it"):
        add_records(ledger, [next(iter(ledger.entries())).key], [], copy)
    assert (copy / RESULTS).read_bytes() == before
    assert not [path for path in copy.parent.iterdir() if path.name.startswith(".")]


def test_without_models_a_run_makes_only_what_it_lacks(finished, recorded, tiny_profile, tmp_path):
    ledger = unpack_records(recorded, tmp_path / "ledger", with_models=False)
    stages = {entry.spec["stage"] for entry in ledger.entries()}
    assert "evaluate" in stages
    assert not stages & {"prune", "recover"}


def test_an_interval_follows_from_the_items_alone(finished, recorded):
    row = next(row for row in finished.result.rows() if row.method == "LoRA")
    items = pd.read_parquet(recorded / ITEMS)
    outcomes = items[items["key"] == row.keys[0]].groupby("task", observed=True)["acc"]
    for task, mean in outcomes.mean().items():
        if task in ("boolq", "piqa", "winogrande", "arc_easy"):
            assert mean == pytest.approx(row.outcomes[task][0].mean())


def test_equal_results_are_equal(finished, recorded):
    ledger = Ledger(finished.ledger)
    keys = [entry.key for entry in ledger.entries()]
    comparison = compare_with_records(ledger, keys, recorded)
    assert (comparison.compared, comparison.equal, comparison.largest) == (len(keys), len(keys), 0.0)
    assert str(comparison) == (f"{len(keys)} of {len(keys)} recomputed results equal the committed records"
                               " (largest difference 0)")


def test_a_difference_is_measured_and_named(finished, copy):
    ledger = Ledger(finished.ledger)

    def change(frame):
        place = frame.index[frame["stage"] == "evaluate"][0]
        result = json.loads(frame.loc[place, "result"])
        task = next(iter(result["metrics"]))
        result["metrics"][task]["acc"] += 0.25
        frame.loc[place, "result"] = json.dumps(result)
        return frame

    rewrite(copy, RESULTS, change)
    keys = [entry.key for entry in ledger.entries()]
    comparison = compare_with_records(ledger, keys, copy)
    assert comparison.equal == comparison.compared - 1
    assert comparison.largest == pytest.approx(0.25)
    assert ".acc" in comparison.where
    assert str(comparison).endswith(f"(largest difference 0.25, {comparison.where})")


def test_results_without_a_record_are_told(finished, recorded, tmp_path):
    assert str(compare_with_records(Ledger(finished.ledger), ["0" * 64], recorded)) == (
        "no recomputed result has a committed record")


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("damage", ["missing", "cut", "another table"])
def test_damaged_records_are_told(name, damage, copy, tmp_path):
    if damage == "missing":
        (copy / name).unlink()
    elif damage == "cut":
        (copy / name).write_bytes((copy / name).read_bytes()[:-20])
    else:
        pq.write_table(pa.table({"x": [1]}), copy / name)
    with pytest.raises(BadInput, match="restore"):
        unpack_records(copy, tmp_path / "ledger")


def test_a_result_under_another_key_is_refused(copy, tmp_path):
    rewrite(copy, RESULTS, lambda frame: frame.assign(key=[*frame["key"][1:], frame["key"][0]]))
    with pytest.raises(BadInput, match="is not that of its identity"):
        unpack_records(copy, tmp_path / "ledger")
