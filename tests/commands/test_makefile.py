"""make hands its variables over as they were typed: neither make nor a shell runs what is in them."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
HOSTILE = ["$(touch x)", "$(shell touch x)", "`touch x`", '"; touch x; "', "'; touch x; '", "a && touch x", "$$HOME"]


@pytest.fixture
def environment(tmp_path):
    """A folder in place of .venv, whose python prints its arguments and what RANKADAPTOR_* holds."""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(
        f"#!{sys.executable}\nimport os, sys\nprint(sys.argv[1:])\n"
        "print({name: value for name, value in os.environ.items() if name.startswith('RANKADAPTOR_')})\n")
    (folder / "python").chmod(0o755)
    (folder.parent / ".ready").touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (0, 0))
    return tmp_path


def make(folder: Path, *arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RANKADAPTOR_", "MAKE"))}
    done = subprocess.run(["make", "--no-print-directory", "VENV=venv", *arguments], cwd=folder, env=clean,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("target", ["reproduce-table2", "convert", "rehearse", "rank-table", "bench-recovery", "help"])
@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_variable_is_run(target, text, environment):
    before = set(environment.iterdir())
    names = ("BLOCKS", "SEEDS", "PROFILE", "LEDGER", "RECOVERY_DATA", "BENCH_PROFILE")
    shown = make(environment, target, *(f"{name}={text}" for name in names))
    assert target == "help" or shown.count(repr(text)) >= len(names)
    assert set(environment.iterdir()) == before


def test_pages_are_targets_and_take_no_arguments(environment):
    assert make(environment, "reproduce-table2").startswith("['-m', 'rankadaptor', 'reproduce', 'table2']\n")
    assert make(environment, "search-report").startswith("['-m', 'rankadaptor', 'reproduce', 'search']\n")
    assert make(environment, "reproduce-figure6").startswith("['-m', 'rankadaptor', 'reproduce', 'figure5']\n")
    assert make(environment, "plan-rivals").startswith("['-m', 'rankadaptor', 'plan', 'rivals']\n")


def test_committed_pages_are_drawn_by_one_command(environment):
    (environment / "reports").mkdir()
    assert make(environment, "reports").startswith("['-m', 'rankadaptor', 'reports']\n")
    assert make(environment, "report").startswith("['-m', 'rankadaptor', 'report']\n")


@pytest.mark.parametrize("target", [
    "bench-pruning", "bench-evaluation", "bench-recovery", "bench-trials", "torture", "torture-ray"])
def test_benchmarks_write_to_build_unless_told(target, environment):
    def folders(*arguments):
        return [words[words.index("--out") + 1] for line in make(environment, target, *arguments).splitlines()
                if (words := ast.literal_eval(line)) and isinstance(words, list)]

    assert set(folders()) == {"build/benchmarks"}
    assert set(folders("OUT=reports/benchmarks")) == {"reports/benchmarks"}


@pytest.mark.parametrize("target", ["lab", "explore"])
def test_jupyterlab_reads_the_projects_settings(target, environment):
    jupyter = environment / "venv" / "bin" / "jupyter"
    jupyter.write_text('#!/bin/sh\necho "$JUPYTER_CONFIG_PATH"\n')
    jupyter.chmod(0o755)
    assert make(environment, target).splitlines()[-1].split(":")[0] == str(environment / ".jupyter")


def test_a_rehearsal_of_the_embedded_model_is_of_llama(environment):
    assert "'RANKADAPTOR_PROFILE': 'llama-7b'" in make(environment, "rehearse")
    assert "'RANKADAPTOR_PROFILE': 'vicuna-7b'" in make(environment, "rehearse", "PROFILE=vicuna-7b")


def test_a_conversion_and_a_check_are_commands(environment):
    shown = make(environment, "convert", "MODEL=some/model@0123")
    assert shown.startswith("['-m', 'rankadaptor', 'convert']\n")
    assert "'RANKADAPTOR_MODEL': 'some/model@0123'" in shown
    shown = make(environment, "check-gpu")
    assert shown.startswith("['-m', 'rankadaptor', 'check-gpu']\n")
    assert "'RANKADAPTOR_PROFILE': 'llama-7b'" in shown


def test_help_lists_every_documented_target(environment):
    shown = make(environment, "help")
    documented = [line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":  ##" in line]
    assert all(f"make {target} " in shown for target in documented)
