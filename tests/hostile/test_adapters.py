"""Adapters that do not belong to a model, or are damaged: refused in one line, and never scored."""

import json
import shutil

import pytest
import torch
from helpers.models import tiny_llama
from helpers.profile import write_checkpoint
from helpers.shared import made_once
from safetensors.torch import load_file, save_file

from rankadaptor.__main__ import main
from rankadaptor.recovery.adapters import attach_adapter, load_adapter, save_adapter
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
RECIPE = Recipe(8, 4, 4, 1e-3, 1, 64, 0.0, 0.0, 1.0)
A = "base_model.model.model.layers.2.mlp.up_proj.lora_A.weight"
B = "base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"


def configured(**entries):
    def apply(folder):
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return apply


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def tensors(change):
    def apply(folder):
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)

    return apply


def spoiled(value):
    def change(stored):
        stored[A][0, 0] = value
        return stored

    return tensors(change)


REFUSED = {
    "no configuration": (lambda folder: (folder / CONFIG).unlink(), "no adapter_model.safetensors and"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no adapter_model.safetensors and"),
    "a configuration that is a list": (text(CONFIG, "[]"), "not a JSON object"),
    "a configuration in Latin-1": (lambda folder: (folder / CONFIG).write_bytes(b'{"r": "\xe9"}'), "not a JSON object"),
    "a configuration nested too deep": (text(CONFIG, '{"a":' * 50_000), "not a JSON object"),
    "a configuration of megabytes": (configured(revision="x" * 2**20), "bytes"),
    "another kind": (configured(peft_type="PROMPT_TUNING"), "only LORA and ADALORA are read"),
    "no kind": (configured(peft_type=None), "is of type None"),
    "an entry of a newer PEFT": (configured(use_newest=True), "the entry use_newest"),
    "a rank of zero": (configured(r=0), "has r 0"),
    "a rank in text": (configured(r="8"), "has r '8'"),
    "a scaling of NaN": (configured(lora_alpha=float("nan")), "has lora_alpha nan"),
    "a scaling below zero": (configured(lora_alpha=-16), "has lora_alpha -16"),
    "patterns that are a list": (configured(rank_pattern=["q_proj"]), "has rank_pattern"),
    "a pattern that is none": (configured(rank_pattern={"(": 4}), "no pattern of module names"),
    "a pattern with a rank of text": (configured(rank_pattern={"q_proj": "4"}), "has rank_pattern of q_proj '4'"),
    "a scaling of a pattern that is infinite": (configured(alpha_pattern={"q_proj": float("inf")}), "alpha_pattern of"),
    "modules that the model lacks": (configured(target_modules=["c_attn"]), "does not fit the model"),
    "one module fewer": (configured(target_modules=["q_proj"]), "does not fit the model"),
    "another rank than stored": (configured(r=5, rank_pattern={}), "does not fit the model"),
    "weights cut": (lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:900]), "no whole"),
    "weights of text": (text(WEIGHTS, "version https://git-lfs"), "no whole safetensors file"),
    "no tensor at all": (tensors(lambda stored: {}), "holds no tensor"),
    "NaN": (spoiled(float("nan")), f"{A} in"),
    "infinity": (spoiled(float("inf")), "NaN or infinity"),
    "whole numbers": (tensors(lambda stored: stored | {A: stored[A].to(torch.int32)}), "holds int32"),
    "a tensor missing": (tensors(lambda stored: {n: t for n, t in stored.items() if n != B}), "does not fit the model"),
    "a tensor more": (tensors(lambda stored: stored | {"x": torch.ones(2)}), "does not fit the model"),
    "a tensor of another shape": (tensors(lambda stored: stored | {B: stored[B][:-1].clone()}), "does not fit"),
    "a layer beyond the model": (tensors(lambda stored: stored | {A.replace(".2.", ".9."): stored[A].clone()}),
                                 "does not fit the model"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """A model and an adapter of it."""

    def make(folder):
        write_checkpoint(folder / "model", tokenizer)
        save_adapter(attach_adapter(tiny_llama(), RecoverySpec("lora", (2, 4, 6, 8), "constant", 16, RECIPE, 0)),
                     folder / "adapter")

    return made_once(tmp_path_factory, "adapter", make)


@pytest.mark.parametrize("kind", REFUSED)
def test_an_adapter_that_does_not_fit_is_refused(kind, made, tmp_path, benchmark_folder, capsys):
    adapter = shutil.copytree(made / "adapter", tmp_path / "adapter")
    change, message = REFUSED[kind]
    change(adapter)
    status = main(["evaluate", str(made / "model"), "--adapter", str(adapter), "--benchmarks", str(benchmark_folder),
                   "--tasks", "piqa", "--items", "2"])
    error = capsys.readouterr().err
    assert status == 2, error
    assert error.startswith("rankadaptor: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.filterwarnings("error")
def test_a_name_of_another_base_is_not_followed(made, tmp_path):
    adapter = shutil.copytree(made / "adapter", tmp_path / "adapter")
    configured(base_model_name_or_path=str(tmp_path / "nowhere"))(adapter)
    ids = torch.tensor([[5, 6, 7]])
    expected = load_adapter(tiny_llama(), made / "adapter")(input_ids=ids).logits
    assert torch.equal(load_adapter(tiny_llama(), adapter)(input_ids=ids).logits, expected)
