"""Files and options that are not what they should be. One line: the value, and the remedy."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.experiments.main_table import main_table
from rankadaptor.profiles import load_profile

WORDS = "give|take|name|use|mend|restore|convert|put|remove|write|choose|check|restore|search anew|leave"


def told(arguments, capsys) -> str:
    """The one line of a command that refuses."""
    assert main([str(one) for one in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("rankadaptor: ")
    assert any(word in captured.err for word in WORDS.split("|")), captured.err
    return captured.err


@pytest.fixture
def place(tmp_path, tiny_profile, monkeypatch):
    """A folder of its own with copies of a model, rows and benchmarks, all fine."""
    profile = load_profile(str(tiny_profile))
    shutil.copytree(profile.base_model.source.location, tmp_path / "model")
    shutil.copy(profile.recovery_data.source.location, tmp_path / "rows.jsonl")
    shutil.copytree(profile.benchmarks.location, tmp_path / "benchmarks")
    content = yaml.safe_load(Path(tiny_profile).read_text())
    content["base_model"]["source"]["location"] = "model"
    content["recovery_data"]["source"]["location"] = "rows.jsonl"
    content["benchmarks"]["location"] = "benchmarks"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def as_json(change):
    def spoil(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


def text(content: str):
    return lambda path: path.write_text(content)


MODELS = [
    ("config.json", Path.unlink, "no model in model: name a folder with config.json"),
    ("config.json", text("{"), "config.json is not a JSON object"),
    ("config.json", text("[]"), "config.json is not a JSON object"),
    ("config.json", lambda path: path.write_bytes(b"\xff\xfe"), "config.json is not a JSON object"),
    ("config.json", as_json(lambda c: c.update(model_type="gpt2")), "is of type 'gpt2', and only llama"),
    ("config.json", as_json(lambda c: c.pop("model_type")), "is of type None, and only llama"),
    ("config.json", as_json(lambda c: c.update(attention_bias=True)), "has biases in its projections"),
    ("config.json", as_json(lambda c: c.update(mlp_bias=True)), "has biases in its projections"),
    ("model.safetensors", Path.unlink, "no safetensors files in model (model.safetensors"),
    ("tokenizer.json", lambda path: [one.unlink() for one in path.parent.glob("tokenizer*")], "no tokenizer in model"),
]


@pytest.mark.parametrize(("file", "spoil", "says"), MODELS)
def test_models(file, spoil, says, place, capsys):
    spoil(place / "model" / file)
    assert says in told(["evaluate", "model", "--benchmarks", "benchmarks"], capsys)


SHAPES = [
    (["--ratio", "1.5"], "needs a ratio between 0 and 1 and no blocks_removed: got 1.5"),
    (["--ratio", "nan"], "ratio or share is nan"),
    (["--ratio", "-0.1"], "got -0.1"),
    (["--ratio", "0.5", "--layers", "4-30"], "layers '4-30' are no range"),
    (["--ratio", "0.5", "--layers", "4:99"], "layers 4..98 do not lie in a model of 6 layers"),
    (["--ratio", "0.5", "--layers", "5:2"], "5"),
    (["--method", "shortened", "--blocks", "0"], "needs blocks_removed of at least 1 and no ratio: got 0"),
    (["--method", "shortened", "--blocks", "99"], "99"),
    (["--method", "shortened", "--blocks", "1", "--importance", "element1"], "element1"),
    (["--ratio", "0.5", "--samples", "0"], "calibration_samples is 0"),
    (["--ratio", "0.5", "--tokens", "1"], "calibration_tokens is 1"),
    (["--ratio", "0.5", "--iterations", "0"], "iterations is 0"),
    (["--ratio", "0.5", "--uniform-width", "--layers", "1:3"], "was given with uniform width"),
]


@pytest.mark.parametrize(("options", "says"), SHAPES)
def test_prunings(options, says, place, capsys):
    (place / "text.txt").write_text("words and more words " * 200)
    assert says in told(["prune", "model", "--calibration", "text.txt", "--out", "out", *options], capsys)
    assert not (place / "out").exists()


CALIBRATIONS = [
    (None, "no"), ("", "text"), ("too short", "text"),
]


@pytest.mark.parametrize(("content", "says"), CALIBRATIONS)
def test_calibration_text(content, says, place, capsys):
    if content is not None:
        (place / "text.txt").write_text(content)
    assert says in told(["prune", "model", "--ratio", "0.5", "--calibration", "text.txt", "--out", "out"], capsys)
    assert not (place / "out").exists()


ROWS = [
    ("not json", "line 1 of"),
    ('{"instruction": "a", "input": "", "output": "b"}\n{"instruction": "a"}', "line 2 of"),
    ('["a", "b", "c"]', 'row 1 of rows.jsonl: the row is "a": give a JSON object'),
    ("null", "line 1 of"),
    ("", "recovery"),
]


def table(*options):
    return ["reproduce", "table1", "--profile", "mine.yaml", "--blocks", "shortened:20", "--ledger", "ledger",
            "--reports", "reports", *options]


@pytest.mark.parametrize(("content", "says"), ROWS)
def test_rows(content, says, place, capfd):
    (place / "rows.jsonl").write_text(content)
    assert main(["recover", "model", "--data", "rows.jsonl", "--benchmarks", "benchmarks", "--allocation", "4 " * 6,
                 "--out", "out", "--ledger", "ledger", "--steps", "4", "--batch", "2"]) == 2
    assert says in capfd.readouterr().err.splitlines()[-1]
    assert not (place / "out").exists()
    assert not [path for path in place.glob("ledger/*") if path.name[0] != "."]


OWN = [
    ("search", ["--budget", "1"], "budget is '1': give a whole number from 2"),
    ("search", ["--budget", "0"], "budget is '0': give a whole number from 2"),
    ("search", ["--ranks", "4"], "rank candidates are (4,)"),
    ("search", ["--ranks", "4 x"], "ranks '4 x' are not whole numbers"),
    ("search", ["--layers", "1-3"], "layers '1-3' are no range"),
    ("search", ["--tasks", "mmlu"], "unknown task 'mmlu'"),
    ("search", ["--items", "0"], "items_per_task is 0"),
    ("search", ["--steps", "0"], "steps is 0"),
    ("search", ["--learning-rate", "7"], "learning_rate is 7.0"),
    ("search", ["--max-length", "0"], "max_length_tokens is 0"),
    ("search", ["--batch", "0"], "batch_rows is 0"),
    ("search", ["--data", "nowhere.jsonl"], "no recovery data nowhere.jsonl"),
    ("search", ["--benchmarks", "nowhere"], "nowhere"),
    ("search", ["--ledger", "rows.jsonl"], "cannot use rows.jsonl as a ledger"),
    ("recover", ["--allocation", "4 4"], "rank allocation has 2 entries, the model has 6 layers"),
    ("recover", ["--allocation", "4 4 4 4 4 four"], "is not a list of whole numbers"),
    ("recover", ["--allocation", "0 4 4 4 4 4"], "rank of layer 0 is 0"),
    ("recover", ["--allocation", "benchmarks"], "holds no allocation.json"),
    ("recover", ["--out", "model"], "model is there already"),
]


@pytest.mark.parametrize(("command", "options", "says"), OWN)
def test_searches_and_recoveries_of_ones_own(command, options, says, place, capsys):
    arguments = [command, "model", "--data", "rows.jsonl", "--benchmarks", "benchmarks", "--out", "out",
                 "--ledger", "ledger", *(["--allocation", "4 4 4 4 4 4"] if command == "recover" else [])]
    before = sorted(place.rglob("*"))
    assert says in told([*arguments, *options], capsys)
    assert sorted(place.rglob("*")) == before


PAGES = [
    (["--workers", "0"], "workers is '0'"),
    (["--workers", "many"], "workers is 'many'"),
    (["--executor", "slurm"], "unknown executor 'slurm'"),
    (["--seeds", "0 0"], "seeds 0 0 repeat themselves"),
    (["--ledger", "mine.yaml"], "cannot use mine.yaml as a ledger"),
    (["--ledger", "mine.yaml/ledger"], "cannot use mine.yaml/ledger as a ledger"),
    (["--benchmarks", "nowhere"], "no file or folder 'nowhere'"),
    (["--recovery-data", "nowhere"], "no file or folder 'nowhere'"),
]


@pytest.mark.parametrize(("options", "says"), PAGES)
def test_pages(options, says, place, capsys, monkeypatch):
    monkeypatch.setenv("RANKADAPTOR_WORKERS", "")  # what the command line sets goes with the test
    monkeypatch.setenv("RANKADAPTOR_EXECUTOR", "")
    before = sorted(place.rglob("*"))
    assert says in told(table(*options), capsys)
    assert sorted(place.rglob("*")) == before


def changed(place: Path, change) -> None:
    content = yaml.safe_load((place / "mine.yaml").read_text())
    change(content)
    (place / "mine.yaml").write_text(yaml.safe_dump(content))


PROFILES = [
    (lambda c: c["base_model"]["source"].update(kind="hub", location="org/name"), "is not pinned to a commit"),
    (lambda c: c["base_model"]["source"].update(kind="hub", location="org/name@main"), "followed by 40 hex digits"),
    (lambda c: c["base_model"]["source"].update(kind="hub", location="org/name@" + "0" * 40), "HF_HUB_OFFLINE is set"),
    (lambda c: c["base_model"]["source"].update(location="nowhere"), "no file or folder 'nowhere'"),
    (lambda c: c["base_model"].update(dtype="int4"), "base_model.dtype is 'int4'"),
    (lambda c: c["cost"].update(accelerator_gigabytes=80), "no GPU is visible, and one of 80 GB is needed"),
    (lambda c: c["cost"].update(adapter_megabytes=1e12), "MB free, and"),
    (lambda c: c.update(threads="all"), "threads is 'all'"),
    (lambda c: c.update(stage_limit_s="1h"), "stage_limit_s is '1h': give a value of type float"),
    (lambda c: c.update(stage_limit_s=0), "stage_limit_s is 0.0: give seconds above 0, or null for no limit"),
    (lambda c: c.update(stage_limit_s=float("nan")), "stage_limit_s is nan: give a finite number"),
    (lambda c: c.update(workers=None), "workers is None"),
    (lambda c: c["pruning"]["shortened"]["blocks"].update({20: 99}), "99"),
    (lambda c: c["search"].update(records="nowhere.parquet"), "nowhere.parquet"),
]


@pytest.mark.parametrize(("change", "says"), PROFILES)
def test_profiles(change, says, place):
    changed(place, change)
    with pytest.raises(BadInput) as error:
        main_table("mine.yaml", "shortened:20", ledger="ledger").run()
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert any(word in str(error.value) for word in WORDS.split("|"))


LEDGERS = [
    (["list"], "there is no ledger at none"),
    (["verify"], "there is no ledger at none"),
    (["gc"], "there is no ledger at none"),
    (["show", "0123456789"], "there is no ledger at none"),
    (["export", "table.csv"], "there is no ledger at none"),
]


@pytest.mark.parametrize(("arguments", "says"), LEDGERS)
def test_ledgers(arguments, says, place, capsys):
    assert says in told(["ledger", *arguments, "--ledger", "none"], capsys)
    assert not (place / "none").exists()


def test_rehearsals(place, capsys):
    assert "no shapes of 'tiny'" in told(["rehearse", "--profile", "tiny"], capsys)
    assert "unknown profile 'llama-70b'" in told(["rehearse", "--profile", "llama-70b"], capsys)
    assert "unknown block 'llm-pruner:21'" in told(["rehearse", "--blocks", "llm-pruner:21"], capsys)
