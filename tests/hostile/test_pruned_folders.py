"""Pruned folders whose files disagree: refused in one line, before any weight is read."""

import json
import shutil

import pytest
import torch
from helpers.models import llamas
from helpers.shared import made_once

from rankadaptor.__main__ import main
from rankadaptor.models.checkpoints import load_model


def configured(**entries):
    def apply(folder):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return apply


def kept(content):
    text = content if isinstance(content, str) else json.dumps(content)
    return lambda folder: (folder / "kept.json").write_text(text)


FULL = {"kv_heads": [0, 1, 2, 3], "channels": list(range(48))}
HALF = {"kv_heads": [0, 1], "channels": list(range(24))}

REFUSED = {
    "a layer's shape is missing": (configured(layer_shapes=[[4, 4, 48]] * 3), "layer_shapes has 3"),
    "a shape of two numbers": (configured(layer_shapes=[[4, 4]] * 4), "does not say the shapes"),
    "a shape in text": (configured(layer_shapes=["4,4,48"] * 4), "does not say the shapes"),
    "a shape below zero": (configured(layer_shapes=[[4, 4, -48]] * 4), "-48 channels"),
    "a shape of fractions": (configured(layer_shapes=[[4.0, 4, 48]] * 4), "has 4.0 heads"),
    "shapes that are one number": (configured(layer_shapes=7), "does not say the shapes"),
    "shapes of the dense model": (configured(layer_shapes=[[4, 4, 48]] * 4), "its tensor has"),
    "no shapes at all": (configured(layer_shapes=None), "its tensor has"),
    "layers that repeat": (configured(original_layers=[0, 1, 1, 3]), "not ascending"),
    "layers out of order": (configured(original_layers=[0, 2, 1, 3]), "not ascending"),
    "layers beyond the model": (configured(original_layers=[0, 1, 2, 9], original_layer_count=4), "not ascending"),
    "layers below zero": (configured(original_layers=[-1, 1, 2, 3]), "not ascending"),
    "one layer too few": (configured(original_layers=[0, 1, 2]), "original_layers 3"),
    "layers in text": (configured(original_layers="0123"), "not ascending"),
    "kept units that are a list": (kept([]), "does not list what pruning kept"),
    "kept units that are no JSON": (kept("{"), "does not list what pruning kept"),
    "kept units nested too deep": (kept("[" * 50_000), "does not list what pruning kept"),
    "kept units without layers": (kept({}), "does not list what pruning kept"),
    "kept units of fewer layers": (kept({"layers": [FULL, HALF, HALF]}), "has 3 layers"),
    "kept units of another width": (kept({"layers": [FULL, FULL, HALF, FULL]}), "of layer 1"),
    "kept units of no kind": (kept({"layers": [None] * 4}), "does not list what pruning kept"),
    "kept blocks of depth": (kept({"blocks": [0, 1, 2]}), "keeps blocks [0, 1, 2]"),
}


@pytest.fixture(scope="module")
def narrowed(tmp_path_factory, tokenizer):
    """A width-pruned folder: layers 1 and 2 of 4 have half of their heads and channels."""

    def make(folder):
        model = llamas()["width"]
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
        (folder / "model" / "kept.json").write_text(json.dumps({"layers": [FULL, HALF, HALF, FULL]}))

    return made_once(tmp_path_factory, "narrowed", make) / "model"


@pytest.mark.parametrize("kind", REFUSED)
def test_a_pruned_folder_that_disagrees_is_refused(kind, narrowed, tmp_path, capsys):
    folder = shutil.copytree(narrowed, tmp_path / "model")
    change, message = REFUSED[kind]
    change(folder)
    assert main(["measure", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rankadaptor: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_folder_itself_is_read(narrowed, capsys):
    assert main(["measure", str(narrowed)]) == 0
    parameters = load_model(narrowed).num_parameters()
    assert f"{parameters:,} parameters" in capsys.readouterr().out
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(load_model(narrowed)(input_ids=ids).logits, llamas()["width"](input_ids=ids).logits)
