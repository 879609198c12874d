"""Which items, which text: seeded, balanced, disjoint, and equal to the public data sets."""

import hashlib
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from helpers.data import wheel_index

from rankadaptor.data import sources as downloads
from rankadaptor.data.benchmarks import (
    benchmark_identity,
    benchmark_rows,
    evaluation_rows,
    stratified_order,
    wheel_members,
)
from rankadaptor.data.decontamination import decontaminated, grams, scored_items
from rankadaptor.data.hub_schema import row_text
from rankadaptor.data.instruction_rows import RecoveryData, recovery_rows
from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.data.text import calibration_texts, calibration_windows, perplexity_texts
from rankadaptor.errors import BadInput
from rankadaptor.profiles import load_profile

PROFILE = load_profile("smollm2")
# The public data sets in the hub's schema, where somebody has laid them beside the checkout.
HUB = Path(__file__).parents[3] / "shared" / "data"
SPLITS = [(task, split) for task in TASKS for split in ("train", "validation", "test")
          if split != "test" or BENCHMARKS[task].report_split == "test"]
# SHA-256 over canonical lines of every row, from the pinned wheel.
DIGESTS = json.loads((Path(__file__).parent / "benchmark_digests.json").read_text())

needs_wheel = pytest.mark.skipif(not downloads.is_cached(PROFILE.benchmarks), reason="the wheel is not in the cache")


def digest(rows) -> str:
    lines = (json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@needs_wheel
@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_extraction_gives_the_pinned_rows(task, split):
    assert digest(benchmark_rows(PROFILE.benchmarks, task, split)) == DIGESTS[f"{task}/{split}"]


@needs_wheel
@pytest.mark.skipif(not HUB.is_dir(), reason="no shared/data beside the checkout")
@pytest.mark.parametrize(("task", "split"), SPLITS)
def test_extraction_gives_the_hubs_rows(task, split):
    assert benchmark_rows(PROFILE.benchmarks, task, split) == benchmark_rows(Source("dir", str(HUB), None), task, split)


@needs_wheel
def test_texts_and_recovery_rows_keep_clear_of_scored_items():
    pool, seed = PROFILE.evaluation.search_pool, PROFILE.evaluation.item_seed
    calibration = calibration_texts(PROFILE.benchmarks, pool, seed)
    perplexity = perplexity_texts(PROFILE.benchmarks, pool, seed)
    rows = recovery_rows(PROFILE.recovery_data, PROFILE.benchmarks, pool, seed)
    assert min(len(calibration), len(perplexity), len(rows)) > 2000
    assert not set(calibration) & set(perplexity)
    scored = {gram for row in scored_items(PROFILE.benchmarks, pool, seed) for gram in grams(row_text(row))}
    for text in (*calibration, *perplexity, *map(row_text, rows)):
        assert scored.isdisjoint(grams(text))


def test_decontamination_drops_thirteen_words_in_a_row():
    words = [f"w{i}" for i in range(30)]
    scored = " ".join(words)
    texts = [" ".join(["x", *words[5:18], "y"]), " ".join(["x", *words[5:17], "y"]), "Short.", "W5, " + scored.upper()]
    assert decontaminated(texts, [scored]) == [1, 2]


def test_orders_are_seeded_nested_and_balanced(benchmark_folder):
    source = Source("dir", str(benchmark_folder), None)
    for task in TASKS:
        rows = benchmark_rows(source, task, "train")
        order = stratified_order(task, rows, 0)
        assert sorted(order) == list(range(len(rows)))
        assert order == stratified_order(task, rows, 0) != stratified_order(task, rows, 1)
        labels = [BENCHMARKS[task].gold_label(rows[i]) for i in order]
        shares = Counter(labels)
        for size in (8, 20):
            for label, count in Counter(labels[:size]).items():
                assert abs(count - size * shares[label] / len(labels)) <= 1
        few, more = (evaluation_rows(source, task, "report", n, 0, 12) for n in (4, 8))
        assert more[:4] == few


@needs_wheel
@pytest.mark.parametrize("task", TASKS)
def test_search_and_report_never_meet(task):
    """The public data sets have a few rows in both splits; with all of train as the pool, none may remain."""
    search = evaluation_rows(PROFILE.benchmarks, task, "search", None, 0, 100_000)
    report = evaluation_rows(PROFILE.benchmarks, task, "report", None, 0, 0)
    assert len(search) > 1000
    assert not {row_text(row).lower() for row in search} & {row_text(row).lower() for row in report}


def test_an_edited_file_is_read_again(benchmark_folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(benchmark_folder, copy)
    source = Source("dir", str(copy), None)
    before = benchmark_rows(source, "boolq", "train")
    path = copy / "boolq" / "train.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert benchmark_rows(source, "boolq", "train") == before[1:]


def test_windows_are_seeded_and_long_enough():
    texts = ["a " * n for n in range(1, 40)]
    windows = calibration_windows(texts, lambda text: list(range(len(text.split()))), 5, 10, seed=1)
    assert windows == calibration_windows(texts, lambda text: list(range(len(text.split()))), 5, 10, seed=1)
    assert [len(window) for window in windows] == [10] * 5
    assert all(b - a == 1 for window in windows for a, b in itertools.pairwise(window))
    with pytest.raises(BadInput, match="holds 3 texts of at least 37 tokens, 5 are needed"):
        calibration_windows(texts, lambda text: list(range(len(text.split()))), 5, 37, seed=1)


def test_folder_identity_follows_the_files_that_count(benchmark_folder, tmp_path):
    copy = tmp_path / "copy"
    for path in benchmark_folder.rglob("*.jsonl"):
        target = copy / path.relative_to(benchmark_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    original, copied = Source("dir", str(benchmark_folder), None), Source("dir", str(copy), None)
    assert benchmark_identity(original) == benchmark_identity(copied)
    (copy / "notes.txt").write_text("no benchmark")
    assert benchmark_identity(original) == benchmark_identity(copied)
    with (copy / "boolq" / "train.jsonl").open("a") as stream:
        stream.write("{}\n")
    assert benchmark_identity(original) != benchmark_identity(copied)


def test_wheels_are_checked_unpacked_and_cached(offline_pip):
    sha256 = wheel_index(offline_pip, {"data/a.txt": "A", "data/b.txt": "B"})
    source = Source("wheel", "pinned-data==1.0", sha256)
    assert not downloads.is_cached(source)
    folder = downloads.source_folder(source, lambda name: name == "data/a.txt")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*.*")} == {"data/a.txt", "members.json", "checksums.json"}
    (offline_pip / "pinned_data-1.0-py3-none-any.whl").unlink()
    assert downloads.is_cached(source)
    assert downloads.source_folder(source, lambda name: name == "data/a.txt") == folder


def test_a_wrong_hash_is_refused_and_nothing_is_kept(offline_pip):
    wheel_index(offline_pip, {"data/a.txt": "A"})
    source = Source("wheel", "pinned-data==1.0", "0" * 64)
    with pytest.raises(BadInput, match=r"pinned-data==1\.0 has SHA-256 [0-9a-f]{64}, pinned is 0{64}"):
        downloads.source_folder(source, lambda name: True)
    assert not downloads.is_cached(source)
    assert list((offline_pip / "cache" / "wheels").iterdir()) == []


def test_unsafe_members_and_missing_wheels_are_refused(offline_pip):
    sha256 = wheel_index(offline_pip, {"../escape.txt": "A"})
    with pytest.raises(BadInput, match=r"unsafe member '\.\./escape\.txt'"):
        downloads.source_folder(Source("wheel", "pinned-data==1.0", sha256), lambda name: True)
    with pytest.raises(BadInput, match=r"could not download no-such-data==1\.0 .*: check that pip reaches"):
        downloads.source_folder(Source("wheel", "no-such-data==1.0", sha256), lambda name: True)
    with pytest.raises(BadInput, match="sha256 None: pin it"):
        downloads.source_folder(Source("wheel", "pinned-data==1.0", None), wheel_members)


def test_recovery_rows_from_a_file(recovery_file, benchmark_folder, tmp_path):
    source = Source("dir", str(benchmark_folder), None)
    rows = recovery_rows(RecoveryData("x", Source("dir", str(recovery_file), None), 10), source, 12, 0)
    assert len(rows) == 10
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": "a", "input": "", "output": "b"}\n{"instruction": "a"}\n')
    with pytest.raises(BadInput, match=r"line 2 of .*bad\.jsonl: there is no field output among"):
        recovery_rows(RecoveryData("x", Source("dir", str(bad), None), None), source, 12, 0)
