"""The base model: converted once from its pinned GGUF, and readable afterwards."""

import hashlib

import pytest
import torch
from helpers.models import llamas

from rankadaptor.errors import BadInput
from rankadaptor.models.base_model import base_model_folder, base_model_is_cached
from rankadaptor.models.checkpoints import architecture_of, check_report, load_model
from rankadaptor.models.gate import PRUNED_TYPE, tensor_shapes
from rankadaptor.models.pruned_llama import PrunedLlamaConfig
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.profiles import load_profile

BASE = load_profile("smollm2").base_model


@pytest.mark.skipif(not base_model_is_cached(BASE), reason="the base model is not in the cache")
def test_conversion_gives_the_pinned_weights():
    folder = base_model_folder(BASE)
    model = load_model(folder, torch.device("cpu"))
    assert model.num_parameters() == 134_515_008
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    assert digest.hexdigest() == "3c5fdee91060c09a103a3ace048e09657659253dda455eaa5b13bcd2d5525f3b"
    tokenizer = load_tokenizer(folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**prompt, max_new_tokens=4, do_sample=False)[0])


def test_a_folder_without_a_model_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no model in"):
        load_model(tmp_path)


@pytest.mark.parametrize("fault", ["missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"])
def test_what_transformers_reports_is_an_error(fault, tmp_path):
    check_report({fault: set()}, tmp_path)
    with pytest.raises(BadInput, match=rf"whole, {fault.replace('_', ' ')}: model\.norm"):
        check_report({fault: {"model.norm.weight"}}, tmp_path)


def test_the_gate_knows_the_type_of_pruned_models():
    assert PrunedLlamaConfig.model_type == PRUNED_TYPE


def test_the_gate_describes_each_tensor_of_a_llama():
    for model in llamas().values():
        parameters = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        assert tensor_shapes(architecture_of(model)) == parameters
