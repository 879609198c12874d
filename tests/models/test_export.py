"""Pruned checkpoints carry both spellings of what releases of transformers name differently, and both agree."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.pruned_llama import PrunedLlamaModel
from rankadaptor.pruning import prune
from rankadaptor.pruning.checkpoints import save_pruned
from rankadaptor.pruning.spec import PruneSpec

WINDOWS = torch.randint(2, 96, (3, 8), generator=torch.Generator().manual_seed(0))
WIDTH = PruneSpec("llm-pruner", 50, "l1", 1, 3, 0.5, None, None, 3, 8, 0)
PRUNINGS = {
    "layer by layer": WIDTH,
    "one width": dataclasses.replace(WIDTH, uniform_width=True),
    "depth": PruneSpec("shortened", 50, "magnitude", 1, 3, None, None, 1, 3, 8, 0),
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
# What version 4 reads: theta and the scaling without it. Its values are those of the dense model's own file.
ROPES = {
    "a large theta": (500_000.0, None),
    "llama3": (500_000.0, LLAMA3),
    "linear": (10_000.0, {"rope_type": "linear", "factor": 2.0}),
    "dynamic": (10_000.0, {"rope_type": "dynamic", "factor": 2.0}),
    "yarn": (10_000.0, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}),
}


def llama(theta=10_000.0, scaling=None, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=48, vocab_size=96, max_position_embeddings=512, initializer_range=0.2,
        rope_parameters={"rope_type": "default"} | (scaling or {}) | {"rope_theta": theta}, **settings)
    return LlamaForCausalLM(config).to(dtype).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(2, 80)[None]).logits


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("rope", ROPES)
def test_both_spellings_are_written_and_agree(rope, pruning, tmp_path):
    theta, scaling = ROPES[rope]
    pruned = prune(llama(theta, scaling), PRUNINGS[pruning], WINDOWS)
    save_pruned(pruned, tmp_path / "both")
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    assert config["rope_theta"] == theta == config["rope_parameters"]["rope_theta"]
    assert config["rope_scaling"] == scaling
    assert config["torch_dtype"] == config["dtype"] == "float32"
    (tmp_path / "new").mkdir()
    newer = {name: value for name, value in config.items() if name not in ("rope_theta", "rope_scaling", "torch_dtype")}
    (tmp_path / "new" / "config.json").write_text(json.dumps(newer))
    both, alone = (AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("both", "new"))
    assert both | {"_name_or_path": None} == alone | {"_name_or_path": None}
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "both").eval()), logits(pruned.model))


def test_older_spellings_alone_give_the_same_model(tmp_path):
    """What version 4 reads, by the one reader that is here."""
    pruned = prune(llama(500_000.0, LLAMA3), PRUNINGS["one width"], WINDOWS)
    save_pruned(pruned, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"], config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval()), logits(pruned.model))


def test_a_long_context_keeps_its_former_length_outside(tmp_path):
    scaling = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 128,
               "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 2.1, 2.2, 2.3]}
    pruned = prune(llama(scaling=scaling), PRUNINGS["depth"], WINDOWS)
    save_pruned(pruned, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["original_max_position_embeddings"] == 128
    assert torch.equal(logits(load_model(tmp_path, torch.device("cpu"))), logits(pruned.model))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_named_in_both_spellings(dtype, tmp_path):
    save_pruned(prune(llama(dtype=dtype), PRUNINGS["depth"], WINDOWS), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["torch_dtype"] == config["dtype"] == str(dtype).removeprefix("torch.")
    assert load_model(tmp_path, torch.device("cpu")).dtype == dtype


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_alone_loads_by_its_auto_class(pruning, tied, tmp_path):
    pruned = prune(llama(tie_word_embeddings=tied), PRUNINGS[pruning], WINDOWS)
    save_pruned(pruned, tmp_path)
    decoder = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(decoder, PrunedLlamaModel) == (pruning == "layer by layer")
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        states, expected = decoder(ids).last_hidden_state, pruned.model.model(ids).last_hidden_state
    assert torch.equal(states, expected)
    decoder.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path / "again").eval()(ids).last_hidden_state, expected)
