"""The report page: valid HTML that needs nothing but its folder, and claims that say what the files say."""

import json
import shutil
import subprocess
from pathlib import Path

import html5lib
import pandas as pd
import pytest

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.reporting import claims as registry
from rankadaptor.reporting.claims import Claim, claims_markdown, claims_table
from rankadaptor.reporting.report import write_report

COMMITTED = Path(__file__).parents[2] / "reports"


def elements(path):
    """Every element of a page that a strict parser accepts."""
    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return list(parser.parse(path.read_text(encoding="utf-8")).iter())


@pytest.fixture
def reports(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "table2.md").write_text("# Table 2\n\nA caption, less & more.\n\n| a | b |\n|:--|:--|\n| 1 | x |\n\n"
                                      "## Blocks\n\nText.\n")
    for name in ("table2-means.svg", "table2-means.png", "table2.csv"):
        (folder / name).write_text("")
    pd.DataFrame([
        {"block": "llm-pruner:20", "method": "RankAdaptor (one model)", "difference": -0.3, "low": -1.0, "high": 0.4,
         "verdict": "not supported"},
        {"block": "llm-pruner:50", "method": "RankAdaptor (one model)", "difference": 1.3, "low": 0.2, "high": 2.4,
         "verdict": "supported"},
        {"block": "llm-pruner:20", "method": "No recovery", "difference": -2.0, "low": -3.0, "high": -1.0,
         "verdict": ""},
    ]).to_csv(folder / "table2-differences.csv", index=False)
    return tmp_path


def test_the_page_is_valid_and_every_link_leads_somewhere(reports):
    page = write_report("tiny", reports / "tiny")
    found = elements(page)
    names = [one.get("id") for one in found if one.get("id")]
    assert len(names) == len(set(names))
    targets = [one.get(name) for one in found for name in ("href", "src") if one.get(name)]
    assert targets
    for target in targets:
        assert target.removeprefix("#") in names if target.startswith("#") else (page.parent / target).is_file(), target
    assert all(one.get("alt") for one in found if one.tag == "img")
    assert sum(one.tag == "h1" for one in found) == 1


def test_claims_say_what_the_files_say(reports):
    claims = claims_table(reports / "tiny").set_index("command")
    first = claims.loc["make reproduce-table2"].iloc[0]
    assert first["published"] == "over LoRA +0.49 to +1.99 points (+1.23 to +1.99 points on LLaMA-7B)"
    assert first["measured"] == "-0.3 to +1.3 points on 2 blocks; 1 of 2 intervals exclude 0"
    assert first["verdict"] == "not supported (1), supported (1)"
    second = claims.loc["make reproduce-table2"].iloc[1]
    assert (second["measured"], second["verdict"]) == ("-2.0 [-3.0, -1.0] points", "recovery helps on 1 of 1")
    assert claims.loc["make search-report", "measured"] == "not run yet"


@pytest.mark.parametrize(("blocks", "says"), [(2, "undecided together; one by one not supported (1), supported (1)"),
                                              (1, "not supported (1), supported (1)")])
def test_all_blocks_together_stand_in_front(reports, blocks, says):
    pd.DataFrame([{"method": "RankAdaptor (one model)", "blocks": blocks, "difference": 0.5, "low": -0.2, "high": 1.2,
                   "verdict": "undecided"}]).to_csv(reports / "tiny" / "table2-pooled.csv", index=False)
    first, second = claims_table(reports / "tiny").set_index("command").loc["make reproduce-table2"].iloc
    assert first["verdict"] == says
    assert ("+0.5 [-0.2, +1.2] points on the 2 blocks" in first["measured"]) == (blocks == 2)
    assert second["verdict"] == "recovery helps on 1 of 1"  # of another method


@pytest.mark.parametrize(("needed", "regret", "says"), [
    ("less than", "undecided against",
     "reaches the top of its own scores; under another training seed no choice has less regret"),
    ("less than", "less than", ""),
    ("undecided against", "undecided against", ""),
])
def test_the_searchs_claim_follows_its_comparisons(reports, needed, regret, says):
    table = pd.DataFrame({"of": ["recoveries to the top 1 %", "regret (points)"], "verdict": [needed, regret]})
    table.to_csv(reports / "tiny" / "search-differences.csv", index=False)
    claim = claims_table(reports / "tiny").set_index("command").loc["make search-report"]
    assert claim["verdict"] == says
    assert claim["measured"].startswith("recoveries to the top 1 %: less than a rival's in")


def test_a_claim_of_ones_own_is_a_row(reports, monkeypatch):
    monkeypatch.setattr(registry, "CLAIMS", dict(registry.CLAIMS))
    own = Claim(
        name="own", statement="Rows are few", where="", published="", notebook="03_main_tables", command="make own",
        file="table2-differences.csv", finding=lambda table: (f"{len(table)} rows", "supported"),
    )
    registry.register(own)
    with pytest.raises(ValueError, match="claim 'own' is registered already"):
        registry.register(own)
    row = claims_table(reports / "tiny").set_index("command").loc["make own"]
    assert (row["claim"], row["measured"], row["verdict"]) == ("Rows are few", "3 rows", "supported")
    assert claims_markdown(reports / "tiny").endswith("| supported |  | `make own` |")


def test_a_claim_names_the_run_behind_its_numbers(reports):
    made = {"blocks": ["llm-pruner:20", "llm-pruner:50"], "budget": "standard", "training_seeds": [3, 4],
            "seconds": {"recover": {"stages": 2, "seconds": 600.0}}}
    (reports / "tiny" / "table2-provenance.json").write_text(json.dumps(made))
    first = claims_table(reports / "tiny").iloc[0]
    assert first["made_with"] == "standard, seeds 3, 4"
    assert first["command"] == (
        'make reproduce-table2 BUDGET=standard BLOCKS="llm-pruner:20 llm-pruner:50" SEEDS="3 4"')
    assert first["cost"] == "about 5 minutes"  # two processes


@pytest.mark.usefixtures("as_committed")
def test_committed_claims_name_budget_seeds_and_cost():
    claims = claims_table(COMMITTED / "tiny")
    assert (claims["made_with"] != "").all()
    assert (claims["cost"] != "").all()
    assert claims["command"][0] == "make reproduce-table2 BUDGET=standard"


@pytest.fixture(scope="module")
def as_committed():
    """Passes a test over where the committed reports were drawn anew since they were committed."""
    if shutil.which("git"):
        command = ["git", "status", "--porcelain", "--", "."]
        status = subprocess.run(command, cwd=COMMITTED, capture_output=True)
        if status.returncode == 0 and status.stdout:
            pytest.skip("reports/ is not as it was committed")


@pytest.mark.usefixtures("as_committed")
def test_readme_shows_the_claims_of_the_committed_reports():
    readme = (COMMITTED.parent / "README.md").read_text(encoding="utf-8")
    assert claims_markdown(COMMITTED / "tiny") in readme, "python -m rankadaptor reports --prose"


def test_a_profile_without_reports_is_told_so(tmp_path, capsys):
    with pytest.raises(BadInput, match="holds no report yet: make reproduce-table2 first"):
        write_report("tiny", tmp_path)
    assert main(["report", "--profile", "nothing"]) == 2
    assert "unknown profile 'nothing'" in capsys.readouterr().err


@pytest.mark.usefixtures("as_committed")
@pytest.mark.parametrize("profile", sorted(path.parent.name for path in COMMITTED.glob("*/index.html")))
def test_committed_reports_make_a_page_that_holds_together(profile, tmp_path):
    shutil.copytree(COMMITTED / profile, tmp_path / profile)
    page = write_report(profile, tmp_path / profile)
    found = elements(page)
    assert [one.get("src") for one in found if one.tag == "img"]
    for one in found:
        for name in ("href", "src"):
            target = one.get(name) or "#"
            assert target.startswith("#") or (page.parent / target).is_file(), target
    committed = COMMITTED / profile / "index.html"
    assert committed.read_text(encoding="utf-8") == page.read_text(encoding="utf-8"), "make reports once more"
