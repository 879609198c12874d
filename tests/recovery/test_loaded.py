"""A model that stays loaded: every recovery gives the result that it gives on a freshly loaded model."""

import contextlib

import pytest
import torch
from helpers.models import tiny_llama
from helpers.runners import recorded_runners

from rankadaptor.experiments.main_table import main_table
from rankadaptor.recovery import loaded as loaded_module
from rankadaptor.recovery.adapters import attach_adapter, load_adapter, save_adapter
from rankadaptor.recovery.loaded import LoadedModel
from rankadaptor.recovery.merging import merged
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.recovery.training import train
from rankadaptor.reporting import tables

ROWS = [{"instruction": f"the cat eats {i}", "input": "", "output": f"a bird runs {i}"} for i in range(12)]
RECIPE = Recipe(8, 4, 4, 1e-2, 1, 300, 0.0, 0.0, 1.0)
IDS = torch.arange(2, 30)[None]
SPECS = {
    "lora": RecoverySpec("lora", (2, 4, 1, 3), "fixed_alpha", 16, RECIPE, 0),
    "adalora": RecoverySpec("adalora", (2, 2, 2, 2), "fixed_alpha", 16, RECIPE, 0, 4),
    "other ranks": RecoverySpec("lora", (4, 1, 2, 2), "constant", 16, RECIPE, 1),
}


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.slow
def test_successive_recoveries_are_those_of_fresh_models(tokenizer, tmp_path):
    loaded, untouched = LoadedModel(tiny_llama()), tiny_llama()
    for name, spec in SPECS.items():
        with loaded.attached(spec) as adapted:
            ours = train(adapted, tokenizer, ROWS, spec)
            save_adapter(adapted, tmp_path / name)
        alone = attach_adapter(tiny_llama(), spec)
        assert train(alone, tokenizer, ROWS, spec).losses == ours.losses
        with loaded.recovered(tmp_path / name) as model:
            assert not model.training
            assert torch.equal(logits(model), logits(merged(load_adapter(tiny_llama(), tmp_path / name))))
        for (label, weight), (_, before) in zip(loaded.base.named_parameters(), untouched.named_parameters(),
                                                strict=True):
            assert torch.equal(weight, before), (name, label)
        assert not hasattr(loaded.base, "peft_config")
        assert torch.equal(logits(loaded.base), logits(untouched))


@pytest.mark.parametrize("broken", ["attach_adapter", "load_adapter", "merged"])
def test_no_model_is_kept_after_an_error(broken, finished, tiny_profile, tmp_path, monkeypatch):
    """After an error at any change of adapters, a resumed run measures what an undisturbed run does."""
    undisturbed = main_table(str(tiny_profile), "llm-pruner:50", ledger=finished.ledger, table="table1").run()
    assert undisturbed.computed == ()
    table = main_table(str(tiny_profile), "llm-pruner:50", ledger=str(tmp_path / "ledger"), table="table1")

    def break_off(*arguments, **options):
        original(*arguments, **options)
        raise KeyboardInterrupt

    original = getattr(loaded_module, broken)
    monkeypatch.setattr(loaded_module, broken, break_off)
    runners = recorded_runners(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        table.run()
    assert [runner.models._loaded for runner in runners] == [None]
    monkeypatch.setattr(loaded_module, broken, original)
    resumed = table.run()
    assert tables.cells(resumed).equals(tables.cells(undisturbed))
    assert [runner.models._loaded for runner in runners] == [None, None]  # and a finished table holds none


def test_a_failed_recovery_leaves_the_model_as_it_was(tmp_path, tokenizer):
    loaded = LoadedModel(tiny_llama())
    with contextlib.suppress(KeyboardInterrupt), loaded.attached(SPECS["lora"]) as adapted:
        train(adapted, tokenizer, ROWS, SPECS["lora"])
        save_adapter(adapted, tmp_path / "adapter")
        raise KeyboardInterrupt
    with contextlib.suppress(KeyboardInterrupt), loaded.recovered(tmp_path / "adapter"):
        raise KeyboardInterrupt
    assert torch.equal(logits(loaded.base), logits(tiny_llama()))
    assert not loaded.base.training
