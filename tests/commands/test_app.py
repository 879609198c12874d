"""The command line starts quickly, suggests what was meant, and ends with one line an error."""

import json
import subprocess
import sys

import pytest
from nbformat import v4

from rankadaptor import __version__
from rankadaptor.__main__ import main
from rankadaptor.commands.groups import REGISTRIES, registered
from rankadaptor.errors import StageFailed
from rankadaptor.reporting import pages


def test_help_needs_no_torch():
    code = "import sys; from rankadaptor.__main__ import main; status = main(['--help']); " \
           "print(status, {'torch', 'transformers', 'pandas', 'papermill'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.endswith("0 set()\n")
    for command in ("plan", "reproduce", "report", "rank-table", "convert", "check-gpu", "prune", "measure", "search",
                    "recover", "evaluate", "ledger", "rehearse", "testbed"):
        assert f"\n  {command} " in shown


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"rankadaptor {__version__}\n"


@pytest.mark.parametrize(("arguments", "suggestion"), [
    (["paln"], "Did you mean 'plan'?"),
    (["plan", "tabel2"], "Did you mean 'table2'"),
    (["plan", "table2", "--bugdet", "quick"], "Possible options: --budget"),
    (["ledger", "lst"], "Did you mean 'list'?"),
    (["plan", "table2", "--blocks", "llm-pruner:52"], "did you mean llm-pruner:5"),
    (["plan", "table2", "--blocks", "llmpruner:20"], "did you mean llm-pruner:20"),
    (["plan", "ablations", "--ablation", "sclaing"], "did you mean scaling?"),
    (["plan", "prune", "llama-7b", "--method", "shorten"], "did you mean shortened?"),
])
def test_misspellings_are_one_line_with_what_was_meant(arguments, suggestion, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert suggestion in error
    assert error.startswith("rankadaptor: ")
    assert error.count("\n") == 1


def test_a_failed_stage_is_status_1(capsys, monkeypatch):
    def fails(name, given):
        raise StageFailed("killed", "the process was ended")

    monkeypatch.setattr(pages, "plan", fails)
    assert main(["plan", "table2"]) == 1
    assert capsys.readouterr().err == "rankadaptor: killed: the process was ended\n"


@pytest.mark.parametrize("registry", REGISTRIES)
def test_registries_that_help_lists_are_there(registry):
    assert all(isinstance(name, str) for name in registered(registry))


def test_help_lists_the_registries_names(capsys):
    assert main(["prune", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for registry in ("pruners", "criteria", "reductions"):
        assert ", ".join(registered(registry)) in text
        assert f"{{{registry}}}" not in text


def test_options_may_stand_in_the_environment(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKADAPTOR_BLOCKS", "wanda:20")
    assert main(["plan", "table2"]) == 2
    assert "unknown block 'wanda:20'" in capsys.readouterr().err
    monkeypatch.setenv("RANKADAPTOR_SEEDS", "one")
    assert main(["plan", "table2", "--blocks", "llm-pruner:20"]) == 2
    assert "seeds 'one' are not whole numbers" in capsys.readouterr().err


def test_a_report_is_over_the_runs_of_one_budget(tmp_path, capsys, monkeypatch):
    for budget in ("quick", "standard"):
        (tmp_path / "tiny" / budget).mkdir(parents=True)
        (tmp_path / "tiny" / budget / "table2.md").write_text("# Table 2\n\ntext\n")
    assert main(["report", "--reports", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tiny' / 'quick' / 'index.html'}\n"
    monkeypatch.setenv("RANKADAPTOR_BUDGET", "standard")
    assert main(["report", "--reports", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'tiny' / 'standard' / 'index.html'}\n"
    assert main(["report", "--reports", str(tmp_path), "--budget", "../quick"]) == 2
    assert "unknown budget '../quick' in profile tiny" in capsys.readouterr().err
    assert not (tmp_path / "tiny" / "index.html").exists()


def test_all_pages_end_with_their_conclusions_together(tmp_path, capsys, monkeypatch):
    def reproduce_all(given, folder, on_page):
        folder.mkdir(parents=True)
        (folder / "table2.md").write_text("# Table 2\n\ntext\n")
        for page in ("table2", "pruning"):
            notebook = v4.new_notebook(cells=[v4.new_code_cell("", outputs=[
                v4.new_output("stream", text=f"what {page} says\n")])])
            (folder / f"{page}.ipynb").write_text(json.dumps(notebook))
            on_page(page, folder / f"{page}.ipynb")

    monkeypatch.setattr(pages, "reproduce_all", reproduce_all)
    assert main(["reproduce", "all", "--reports", str(tmp_path), "--ledger", str(tmp_path / "ledger")]) == 0
    folder = tmp_path / "tiny" / "quick"
    assert capsys.readouterr().out.endswith(
        f"\ntable2\nwhat table2 says\n\npruning\nwhat pruning says\n\n{folder / 'index.html'}\n")


def test_every_page_has_its_commands(capsys):
    for command, more in (("plan", {"prune"}), ("reproduce", {"all"})):
        assert main([command, "--help"]) == 0
        text = capsys.readouterr().out
        assert all(f"\n  {page} " in text for page in pages.PAGES.keys() | more)
