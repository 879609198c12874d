"""Whatever a label, a task, a failure or a model's text holds: a report shows it, and none of it is markup."""

import dataclasses
import json
import re
import string
from types import SimpleNamespace

import html5lib
import mistune
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankadaptor.__main__ import main
from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.escaping import Markup, bold_markdown, html_text, latex_text, markdown_text
from rankadaptor.experiments.methods import DENSE, LORA, NO_RECOVERY
from rankadaptor.experiments.results import BlockResult, Row, TableResult
from rankadaptor.experiments.tables import TABLES
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.profiles import load_profile
from rankadaptor.reporting import pruning, testbed_quality
from rankadaptor.reporting.ablations import write_ablations
from rankadaptor.reporting.paper import published_architecture
from rankadaptor.reporting.report import write_report
from rankadaptor.reporting.samples import write_samples
from rankadaptor.reporting.search_page.comparisons import verdict_text
from rankadaptor.reporting.search_page.writing import write_page as write_search
from rankadaptor.reporting.tables import caption, markdown, write_table

BLOCK = "llm-pruner:20"
ARCHITECTURE = published_architecture("llama-7b")
HOSTILE = {
    "a script": "<script>alert(1)</script>",
    "a handler": '"><img src=x onerror=alert(1)>',
    "the end of the page": "</td></tr></table></div></main></body><h1>x</h1>",
    "a comment without end": "<!-- x",
    "an entity": "&lt;script&gt; &#x3c;b&#x3e;",
    "columns": "a | b || c |",
    "a fence": "```\ncode\n```",
    "code that ends": "a `b` ``c`` `",
    "a link": "[text](javascript:alert(1)) [text][1]",
    "an image": "![text](https://example.org/x.png)",
    "where a link leads": "[1]: javascript:alert(1)",
    "an address": "<https://example.org> https://example.org www.example.org WWW.example.org",
    "a heading": "# x\n## y\n===\n---",
    "a list": "- x\n* y\n1. z\n> q",
    "emphasis": "**x** __y__ *z* _w_ ~~v~~ ***u***",
    "escapes": r"\| \\ \` \<b\> \&lt;",
    "a formula": r"$\href{javascript:alert(1)}{x}$ \(y\) $$z$$",
    "a file for LaTeX": r"\input{/etc/passwd} \write18{touch x} }{ ^^5c ~ % # & _ ^",
    "the start of LaTeX's arguments": "[0pt] x",
    "a star for LaTeX": "* x",
    "control characters": "a\x00b\x1b[31mc\x07d\x7f",
    "all ends of lines": "a\rb\r\nc\vd\fe\x1cf\x85g\u2028h\u2029i\n\n\nj",
    "text that runs backwards": "a\u202eb\u2066c",
    "characters of no shape": "a\u200b\ufeffb\u00adc",
    "half a character": "a\ud83db",
    "a template": "{{ 7 * 7 }} {% for x in y %}",
    "all of ASCII": string.printable,
}
PLAIN = ["LoRA*", "acc_norm", "fixed_alpha", "72.0 [67, 77]", "> 40 [> 40, > 40]", "RankAdaptor (one model)",
         "SmolLM2-135M-Instruct (4-bit Q4_1 de-quantised to float32)", 'it\'s "so": a & b', "+0.3 [-0.1, +0.7]", "数据"]


@pytest.fixture(params=HOSTILE.values(), ids=HOSTILE)
def hostile(request):
    return request.param


@pytest.fixture
def cell(hostile):
    """A text that a table of pandas can hold: of whole characters."""
    return hostile.encode(errors="replace").decode()


def visible(text: str) -> str:
    """What a reader sees of a text: no character without a shape, and one space for any run of them."""
    return " ".join("".join(character if character.isprintable() else " " if character.isspace() else "\ufffd"
                            for character in text).split())


def parsed(page: str):
    return html5lib.parse(page, namespaceHTMLElements=False)


def text_of(element) -> str:
    return " ".join("".join(element.itertext()).split())


render = mistune.create_markdown(escape=False, plugins=["table", "strikethrough", "url", "footnotes", "math"])


def test_html_shows_a_text_and_no_element_of_it(hostile):
    body = parsed(f"<p>{html_text(hostile)}</p>").find("body")
    assert {element.tag for element in body.iter()} <= {"body", "p", "br"}
    for line in body.iter("br"):
        line.text = " "
    assert text_of(body) == visible(hostile)


@pytest.mark.parametrize("before", ["", "Base model: "])
def test_markdown_renders_a_text_as_itself(hostile, before):
    body = parsed(render(before + markdown_text(hostile))).find("body")
    assert [element.tag for element in body.iter()] == ["body", "p"]
    assert text_of(body) == visible(before + hostile)


def test_a_table_keeps_its_columns(cell):
    table = pd.DataFrame({"a": [cell, "1"], cell: ["x", cell], "n": [0.5, 2.0]})
    text = markdown(table)
    assert {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines()} == {5}
    assert len(text.splitlines()) == 4
    body = parsed(render(text)).find("body")
    assert {element.tag for element in body.iter()} == {"body", "table", "thead", "tbody", "tr", "th", "td"}
    rows = [[text_of(cell) for cell in row] for row in body.iter("tr")]
    shown = visible(cell)
    assert rows == [["a", shown, "n"], [shown, "x", "0.50"], ["1", shown, "2.00"]]


def is_balanced(text: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


COMMANDS = r"\\(?:textbackslash|textasciicircum|textasciitilde|textless|textgreater|textbar)\{\}|\\[_&#%${}]"


def test_latex_has_no_special_character_of_a_text(hostile):
    escaped = latex_text(hostile)
    assert is_balanced(escaped)
    rest = re.sub(COMMANDS, "", re.sub(r"^\{([\[*])\}", r"\1", escaped))
    assert not set(rest) & set(r"\{}$&#^_~%<>|")
    assert "\n" not in escaped
    assert not escaped.startswith(("[", "*"))


MARKS = st.text(alphabet="ab1 \\`*_{}[]()#+-.!|<>&~$^%=:/;\"'\n", max_size=24)


@settings(max_examples=100, deadline=None)
@given(MARKS, MARKS)
def test_any_run_of_marks_is_text(one, other):
    line = f"x {markdown_text(one)} {bold_markdown(f'a{other}b')} {markdown_text(one)} y"
    body = parsed(render(line)).find("body")
    assert [element.tag for element in body.iter()] == ["body", "p", "strong"]
    assert text_of(body) == visible(f"x {one} a{other}b {one} y")
    row = parsed(render(markdown(pd.DataFrame({"h": [one], "i": [other]})))).findall(".//td")
    assert [text_of(cell) for cell in row] == [visible(one), visible(other)]
    assert is_balanced(latex_text(one + other))


@pytest.mark.parametrize("text", PLAIN)
def test_text_of_reports_stays_as_it_is(text):
    assert markdown_text(text) == text


def test_what_is_markdown_already_is_not_escaped_again():
    table = pd.DataFrame([{"a": Markup(f"{bold_markdown('x|y')} / z"), "b": "**x**"}], dtype=object)
    assert "**x&#124;y** / z" in markdown(table)
    assert "| &#42;&#42;x" in markdown(table)


def test_bold_text_is_bold_to_its_end(hostile):
    body = parsed(render(f"a {bold_markdown(hostile)} b")).find("body")
    assert [element.tag for element in body.iter()] == ["body", "p", "strong"]
    assert text_of(body.find("p/strong")) == visible(hostile)


# -- whole pages ------------------------------------------------------------------------------------------------------


def row(block, method, text=""):
    generator = np.random.default_rng(0)
    outcomes = {task: generator.integers(0, 2, (1, 8)).astype(float) for task in TASKS}
    continuations = pd.DataFrame([
        {"prompt": prompt, "decoding": decoding, "number": 0, "text": f"{text} {method}", "tokens": 3, "seed": 0,
         "own_perplexity": 2.0, "dense_perplexity": 3.0, "repetition": 0.1, "distinct_1": 0.5, "distinct_2": 0.6}
        for prompt in (f"{text} a", f"{text} b") for decoding in ("greedy", "sampled")])
    return Row(block, method, outcomes, {task: values / 2 for task, values in outcomes.items()}, subjects={},
               parameters=ARCHITECTURE.parameters(), trainable_parameters=8, learning_rate=0.001, perplexity=None,
               training_loss=1.0, allocations=((8,) * 32,), realised_ranks={"q_proj": (8,) * 32}, keys=(),
               continuations=continuations)


def hostile_result(text: str) -> TableResult:
    """A table whose label, failures, prompts and continuations are one text, as far as a profile lets it in."""
    profile = load_profile("llama-7b")
    label = visible(text) or "x"
    profile = dataclasses.replace(
        profile, name="page", base_model=dataclasses.replace(profile.base_model, label=label[:300]),
        recovery_data=dataclasses.replace(profile.recovery_data, label=label[:300]))
    block = BlockResult(ARCHITECTURE, (row(BLOCK, NO_RECOVERY, text), row(BLOCK, LORA, text), row(BLOCK, text, text)),
                        failed={"AdaLoRA": f"crashed: {text}"})
    return TableResult(
        TABLES["figure5"], profile, "standard", profile.budget("standard"), (0,), base=ARCHITECTURE,
        dense=row(DENSE, DENSE, text), blocks={BLOCK: block}, computed=(), unfinished={"shortened:50": f"out: {text}"})


OWN_TAGS = {"body", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "br", "h1", "h2", "h3"}


WORST = ("a script", "the end of the page", "columns", "a fence", "a link", "a heading", "a file for LaTeX",
         "all ends of lines", "all of ASCII")


@pytest.fixture(scope="module", params=WORST)
def worst(request, tmp_path_factory):
    """A folder of reports with the pages of a hostile table, its result and its text."""
    text, folder = HOSTILE[request.param], tmp_path_factory.mktemp("worst")
    result = hostile_result(text)
    write_table(result, folder / "page")
    write_samples(result, folder / "page")
    return folder, result, text


def test_pages_of_a_table_hold_no_markup_of_a_text(worst):
    folder, result, _ = worst
    for name in ("figure5.md", "figure5-samples.md"):
        page = (folder / "page" / name).read_text(encoding="utf-8")
        body = parsed(render(page)).find("body")
        assert {element.tag for element in body.iter()} <= OWN_TAGS
        assert all(element.attrib.keys() <= {"class", "style"} for element in body.iter())
        assert result.profile.base_model.label.split()[0] in text_of(body)
        for part in page.split("\n\n"):
            lines = part.splitlines()
            if part.startswith("|"):
                assert len({len(re.split(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert visible(caption(result)).count("No result of") == 2


def test_latex_of_a_table_has_its_own_commands_alone(worst):
    folder, _, _ = worst
    tex = (folder / "page" / "figure5.tex").read_text(encoding="utf-8")
    assert is_balanced(tex)
    lines = [line for line in tex.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(re.findall(r"(?<!\\)&", lines[0]))}
    commands = set(re.findall(r"(?<!\\)\\([A-Za-z]+)", tex))
    assert commands <= {"begin", "end", "caption", "label", "toprule", "midrule", "bottomrule", "textbackslash",
                        "textasciicircum", "textasciitilde", "textless", "textgreater", "textbar"}


def test_the_report_has_the_templates_elements_alone(worst, monkeypatch):
    folder, result, text = worst
    differences = pd.DataFrame([{"block": BLOCK, "method": "RankAdaptor (one model)", "difference": 0.1, "low": -0.1,
                                 "high": 0.3, "verdict": text}])
    differences.to_csv(folder / "page" / "table2-differences.csv", index=False)
    origin = {"ledger_keys": {text: ["0"]}, "machines": [{"processor": text}],
              "seconds": {text: {"stages": 1, "seconds": 2.0}}}
    (folder / "page" / "figure5-provenance.json").write_text(json.dumps(origin))
    monkeypatch.setattr("rankadaptor.reporting.report.load_profile", lambda name: result.profile)
    document = parsed(write_report("page", folder / "page").read_text(encoding="utf-8"))
    elements = [element for element in document.iter() if isinstance(element.tag, str)]
    assert {element.tag for element in elements} <= OWN_TAGS | {
        "html", "head", "meta", "title", "style", "main", "div", "nav", "ul", "li", "a", "h4", "pre", "code"}
    for element in elements:
        assert element.attrib.keys() <= {"lang", "charset", "name", "content", "id", "class", "href", "data-label"}
        assert re.fullmatch(r"#[\w-]*|[\w.-]+", element.get("href", "#"))
    assert result.profile.base_model.label.split()[0] in text_of(document.find("body"))


def page_of_pruning(result, folder, losses):
    models = SimpleNamespace(profile=result.profile, keys=dict, ledger=Ledger(folder / "ledger"))
    return pruning.write_page(models, losses, {}, folder)


def page_of_testbed(result, folder, table):
    quality = SimpleNamespace(profile=result.profile, seeds=(0,), split="tuning", budget_name="quick", keys=dict,
                              runner=SimpleNamespace(ledger=Ledger(folder / "ledger")),
                              regime=pd.DataFrame, signal=pd.DataFrame)
    return testbed_quality.write_page(quality, {"A heading": table}, folder)


def page_of_search(result, folder, table):
    measured = pd.DataFrame({"seed": [0], "block": ["b"], "scaling": ["c"]})
    differences = pd.DataFrame([{"of": of, "block": result.profile.base_model.label, "rival": table.iloc[0, 0],
                                 "verdict": "less than", "difference": -1.0, "p_adjusted": 0.01}
                                for of in ("recoveries to the top 1 %", "regret (points)")])
    return write_search(result.profile, measured, "0", {"A heading": table}, verdict_text(differences), [], folder)


def page_of_ablations(result, folder, table):
    tables = {"a variant": dataclasses.replace(result, contents=TABLES["table1"])}
    work = SimpleNamespace(profile=result.profile, ledger=Ledger(folder / "ledger"))
    return write_ablations(work, {"importance": tables}, folder)


@pytest.mark.parametrize("write", [page_of_pruning, page_of_testbed, page_of_search, page_of_ablations])
def test_the_other_pages_hold_no_markup_of_a_text(write, tmp_path):
    for name in ("a script", "columns", "a fence", "a link", "emphasis"):
        result = hostile_result(HOSTILE[name])
        label = result.profile.base_model.label
        page = write(result, tmp_path, pd.DataFrame({label: [label], "n": [1.0]})).read_text(encoding="utf-8")
        body = parsed(render(page)).find("body")
        assert {element.tag for element in body.iter()} <= OWN_TAGS | {"ul", "li"}
        assert label in text_of(body)


PAGES = {
    "a script": "# T\n\n<script>alert(1)</script>\n\ntext",
    "a script within a line": "# T\n\nx <script>alert(1)</script> y",
    "a handler on a tag of ours": '# T\n\n<table class="texts" onclick="alert(1)"><tr><td>x</td></tr></table>',
    "a style": '# T\n\n<p style="position:fixed">x</p>',
    "a link": "# T\n\n[x](javascript:alert(1)) <javascript:alert(1)> <https://example.org>",
    "an image": "# T\n\n![x](https://example.org/x.png)",
    "tags in capitals": "# T\n\n<SCRIPT>alert(1)</SCRIPT>\n\n<TABLE ONCLICK=x>",
    "an instruction": "# T\n\n<?php x ?>\n\n<!DOCTYPE x>\n\n<![CDATA[ x ]]>",
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_pages_that_someone_else_wrote_bring_no_element_in(page, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "table2.md").write_text(page)
    document = parsed(write_report("tiny", tmp_path / "tiny").read_text(encoding="utf-8"))
    tags = [element.tag for element in document.iter() if isinstance(element.tag, str)]
    assert not {"script", "img", "iframe"} & set(tags)
    assert len(tags) == len(list(document.iter()))  # no comment, no instruction
    for element in document.iter():
        assert not any(name.startswith("on") or name == "style" for name in element.attrib)
        assert re.fullmatch(r"(#|\w).*", element.get("href", "#"))
        assert ":" not in element.get("href", "#")


FILES = {
    "provenance that is a list": ("table2-provenance.json", "[1]", "is no provenance of a report"),
    "provenance without keys": ("table2-provenance.json", "{}", "is no provenance of a report"),
    "provenance with words for seconds": (
        "table2-provenance.json", '{"ledger_keys": {}, "seconds": {"x": "y"}}', "is no provenance of a report"),
    "provenance of brackets": ("table2-provenance.json", "[" * 100_000, "is no provenance of a report"),
    "numbers without columns": ("table2-differences.csv", "a,b\n1,2\n", "is not what make reproduce-table2 writes"),
    "numbers that are words": ("table2-differences.csv", "block,method,difference,low,high,verdict\n"
                               "b,RankAdaptor (one model),x,y,z,w\n", "is not what make reproduce-table2 writes"),
    "an empty file of numbers": ("table2-differences.csv", "", "is not what make reproduce-table2 writes"),
    "a page that is no text": ("table2.md", b"\xff\xfe\x00", "is not UTF-8 text"),
}


@pytest.mark.parametrize(("name", "content", "says"), FILES.values(), ids=FILES)
def test_files_of_no_report_are_one_line(name, content, says, tmp_path, capsys):
    folder = tmp_path / "tiny" / "quick"
    folder.mkdir(parents=True)
    (folder / "table2.md").write_text("# T\n\nx\n")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["report", "--profile", "tiny", "--reports", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (folder / "index.html").exists()


def test_a_benchmark_with_a_hostile_name_is_a_column(tmp_path, monkeypatch):
    label = "<b>|$x$\\"
    monkeypatch.setitem(BENCHMARKS, "boolq", dataclasses.replace(BENCHMARKS["boolq"], label=label))
    from rankadaptor.reporting import figures

    result = hostile_result("x")
    write_table(result, tmp_path)
    body = parsed(render((tmp_path / "figure5.md").read_text())).find("body")
    assert label in [text_of(head) for head in next(body.iter("tr"))]
    figures.task_figure(result, LORA).savefig(tmp_path / "x.svg")  # no formula that cannot be parsed
    assert "&lt;b&gt;|$x$\\" in (tmp_path / "x.svg").read_text()
