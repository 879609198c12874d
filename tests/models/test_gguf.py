"""GGUF files: converted to the same model once, and refused where they do not hold a whole LLaMA."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from helpers.models import tiny_llama

from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput
from rankadaptor.models.base_model import BaseModel, base_model, base_model_folder
from rankadaptor.models.tokenizers import load_tokenizer


def write_gguf(path: Path, architecture: str = "llama", without: str = "") -> None:
    """The tiny LLaMA in float32, with rotary dimensions permuted as llama.cpp has them, and a tokenizer of 96 words."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_block_count(4)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(8)
    writer.add_value_length(8)
    writer.add_rope_dimension_count(8)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(96)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<s>", "a", "b", "ab", *(f"w{i}" for i in range(4, 96))])
    writer.add_token_types([1] * 96)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 4)
    for name, tensor in tiny_llama().state_dict().items():
        if name not in ("lm_head.weight", without):  # the head is tied
            heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
            weight = tensor.numpy()
            if heads:
                weight = weight.reshape(heads, 2, 4, 32).swapaxes(1, 2).reshape(weight.shape)
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def base(tmp_path, monkeypatch) -> BaseModel:
    """A base model in a GGUF file that is not written yet."""
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "gguf").mkdir()
    return BaseModel("tiny", Source("dir", str(tmp_path / "gguf"), None), "model.gguf", "saved")


def test_a_converted_file_is_the_same_model(base, tmp_path):
    write_gguf(tmp_path / "gguf" / "model.gguf")
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(base_model(base)(input_ids=ids).logits, tiny_llama()(input_ids=ids).logits)
    assert load_tokenizer(base_model_folder(base)).decode([3]) == "ab"


@pytest.mark.parametrize("without", ["model.norm.weight", "model.layers.2.mlp.up_proj.weight",
                                     "model.embed_tokens.weight"])
def test_a_file_that_lacks_a_tensor_is_refused(without, base, tmp_path, capfd):
    write_gguf(tmp_path / "gguf" / "model.gguf", without=without)
    with pytest.raises(BadInput, match=r"did not load .* whole, missing keys"):
        base_model_folder(base)
    assert "newly initialized" not in capfd.readouterr().err
    assert not list((tmp_path / "cache").rglob("config.json"))


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\3\0\0\0" + b"\xff" * 100, b"no gguf at all" * 100])
def test_a_damaged_file_is_refused(content, base, tmp_path):
    (tmp_path / "gguf" / "model.gguf").write_bytes(content)
    with pytest.raises(BadInput, match="give a whole GGUF file of a LLaMA"):
        base_model_folder(base)


def test_another_architecture_is_refused(base, tmp_path):
    write_gguf(tmp_path / "gguf" / "model.gguf", "qwen2")
    with pytest.raises(BadInput, match="of type 'qwen2'"):
        base_model_folder(base)
