"""Checkpoints that are not exactly one LLaMA: every command refuses them in one line, before any work."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.profile import write_checkpoint
from helpers.shared import made_once
from safetensors.torch import load_file, save_file

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import load_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Change = Callable[[Path], object]


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    """Rewrites the weights of a folder."""

    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})

    return apply


def without(*names: str) -> Change:
    return tensors(lambda stored: {name: tensor for name, tensor in stored.items() if name not in names})


def plus(name: str, tensor: torch.Tensor) -> Change:
    return tensors(lambda stored: stored | {name: tensor})


def renamed(change: Callable[[str], str]) -> Change:
    return tensors(lambda stored: {change(name): tensor for name, tensor in stored.items()})


def cast(name: str, dtype: torch.dtype) -> Change:
    return tensors(lambda stored: stored | {name: stored[name].to(dtype)})


def configured(**entries: object) -> Change:
    """Changes entries of `config.json`."""

    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return apply


def config_text(text: str) -> Change:
    return lambda folder: (folder / "config.json").write_text(text)


def beside(name: str, text: str = "{}") -> Change:
    return lambda folder: (folder / name).write_text(text)


def cut(bytes_left: int) -> Change:
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:bytes_left])


def sharded(change: Callable[[dict[str, str], Path], object]) -> Change:
    """Splits the weights into two shards with an index, and then breaks that."""

    def apply(folder: Path) -> None:
        stored = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(stored)
        parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, part in parts.items():
            save_file({name: stored[name] for name in part}, folder / file, {"format": "pt"})
        places = {name: file for file, part in parts.items() for name in part}
        change(places, folder)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))

    return apply


def moved(name: str, file: str) -> Change:
    return sharded(lambda places, _: places.update({name: file}))


def linked_outside(folder: Path) -> None:
    outside = folder.parent / f"{folder.name}-elsewhere.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def pipe(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def copied_into_both(places: dict[str, str], folder: Path) -> None:
    stored = load_file(folder / "b.safetensors") | load_file(folder / "a.safetensors")
    save_file(stored, folder / "b.safetensors", {"format": "pt"})


def index_that_is_a_list(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / INDEX).write_text("[]")


NORM, PROJECTION = "model.norm.weight", "model.layers.2.mlp.up_proj.weight"

REFUSED: dict[str, tuple[Change, str]] = {
    "no head although untied": (configured(tie_word_embeddings=False), "lacks tensor lm_head.weight"),
    "no embeddings": (without("model.embed_tokens.weight"), "lacks 2 tensors, such as lm_head.weight,"),
    "no final norm": (without(NORM), f"lacks tensor {NORM}"),
    "no norm of a layer": (without("model.layers.2.input_layernorm.weight"), "lacks tensor"),
    "no projection": (without(PROJECTION), f"lacks tensor {PROJECTION}"),
    "names of torch.compile": (renamed("_orig_mod.{}".format), "begin with _orig_mod."),
    "names of data parallel": (renamed("module.{}".format), "begin with module."),
    "names of PEFT": (renamed("base_model.model.{}".format), "begin with base_model.model."),
    "names without model": (renamed(lambda name: name.removeprefix("model.")), "lacks"),
    "a layer fewer than configured": (configured(num_hidden_layers=5), "lacks 9 tensors"),
    "a layer more than configured": (configured(num_hidden_layers=3), "holds 9 tensors"),
    "a bias": (plus("model.layers.0.self_attn.q_proj.bias", torch.zeros(32)), "holds tensor"),
    "weights of LoRA inside": (plus("model.layers.0.self_attn.q_proj.lora_A.weight", torch.zeros(2, 32)), "holds"),
    "a classifier's head": (plus("score.weight", torch.zeros(2, 32)), "holds tensor score.weight"),
    "another vocabulary": (configured(vocab_size=97), "the shape [97, 32], its tensor has [96, 32]"),
    "another width": (configured(intermediate_size=40), "its tensor has"),
    "another head count": (configured(num_attention_heads=2), "its tensor has"),
    "a transposed projection": (tensors(lambda s: s | {PROJECTION: s[PROJECTION].T.contiguous()}), "its tensor has"),
    "a norm of two dimensions": (tensors(lambda s: s | {NORM: s[NORM][None]}), "its tensor has [1, 32]"),
    "weights in int8": (cast(PROJECTION, torch.int8), "the dtype I8"),
    "weights in float8": (cast(PROJECTION, torch.float8_e4m3fn), "the dtype F8_E4M3"),
    "weights in float64": (cast(NORM, torch.float64), "the dtype F64"),
    "an empty weight file": (cut(0), "no whole safetensors file"),
    "a weight file cut in its header": (cut(100), "no whole safetensors file"),
    "a weight file cut at its end": (cut(20_000), "no whole safetensors file"),
    "a weight file of text": (beside(WEIGHTS, "version https://git-lfs.github.com/spec/v1"), "no whole safetensors"),
    "no weight file": (lambda folder: (folder / WEIGHTS).unlink(), "no safetensors files in"),
    "a pipe as weight file": (pipe, "is no regular file"),
    "a link out of the folder": (linked_outside, "outside the folder"),
    "a shard missing": (sharded(lambda _, folder: (folder / "b.safetensors").unlink()), "b.safetensors is missing"),
    "an index that names a pickle": (moved(NORM, "pytorch_model.bin"), "only safetensors files of the folder"),
    "an index that leaves the folder": (moved(NORM, "../a.safetensors"), "only safetensors files of the folder"),
    "an index with a wrong shard": (sharded(lambda places, _: places.update({NORM: "a.safetensors"})
                                            if places[NORM] == "b.safetensors" else
                                            places.update({NORM: "b.safetensors"})), f"puts {NORM} into"),
    "an index with a tensor more": (moved("model.extra", "a.safetensors"), "puts model.extra into a.safetensors"),
    "an index that forgets one": (sharded(lambda places, _: places.pop(NORM)), f"puts {NORM} into no file"),
    "a tensor in two shards": (sharded(copied_into_both), "both hold"),
    "an index beside the whole": (beside(INDEX), "holds both"),
    "an index that is a list": (index_that_is_a_list, "is not a JSON object"),
    "an adapter beside": (beside("adapter_config.json"), "move it to a folder of its own"),
    "settings of a quantiser beside": (beside("quantize_config.json"), "quantised"),
    "a quantisation entry": (configured(quantization_config={"bits": 4}), "quantised"),
    "code of its own": (configured(auto_map={"AutoModelForCausalLM": "evil.Model"}), "never run"),
    "another weight file named": (configured(transformers_weights="other.safetensors"), "names another weight file"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no model in"),
    "a config that is a list": (config_text("[1]"), "not a JSON object"),
    "a config nested too deep": (config_text("[" * 100_000), "not a JSON object"),
    "a config of megabytes": (config_text(json.dumps({"model_type": "llama", "x": "y" * 2**20})), "bytes"),
    "another model type": (configured(model_type="mistral"), "only llama models"),
    "a size in text": (configured(hidden_size="32"), "hidden_size is '32'"),
    "a size below zero": (configured(num_hidden_layers=-4), "num_hidden_layers is -4"),
    "a size that is true": (configured(vocab_size=True), "vocab_size is True"),
    "a size of billions": (configured(num_hidden_layers=10**12), "num_hidden_layers is 1000000000000"),
    "no head": (configured(num_attention_heads=0), "num_attention_heads is 0"),
    "heads that no KV head divides": (configured(num_key_value_heads=3), "has 4 heads, 3 KV heads"),
    "a tie that is text": (configured(tie_word_embeddings="false"), "tie_word_embeddings is 'false'"),
    "an epsilon of NaN": (configured(rms_norm_eps=float("nan")), "rms_norm_eps is nan"),
    "a theta below zero": (configured(rope_theta=-1.0), "rope_theta is -1.0"),
    "rotations that are a list": (configured(rope_parameters=[1]), "rope_parameters is [1], not a mapping"),
    "rotations of an unknown type": (configured(rope_parameters={"rope_type": "foo"}), "are of type 'foo'"),
    "a theta of rotations below zero": (configured(rope_parameters={"rope_type": "default", "rope_theta": -1.0}),
                                        "rope_theta of rope_parameters is -1.0"),
    "a theta of rotations of NaN": (configured(rope_parameters={"rope_theta": float("nan")}), "rope_theta of"),
    "a theta of rotations in text": (configured(rope_parameters={"rope_theta": "x"}), "is 'x', not a number"),
    "a factor of infinity": (configured(rope_scaling={"type": "linear", "factor": float("inf")}), "factor of"),
    "a dtype of eight bits": (configured(dtype="float8_e4m3fn"), "dtype is 'float8_e4m3fn'"),
    "no tokenizer": (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "no tokenizer"),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory, tokenizer):
    return made_once(tmp_path_factory, "checkpoint", lambda folder: write_checkpoint(folder / "model", tokenizer)) / (
        "model")


@pytest.fixture
def folder(good, tmp_path):
    """A copy to break."""
    return shutil.copytree(good, tmp_path / "model")


@pytest.fixture
def refuses(capsys, tmp_path, benchmark_folder, recovery_file):
    """Asserts that every command refuses a model with the same line, and writes nothing."""
    calibration = tmp_path / "calibration.txt"
    calibration.write_text("some words to calibrate on\n\nand some more of them")
    out, ledger = tmp_path / "out", tmp_path / "ledger"
    training = ["--data", str(recovery_file), "--benchmarks", str(benchmark_folder), "--ledger", str(ledger)]
    commands = {
        "prune": ["--ratio", "0.5", "--calibration", str(calibration), "--out", str(out)],
        "measure": [],
        "evaluate": ["--benchmarks", str(benchmark_folder)],
        "recover": [*training, "--allocation", "4 4 4 4", "--out", str(out)],
        "search": [*training, "--budget", "2", "--out", str(out)],
    }

    def check(model: Path, message: str) -> None:
        for command, options in commands.items():
            assert main([command, str(model), *options]) == 2, command
            error = capsys.readouterr().err
            assert error.startswith("rankadaptor: "), command
            assert message in error, command
            assert error.count("\n") == 1, command
        assert not out.exists()
        assert not ledger.exists()

    return check


@pytest.mark.parametrize("kind", REFUSED)
def test_every_command_refuses(kind, folder, refuses):
    change, message = REFUSED[kind]
    change(folder)
    refuses(folder, message)


@pytest.mark.parametrize("entries", [
    {"hidden_act": "nope"}, {"attention_dropout": "x"}, {"eos_token_id": "x"},
    {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear"}},
])
def test_a_configuration_that_transformers_refuses_is_told(entries, folder):
    configured(**entries)(folder)
    with pytest.raises(BadInput, match=r"transformers does not read .*config\.json"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(value, dtype, folder):
    def spoil(stored):
        stored = {name: tensor.to(dtype) for name, tensor in stored.items()}
        stored[PROJECTION][3, 5] = value
        return stored

    tensors(spoil)(folder)
    with pytest.raises(BadInput, match=rf"{PROJECTION} in .* holds NaN or infinity"):
        load_model(folder)


def test_large_finite_weights_are_read(folder):
    tensors(lambda stored: stored | {NORM: torch.full((32,), 3e38)})(folder)  # their sum is not finite
    assert load_model(folder).model.norm.weight[0] == torch.tensor(3e38)


ACCEPTED: dict[str, Change] = {
    "frequencies of an older export": plus("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
    "frequencies of the model": plus("model.rotary_emb.inv_freq", torch.ones(4)),
    "a tied head in the file": tensors(
        lambda stored: stored | {"lm_head.weight": stored["model.embed_tokens.weight"].clone()}),
    "a tied pair under the head's name": renamed(
        lambda name: "lm_head.weight" if name == "model.embed_tokens.weight" else name),
    "two shards": sharded(lambda *_: None),
    "a consolidated file beside": lambda folder: save_file({"x": torch.ones(2)}, folder / "consolidated.safetensors"),
    "pickles beside": beside("pytorch_model.bin", "no pickle"),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_what_is_the_same_model_gives_the_same_logits(kind, good, folder):
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = load_model(good)(input_ids=ids).logits
    ACCEPTED[kind](folder)
    assert torch.equal(load_model(folder)(input_ids=ids).logits, expected)


def test_links_into_a_hub_cache_are_read(good, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "c0", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(good, blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(load_model(snapshot)(input_ids=ids).logits, load_model(good)(input_ids=ids).logits)
