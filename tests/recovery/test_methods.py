"""The registry of adapter methods: a method from outside the package is trained and keyed as the built-in ones."""

import pytest
import torch
from helpers.data import sentence
from helpers.models import tiny_llama
from peft import LoraConfig

from rankadaptor.errors import BadInput
from rankadaptor.keys import stage_identity
from rankadaptor.pipeline.stages import STAGES
from rankadaptor.recovery import spec as registry
from rankadaptor.recovery.adapters import attach_adapter, load_adapter, save_adapter
from rankadaptor.recovery.methods.lora import Lora
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import AdapterMethod, RecoverySpec, adapter_method, register
from rankadaptor.recovery.training import train

ROWS = [{"instruction": sentence(i, 5), "input": "", "output": sentence(i + 200, 4)} for i in range(12)]
RECIPE = Recipe(2, 4, 4, 5e-3, 1, 300, 0.0, 0.0, 1.0)
IDS = torch.arange(2, 30)[None]


class Toy(AdapterMethod):
    """LoRA in the query projections alone, which records when it is called."""

    name = "toy"
    label = "Toy"

    def __init__(self):
        self.calls = []

    def numerics_version(self, recipe):
        return 77

    def peft_config(self, spec, architecture):
        return LoraConfig(r=self.uniform_rank(spec, architecture), target_modules=["q_proj"], task_type="CAUSAL_LM")

    def initialise(self, adapted, spec):
        self.calls.append("initialise")

    def prepare(self, adapted, batches, spec, pad_token_id):
        self.calls.append(f"prepare {len(batches)}")

    def penalty(self, adapted):
        self.calls.append("penalty")
        return sum(weight.square().sum() for weight in adapted.parameters() if weight.requires_grad)

    def after_step(self, adapted, step):
        assert all(weight.grad is not None for weight in adapted.parameters() if weight.requires_grad)
        self.calls.append(f"step {step}")

    def check_trained(self, ranks, spec):
        self.calls.append(f"{len(ranks)} modules of rank {max(ranks.values())}")


class DoRa(Lora):
    """A variant of LoRA in one line of configuration."""

    name = "dora"
    label = "DoRA"

    def peft_config(self, spec, architecture):
        config = super().peft_config(spec, architecture)
        config.use_dora = True
        return config


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Methods that a test registers are gone after it."""
    monkeypatch.setattr(registry, "ADAPTER_METHODS", dict(registry.ADAPTER_METHODS))


def recovery(method, allocation=(3, 3, 3, 3), init_rank=None):
    return RecoverySpec(method, allocation, "fixed_alpha", 16, RECIPE, 0, init_rank)


def test_a_method_from_outside_is_trained(tokenizer):
    register(toy := Toy())
    spec = recovery("toy")
    training = train(attach_adapter(tiny_llama(), spec), tokenizer, ROWS, spec)
    assert toy.calls == [
        "initialise", "prepare 2", "penalty", "step 1", "penalty", "step 2", "4 modules of rank 3"]
    assert set(training.ranks.values()) == {3}
    assert training.trainable_parameters == 4 * 3 * (32 + 32)


def test_a_method_from_outside_is_part_of_keys():
    register(Toy())
    identity = stage_identity("recover", recovery("toy"), "parent", {})
    assert identity["spec"]["method"] == "toy"
    assert identity["numerics_version"] == STAGES["recover"].current_version(identity["spec"]) == 77
    assert identity["spec"] == stage_identity("recover", recovery("lora"), "parent", {})["spec"] | {"method": "toy"}


def test_a_variant_of_lora_is_one_class(tokenizer, tmp_path):
    register(DoRa())
    spec = recovery("dora", (4, 2, 6, 12))
    adapted = attach_adapter(tiny_llama(), spec)
    train(adapted, tokenizer, ROWS, spec)
    save_adapter(adapted, tmp_path)
    assert any("magnitude" in name for name, weight in adapted.named_parameters() if weight.requires_grad)
    with torch.no_grad():
        torch.testing.assert_close(load_adapter(tiny_llama(), tmp_path)(IDS).logits, adapted(IDS).logits)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="recovery method 'lora' is registered already"):
        register(Lora())


def test_unknown_methods_are_refused():
    with pytest.raises(BadInput, match="unknown recovery method 'toy': use one of adalora, eva, lora"):
        recovery("toy")


@pytest.mark.parametrize(("method", "init_rank"), [("lora", 6), ("eva", 6), ("adalora", None)])
def test_an_initial_rank_goes_with_adalora_alone(method, init_rank):
    with pytest.raises(BadInput, match="adalora_init_rank goes with method adalora"):
        recovery(method, init_rank=init_rank)


@pytest.mark.parametrize("name", ["lora", "adalora", "eva"])
@pytest.mark.parametrize(
    ("dropout", "grouping", "version"),
    [(0.0, "batches", 2), (0.0, "micro_batches", 2), (0.1, "batches", 4), (0.1, "micro_batches", 5)],
)
def test_numerics_versions_are_those_of_finished_ledgers(name, dropout, grouping, version):
    recipe = Recipe(2, 4, 4, 5e-3, 1, 300, dropout, 0.0, 1.0, grouping)
    expected = 2 if (name, grouping) == ("adalora", "batches") else version
    assert adapter_method(name).numerics_version(recipe) == expected
