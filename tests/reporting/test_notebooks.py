"""Committed notebooks are stripped prose and calls; executed copies run top to bottom and carry their source's hash."""

import ast
import hashlib
import json
import re
from pathlib import Path

import papermill
import pytest
from helpers.notebooks import assert_executed, code_cells

from rankadaptor.__main__ import main
from rankadaptor.reporting.notebooks import conclusion_of

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebooks_are_stripped_and_define_nothing(path):
    cells = code_cells(path)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in cells) == 1
    for cell in cells:
        tree = ast.parse("".join(cell["source"]))
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda) for node in ast.walk(tree))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_import_the_facade_and_reporting_alone(path):
    code = [ast.parse("".join(cell["source"])) for cell in code_cells(path)]
    imported = [node for tree in code for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imported}
    assert modules <= {"json", "IPython.display", "rankadaptor", "rankadaptor.reporting"}
    assert any(ast.unparse(tree).count("check_parameters(In)") for tree in code)


def test_papermill_is_refused_a_parameter_that_a_notebook_lacks(tmp_path, warm_kernel):
    with pytest.raises(papermill.PapermillExecutionError, match=r"unknown parameter block: .* did you mean blocks\?"):
        papermill.execute_notebook(str(ROOT / "notebooks" / "08_pruning.ipynb"), str(tmp_path / "out.ipynb"),
                                   parameters={"profile": "tiny", "block": "llm-pruner:20"}, progress_bar=False)


@pytest.mark.slow
@pytest.mark.notebook
def test_the_main_table_runs_through_papermill_and_says_so(tiny_profile, tmp_path, capfd):
    arguments = ["reproduce", "table2", "--profile", str(tiny_profile), "--blocks", "shortened:20",
                 "--ledger", str(tmp_path / "ledger"), "--reports", str(tmp_path / "reports")]
    assert main(arguments) == 0
    executed = tmp_path / "reports" / "test" / "quick" / "03_main_tables.ipynb"
    assert_executed(executed)
    metadata = json.loads(executed.read_text())["metadata"]
    assert metadata["papermill"]["exception"] is None
    source = ROOT / "notebooks" / "03_main_tables.ipynb"
    assert metadata["source_sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    written = {path.name for path in executed.parent.iterdir()}
    assert {"table2.md", "table2.csv", "table2.tex", "table2-means.svg", "table2-provenance.json"} <= written
    # dense; pruning and no recovery; three baselines, 2 + 2 trials and the choice, each recovered and evaluated
    shown = capfd.readouterr().out
    assert f"{1 + 2 + 2 * (3 + 4 + 1)} stages computed" in shown
    assert conclusion_of(executed) in shown
    assert "budget quick decides nothing: the same command with BUDGET=two-seeds does" in shown
    first = {path.name: path.read_bytes() for path in executed.parent.glob("table2*")}
    assert main(arguments) == 0
    assert "\n0 stages computed" in capfd.readouterr().out
    assert {path.name: path.read_bytes() for path in executed.parent.glob("table2*")} == first


@pytest.mark.parametrize(("table", "notebook", "files"), [
    ("figure2", "01_motivating_example", {"figure2-tasks.svg", "figure2-means.png", "figure2-allocations.svg"}),
    ("table1", "02_adalora_comparison", {"table1-tasks.svg", "table1-ranks.png", "table1-means.svg"}),
])
def test_comparisons_run_through_papermill(table, notebook, files, tiny_profile, finished_copy, tmp_path, warm_kernel):
    assert main(["reproduce", table, "--profile", str(tiny_profile), "--blocks", "llm-pruner:50", "--ledger",
                 str(finished_copy), "--reports", str(tmp_path / "reports")]) == 0
    folder = tmp_path / "reports" / "test" / "quick"
    assert_executed(folder / f"{notebook}.ipynb")
    written = {path.name for path in folder.iterdir()}
    assert files | {f"{table}.md", f"{table}.csv", f"{table}.tex", f"{table}-provenance.json"} <= written


def test_committed_records_name_no_machines_path():
    records = list((ROOT / "reports").glob("*/*.json"))
    assert records
    for path in records:
        assert not re.search(r'"(/|~/|\.\./)\w', path.read_text()), path


def test_committed_reports_were_executed_top_to_bottom():
    for path in (ROOT / "reports").glob("*/*.ipynb"):
        assert_executed(path)
        source = ROOT / "notebooks" / f"{path.name.partition('.')[0]}.ipynb"
        text = path.read_text()
        assert not [place for place in ("site-packages", str(ROOT)) if place in text], f"{path} names a machine's path"
        stamp = json.loads(text)["metadata"]["source_sha256"]
        assert stamp == hashlib.sha256(source.read_bytes()).hexdigest(), f"{path} is of another source: make reports"
