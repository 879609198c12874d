"""Every notebook runs, top to bottom, on a budget of seconds; some do so in tests that read their numbers."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.notebooks import assert_executed

from rankadaptor.__main__ import main
from rankadaptor.experiments.paths import ledger_folder, reports_folder
from rankadaptor.profiles import FOLDER
from rankadaptor.ranktable.meta_records import read_table
from rankadaptor.reporting import pages
from rankadaptor.reporting.notebooks import conclusion_of, run_notebook

ROOT = Path(__file__).parents[2]
BLOCK = "llm-pruner:50"
ELSEWHERE = {"01_motivating_example", "02_adalora_comparison", "03_main_tables",  # in test_notebooks
             "09_rivals"}  # in test_rivals


@pytest.fixture(scope="module")
def shared(tmp_path_factory, finished):
    """One ledger: the pages have recoveries in common. The embedded model's profile with a predictor of no time, and a
    part of the committed table."""
    folder = tmp_path_factory.mktemp("every")
    shutil.copytree(finished.ledger, folder / "ledger")
    profile = yaml.safe_load((FOLDER / "tiny.yaml").read_text())
    profile["search"]["method"]["predictor"] = "ridge"
    (folder / "ridge.yaml").write_text(yaml.safe_dump(profile))
    block = read_table().query("block == 'shortened:30'")
    block[block["allocation"].isin(block["allocation"].unique()[:45])].to_parquet(folder / "few.parquet")
    return folder


PAGES = {
    "00_explore": ({"block": BLOCK, "budget": "quick"}, set()),
    "04_ablations": ({"blocks": BLOCK, "ablation": "importance"},
                     {"ablations.md", "ablations.csv", "ablation-importance.svg"}),
    "05_generation": ({"blocks": BLOCK}, {"figure5.md", "figure5-samples.md", "figure5-samples.csv"}),
    "06_search": ({"profile": "ridge.yaml", "table": "few.parquet", "blocks": "shortened:30", "searches": 2,
                   "recoveries": 12, "workers": 1},
                  {"search.md", "search-top.svg", *(f"search-{part}.csv" for part in (
                       "differences", "agreement", "seeds", "rules", "predictors", "transfer", "searches",
                       "unsearched", "variants"))}),
    "07_testbed": ({"blocks": BLOCK, "signal_blocks": BLOCK, "budget": "two-seeds", "allocations": 2}, {"testbed.md"}),
    "10_headroom": ({"blocks": BLOCK}, {"headroom.md", "headroom-headroom.csv", "headroom-means.svg"}),
    "11_protocol": ({"blocks": BLOCK, "budget": "quick"},
                    {"paper.md", "paper.csv", "paper-gains.csv", "paper-gains.svg"}),
    "08_pruning": ({"blocks": BLOCK}, {"pruning.md", "pruning.csv", "pruning-heads.svg"}),
}


def test_no_notebook_is_left_out():
    assert PAGES.keys() | ELSEWHERE == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}


@pytest.mark.parametrize("name", PAGES)
def test_a_notebook_runs_on_the_smallest_budget(name, shared, tiny_profile, warm_kernel):
    parameters, files = PAGES[name]
    whole = {"profile": str(tiny_profile), "ledger": str(shared / "ledger"), "reports": str(shared / name)} | parameters
    known = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"][1]["source"]
    whole = {key: value for key, value in whole.items() if any(line.startswith(f"{key} = ") for line in known)}
    whole |= {key: str(shared / value) for key, value in parameters.items() if key in ("profile", "table")}
    executed = shared / f"{name}.ipynb"
    run_notebook(name, executed, whole)
    assert_executed(executed)
    if name != "00_explore":
        compared = "is damaged|are committed|are damaged|recomputed result"
        assert re.search(compared, conclusion_of(executed).splitlines()[-1])
    assert files <= {path.name for path in (shared / name).glob("*")}


def test_notebooks_use_the_projects_folders_wherever_they_run(monkeypatch):
    for folder in (ROOT, ROOT / "notebooks", ROOT.parent):
        monkeypatch.chdir(folder)
        assert ledger_folder().resolve() == ROOT / "ledger"
        assert reports_folder("tiny").resolve() == ROOT / "reports" / "tiny" / "quick"
        assert reports_folder("tiny", budget="standard").resolve() == ROOT / "reports" / "tiny" / "standard"
        assert not ledger_folder().is_absolute()  # no machine's path in what is printed
    assert (ledger_folder("own"), reports_folder("tiny", "own")) == (Path("own"), Path("own"))


def test_all_pages_are_made_what_is_complete_last_and_quietly(monkeypatch, tmp_path):
    """Every page gets the options that it knows; those that lack something are made one after the other, first."""
    made = []
    complete = {"table1", "search", "pruning"}

    def work(name, given):
        assert set(given) <= set(pages.PAGES[name].options)
        return SimpleNamespace(is_complete=lambda: name in complete)

    def reproduce(name, given, reports, quiet=False):
        made.append((name, quiet, given.get("blocks")))
        return Path(reports) / name

    monkeypatch.setattr(pages, "work", work)
    monkeypatch.setattr(pages, "reproduce", reproduce)
    finished = []
    of_all = pages.names_of_all("tiny")
    given = {"profile": "tiny", "blocks": "shortened:20", "seeds": [3], "ablation": "scaling", "rank_table": ""}
    pages.reproduce_all(given, tmp_path, lambda name, executed: finished.append(name))
    assert sorted(finished) == sorted(of_all)
    assert [name for name, quiet, _ in made if not quiet] == [name for name in of_all if name not in complete]
    assert {name for name, quiet, _ in made if quiet} == complete
    assert {name: blocks for name, _, blocks in made if name in ("table2", "ablations")} == {
        "table2": "shortened:20", "ablations": None}
    finished.clear()
    pages.reproduce_all({"profile": "smollm2"}, tmp_path, lambda name, executed: finished.append(name))
    assert "search" not in finished  # its table is the embedded model's


def test_a_refused_page_leaves_the_earlier_copy(tmp_path, capfd):
    (tmp_path / "tiny" / "quick").mkdir(parents=True)
    earlier = tmp_path / "tiny" / "quick" / "04_ablations.ipynb"
    earlier.write_text("{}")
    assert main(["reproduce", "ablations", "--ablation", "nothing", "--reports", str(tmp_path)]) == 2
    assert "unknown ablation 'nothing'" in capfd.readouterr().err
    assert earlier.read_text() == "{}"
