"""What a day of one GPU decides of the paper's models: the default of their pages, with costs from measured records."""

import json
from pathlib import Path

import pytest
import yaml

from rankadaptor.errors import BadInput
from rankadaptor.profiles import load_profile
from rankadaptor.reporting import pages
from rankadaptor.reporting.gpu_check import ROW_TOKENS

RECORDS = Path(__file__).parents[2] / "reports" / "benchmarks"
BIG = ("llama-7b", "vicuna-7b", "llama-13b")


def record(name):
    return json.loads((RECORDS / f"{name}-llama-7b-gpu.json").read_text())


def test_costs_are_those_of_the_records():
    cost, evaluation = load_profile("llama-7b").cost, record("evaluation")
    speed = sum(record("recovery")["speeds"]["ours"]) / 2
    seconds = float(evaluation["table"][2]["seconds"])
    assert cost.recovery_seconds_per_row == round(ROW_TOKENS / speed, 4)
    assert cost.evaluation_seconds_per_item == round(1.12 * seconds / evaluation["options"]["items"], 4)
    assert cost.perplexity_seconds_per_window == round(128 / (evaluation["tokens"] / seconds), 4)


def test_costs_of_the_larger_model_follow_its_parameters():
    small, large = load_profile("llama-7b").cost, load_profile("llama-13b").cost
    for name in ("recovery_seconds_per_row", "evaluation_seconds_per_item"):
        assert getattr(large, name) == pytest.approx(1.93 * getattr(small, name), rel=0.01)


@pytest.mark.parametrize("name", BIG)
def test_the_default_of_table_2_fits_a_day(name, tmp_path):
    plan = pages.plan("table2", {"profile": name, "ledger": str(tmp_path)})
    assert 12 < plan.missing_seconds() / 3600 < 22  # room for loading and tokenising, which plans do not count
    budget = load_profile(name).budget("day")
    assert budget.decided
    assert len(budget.training_seeds) == 5
    assert budget.report_items is None


@pytest.mark.parametrize(("page", "given", "budget", "blocks"), [
    ("table2", {}, "day", "llm-pruner:20 shortened:20"),
    ("table2", {"budget": "quick", "blocks": "shortened:50"}, "quick", "shortened:50"),
    ("table2", {"blocks": "llm-pruner:50"}, "day", "llm-pruner:50"),
    ("figure2", {}, "day", "llm-pruner:20"),  # the page's own block
    ("pruning", {}, None, None),  # takes no budget, and draws every block
])
def test_what_is_given_comes_before_a_profiles_defaults(page, given, budget, blocks):
    parameters = pages.PAGES[page].parameters({"profile": "llama-7b", **given})
    assert (parameters.get("budget"), parameters.get("blocks")) == (budget, blocks)


def test_profiles_without_defaults_leave_pages_as_they_are():
    assert load_profile("smollm2").defaults is None
    assert pages.PAGES["table2"].parameters({"profile": "smollm2"}) == {"profile": "smollm2", "table": "table2"}


@pytest.mark.parametrize(("defaults", "says"), [
    ({"budget": "week"}, "unknown budget 'week' in profile mine"),
    ({"blocks": ["llm-pruner:21"]}, "unknown block 'llm-pruner:21' in profile mine"),
    ({"blocks": ["wanda:20"]}, "unknown block 'wanda:20'"),
    ({"blocks": "llm-pruner:20"}, "mine.defaults.blocks is 'llm-pruner:20': give a list"),
    ({"hours": 24}, "mine.defaults has an unknown field hours: use budget, blocks"),
])
def test_defaults_name_what_the_profile_has(defaults, says, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"extends": "llama-7b", "name": "mine", "defaults": defaults}))
    with pytest.raises(BadInput, match=says):
        load_profile(str(path))
