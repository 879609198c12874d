"""Shapes that no stock LLaMA can have are refused before any work; the ratios that are named instead do work."""

import dataclasses
import json
import re

import pytest
import torch
from helpers.models import tiny_llama
from transformers import LlamaConfig, LlamaForCausalLM

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning import llm_pruner, prune, pruned_shapes, shortened
from rankadaptor.pruning.spec import PruneSpec
from rankadaptor.pruning.width import fits_stock_llama
from rankadaptor.reporting.paper import published_architecture

PLAIN = PruneSpec("llm-pruner", 25, "l1", 0, 4, 0.25, None, None, 3, 8, 0, uniform_width=True)
DEPTH = PruneSpec("shortened", 50, "magnitude", 0, 4, None, None, 4, 3, 8, 0)
WINDOWS = torch.randint(2, 96, (3, 8), generator=torch.Generator().manual_seed(0))


def named_ratios(error):
    return [float(ratio) for ratio in re.findall(r"(?:ratio|or) (0\.\d+)", str(error).partition(": use ")[2])]


def test_llama_7b_at_a_quarter_names_both_neighbours(capsys):
    assert main(["plan", "prune", "llama-7b", "--ratio", "0.25", "--uniform-width"]) == 2
    error = capsys.readouterr().err
    assert error == ("rankadaptor: ratio 0.25 leaves 24 heads, which do not divide the hidden size 4096 as a plain"
                     " LLaMA's must: use ratio 0.03 or 0.5, or prune without uniform width\n")
    for ratio, heads in (("0.03", 32), ("0.5", 16)):
        assert main(["plan", "prune", "llama-7b", "--ratio", ratio, "--uniform-width"]) == 0
        assert f"layers 0-31: {heads} heads" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["llama-7b", "llama-13b"])
@pytest.mark.parametrize("percent", [15, 25, 40, 70, 95])
def test_named_ratios_fit_and_none_between_does(name, percent):
    dense = published_architecture(name)
    spec = dataclasses.replace(PLAIN, ratio=percent / 100)
    try:
        assert fits_stock_llama(pruned_shapes(dense, spec))
        return
    except BadInput as error:
        ratios = named_ratios(error)
    assert ratios
    for ratio in ratios:
        assert fits_stock_llama(pruned_shapes(dense, dataclasses.replace(spec, ratio=ratio)))
    low, high = ([r for r in ratios if r < spec.ratio] or [0])[0], ([r for r in ratios if r > spec.ratio] or [1])[0]
    for between in range(round(100 * low) + 1, round(100 * high)):
        with pytest.raises(BadInput):
            pruned_shapes(dense, dataclasses.replace(spec, ratio=between / 100))


def test_heads_that_do_not_divide_are_refused_before_importance(monkeypatch):
    monkeypatch.setattr(llm_pruner, "unit_importance", lambda *_: pytest.fail("importance was measured"))
    model = tiny_llama(heads=4, kv_heads=4)
    with pytest.raises(BadInput, match="leaves 3 heads, which do not divide the hidden size 32") as raised:
        prune(model, PLAIN, WINDOWS)
    monkeypatch.undo()
    for ratio in named_ratios(raised.value):
        pruned = prune(model, dataclasses.replace(PLAIN, ratio=ratio), WINDOWS).model
        assert type(pruned) is LlamaForCausalLM
        assert LlamaConfig(**pruned.config.to_dict()).hidden_size == 32


def test_layer_by_layer_such_heads_are_no_obstacle():
    pruned = prune(tiny_llama(heads=4, kv_heads=4), dataclasses.replace(PLAIN, uniform_width=False), WINDOWS).model
    assert {shape.heads for shape in architecture_of(pruned).layers} == {3}


@pytest.mark.parametrize("command", ["plan", "prune"])
@pytest.mark.parametrize("blocks", ["4", "5"])
def test_at_least_one_block_stays(dense, tmp_path, capsys, command, blocks):
    more = [str(dense), "--method", "shortened", "--blocks", blocks, "--layers", "0:4"]
    windows = tmp_path / "windows.json"
    windows.write_text(json.dumps(WINDOWS.tolist()))
    files = ["--calibration", str(windows), "--out", str(tmp_path / "pruned")]
    assert main(["plan", "prune", *more] if command == "plan" else ["prune", *more, *files]) == 2
    error = capsys.readouterr().err
    assert error == (f"rankadaptor: {blocks} blocks are to go, and the model has 4: at least one must stay, remove"
                     " fewer\n")
    assert not (tmp_path / "pruned").exists()


def test_all_blocks_but_one_may_go(monkeypatch):
    pruned = prune(tiny_llama(), dataclasses.replace(DEPTH, blocks_removed=3), WINDOWS)
    assert len(pruned.kept_units["blocks"]) == len(architecture_of(pruned.model).layers) == 1
    assert pruned.model(WINDOWS).logits.isfinite().all()
    monkeypatch.setattr(shortened, "layer_importance", lambda *_: pytest.fail("importance was measured"))
    with pytest.raises(BadInput, match="at least one must stay"):
        prune(tiny_llama(), DEPTH, WINDOWS)
