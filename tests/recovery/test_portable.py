"""Saved configurations give every module its rank and alpha under the rule of every PEFT from 0.11 on."""

import itertools
import json
import re

import pytest
from helpers.data import sentence
from helpers.models import tiny_llama
from peft import AdaLoraConfig, LoraConfig, PeftConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from rankadaptor.architecture import PROJECTIONS
from rankadaptor.experiments.search_files import write_search
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.recovery.adapters import attach_adapter, load_adapter, save_adapter
from rankadaptor.recovery.methods import eva
from rankadaptor.recovery.methods.lora import to_lora_config
from rankadaptor.recovery.portable import pattern_key, save_config
from rankadaptor.recovery.prompts import batches
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec, adapter_method
from rankadaptor.search.rounds import Round, SearchResult

# PEFT's rules by release, and what a module is looked up by where no key matches.
RULES = {
    "0.11 to 0.14": lambda key, module: re.match(rf".*\.{key}$", module),
    "from 0.15": lambda key, module: re.match(rf"(.*\.)?({key})$", module),
}
# All that PEFT 0.11.1 takes for a LoRA: `dataclasses.fields(peft.LoraConfig)` there.
ENTRIES_0_11 = set("""alpha_pattern auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode
    init_lora_weights layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout
    megatron_config megatron_core modules_to_save peft_type r rank_pattern revision target_modules task_type use_dora
    use_rslora""".split())
LAYERS = 12  # 1 and 11 are alike to a careless pattern
RANKS = tuple(2 + layer for layer in range(LAYERS))
RECIPE = Recipe(steps=8, batch_rows=4, micro_batch_rows=4, learning_rate=5e-3, warmup_steps=1, max_length_tokens=300,
                lora_dropout=0.05, weight_decay=0.0, clip_norm=1.0)


@pytest.fixture(scope="module")
def model():
    return tiny_llama(layers=LAYERS)


def looked_up(pattern, module, default, rule):
    """As PEFT does: the first key that matches, or the module's own name."""
    return pattern.get(next((key for key in pattern if RULES[rule](key, module)), module), default)


def matches(pattern, module, rule):
    return [key for key in pattern if RULES[rule](key, module)]


def modules_of(model):
    return [name for name, _ in model.named_modules() if name.rpartition(".")[2] in PROJECTIONS]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scaling", ["constant", "fixed_alpha", "rslora"])
def test_every_module_finds_its_own_rank_and_alpha(model, scaling, rule, tmp_path):
    save_config(to_lora_config(RANKS, architecture_of(model), scaling, 16), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    modules = modules_of(model)
    assert len(modules) == 7 * LAYERS
    for name in modules:
        rank = RANKS[int(name.split(".")[2])]
        assert looked_up(config["rank_pattern"], name, config["r"], rule) == rank
        alpha = looked_up(config["alpha_pattern"], name, config["lora_alpha"], rule)
        assert alpha == (2 * rank if scaling == "constant" else 16)
        assert matches(config["rank_pattern"], name, rule) == [pattern_key(name)]


@pytest.mark.parametrize("rule", RULES)
def test_no_other_module_is_matched(model, rule):
    keys = to_lora_config(RANKS, architecture_of(model), "constant", 16).rank_pattern
    projections = set(modules_of(model))
    others = [name for name, _ in model.named_modules() if name not in projections]
    others += [name.replace("layers.1.", "layers.101.") for name in projections if "layers.1." in name]
    assert not any(matches(keys, name, rule) for name in others)


def test_the_former_keys_matched_nothing_in_the_older_rule():
    """Why names lose their first part: by its full name a module was not found, and got the largest rank."""
    name = "model.layers.1.mlp.up_proj"
    assert not RULES["0.11 to 0.14"](re.escape(name), name)
    assert all(rule(pattern_key(name), name) for rule in RULES.values())


@pytest.mark.parametrize("method", ["lora", "eva"])
def test_saved_adapters_carry_such_keys(method, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(eva, "initialize_lora_eva_weights", lambda *_, **__: None)  # takes long; ranks stay uniform
    spec = RecoverySpec(method, RANKS if method == "lora" else (4,) * LAYERS, "constant", 16, RECIPE, 0)
    adapted = attach_adapter(model, spec)
    rows = [{"instruction": sentence(i, 5), "input": "", "output": sentence(i + 200, 4)} for i in range(8)]
    adapter_method(method).prepare(adapted, batches(rows, tokenizer, RECIPE, 0)[:2], spec, tokenizer.pad_token_id)
    save_adapter(adapted, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    realised = {name: (module.r["default"], module.lora_alpha["default"])
                for name, module in adapted.get_base_model().named_modules() if isinstance(module, LoraLayer)}
    adapted.unload()
    assert len(realised) == 7 * LAYERS
    assert config["r"] == max(rank for rank, _ in realised.values())
    for (name, (rank, alpha)), rule in itertools.product(realised.items(), RULES):
        assert looked_up(config["rank_pattern"], name, 0, rule) == rank
        assert looked_up(config["alpha_pattern"], name, 0, rule) == alpha
    assert adapter_method(method).realised_ranks(load_adapter(tiny_llama(layers=LAYERS), tmp_path)) == {
        name: rank for name, (rank, _) in realised.items()}


@pytest.mark.parametrize("scaling", ["constant", "fixed_alpha", "rslora"])
def test_peft_0_11_knows_every_entry(model, scaling, tmp_path):
    config = to_lora_config(RANKS, architecture_of(model), scaling, 16, dropout=0.05)
    save_config(config, tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    assert content.keys() == ENTRIES_0_11
    assert content["target_modules"] == sorted(PROJECTIONS)
    assert content["base_model_name_or_path"] is None
    read = PeftConfig.from_pretrained(str(tmp_path)).to_dict()
    assert read == config.to_dict()


def test_entries_off_their_default_stay(tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj"], lora_bias=True, exclude_modules=["v_proj"])
    save_config(config, tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    assert content.keys() - ENTRIES_0_11 == {"lora_bias", "exclude_modules"}
    adaptive = AdaLoraConfig(target_modules=["q_proj"], total_step=10, tinit=1, tfinal=2, init_r=6)
    save_config(adaptive, tmp_path)
    assert PeftConfig.from_pretrained(str(tmp_path)).to_dict() == adaptive.to_dict()


def test_what_a_search_writes_carries_such_keys(model, tmp_path):
    result = SearchResult(
        best=RANKS, best_by_task={}, converged=False,
        rounds=(Round(number=0, proposals=(RANKS,), predictions=None, scores=({"piqa": 0.5},)),))
    origin = {"scaling": "constant", "recipe": vars(RECIPE), "model_and_data": {}}
    first, second = (write_search(result, architecture_of(model), origin, 16, tmp_path / name) for name in "ab")
    text = (first / "adapter_config.json").read_text()
    assert text == (second / "adapter_config.json").read_text()
    config = json.loads(text)
    for name, rule in itertools.product(modules_of(model), RULES):
        rank = RANKS[int(name.split(".")[2])]
        assert looked_up(config["rank_pattern"], name, 0, rule) == rank
        assert looked_up(config["alpha_pattern"], name, 0, rule) == 2 * rank
    adapted = get_peft_model(tiny_llama(layers=LAYERS), PeftConfig.from_pretrained(str(first)))
    assert list(adapter_method("lora").realised_ranks(adapted).values()) == [rank for rank in RANKS for _ in range(7)]
