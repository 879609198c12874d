"""Profiles are strict, extend one another, and those that ship are what they always were."""

import dataclasses
import datetime
import pickle
from pathlib import Path

import pytest
import yaml

from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.keys import canonical_json, sha256_text
from rankadaptor.profiles import FOLDER, load_profile, names

# Canonical JSON of what results depend on: of whole profiles but for costs, descriptions, defaults and budget `day`.
DIGESTS = {
    "llama-13b": "fde8ad141fd7dc82d6c6735f07ff13f24176b46844300397af384eb11f1cd916",
    "llama-7b": "2a5e447eb855e121b31782f044ca604611fcdd840aa547dd37b5f954341914b7",
    "smollm2": "4bb2d4b0a7fdc801c77b607569f7b536c0b784ebd3e4df9265724a64f2ef0a27",
    "vicuna-7b": "1faee85d238aa3591918b74006659dc3d6fed6a10251899390c9189339affe2b",
}


def load(folder: Path, content: dict, name: str = "mine"):
    """What is read from YAML with this content."""
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return load_profile(str(folder / f"{name}.yaml"))


@pytest.mark.parametrize("name", DIGESTS)
def test_shipped_profiles_are_unchanged(name):
    """The digests are of before some switches, which are off, and leave out what no key depends on."""

    def without_switches(value):
        if not isinstance(value, dict):
            return value
        switches = {"bos": False, "searches": 1, "scalings": (), "ceiling_ranks": (2, 16)}
        return {name: without_switches(part) for name, part in value.items()
                if not (name in switches and part == switches[name])}

    content = without_switches(dataclasses.asdict(load_profile(name)))
    for part in ("description", "cost", "defaults"):
        del content[part]
    assert content["search"]["method"].pop("start") == "LoRA and random"  # what searches measure first, since then
    for later in ("day", "wide"):  # budgets that were added
        content["budgets"].pop(later, None)
    assert sha256_text(canonical_json(content)) == DIGESTS[name]


def test_bos_is_a_switch_of_rows_questions_and_prompts(tmp_path):
    quiet = load_profile("tiny")
    load(tmp_path, {"extends": "tiny", "name": "with", "evaluation": {"bos": True, "generation": {"bos": True}},
                    "budgets": {"quick": {"training": {"bos": True}}}}, "with")
    loud = load_profile(str(tmp_path / "with.yaml"))
    for profile, bos in ((quiet, False), (loud, True)):
        budget = profile.budget("quick")
        assert profile.lora_spec(budget, (8,) * 6, 1e-3, 0).recipe.bos is bos
        assert profile.evaluation_spec(budget, "report").bos is bos
        assert profile.evaluation.generation.bos is bos
    with pytest.raises(BadInput, match=r"evaluation\.bos is 'first': give a value of type bool"):
        load(tmp_path, {"extends": "tiny", "evaluation": {"bos": "first"}}, "odd")


def test_profiles_compare_pickle_and_replace():
    profile = load_profile("tiny")
    assert pickle.loads(pickle.dumps(profile)) == profile == load_profile("tiny")
    assert dataclasses.replace(profile, name="other") != profile
    assert type(profile.pruning["llm-pruner"].ratios[20]) is float


def test_a_profile_extends_another(tmp_path):
    load(tmp_path, {"extends": "llama-7b", "name": "base", "adapters": {"lora_star_ranks": [2, 4]}}, "base")
    child = load(tmp_path, {"extends": "base.yaml", "budgets": {"quick": {"training": {"steps": 200}}},
                            "pruning": {"shortened": {"blocks": {20: 5}}}})
    family = load_profile("llama-7b")
    assert child.name == "base"
    assert child.adapters.lora_star_ranks == [2, 4]
    assert child.budgets["quick"].training == dataclasses.replace(family.budgets["quick"].training, steps=200)
    assert child.budgets["full"] == family.budgets["full"]
    assert child.pruning["shortened"].blocks == {20: 5, 25: 8, 30: 10, 50: 16}
    assert child.pruning["llm-pruner"] == family.pruning["llm-pruner"]


@pytest.mark.parametrize(("base", "says"), [
    ("mine.yaml", r"mine\.yaml extends itself \(mine\.yaml -> mine\.yaml\): break the cycle"),
    ("there.yaml", r"mine\.yaml extends itself \(mine\.yaml -> there\.yaml -> mine\.yaml\): break the cycle"),
    ("llama-70b", "unknown profile 'llama-70b': use one of llama-13b, llama-7b"),
    ("nowhere.yaml", "unknown profile 'nowhere.yaml'"),
    (["tiny"], r"mine\.extends is \['tiny'\]: give the name of a profile"),
])
def test_bases_that_lead_nowhere_are_one_line(base, says, tmp_path):
    (tmp_path / "there.yaml").write_text("extends: mine.yaml")
    with pytest.raises(BadInput, match=says):
        load(tmp_path, {"extends": base})


def test_tasks_are_the_papers_seven_or_those_named(tmp_path):
    assert load_profile("smollm2").tasks == TASKS
    profile = load(tmp_path, {"extends": "smollm2", "evaluation": {"tasks": ["piqa", "boolq"]}})
    assert profile.evaluation_spec(profile.budget("quick"), "report").tasks == ("piqa", "boolq")


def test_a_folder_replaces_a_hub_model(tmp_path, monkeypatch):
    monkeypatch.setenv("RANKADAPTOR_MODEL", str(tmp_path))
    source = load_profile("vicuna-7b").base_model.source
    assert (source.kind, source.location, source.sha256) == ("dir", str(tmp_path), None)
    assert load_profile("tiny").base_model.source.kind == "testbed"


def test_a_folder_with_the_id_of_a_hub_model_is_a_folder(tmp_path, monkeypatch):
    """The hub's client would read it, too: its contents, and not its name, must then be a part of keys."""
    monkeypatch.chdir(tmp_path)
    name = load_profile("llama-7b").base_model.source.location
    assert load_profile("llama-7b").base_model.source.kind == "hub"
    Path(name).mkdir(parents=True)
    source = load_profile("llama-7b").base_model.source
    assert (source.kind, source.location, source.sha256) == ("dir", name, None)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["base_model"], None, "base_model is None: give a mapping"),
        (["adapters", "alpha"], "16", "adapters.alpha is '16': give a value of type int"),
        (["adapters", "alpha"], True, "adapters.alpha is True: give a value of type int"),
        (["adapters", "scaling"], "double", "adapters.scaling is 'double': use one of fixed_alpha, constant, rslora"),
        (["adapters", "lora_star_ranks"], 4, "lora_star_ranks is 4: give a list"),
        (["benchmarks", "kind"], "ftp", "benchmarks.kind is 'ftp': use one of wheel, hub, dir"),
        (["budgets", "quick", "training", "steps"], 0, "steps is 0: give at least 1"),
        (["budgets", "quick", "learning_rates"], [], "learning_rates must not be empty"),
        (["budgets", "quick", "learning_rates"], [2.0], r"learning_rate is 2\.0"),
        (["budgets", "quick", "training", "steps"], 3, "steps is 3: AdaLoRA needs at least 4"),
        (["budgets", "quick", "search", "initial"], 0, r"search\.initial is 0: give at least 1"),
        (["budgets", "quick", "report_items"], 0, "report_items 0: give at least 1"),
        (["adapters", "lora_star_ranks"], [], "give numbers from 1"),
        (["search", "candidates"], [0, 2], r"search has candidates \[0, 2\]"),
        (["surprise"], 1, "mine has an unknown field surprise: use name, description, workers"),
        (["adapters", "alpha"], 16.0, r"adapters.alpha is 16\.0: give a value of type int"),
        (["adapters", "lora_star_ranks"], [4, "6"], r"lora_star_ranks\[1\] is '6': give a value of type int"),
        (["search", "budget_tolerance"], "0.01", "budget_tolerance is '0.01': give a value of type float"),
        (["base_model", "label"], 7, "base_model.label is 7: give a value of type str"),
        (["pruning", "wanda"], {}, "mine.pruning has an unknown field wanda: use llm-pruner, shortened"),
        (["pruning"], {}, "pruning is empty: give the settings of some of llm-pruner, shortened"),
        (["pruning"], [], r"mine.pruning is \[\]: give a mapping with llm-pruner, shortened"),
        (["pruning", "shortened", "importance"], "element1", "importance is 'element1': use one of taylor, perplexity"),
        (["pruning", "shortened", "ratios"], {}, "shortened has an unknown field ratios: use importance, first_layer"),
        (["pruning", "shortened", "blocks"], {"20": 6}, "shortened.blocks has the keys '20': give 20"),
        (["pruning", "shortened", "blocks"], {"x": 6}, "shortened.blocks has the key 'x': give a whole number"),
        (["pruning", "shortened", "blocks"], {20.0: 6}, r"shortened.blocks has the keys 20\.0: give 20"),
        (["budgets", "quick"], None, "budgets.quick is None: give a mapping with training_seeds, decided"),
        (["budgets"], [], r"mine.budgets is \[\]: give a mapping"),
        (["evaluation", "tasks"], ["mmlu"], "unknown task 'mmlu'"),
        (["evaluation", "tasks"], [], "name at least one task"),
        (["evaluation", "perplexity"], {"bos": "none"}, "perplexity lacks window_tokens: profiles have no implicit"),
        (["description"], datetime.date(2020, 1, 1), "mine.yaml holds what JSON cannot"),
        (["description"], "\ud800", "mine cannot be read"),
    ],
)
def test_profiles_are_strict(path, value, says, tmp_path):
    content = yaml.safe_load((FOLDER / "smollm2.yaml").read_text())
    place = content
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput, match=says):
        load_profile(str(file)).budget("quick").training.recipe(1e-3)


def test_a_missing_field_is_named(tmp_path):
    content = yaml.safe_load((FOLDER / "smollm2.yaml").read_text())
    del content["search"]["signal"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BadInput, match=r"mine\.search lacks signal: profiles have no implicit defaults"):
        load_profile(str(tmp_path / "mine.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(BadInput, match=r"broken\.yaml is not YAML"):
        load_profile(str(tmp_path / "broken.yaml"))


def test_every_block_of_a_shipped_profile_has_a_spec():
    assert names()
    for name in names():
        profile = load_profile(name)
        assert [profile.prune_spec(block).rate_percent for block in profile.blocks()]
        assert profile.search.training_seed not in profile.budget("standard").training_seeds


