"""Rows as people have them: a command reads them right, or tells in one line where and what, and writes nothing."""

import gzip
import json
import shutil
from types import SimpleNamespace

import pytest
from helpers.data import benchmark_row
from helpers.profile import write_checkpoint

from rankadaptor.__main__ import main
from rankadaptor.data.instruction_rows import RecoveryData, recovery_rows
from rankadaptor.data.sources import Source
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.reporting.provenance import entries_provenance

ITEMS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("rows") / "model"
    write_checkpoint(folder, tokenizer)
    return folder


@pytest.fixture
def place(tmp_path, model, benchmark_folder, monkeypatch):
    """A working folder with a model and the seven benchmarks."""
    (tmp_path / "model").symlink_to(model)
    shutil.copytree(benchmark_folder, tmp_path / "all")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    """Every file of a folder, hidden ones included, and what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def refused(arguments, place, capfd) -> str:
    """The one line of a command that refuses; nothing is lost and no result is written."""
    before = contents(place)
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("rankadaptor: ")
    after = contents(place)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after.keys() - before.keys() if not name.startswith("ledger/.")]
    return captured.err


def write_items(place, task, content: bytes) -> None:
    split = "test" if task in ("arc_easy", "arc_challenge", "openbookqa") else "validation"
    (place / "items" / task).mkdir(parents=True, exist_ok=True)
    (place / "items" / task / f"{split}.jsonl").write_bytes(content)


def third(change):
    """Rows of a benchmark whose third is changed: by a mapping, or by a function of the row."""
    def content(task):
        rows = [benchmark_row(task, seed) for seed in range(ITEMS)]
        rows[2] = change(rows[2]) if callable(change) else rows[2] | change
        return lines(rows)
    return content


def every(change):
    return lambda task: lines([change(benchmark_row(task, seed)) for seed in range(ITEMS)])


def whole(change):
    """A file of a benchmark's rows, changed as bytes."""
    return lambda task: change(lines([benchmark_row(task, seed) for seed in range(ITEMS)]))


def without(name):
    return lambda row: {field: value for field, value in row.items() if field != name}


def ai2(row):
    choices = [{"text": text, "label": label} for text, label in zip(*row["choices"].values(), strict=True)]
    return {"id": row["id"], "question": {"stem": row["question"], "choices": choices}, "answerKey": row["answerKey"]}


def of_choices(**change):
    return lambda row: row | {"choices": row["choices"] | change}


def google(row):
    return {"question": row["question"], "passage": row["passage"], "answer": bool(row["label"])}


def item(task, content, says, name):
    return pytest.param(task, content, says, id=f"{task}: {name}")


BAD_ITEMS = [
    item("piqa", every(lambda row: row | {"label": -1}), "line 1 of", "no labels, as of a test split"),
    item("piqa", third({"label": -1}), "validation.jsonl: label is -1: give 0 or 1, the number of the right", "one -1"),
    item("piqa", third({"label": 2}), "line 3 of items/piqa/validation.jsonl: label is 2", "label out of range"),
    item("piqa", third({"label": None}), "line 3 of items/piqa/validation.jsonl: label is null", "null label"),
    item("piqa", third({"label": 1.0}), "label is 1.0: give 0 or 1", "label as a fraction"),
    item("piqa", third({"label": True}), "label is true: give 0 or 1", "label as true"),
    item("piqa", third({"label": "9" * 5000}), 'label is "9999', "label of 5,000 digits"),
    item("piqa", third({"sol1": 12}), "sol1 is 12: give the text of the choice", "solution as a number"),
    item("piqa", third({"sol2": " "}), 'sol2 is " ": give the text of the choice', "blank solution"),
    item("piqa", third(without("sol2")), "there is no field sol2 among [", "no solution"),
    item("piqa", third({"goal": ["a", "b"]}), 'goal is ["a", "b"]: give text', "a list as goal"),
    item("piqa", third({"goal": float("nan")}), "goal is NaN: give text", "NaN as goal"),
    item("piqa", whole(lambda content: content + lines([{"goal": 1}])),
         "line 9 of items/piqa/validation.jsonl: goal is 1", "a number as goal"),
    item("hellaswag", third({"label": ""}), 'label is "": give 0 or 1 or 2 or 3', "no label, as of its test split"),
    item("hellaswag", third({"label": "4"}), 'label is "4": give 0 or 1 or 2 or 3', "label out of range"),
    item("hellaswag", every(without("ctx_b")), "line 1 of items/hellaswag/validation.jsonl: there is no field ctx_b",
         "no ctx_b"),
    item("hellaswag", third({"endings": ["a", "b", "c"], "label": "3"}), 'label is "3": give 0 or 1 or 2',
         "label beyond three endings"),
    item("hellaswag", third({"endings": "a"}), 'endings is "a": give a list of two or more choices', "endings as text"),
    item("hellaswag", third({"endings": ["a", None, "b", "c"]}), "endings holds null: give the text", "null ending"),
    item("winogrande", third({"answer": "3"}), 'answer is "3": give 1 or 2', "answer 3"),
    item("winogrande", third({"answer": 0}), "answer is 0: give 1 or 2", "answer counted from 0"),
    item("winogrande", third({"sentence": "No blank."}), "which has 0 blanks: give one _", "no blank"),
    item("winogrande", third({"sentence": "_ and _ met."}), "which has 2 blanks: give one _", "two blanks"),
    item("winogrande", third({"sentence": "it was _"}), "where nothing follows the blank", "nothing behind the blank"),
    item("winogrande", third(without("option2")), "there is no field option2", "no option2"),
    item("boolq", every(google), "there is no label, as in google/boolq: give label 0 or 1", "google's form"),
    item("boolq", every(without("passage")), "there is no field passage", "no passage at all"),
    item("boolq", third(without("passage")), "line 3 of items/boolq/validation.jsonl: there is no field passage",
         "one row without passage"),
    item("boolq", third({"passage": None}), "passage is null: give text", "null passage"),
    item("boolq", third({"label": "yes"}), 'label is "yes": give 0 or 1', "label as a word"),
    item("arc_easy", third(ai2), "the form of AI2's own files: give question as text", "AI2's own form"),
    item("arc_easy", third(of_choices(label=[1, 2, 3, 4])), "choices.label is [1, 2, 3, 4]: give", "labels as numbers"),
    item("arc_easy", third(of_choices(label=list("AACD"))), 'choices.label is ["A", "A", "C", "D"]', "a label twice"),
    item("arc_easy", third(of_choices(label=list("ABC"))), 'choices.label is ["A", "B", "C"]', "a label too few"),
    item("arc_easy", third(of_choices(text=[None, "a", "b", "c"])), "choices.text holds null", "null choice"),
    item("arc_easy", third(of_choices(text=["", "a", "b", "c"])), 'choices.text holds ""', "empty choice"),
    item("arc_challenge", third({"answerKey": "E"}), 'answerKey is "E": give one of ["A", "B", "C", "D"]',
         "key unknown"),
    item("arc_challenge", third({"answerKey": 1}), "answerKey is 1: give one of", "key as a number"),
    item("openbookqa", third({"answerKey": ""}), 'answerKey is "": give one of', "no key, as of a hidden test"),
    item("openbookqa", third({"choices": ["a", "b"]}), 'choices is ["a", "b"]: give {"text"', "choices as a list"),
    item("piqa", lambda task: b"", "holds no row: give rows", "an empty file"),
    item("piqa", lambda task: b"\n \n", "holds no row: give rows", "blank lines alone"),
    item("piqa", whole(lambda content: content + b"null\n"), "line 9 of items/piqa/validation.jsonl: the row is null",
         "null as a row"),
    item("piqa", whole(lambda content: content[:-20]), "line 8 of items/piqa/validation.jsonl is not JSON",
         "cut short"),
    item("piqa", whole(lambda content: content.decode().encode("utf-16")), "is UTF-16 text: convert it", "UTF-16"),
    item("piqa", third({"goal": "caf\udce9"}), "line 3 of items/piqa/validation.jsonl: text holds half a surrogate",
         "half a surrogate pair"),
]


@pytest.mark.parametrize(("task", "content", "says"), BAD_ITEMS)
def test_items_that_cannot_be_scored_are_named(task, content, says, place, capfd):
    write_items(place, task, content(task))
    assert says in refused(["evaluate", "model", "--benchmarks", "items", "--tasks", task], place, capfd)


def scores(place, task, capfd) -> str:
    """What a command prints of one benchmark."""
    assert main(["evaluate", "model", "--benchmarks", "items", "--tasks", task]) == 0
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    (line,) = [line for line in captured.out.splitlines() if line.split()[:1] == [task]]
    return line


def pandas_labels(name):
    return every(lambda row: row | {name: int(row[name])})


GOOD_ITEMS = [
    item("winogrande", pandas_labels("answer"), ITEMS, "answers as whole numbers"),
    item("hellaswag", pandas_labels("label"), ITEMS, "labels as whole numbers"),
    item("hellaswag", third(lambda row: row | {"label": int(row["label"])}), ITEMS, "labels of two types"),
    item("boolq", every(lambda row: row | {"label": bool(row["label"])}), ITEMS, "labels true and false"),
    item("piqa", every(lambda row: row | {"label": str(row["label"])}), ITEMS, "labels as text"),
    item("arc_easy", every(lambda row: row | {"answerKey": f" {row['answerKey']}"}), ITEMS, "spaces around the key"),
    item("piqa", whole(lambda content: b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n\r\n")), ITEMS,
         "mark, CRLF and blank lines"),
    item("piqa", whole(lambda content: gzip.compress(content)), ITEMS, "gzip under a plain name"),
    item("piqa", whole(lambda content: b"[" + content.strip().replace(b"\n", b",\n") + b"]"), ITEMS, "a JSON list"),
]


@pytest.mark.parametrize(("task", "content", "count"), GOOD_ITEMS)
def test_items_in_other_forms_score_the_same(task, content, count, place, capfd):
    write_items(place, task, lines([benchmark_row(task, seed) for seed in range(ITEMS)]))
    expected = scores(place, task, capfd)
    assert expected.split()[-1] == str(count)
    write_items(place, task, content(task))
    assert scores(place, task, capfd) == expected


def test_an_empty_question_and_equal_lines_are_items(place, capfd):
    row = benchmark_row("openbookqa", 1)
    write_items(place, "openbookqa", lines([row | {"question_stem": ""}, row, row]))
    assert scores(place, "openbookqa", capfd).split()[-1] == "3"


def test_a_task_named_twice_is_scored_once(place, capfd):
    assert main(["evaluate", "model", "--benchmarks", "all", "--tasks", "piqa, piqa", "--items", "4"]) == 0
    table = capfd.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:]] == ["piqa", "mean"]
    assert table[1].split()[-1] == table[2].split()[-1] == "4"


def test_a_file_under_another_name_is_pointed_to(place, capfd):
    write_items(place, "piqa", b"{}")
    (place / "items" / "piqa" / "validation.jsonl").rename(place / "items" / "piqa" / "validation.json")
    says = refused(["evaluate", "model", "--benchmarks", "items", "--tasks", "piqa"], place, capfd)
    assert "no file items/piqa/validation.jsonl" in says
    assert "rename validation.json" in says


def test_items_of_mixed_extra_fields_are_told(place, capfd):
    rows = [benchmark_row("piqa", seed) | {"note": note} for seed, note in enumerate([1, "a"])]
    write_items(place, "piqa", lines(rows))
    says = refused(["evaluate", "model", "--benchmarks", "items", "--tasks", "piqa"], place, capfd)
    assert "rows of piqa hold a number too large, or values of several types in one field" in says


ROW = {"instruction": "Name it.", "input": "the cat", "output": "a cat"}


def recover(*options):
    return ["recover", "model", "--data", "rows", "--benchmarks", "all", "--allocation", "2 2 2 2", "--out", "out",
            "--ledger", "ledger", "--steps", "2", "--batch", "2", *options]


BAD_ROWS = [
    pytest.param(lines([ROW, ROW | {"output": ["a", "b"]}]), 'line 2 of rows: output is ["a", "b"]: give text',
                 id="a list of answers"),
    pytest.param(lines([ROW | {"output": {"text": "a"}}]), 'output is {"text": "a"}: give text',
                 id="answer in an object"),
    pytest.param(lines([ROW | {"output": float("nan")}]), "output is NaN: give text", id="NaN as answer"),
    pytest.param(lines([ROW | {"output": float("inf")}]), "output is Infinity: give text", id="an infinite answer"),
    pytest.param(lines([ROW | {"output": True}]), "output is true: give text", id="true as answer"),
    pytest.param(lines([ROW | {"input": ["a"]}]), 'input is ["a"]: give text', id="a list as input"),
    pytest.param(lines([ROW | {"instruction": {}}]), "instruction is {}: give text", id="an object as instruction"),
    pytest.param(lines([ROW, {"prompt": "a", "completion": "b"}]),
                 'line 2 of rows: there is no field instruction among ["prompt", "completion"]', id="another schema"),
    pytest.param(lines([without("output")(ROW)]), "there is no field output", id="no answer"),
    pytest.param(json.dumps({"data": [ROW]}).encode(), 'no field instruction among ["data"]',
                 id="rows within an object"),
    pytest.param(json.dumps([ROW, "text"]).encode(), 'row 2 of rows: the row is "text"', id="text in a list of rows"),
    pytest.param(lines([ROW])[:-8], "line 1 of rows is not JSON", id="cut short"),
    pytest.param(b"", "no recovery row in rows: give rows", id="an empty file"),
    pytest.param(b"[]", "no recovery row in rows: give rows", id="an empty list"),
    pytest.param(lines([dict.fromkeys(ROW, "")] * 3), "no recovery row in rows: give rows", id="blank rows alone"),
    pytest.param(lines([ROW]).decode().encode("utf-16"), "rows is UTF-16 text", id="UTF-16"),
    pytest.param(b"instruction,input,output\na,b,c\n", "line 1 of rows is not JSON", id="CSV"),
    pytest.param(gzip.compress(lines([ROW]))[:-4], "cannot read rows", id="a cut gzip"),
    pytest.param(lines([ROW | {"output": "caf\udce9"}]), "line 1 of rows: text holds half a surrogate pair",
                 id="half a surrogate pair"),
]


@pytest.mark.parametrize(("content", "says"), BAD_ROWS)
def test_rows_that_cannot_be_learnt_are_named(content, says, place, capfd):
    (place / "rows").write_bytes(content)
    assert says in refused(recover(), place, capfd)


GOOD_ROWS = [
    pytest.param({"input": None}, {"input": ""}, id="null input"),
    pytest.param({"input": float("nan")}, {"input": ""}, id="NaN input, as a table writes it"),
    pytest.param({"input": []}, {"input": ""}, id="an empty list as input"),
    pytest.param({"instruction": float("nan")}, {"instruction": ""}, id="NaN instruction"),
    pytest.param({"instruction": None, "input": None}, {"instruction": "", "input": ""}, id="plain text"),
    pytest.param({"output": 42}, {"output": "42"}, id="a number as answer"),
    pytest.param({"output": 0.5}, {"output": "0.5"}, id="a fraction as answer"),
    pytest.param({"output": None}, {"output": ""}, id="a null answer"),
    pytest.param({"input": "nan", "output": "null"}, {"input": "nan", "output": "null"}, id="words like nan and null"),
    pytest.param({"extra": [1, {}]}, {}, id="other fields"),
]


@pytest.mark.parametrize(("change", "stored"), GOOD_ROWS)
def test_rows_in_other_forms_are_read_as_text(change, stored, place):
    (place / "rows").write_bytes(lines([ROW | change, dict.fromkeys(ROW, " "), without("input")(ROW)]))
    benchmarks = Source("dir", "all", None)
    read = recovery_rows(RecoveryData("rows", Source("dir", "rows", None), None), benchmarks, 12, 0)
    assert read == (ROW | stored, ROW | {"input": ""})


def test_rows_that_share_words_with_items_are_counted_aloud(place, capfd):
    shared = {"instruction": benchmark_row("piqa", 1000)["goal"], "input": "", "output": "a dog"}
    (place / "rows").write_bytes(lines([ROW, shared, shared, ROW | {"input": ""}]))
    assert main(recover()) == 0
    told = "2 of 4 recovery rows were left out: they share 13 words in a row with an item that is scored"
    assert capfd.readouterr().err.splitlines().count(told) == 1
    (result,) = [json.loads(path.read_text())["result"] for path in place.glob("ledger/*/result.json")]
    assert (result["rows_read"], result["rows_left_out"]) == (4, 2)
    (key,) = [path.parent.name for path in place.glob("ledger/*/result.json")]
    profile = SimpleNamespace(base_model=SimpleNamespace(label="a model", source=Source("dir", ".", None)))
    origin = entries_provenance(profile, {"a row": [key]}, Ledger("ledger"))
    assert origin["recovery_rows"] == {"read": 4, "left_out": 2}
    assert entries_provenance(profile, {}, Ledger("ledger"))["recovery_rows"] == {}
    assert (place / "out" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(("rows", "options", "says"), [
    pytest.param([ROW] * 3, ["--max-length", "1"], "none of 3 recovery rows has an answer within 1 tokens",
                 id="one token"),
    pytest.param([ROW] * 3, ["--max-length", "20"], "none of 3 recovery rows has an answer within 20 tokens",
                 id="long prompts"),
    pytest.param([ROW | {"instruction": benchmark_row("piqa", 1000)["goal"]}] * 3, [],
                 "each of the 3 recovery rows shares 13 words in a row", id="rows of items alone"),
])
def test_data_of_which_no_row_is_usable_are_refused(rows, options, says, place, capfd):
    (place / "rows").write_bytes(lines(rows))
    assert says in refused(recover(*options), place, capfd)


def test_one_usable_row_among_long_ones_is_enough(place):
    """Most draws of 8 rows hold none but long ones, whatever the seed."""
    rows = [ROW | {"instruction": "the cat " * 60, "output": str(number)} for number in range(30)]
    (place / "rows").write_bytes(lines([*rows, {"instruction": "", "input": "", "output": "the cat runs"}]))
    for seed in range(3):
        assert main(recover("--max-length", "40", "--seed", str(seed))) == 0
        shutil.move(place / "out" / "adapter_model.safetensors", place / f"{seed}")
        shutil.rmtree(place / "out")


def test_search_items_that_are_all_reported_are_refused(place, capfd):
    shutil.copy(place / "all" / "piqa" / "validation.jsonl", place / "all" / "piqa" / "train.jsonl")
    (place / "rows").write_bytes(lines([ROW]))
    arguments = ["search", "model", "--data", "rows", "--benchmarks", "all", "--tasks", "piqa", "--out", "out",
                 "--ledger", "ledger", "--steps", "2", "--batch", "2", "--budget", "2"]
    assert main(arguments) == 2
    says = capfd.readouterr().err.splitlines()[-1]
    assert "all 40 train rows of piqa that a search may score are report rows, too: give other rows" in says
    assert not (place / "out").exists()
