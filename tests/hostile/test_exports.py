"""Checkpoints and adapters that say one thing and hold another: refused in one line, or exported as what they are."""

import json
import shutil

import pytest
import torch
from helpers.models import masked, tiny_llama
from helpers.profile import write_checkpoint
from helpers.shared import made_once
from peft import IA3Config, LoHaConfig, LoraConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from rankadaptor.__main__ import main
from rankadaptor.architecture import PROJECTIONS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of adapters that it would not merge
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
IDS = torch.tensor([[5, 6, 7, 8, 9]])


@pytest.fixture(scope="module")
def model(tmp_path_factory, tokenizer):
    return made_once(tmp_path_factory, "model", lambda folder: write_checkpoint(folder, tokenizer))


def edited(folder, name="config.json", remove=(), **entries):
    path = folder / name
    content = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in remove}))


def weights(folder, change, name="model.safetensors"):
    save_file(change(load_file(folder / name)), folder / name, {"format": "pt"})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# -- adapters that no weights of the model hold -----------------------------------------------------------------------


def lora(**settings):
    return LoraConfig(r=3, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM", **settings)


ADAPTERS = {
    "layers repeated": (lora(layer_replication=[[0, 3], [1, 4]]), "repeats layers of the model"),
    "biases of its own": (lora(lora_bias=True), "has biases of its own"),
    "after certain tokens": (lora(alora_invocation_tokens=[3]), "does more than add a product"),
    "a random start": (lora(init_lora_weights="pissa_niter_4"), "began with init_lora_weights 'pissa_niter_4'"),
    "a start by data": (lora(), "began with init_lora_weights 'corda'", {"init_lora_weights": "corda"}),
    "a start that is a list": (lora(), "began with init_lora_weights ['pissa']", {"init_lora_weights": ["pissa"]}),
    "rank 0 of one module": (lora(), "0", {"rank_pattern": {"q_proj": 0}}),
    "rescaled activations": (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "IA3"),
    "Hadamard products": (LoHaConfig(r=3, target_modules=["k_proj"]), "LOHA"),
    "shared random factors": (VeraConfig(r=3, target_modules=["q_proj"]), "VERA"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_of_more_than_weights_is_refused(kind, model, benchmark_folder, tmp_path, capsys):
    config, says, *entries = ADAPTERS[kind]
    get_peft_model(tiny_llama(), config).save_pretrained(tmp_path / "adapter")
    if entries:
        edited(tmp_path / "adapter", "adapter_config.json", **entries[0])
    before = contents(tmp_path), contents(model)
    capsys.readouterr()
    status = main(["evaluate", str(model), "--adapter", str(tmp_path / "adapter"), "--benchmarks",
                   str(benchmark_folder), "--tasks", "piqa", "--items", "2"])
    output = capsys.readouterr()
    assert status == 2, output.err
    assert output.err.startswith("rankadaptor: ")
    assert says in output.err
    assert output.err.count("\n") == 1
    assert output.out == ""
    assert (contents(tmp_path), contents(model)) == before


# -- shapes that a pruned model cannot have ---------------------------------------------------------------------------

SHAPES = {
    "no channel left of one width": (["--ratio", "0.99", "--uniform-width"], "leaves a layer without heads"),
    "no channel left layer by layer": (["--ratio", "0.99", "--layers", "0:4"], "leaves a layer without heads"),
    "all blocks": (["--method", "shortened", "--blocks", "4", "--layers", "0:4"], "at least one must stay"),
    "more blocks than there are": (["--method", "shortened", "--blocks", "9", "--layers", "0:4"], "at least one must"),
    "three heads of 32 channels": (["--ratio", "0.25", "--uniform-width"], "leaves 3 heads, which do not divide"),
    "three heads for a share": (["--ratio", "0.25", "--share", "0.3", "--uniform-width"], "leaves 3 heads, which"),
    "three heads in steps": (["--ratio", "0.25", "--iterations", "3", "--uniform-width"], "leaves 3 heads, which"),
}


@pytest.mark.parametrize("command", ["plan", "prune"])
@pytest.mark.parametrize("kind", SHAPES)
def test_shapes_of_no_llama_are_refused_before_any_work(kind, command, tokenizer, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    dense, options = tmp_path / "dense", SHAPES[kind][0]
    tiny_llama(kv_heads=4 if "three" in kind else 2).save_pretrained(dense)
    tokenizer.save_pretrained(dense)
    windows = tmp_path / "windows.json"
    windows.write_text(json.dumps(IDS.tolist() * 3))
    before = contents(tmp_path)
    files = ["--calibration", str(windows), "--out", str(tmp_path / "out")]
    assert main(["plan", "prune", str(dense), *options] if command == "plan" else
                ["prune", str(dense), *options, *files]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rankadaptor: ")
    assert SHAPES[kind][1] in error
    assert error.count("\n") == 1
    assert contents(tmp_path) == before


# -- checkpoints whose configuration does not say what they hold ------------------------------------------------------


def head_of_its_own(tensors):
    draw = torch.Generator().manual_seed(5)
    return tensors | {HEAD: torch.randn(tensors[EMBEDDINGS].shape, generator=draw)}


def last_number_differs(tensors):
    head = tensors[EMBEDDINGS].clone()
    head[-1, -1] += 1
    return tensors | {HEAD: head}


def theta_outside(folder):
    edited(folder, remove=("rope_parameters", "dtype"), rope_theta=500_000.0, torch_dtype="float32")


# Change of a checkpoint, whether embeddings and head are one tensor in it, and entries of the exported configuration.
HELD = {
    "a head of its own under the flag": (lambda folder: weights(folder, head_of_its_own), False, {}),
    "a head that differs in one number": (lambda folder: weights(folder, last_number_differs), False, {}),
    "an equal head under the flag": (
        lambda folder: weights(folder, lambda t: t | {HEAD: t[EMBEDDINGS].clone()}), True, {}),
    "two equal tensors without the flag": (lambda folder: (
        weights(folder, lambda t: t | {HEAD: t[EMBEDDINGS].clone()}), edited(folder, tie_word_embeddings=False)),
        False, {}),
    "a head in place of the embeddings": (lambda folder: weights(
        folder, lambda t: {HEAD if name == EMBEDDINGS else name: tensor for name, tensor in t.items()}), True, {}),
    "theta in the older spelling": (theta_outside, True, {"rope_theta": 500_000.0, "torch_dtype": "float32"}),
    "two thetas": (lambda folder: edited(folder, rope_theta=77.0, rope_parameters={
        "rope_type": "default", "rope_theta": 500_000.0}), True, {"rope_theta": 500_000.0, "rope_scaling": None}),
    "scaling in the oldest spelling": (lambda folder: edited(
        folder, remove=("rope_parameters",), rope_theta=2e4, rope_scaling={"type": "linear", "factor": 2.0}),
        True, {"rope_theta": 2e4, "rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}}),
    "two dtypes": (lambda folder: edited(folder, dtype="float32", torch_dtype="float16"), True, {
        "dtype": "float32", "torch_dtype": "float32"}),
    "half-precision weights": (lambda folder: (
        weights(folder, lambda t: {name: tensor.bfloat16() for name, tensor in t.items()}),
        edited(folder, dtype="bfloat16")), True, {"dtype": "bfloat16", "torch_dtype": "bfloat16"}),
}
PRUNINGS = {"width": ["--ratio", "0.5", "--layers", "1:3", "--importance", "l1"],
            "depth": ["--method", "shortened", "--blocks", "1", "--layers", "1:3", "--importance", "magnitude"]}


@pytest.mark.parametrize("pruning", PRUNINGS)
@pytest.mark.parametrize("kind", HELD)
def test_a_checkpoint_is_exported_as_what_it_holds(kind, pruning, model, tmp_path, capsys):
    change, tied, entries = HELD[kind]
    dense, out = shutil.copytree(model, tmp_path / "dense"), tmp_path / "out"
    change(dense)
    expected = LlamaForCausalLM.from_pretrained(dense, dtype="auto").eval()
    windows = tmp_path / "windows.json"
    windows.write_text(json.dumps(torch.randint(0, 90, (3, 12)).tolist()))
    assert main(["plan", "prune", str(dense), *PRUNINGS[pruning]]) == 0
    planned = capsys.readouterr().out
    assert main(["prune", str(dense), *PRUNINGS[pruning], "--calibration", str(windows), "--out", str(out)]) == 0
    pruned = AutoModelForCausalLM.from_pretrained(out, dtype="auto").eval()
    counts = [sum(parameter.numel() for parameter in side.parameters()) for side in (pruned, expected)]
    assert f"{counts[0]:,} of {counts[1]:,} parameters" in planned
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] == tied == (pruned.lm_head.weight is pruned.model.embed_tokens.weight)
    assert {name: config[name] for name in entries} == entries
    assert pruned.config.rope_parameters == expected.config.rope_parameters
    assert torch.equal(pruned.lm_head.weight, expected.lm_head.weight)
    assert torch.equal(pruned.model.embed_tokens.weight, expected.model.embed_tokens.weight)
    kept = json.loads((out / "kept.json").read_text())
    with torch.no_grad():
        found, wanted = pruned(IDS).logits.float(), masked(expected, kept)(IDS).logits.float()
    torch.testing.assert_close(found, wanted, atol=0.1 if pruned.dtype == torch.bfloat16 else 1e-5, rtol=1e-5)


def test_old_readers_would_see_the_same_rotations(model, tmp_path):
    """A reader that knows neither `rope_parameters` nor `dtype` builds the configuration that this one does."""
    dense = shutil.copytree(model, tmp_path / "dense")
    theta_outside(dense)
    windows = tmp_path / "windows.json"
    windows.write_text(json.dumps(IDS.tolist() * 3))
    assert main(["prune", str(dense), *PRUNINGS["depth"], "--calibration", str(windows), "--out",
                 str(tmp_path / "out")]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    older = LlamaConfig(**{name: value for name, value in config.items() if name not in ("rope_parameters", "dtype")})
    assert older.rope_parameters == config["rope_parameters"]
