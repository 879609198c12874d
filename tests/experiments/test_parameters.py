"""Parameters mean the same as numbers, texts and lists, and a name that a notebook does not declare is refused."""

import re
from pathlib import Path

import pytest

from rankadaptor.errors import BadInput
from rankadaptor.experiments.ablations import ablation_tables
from rankadaptor.experiments.main_table import main_table
from rankadaptor.experiments.parameters import (
    check_parameters,
    number_range,
    parse_blocks,
    parse_ranks,
    report_seeds,
    split_words,
    text,
    whole_number,
    whole_numbers,
)
from rankadaptor.experiments.paths import ledger_folder, reports_folder
from rankadaptor.experiments.pruned_models import pruned_models
from rankadaptor.experiments.rival_table import rival_table
from rankadaptor.experiments.testbed_quality import measure_testbed
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.reporting.search_page import search_page

PROFILE = load_profile("tiny")


@pytest.mark.parametrize("value", ["3 4", "3,4", "3, 4", [3, 4], (3, 4), ["3", "4"], "[3, 4]", " [3,4] "])
def test_seeds_are_a_text_or_a_list(value):
    assert whole_numbers("seeds", value) == report_seeds(PROFILE, "quick", value) == (3, 4)


@pytest.mark.parametrize("value", [3, "3", [3], "[3]", "3,"])
def test_one_seed_may_stand_alone(value):
    assert report_seeds(PROFILE, "quick", value) == (3,)


@pytest.mark.parametrize("value", ["", [], (), None, " ", "[]"])
def test_nothing_is_the_default(value):
    assert report_seeds(PROFILE, "quick", value) == tuple(PROFILE.budget("quick").training_seeds)
    assert parse_blocks(value, PROFILE) == tuple(PROFILE.blocks())
    assert parse_ranks(value) == ()
    assert split_words(value) == []


@pytest.mark.parametrize("value", [
    3.5, 0.5, True, "3.0", ["a"], "²", "٣", "1_0", "+3", "1e3", "0x10", [True], [None], "9" * 99,
])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(BadInput, match="are not whole numbers: write them as"):
        whole_numbers("seeds", value)
    with pytest.raises(BadInput, match=r"workers is '.*': give a whole number from 1"):
        whole_number("workers", value)


def test_blocks_and_ranks_are_texts_or_lists():
    blocks = (Block("llm-pruner", 20), Block("shortened", 50))
    assert parse_blocks("llm-pruner:20, shortened:50 llm-pruner:20", PROFILE) == blocks
    assert parse_blocks(["llm-pruner:20", "shortened:50"], PROFILE) == blocks
    assert parse_ranks("8 4") == parse_ranks([8, 4]) == (8, 4)
    assert parse_ranks(8) == (8,)
    assert whole_number("workers", "2") == whole_number("workers", 2) == 2
    assert number_range("4:30") == (4, 30)


@pytest.mark.parametrize("cells", [
    ["", "profile = 'tiny'\nseeds = []", "# Parameters\nseeds = [3]\n", "import json"],
    ["", "profile = 'tiny'\nseeds = []", "import json"],
])
def test_declared_parameters_pass(cells):
    check_parameters(cells)


def test_undeclared_parameters_are_refused():
    with pytest.raises(BadInput, match=r"unknown parameter seed: .* takes profile, seeds; did you mean seeds\?"):
        check_parameters(["", "profile = 'tiny'\nseeds = []", "# Parameters\nseed = [3]\n"])


def test_a_seed_is_one_that_every_generator_takes():
    assert report_seeds(PROFILE, "quick", "0 4294967295") == (0, 4294967295)
    for value in (-1, 2**32):
        with pytest.raises(BadInput, match=f"seeds hold {value}: give whole numbers from 0 to 4294967295"):
            report_seeds(PROFILE, "quick", value)


@pytest.mark.parametrize("value", ["4:4", "9:3", "1:", ":", "-1:3", "a:b", "1:2:3", "٠:٣", " 1:3"])
def test_a_range_holds_a_layer(value):
    with pytest.raises(BadInput, match=r"write FIRST:END"):
        number_range(value)


@pytest.mark.parametrize(("value", "taken"), [
    ("quick", "quick"), (2024, "2024"), (Path("a/b"), "a/b"), ("a b", "a b"), ("", "usual"), (None, "usual"), (0, "0"),
])
def test_a_text_is_taken_as_it_was_typed(value, taken):
    assert text("ledger", value, "usual") == taken


@pytest.mark.parametrize("value", [True, False, 0.5, ["a"], {}, b"a", " ", "\n"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(BadInput, match=r"ledger is .*: give a (text|name)"):
        text("ledger", value)


@pytest.mark.parametrize("value", [",", " , ", "[,]"])
def test_commas_alone_are_no_default(value):
    with pytest.raises(BadInput, match="holds nothing but commas"):
        parse_blocks(value, PROFILE)


# As papermill's command line hands them over: -p reads numbers, True and None, -r keeps texts.
@pytest.mark.parametrize(("parameters", "says"), [
    ({"seeds": 0.5}, "seeds '0.5' are not whole numbers"),
    ({"seeds": True}, "seeds 'True' are not whole numbers"),
    ({"blocks": 20}, "unknown block '20': write PRUNER:RATE"),
    ({"blocks": True}, "unknown block 'True'"),
    ({"budget": 1}, "unknown budget '1' in profile tiny: use one of quick, standard"),
    ({"budget": True}, "budget is True: give a text"),
    ({"profile": True}, "profile is True: give a text"),
    ({"profile": 7}, "unknown profile '7'"),
    ({"profile": 0.5}, "profile is 0.5: give a text"),
    ({"allocation": 8, "blocks": "llm-pruner:20"}, "rank allocation has 1 entries, the model has 13"),
    ({"allocation": "8.5"}, "rank allocation '8.5' is not a list of whole numbers"),
    ({"ledger": False}, "ledger is False: give a text"),
    ({"benchmarks": True}, "benchmarks is True: give a text"),
    ({"recovery_data": 3.5}, "recovery_data is 3.5: give a text"),
    ({"table": 2}, "unknown table '2'"),
], ids=str)
def test_a_table_refuses_parameters_of_the_wrong_kind(parameters, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=re.escape(says)):
        main_table(**{"profile": "tiny"} | parameters)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("parameters", "attribute", "value"), [
    ({"seeds": 3}, "seeds", (3,)),
    ({"seeds": "3 4"}, "seeds", (3, 4)),
    ({"seeds": "[3, 4]"}, "seeds", (3, 4)),
    ({"seeds": "0"}, "seeds", (0,)),
    ({"seeds": None}, "seeds", tuple(PROFILE.budget("quick").training_seeds)),
    ({"blocks": None}, "blocks", tuple(PROFILE.blocks())),
    ({"blocks": "['llm-pruner:20']".replace("'", "")}, "blocks", (Block("llm-pruner", 20),)),
    ({"budget": None}, "budget_name", "quick"),
    ({"profile": None}, "profile", PROFILE),
    ({"allocation": None}, "allocation", ()),
], ids=str)
def test_a_table_takes_parameters_as_they_were_meant(parameters, attribute, value):
    assert getattr(main_table(**{"profile": "tiny"} | parameters), attribute) == value


@pytest.mark.parametrize("make", [
    main_table, pruned_models, ablation_tables, rival_table, search_page, measure_testbed,
])
def test_every_page_takes_a_ledger_named_by_a_year(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = make("tiny", ledger=2024)
    ledger = work.cache.ledger if make is search_page else work.ledger
    assert ledger.folder == ledger_folder(2024) == Path("2024")
    with pytest.raises(BadInput, match="profile is False: give a text"):
        make(False)


def test_reports_are_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert reports_folder("tiny", 2024) == reports_folder(None, "2024") == Path("2024")
    for folder, says in (("file", "is not a folder"), ("file/x", "is not a folder"), (True, "reports is True")):
        with pytest.raises(BadInput, match=says):
            reports_folder("tiny", folder)
    for budget, says in (("../x", "unknown budget '../x'"), ("huge", "unknown budget 'huge'"), (" ", "budget is ' '")):
        with pytest.raises(BadInput, match=says):
            reports_folder("tiny", "own", budget)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
