"""README and docs say what the committed reports say: no figure stands in them that no record holds."""

import json
import random
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers.finished import FINISHED_BLOCKS

from rankadaptor.errors import BadInput
from rankadaptor.experiments.main_table import main_table
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.records import write_records
from rankadaptor.reporting import tables
from rankadaptor.reporting.costs import duration, measured_costs
from rankadaptor.reporting.paper.inconsistencies import gains
from rankadaptor.reporting.prose import render_prose, rendered
from rankadaptor.reporting.prose.checking import Allowed, unmatched, unrecorded, unsupported
from rankadaptor.reporting.prose.rendering import prose_environment
from rankadaptor.reporting.prose.words import agree, how_many, listed, plain, signed, span, word

ROOT = Path(__file__).parents[2]
ALLOWED = Allowed.read(ROOT)


@pytest.fixture
def project(tmp_path):
    """A project of one template, the committed reports and no allowed number."""
    (tmp_path / "docs" / "templates").mkdir(parents=True)
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    return tmp_path


def write(project, text):
    (project / "docs" / "templates" / "page.md").write_text(text)


# -- the committed documents ------------------------------------------------------------------------------------------


def test_documents_are_what_their_templates_give():
    documents = rendered(ROOT)
    assert "README.md" in documents
    for path, text in documents.items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path}: python -m rankadaptor reports --prose"


def test_no_figure_stands_in_prose_without_a_source():
    figures = unsupported(ROOT, ALLOWED)
    shown = "\n".join(map(str, figures))
    assert not figures, f"take them from a record, or add their source to settings.yaml:\n{shown}"


def test_every_allowed_phrase_stands_somewhere():
    assert unmatched(ROOT, ALLOWED) == []


def test_rendered_figures_are_what_expressions_gave():
    every, wrong = unrecorded(ROOT, ALLOWED)
    drawn = random.Random(5).sample(every, 30)
    assert not [figure for figure in drawn if figure in wrong]
    assert not wrong, "\n".join(map(str, wrong))


def test_costs_are_those_of_make_help():
    lines = dict(re.findall(r"^([a-z0-9-]+):.*## (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    plain_targets = {target: cost for target, cost in measured_costs().items() if target in lines}
    assert len(plain_targets) > 15
    for target, cost in plain_targets.items():
        assert str(cost) in lines[target], f"{target}: {cost} in records/costs.yaml, {lines[target]} in the Makefile"


def test_a_notebook_prints_the_papers_gains():
    points = gains().query("rival == 'LoRA'")["points"]
    cells = json.loads((ROOT / "notebooks" / "03_main_tables.ipynb").read_text())["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert f"gain {points.min():.2f} to {points.max():.2f} points" in text


# -- the check can fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [
    "It gains +0.4 in all.", "A score of 44.3 was seen.", "Of these 30 % are right.", "It takes 12 minutes.",
    "In half an hour all is done.", "Seven of the eight end early.", "On 1,208 rows.", "It uses 3 GB.",
    "Of 2.5 nats.", "Twelve searches were made.", "It is four times as fast.", "Two of nine, 2e-5 apart.",
    "{{ 'in 12 minutes' if true else 'a lot' }}", "{% if false %}It is 0.3 better.{% endif %}",
])
def test_an_invented_figure_is_caught(text, project):
    write(project, f"# A page of 44.3 points\n\n{text}\n")
    assert unsupported(project, Allowed({}))


def test_an_invented_figure_of_a_document_is_caught(project):
    write(project, "# Page\n")
    (project / "docs" / "other.md").write_text("# Other\n\nIt gains 0.4 points.\n")
    assert [figure.place for figure in unsupported(project, Allowed({}))] == ["docs/other.md"]


@pytest.mark.parametrize("text", [
    "`make x MINUTES=12`", "```\n12 minutes, 44.3 %\n```", "[a page](https://example.org/44.3)", "Section 4.1 has it.",
    "Tables 2, 4 and 5 of LLaMA-7B, llm-pruner:20.", "{{ percent('tiny/table2', DENSE, DENSE) }} % are right.",
])
def test_what_is_no_figure_is_left_alone(text, project):
    write(project, f"# A page of 44.3 points\n\n{text}\n")
    assert not unsupported(project, Allowed({}))
    assert not unrecorded(project, Allowed({}))[1]


def test_a_phrase_is_allowed_where_it_stands(project):
    write(project, "# Page\n\nIt has a 1 %\ntolerance. It is 11 % tolerance.\n")
    allowed = Allowed({"page.md": {"1 % tolerance": "a profile"}, "everywhere": {"2 GiB": "code"}})
    assert [figure.text for figure in unsupported(project, allowed)] == ["11 %"]
    assert unmatched(project, allowed) == ["everywhere: 2 GiB"]
    assert unmatched(project, Allowed({"none.md": {"1 %": "code"}})) == ["none.md is no document"]


def test_a_figure_beside_an_expression_is_seen_in_the_page(project):
    write(project, "# Page\n\nFrom {{ percent('tiny/table2', DENSE, DENSE) }} to 99 %.\n")
    every, wrong = unrecorded(project, Allowed({}))
    assert [figure.text for figure in wrong] == ["99 %"]
    assert len(every) == 1


# -- rendering --------------------------------------------------------------------------------------------------------


def test_documents_are_written_with_a_note(project):
    write(project, "# Page\n\n{{ verdict('tiny/table2', 'llm-pruner:20', RANKADAPTOR) }}\n")
    assert render_prose(project) == [project / "docs" / "page.md"]
    written = (project / "docs" / "page.md").read_text()
    assert written.startswith("<!-- made from docs/templates/page.md by make reports: edit that -->\n# Page\n")
    before = (project / "docs" / "page.md").stat().st_mtime_ns
    render_prose(project)
    assert (project / "docs" / "page.md").stat().st_mtime_ns == before  # equal documents are left alone


@pytest.mark.parametrize(("expression", "says"), [
    ("difference('tiny/table2', 'llm-pruner:21', RANKADAPTOR)",
     "no row with block llm-pruner:21, method RankAdaptor"),
    ("gains('tiny/table9', RANKADAPTOR).span", "there is no .*table9-differences.csv"),
    ("diference('tiny/table2')", "'diference' is undefined"),
    ("cost('reproduce-table9')", "has no cost of 'reproduce-table9'"),
    ("word(", "expected|unexpected"),
])
def test_what_no_record_holds_is_one_line(expression, says, project):
    write(project, f"# Page\n\nText.\n{{{{ {expression} }}}}\n")
    with pytest.raises(BadInput, match=rf"docs/templates/page.md, line 4: .*({says})") as error:
        render_prose(project)
    assert "\n" not in str(error.value)
    assert not (project / "docs" / "page.md").exists()


def test_every_template_function_says_what_it_gives():
    names = prose_environment(ROOT).globals
    functions = {name: value for name, value in names.items()
                 if callable(value) and (value.__module__ or "").startswith("rankadaptor")}
    assert len(functions) > 30
    assert not [name for name, function in functions.items() if not function.__doc__]


def test_sentences_follow_their_counts():
    assert [how_many(count, 8) for count in (0, 1, 7, 8)] == [
        "none of the eight", "one of the eight", "seven of the eight", "all eight"]
    assert [how_many(count, 2) for count in (0, 1, 2)] == ["neither of the two", "one of the two", "both"]
    assert [how_many(count, 1) for count in (0, 1)] == ["none of one", "one of one"]
    assert [agree(count, "holds", "hold") for count in (0, 1, 2)] == ["holds", "holds", "hold"]
    assert (listed([]), listed(["a"]), listed(["a", "b", "c"])) == ("none", "a", "a, b and c")
    assert (word(0), word(12), word(13)) == ("none", "twelve", "13")


def test_numbers_are_rounded_as_they_read():
    assert (plain(0.35), signed(-0.25), signed(0.0), plain(1207.6, 0)) == ("0.4", "-0.3", "+0.0", "1,208")
    assert (span([0.31, 0.29]), span([-0.5, 0.1], sign=True)) == ("0.3", "-0.5 to +0.1")


def test_durations_are_said_as_people_say_them():
    shown = [duration(1), duration(1.5), duration(7, 12), duration(15), duration(40), duration(120)]
    assert shown == ["a minute", "a minute and a half", "7 to 12 minutes", "a quarter of an hour", "40 minutes",
                     "two hours"]


# -- sentences whose tables change ------------------------------------------------------------------------------------


@pytest.fixture
def changed(tmp_path):
    """The project's templates over a copy of its reports, to change."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "reports", tmp_path / "reports",
                    ignore=shutil.ignore_patterns("*.ipynb", "*.svg", "*.html", "*.tex", "*.md"))
    return tmp_path


def change(path, update):
    table = pd.read_csv(path)
    update(table)
    table.to_csv(path, index=False)


def headroom_of_smollm2(project):
    """The embedded model's table as if it were SmolLM2's headroom."""
    source, folder = project / "reports" / "tiny", project / "reports" / "smollm2"
    folder.mkdir(exist_ok=True)
    for suffix in (".csv", "-differences.csv"):
        table = pd.read_csv(source / f"table2{suffix}")
        table[table["method"].isin(["Dense", "No recovery", "LoRA"])].to_csv(folder / f"headroom{suffix}", index=False)
    origin = json.loads((source / "table2-provenance.json").read_text()) | {"profile": "smollm2", "budget": "wide"}
    (folder / "headroom-provenance.json").write_text(json.dumps(origin))
    return folder


def test_a_changed_table_changes_its_sentences(changed):
    def gain(table):
        table.loc[table["method"] == "RankAdaptor (one model)", ["difference", "low", "high", "verdict"]] = (
            1.5, 1.0, 2.0, "supported")

    before = rendered(ROOT)
    change(changed / "reports" / "tiny" / "table2-differences.csv", gain)
    after = rendered(changed)
    assert "none of the eight pruned models shows a decided gain" in before["README.md"]
    assert "all eight pruned models show a decided gain" in after["README.md"]


def test_a_pruned_model_above_the_dense_one_is_a_floor_effect(changed):
    def floor(table):
        table.loc[table["block"] == "Dense", "value"] = 0.1

    folder = headroom_of_smollm2(changed)
    assert "floor effect" not in rendered(changed)["docs/results.md"]
    change(folder / "headroom.csv", floor)
    assert "floor effect" in rendered(changed)["docs/results.md"]


def test_results_are_of_the_pages_that_are_there(changed):
    folder = headroom_of_smollm2(changed)
    text = rendered(changed)["docs/results.md"]
    assert "`make reproduce-headroom PROFILE=smollm2" in text
    assert "Figure 2's rows on SmolLM2" not in text
    section = text[text.index("On a real model") : text.index("Two things to know")]
    assert "RankAdaptor" not in section
    assert "| LoRA | " in section
    shutil.rmtree(folder)
    assert "On a real model" not in rendered(changed)["docs/results.md"]


# -- the records, analysed again --------------------------------------------------------------------------------------


def test_the_reanalysis_gives_the_tables_mean(finished, tiny_profile, tmp_path, monkeypatch, capsys):
    block = FINISHED_BLOCKS.split()[0]
    ledger = Ledger(finished.ledger)
    write_records(ledger, [entry.key for entry in ledger.entries()], [], tmp_path / "records" / "tiny")
    table = main_table(str(tiny_profile), FINISHED_BLOCKS, "quick", ledger=finished.ledger)
    tables.write_table(finished.result, tmp_path / "reports" / "tiny")
    tables.write_provenance(finished.result, table.ledger, tmp_path / "reports" / "tiny")
    document = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) < 20
    monkeypatch.chdir(tmp_path)
    exec(code.replace("llm-pruner:20", block), {})
    mean = float(capsys.readouterr().out.split()[0])
    differences = pd.read_csv(tmp_path / "reports" / "tiny" / "table2-differences.csv").set_index(["block", "method"])
    assert mean == pytest.approx(differences.loc[(block, "RankAdaptor (one model)"), "difference"], abs=2e-4)
