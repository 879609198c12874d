"""A user's own model: pruned from the shell, checked when it is read, and written whole or not at all."""

import json
import subprocess
import sys

import pytest
import torch
from helpers.models import masked, tiny_llama
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, LlamaConfig

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.pruning.checkpoints import load_pruned


@pytest.fixture
def windows(tmp_path):
    path = tmp_path / "windows.json"
    path.write_text(json.dumps(torch.randint(0, 90, (3, 12), generator=torch.Generator().manual_seed(0)).tolist()))
    return path


def prune(dense, out, calibration, *more):
    return main(["prune", str(dense), "--out", str(out), "--calibration", str(calibration), "--layers", "1:3", *more])


@pytest.mark.parametrize("more", [
    ("--ratio", "0.5"),
    ("--ratio", "0.5", "--importance", "mixed", "--reduction", "max", "--ranking", "global", "--mlp-layers", "0:3"),
    ("--ratio", "0.5", "--iterations", "2", "--importance", "element2"),
    ("--ratio", "0.5", "--share", "0.2"),
    ("--method", "shortened", "--blocks", "1"),
    ("--method", "shortened", "--blocks", "1", "--importance", "perplexity"),
])
def test_what_was_pruned_loads_anywhere(dense, windows, tmp_path, capsys, more):
    out = tmp_path / "pruned"
    assert prune(dense, out, windows, *more) == 0
    output = capsys.readouterr().out
    ours = load_pruned(out, torch.device("cpu"))
    ids = torch.tensor([[5, 6, 7, 8]])
    kept_units = json.loads((out / "kept.json").read_text())
    torch.testing.assert_close(ours(ids).logits, masked(tiny_llama(), kept_units)(ids).logits)
    assert f"{ours.num_parameters():,} of {tiny_llama().num_parameters():,} parameters" in output
    assert ours.num_parameters() < tiny_llama().num_parameters()
    assert (out / "importance.json").is_file()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (dense / name).read_bytes()
    assert ours.generation_config.to_dict() == tiny_llama().generation_config.to_dict()


@pytest.mark.slow
def test_auto_classes_and_generation_need_the_package_alone(dense, windows, tmp_path):
    out = tmp_path / "pruned"
    assert prune(dense, out, windows, "--ratio", "0.5") == 0
    code = ("import rankadaptor, torch; from transformers import AutoModelForCausalLM as Auto\n"
            f"model = Auto.from_pretrained({str(out)!r}).eval(); ids = torch.tensor([[5, 6, 7]])\n"
            "cached = model.generate(ids, max_new_tokens=9, do_sample=False)\n"
            "plain = model.generate(ids, max_new_tokens=9, do_sample=False, use_cache=False)\n"
            "assert torch.equal(cached, plain) and cached.shape == (1, 12), (cached, plain)")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.slow
def test_depth_pruned_checkpoints_need_no_package(dense, windows, tmp_path):
    out = tmp_path / "pruned"
    assert prune(dense, out, windows, "--method", "shortened", "--blocks", "1") == 0
    code = ("import sys; from transformers import AutoModelForCausalLM as Auto\n"
            f"assert Auto.from_pretrained({str(out)!r}).config.num_hidden_layers == 3\n"
            "assert not any(name.startswith('rankadaptor') for name in sys.modules)")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_text_is_cut_into_windows_of_the_seed(dense, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"Question: yes or no {i}? Answer: yes no yes no yes no {i}" for i in range(20)))
    for name, seed in (("first", "1"), ("same", "1"), ("other", "2")):
        assert prune(dense, tmp_path / name, text, "--ratio", "0.5", "--samples", "4", "--tokens", "10",
                     "--seed", seed) == 0
    first, same, other = ((tmp_path / name / "importance.json").read_text() for name in ("first", "same", "other"))
    assert first == same
    assert first != other


@pytest.mark.parametrize(("more", "says"), [
    (("--ratio", "1.5"), "llm-pruner needs a ratio between 0 and 1"),
    ((), "llm-pruner needs a ratio between 0 and 1"),
    (("--ratio", "0.5", "--layers", "1:9"), "layers 1..8 do not lie in a model of 4 layers"),
    (("--ratio", "0.5", "--layers", "1-3"), "layers '1-3' are no range: write FIRST:END"),
    (("--ratio", "0.99"), "leaves a layer without heads or MLP channels"),
    (("--method", "shortened", "--blocks", "3"), "3 blocks are to go, but only 2 of 4 are not protected"),
    (("--ratio", "nan"), "ratio or share is nan"),
    (("--ratio", "0.5", "--share", "0.01"), "the heads alone take more, give a larger share or a smaller ratio"),
    (("--ratio", "0.5", "--uniform-width"), "layers 1:3 was given with uniform width, which prunes all"),
    (("--method", "shortened", "--blocks", "1", "--ranking", "global"), "ranking is 'global': it goes with llm-pruner"),
    (("--ratio", "0.5", "--tokens", "1"), "calibration_tokens is 1: give at least 2"),
    (("--ratio", "0.5", "--out", "/proc/no/where"), "out cannot be written to '/proc/no/where'"),
    (("--ratio", "0.5", "--importance", "taylor"), "unknown importance 'taylor' of llm-pruner"),
    (("--ratio", "0.5", "--calibration", "/no/such/file"), "no calibration file /no/such/file"),
])
def test_bad_input_is_one_line_and_writes_nothing(dense, windows, tmp_path, capsys, more, says):
    assert prune(dense, tmp_path / "pruned", windows, *more) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "windows.json"}


@pytest.mark.parametrize(("content", "says"), [
    ("[[1, 2], [3]]", "is not a JSON list of token-id lists of one length"),
    ("[[1, 2], [3, 400]]", "holds token ids from 1 to 400"),
    ("[1, 2]", "holds numbers of shape [2]"),
    ("[[0.5, 1.5]]", "holds numbers of shape [1, 2]"),
    ("nonsense", "is not a JSON list"),
])
def test_bad_windows_are_refused(dense, tmp_path, capsys, content, says):
    path = tmp_path / "windows.json"
    path.write_text(content)
    assert prune(dense, tmp_path / "pruned", path, "--ratio", "0.5") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "pruned").exists()


def test_short_text_and_folders_in_use_are_refused(dense, windows, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("Too short.")
    assert prune(dense, tmp_path / "pruned", text, "--ratio", "0.5") == 2
    assert "holds 0 texts of at least 64 tokens, 10 are needed" in capsys.readouterr().err
    assert prune(dense, dense, windows, "--ratio", "0.5") == 2
    assert "is there already" in capsys.readouterr().err
    text.write_bytes("Käse".encode("latin-1"))
    assert prune(dense, tmp_path / "pruned", text, "--ratio", "0.5") == 2
    assert "is not UTF-8 text (byte 1)" in capsys.readouterr().err


@pytest.mark.parametrize(("break_it", "says"), [
    (lambda folder: GPT2Config().save_pretrained(folder), "is of type 'gpt2', and only llama models are read"),
    (lambda folder: LlamaConfig(attention_bias=True).save_pretrained(folder), "has biases in its projections"),
    (lambda folder: (folder / "config.json").write_text("[]"), "is not a JSON object"),
    (lambda folder: (folder / "config.json").unlink(), "no model in"),
    (lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"), "no safetensors files in"),
    (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "no tokenizer in"),
])
@pytest.mark.parametrize("command", ["prune", "measure"])
def test_folders_that_hold_no_llama_are_refused_in_one_line(dense, windows, tmp_path, capsys, break_it, says, command):
    break_it(dense)
    if command == "prune":
        assert prune(dense, tmp_path / "pruned", windows, "--ratio", "0.5") == 2
    else:
        assert main(["measure", str(dense)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"dense", "windows.json"}


@pytest.mark.parametrize("more", [("--ratio", "0.5"), ("--method", "shortened", "--blocks", "1")])
def test_what_is_pruned_already_is_refused(dense, windows, tmp_path, capsys, more):
    assert prune(dense, tmp_path / "pruned", windows, *more) == 0
    assert prune(tmp_path / "pruned", tmp_path / "twice", windows, *more) == 2
    assert "is pruned already: give the dense one" in capsys.readouterr().err


def test_a_plain_checkpoint_of_one_width(dense, windows, tmp_path):
    out = tmp_path / "pruned"
    arguments = ["prune", str(dense), "--out", str(out), "--calibration", str(windows), "--ratio", "0.5"]
    assert main([*arguments, "--uniform-width"]) == 0
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert (config["num_key_value_heads"], config["intermediate_size"]) == (1, 24)
    ids, kept_units = torch.tensor([[5, 6, 7, 8]]), json.loads((out / "kept.json").read_text())
    plain = load_pruned(out, torch.device("cpu"))
    torch.testing.assert_close(plain(ids).logits, masked(tiny_llama(), kept_units)(ids).logits)


@pytest.mark.parametrize("method", ["llm-pruner", "shortened"])
def test_json_and_tensors_that_disagree_are_refused(dense, windows, tmp_path, method):
    out = tmp_path / "pruned"
    more = ("--ratio", "0.5") if method == "llm-pruner" else ("--method", "shortened", "--blocks", "1")
    assert prune(dense, out, windows, *more) == 0
    weights = load_file(out / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file(weights | {name: weights[name][:-1].clone()}, out / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match=r"config.json gives model.layers.1.mlp.up_proj.weight the shape \[\d+, 32\]"):
        load_pruned(out)
    save_file(weights, out / "model.safetensors", {"format": "pt"})
    load_pruned(out)
    kept_units = json.loads((out / "kept.json").read_text())
    if method == "llm-pruner":
        kept_units["layers"][1]["channels"].pop()
    else:
        kept_units["blocks"][1] = 0
    (out / "kept.json").write_text(json.dumps(kept_units))
    with pytest.raises(BadInput, match="restore the folder as it was written"):
        load_pruned(out)
