"""Pretraining resumes where it was cut off, to the bit, and refuses what is not its own."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.experiments.pretraining import (
    PretrainingRecipe,
    batch,
    layers_dropped,
    new_model,
    pretrain,
    rate_factor,
    trained_tokenizer,
)
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.tokenizers import load_tokenizer

SMALL = PretrainingRecipe(vocabulary=300, hidden_size=16, layers=5, heads=2, mlp_width=24, steps=6, batch_rows=2,
                          row_tokens=32, warmup_steps=2, layer_drop=0.5)


class CutOff(Exception):
    pass


def cut_off(line: str) -> None:
    raise CutOff(line)


@pytest.mark.slow
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(tmp_path):
    whole = pretrain(SMALL, tmp_path / "whole", every=2, report=lambda line: None)
    with pytest.raises(CutOff, match="step 2 of 6"):
        pretrain(SMALL, tmp_path / "cut", every=2, report=cut_off)
    resumed = pretrain(SMALL, tmp_path / "cut", every=2, report=lambda line: None)
    one, another = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    assert one.keys() == another.keys()
    assert all(torch.equal(one[name], another[name]) for name in one)
    assert load_model(whole).config.num_hidden_layers == 5


def test_a_checkpoint_set_aside_by_a_killed_run_is_read(tmp_path):
    first = pretrain(SMALL, tmp_path / "run", every=2, report=lambda line: None)
    described = (first / "pretraining.json").read_text()
    weights = load_file(first / "model.safetensors")
    (tmp_path / "run" / "checkpoint").rename(tmp_path / "run" / "checkpoint-before")  # killed between two renames
    lines = []
    again = pretrain(SMALL, tmp_path / "run", every=2, report=lines.append)
    assert lines == []
    assert (again / "pretraining.json").read_text() == described
    assert all(torch.equal(weight, weights[name]) for name, weight in load_file(again / "model.safetensors").items())


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(BadInput, match="another recipe"):
        pretrain(SMALL, tmp_path)


def test_batches_are_functions_of_the_step(tmp_path):
    tokenizer = trained_tokenizer(SMALL, tmp_path)
    assert torch.equal(batch(3, SMALL, tokenizer), batch(3, SMALL, tokenizer))
    assert not torch.equal(batch(3, SMALL, tokenizer), batch(4, SMALL, tokenizer))
    assert batch(3, SMALL, tokenizer).shape == (2, 32)


def test_layers_are_dropped_for_a_step_and_come_back():
    recipe = dataclasses.replace(SMALL, layers=6)
    model = new_model(recipe, SimpleNamespace(eos_token_id=0))
    all_layers = list(model.model.layers)
    kept = []
    for step in range(200):
        with layers_dropped(model, recipe, step):
            kept.append([all_layers.index(layer) for layer in model.model.layers])
    assert list(model.model.layers) == all_layers
    assert all(one[:2] == [0, 1] and one[-1] == 5 and one == sorted(one) for one in kept)
    counts = [sum(layer in one for one in kept) for layer in (2, 3, 4)]
    assert all(80 <= count <= 120 for count in counts)  # each is kept in half of the 200 steps, by chance
    with layers_dropped(model, dataclasses.replace(recipe, layer_drop=0.0), 0):
        assert len(model.model.layers) == 6


def test_the_rate_rises_stays_and_falls():
    recipe = PretrainingRecipe(steps=100, warmup_steps=10, decay_share=0.25)
    factors = [rate_factor(step, recipe) for step in range(100)]
    assert factors[0] == 0.1
    assert set(factors[10:75]) == {1.0}
    assert factors[76] < 1.0
    assert 0 < factors[-1] < 0.05


@pytest.mark.parametrize("change", ["depth=3", "layers=many", "layers"])
def test_bad_changes_of_the_recipe_are_one_line_and_status_2(change, tmp_path, capsys):
    assert main(["testbed", "pretrain", str(tmp_path), "--set", change]) == 2
    assert capsys.readouterr().err.startswith(f"rankadaptor: {change!r} is no change of the recipe")


def test_the_tokenizer_gives_every_text_back(tmp_path):
    tokenizer = trained_tokenizer(SMALL, tmp_path)
    text = "The velmo eats moss.\nQuestion: is it so?\nAnswer: yes ### Instruction:"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)(text).input_ids == tokenizer(text).input_ids
