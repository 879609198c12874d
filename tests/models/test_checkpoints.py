"""The base model: converted once from its pinned GGUF, and readable afterwards."""

import hashlib

import pytest
import torch

from rankadaptor.errors import BadInput
from rankadaptor.models.base_model import base_model_folder, base_model_is_cached
from rankadaptor.models.checkpoints import load_model
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
