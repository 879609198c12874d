"""A page is one entry of a registry."""

import dataclasses
import inspect
import shutil
import subprocess
from pathlib import Path

import papermill
import pytest

import rankadaptor
from rankadaptor.errors import BadInput
from rankadaptor.reporting import pages
from rankadaptor.reporting.notebooks import FOLDER, declared_parameters, run_notebook

ROOT = FOLDER.parent


def test_a_name_is_registered_once(monkeypatch):
    monkeypatch.setattr(pages, "PAGES", dict(pages.PAGES))
    mine = dataclasses.replace(pages.PAGES["table2"], name="mine")
    pages.register(mine)
    assert pages.PAGES["mine"] is mine
    with pytest.raises(ValueError, match="page 'mine' is registered already"):
        pages.register(mine)


@pytest.mark.parametrize("page", pages.PAGES.values(), ids=lambda page: page.name)
def test_a_pages_notebook_declares_its_options(page):
    assert page.work in rankadaptor.__all__
    declared = set(declared_parameters(page.notebook))
    options = {"table" if option == "rank_table" else option for option in page.options}
    assert options | {"reports"} | ({"name"} if page.label else set()) <= declared


@pytest.mark.parametrize("page", pages.PAGES.values(), ids=lambda page: page.name)
def test_a_pages_own_budget_is_that_of_its_work(page):
    work = inspect.signature(getattr(rankadaptor, page.work)).parameters
    assert ("budget" in page.options) == ("budget" in work)
    if "budget" in work:
        declared = papermill.inspect_notebook(FOLDER / f"{page.notebook}.ipynb")["budget"]["default"]
        assert page.own_budget == work["budget"].default == declared.strip('"')


@pytest.mark.parametrize(("name", "given", "folder"), [
    ("table2", {}, "tiny/quick"),
    ("table2", {"budget": "standard"}, "tiny/standard"),
    ("testbed", {}, "tiny/standard"),
    ("rivals", {"budget": "quick"}, "tiny/quick"),
    ("pruning", {}, "tiny/quick"),
    ("table2", {"profile": "llama-7b"}, "llama-7b/day"),
    ("pruning", {"profile": "llama-7b"}, "llama-7b/day"),
    ("testbed", {"profile": "llama-7b"}, "llama-7b/day"),
    ("all", {"budget": "standard", "profile": "smollm2"}, "smollm2/standard"),
    ("all", {"profile": "llama-7b"}, "llama-7b/day"),
])
def test_a_run_writes_below_its_profile_and_budget(name, given, folder):
    assert pages.run_folder_of(name, given, "reports") == Path("reports") / folder


@pytest.mark.parametrize(("name", "budget", "says"), [
    ("table2", "../tiny", r"unknown budget '\.\./tiny' in profile tiny: use one of quick, standard"),
    ("all", "/tmp", "unknown budget"), ("rivals", ".", "unknown budget"),
    ("pruning", "standard", "budget 'standard' was given for pruning, which has no such option"),
])
def test_a_budget_that_is_none_names_no_folder(name, budget, says):
    with pytest.raises(BadInput, match=says):
        pages.run_folder_of(name, {"budget": budget}, "reports")


@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="no checkout of git")
def test_what_runs_write_is_ignored_and_nothing_committed_is():
    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    for name in ("tiny", "smollm2"):
        for budget in rankadaptor.load_profile(name).budgets:
            folder = pages.run_folder_of("all", {"profile": name, "budget": budget}, "reports")
            assert git("check-ignore", "-q", "--no-index", str(folder / "table2.md")).returncode == 0
    tracked = git("ls-files", "reports").stdout.split()
    assert tracked
    assert {path.count("/") for path in tracked} == {2}


def test_a_parameter_that_a_notebook_lacks_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"unknown parameter seed: the notebook takes .*; did you mean seeds\?"):
        run_notebook("03_main_tables", tmp_path / "out.ipynb", {"seed": [3]})
    assert list(tmp_path.iterdir()) == []


def test_every_notebook_but_the_explorer_is_a_page():
    assert {page.notebook for page in pages.PAGES.values()} | {"00_explore"} == {
        path.stem for path in FOLDER.glob("*.ipynb")}
