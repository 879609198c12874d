"""Two tensors under `tie_word_embeddings: true` stay two where they differ: in counts, in pruning, on disk."""

import json

import pytest
import torch
from helpers.models import masked, tiny_llama
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from rankadaptor.__main__ import main
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.gate import check_llama, read_architecture
from rankadaptor.models.tied import is_tied, tied_by_fact
from rankadaptor.pruning import prune
from rankadaptor.pruning.spec import PruneSpec

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
CPU = torch.device("cpu")


@pytest.fixture
def two(dense):
    """A folder with a head of its own under the flag."""
    tensors = load_file(dense / "model.safetensors")
    head = torch.randn(tensors[EMBEDDINGS].shape, generator=torch.Generator().manual_seed(5))
    save_file(tensors | {HEAD: head}, dense / "model.safetensors", {"format": "pt"})
    return dense


def split(folder):
    """The same checkpoint as two shards and an index, head and embeddings apart."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = {"model-1.safetensors": {HEAD}, "model-2.safetensors": tensors.keys() - {HEAD}}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("shards", [False, True])
def test_different_tensors_are_not_tied(two, shards):
    if shards:
        split(two)
    assert not tied_by_fact(two, flag=True)
    model = load_model(two, CPU)
    assert not is_tied(model)
    assert model.config.tie_word_embeddings is False
    shapes = read_architecture(two)
    assert shapes == check_llama(two)
    assert shapes.parameters() == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("shards", [False, True])
def test_equal_tensors_are_tied_under_the_flag_alone(two, shards):
    tensors = load_file(two / "model.safetensors")
    save_file(tensors | {HEAD: tensors[EMBEDDINGS].clone()}, two / "model.safetensors", {"format": "pt"})
    if shards:
        split(two)
    assert tied_by_fact(two, flag=True)
    assert not tied_by_fact(two, flag=False)
    model = load_model(two, CPU)
    assert is_tied(model)
    assert model.config.tie_word_embeddings is True
    assert read_architecture(two).parameters() == model.num_parameters()


def test_one_tensor_is_tied_and_no_weights_leave_the_flag(dense):
    assert tied_by_fact(dense, flag=True)
    (dense / "model.safetensors").write_bytes(b"no header")
    assert tied_by_fact(dense, flag=True)
    (dense / "model.safetensors").unlink()
    assert tied_by_fact(dense, flag=True)
    assert not tied_by_fact(dense, flag=False)


@pytest.mark.parametrize("more", [
    ("--ratio", "0.5", "--layers", "1:3"), ("--ratio", "0.5", "--uniform-width"),
    ("--method", "shortened", "--blocks", "1"),
], ids=["layer by layer", "one width", "depth"])
def test_pruning_keeps_both_tensors(two, tmp_path, capsys, more):
    windows = tmp_path / "windows.json"
    windows.write_text(json.dumps(torch.randint(0, 90, (3, 12)).tolist()))
    assert main(["plan", "prune", str(two), *more]) == 0
    planned = capsys.readouterr().out.splitlines()[0].partition(": ")[2]
    out = tmp_path / "pruned"
    assert main(["prune", str(two), "--calibration", str(windows), "--out", str(out), *more]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{out}: {planned}"
    before, after = load_file(two / "model.safetensors"), load_file(out / "model.safetensors")
    assert torch.equal(after[HEAD], before[HEAD])
    assert torch.equal(after[EMBEDDINGS], before[EMBEDDINGS])
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    pruned = AutoModelForCausalLM.from_pretrained(out).eval()
    assert planned.startswith(f"{pruned.num_parameters():,} of {load_model(two, CPU).num_parameters():,} parameters")
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = masked(LlamaForCausalLM.from_pretrained(two).eval(), json.loads((out / "kept.json").read_text()))
    torch.testing.assert_close(pruned(ids).logits, expected(ids).logits)
    assert main(["measure", str(out)]) == 0
    assert f"{pruned.num_parameters():,} parameters\n" in capsys.readouterr().out


def test_a_model_in_memory_is_believed_before_its_flag():
    model = tiny_llama()
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    assert model.config.tie_word_embeddings
    windows = torch.randint(2, 96, (3, 8))
    pruned = prune(model, PruneSpec("llm-pruner", 50, "l1", 1, 3, 0.5, None, None, 3, 8, 0), windows).model
    assert torch.equal(pruned.lm_head.weight, model.lm_head.weight)
    assert torch.equal(pruned.model.embed_tokens.weight, model.model.embed_tokens.weight)
    assert pruned.config.tie_word_embeddings is False
