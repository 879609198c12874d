"""Checkpoints as LLaMA's copies of 2023 are: pickled shards, an index, and a sentencepiece model alone."""

import functools
import io
import json
from pathlib import Path

import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from helpers.data import WORDS, sentence

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = "pytorch_model.bin.index.json"
VOCABULARY = 320
# As the first conversion scripts wrote it: ids of another tokenizer, and names that were changed since.
CONFIG = {
    "architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1,
    "hidden_act": "silu", "hidden_size": 32, "intermediate_size": 48, "initializer_range": 0.2,
    "max_sequence_length": 512, "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 4,
    "rms_norm_eps": 1e-06, "torch_dtype": "float16", "transformers_version": "4.27.0.dev0", "use_cache": True,
    "vocab_size": VOCABULARY,
}
TOKENS = {"bos_token": "", "eos_token": "", "model_max_length": 1e30, "tokenizer_class": "LLaMATokenizer",
          "unk_token": ""}


@functools.cache
def sentencepiece_model() -> bytes:
    """A BPE with bytes that leaves text as it is, as LLaMA's: unknown 0, beginning 1, end 2."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([sentence(i) for i in range(200)] + WORDS), model_writer=model, vocab_size=300,
        model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False)
    return model.getvalue()


def weights(**shape: int) -> dict[str, torch.Tensor]:
    """Random weights of `CONFIG`'s shape in half precision, with the buffers that old exports hold."""
    torch.manual_seed(0)
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size",
             "initializer_range")
    config = LlamaConfig(**{name: CONFIG[name] for name in names} | shape)
    state = {name: tensor.clone() for name, tensor in LlamaForCausalLM(config).half().state_dict().items()}
    head_dim = config.hidden_size // config.num_attention_heads
    frequencies = 1 / 10_000 ** (torch.arange(0, head_dim, 2).float() / head_dim)
    return state | {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": frequencies
                    for layer in range(config.num_hidden_layers)}


def write_shards(folder: Path, state: dict[str, torch.Tensor], count: int = 2) -> None:
    """`pytorch_model-0000x-of-0000y.bin` and their index; one `pytorch_model.bin` where the count is 1."""
    names = sorted(state)
    if count == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return
    files = [f"pytorch_model-{number + 1:05d}-of-{count:05d}.bin" for number in range(count)]
    for number, file in enumerate(files):
        torch.save({name: state[name] for name in names[number::count]}, folder / file)
    weight_map = {name: files[place % count] for place, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def write_llama_of_2023(folder: Path, shards: int = 2, **shape: int) -> None:
    """A whole checkpoint of that time.

    Args:
        folder: To be made.
        shape: Entries of `CONFIG` that differ.
    """
    folder.mkdir(parents=True)
    write_shards(folder, weights(**shape), shards)
    (folder / "config.json").write_text(json.dumps(CONFIG | shape))
    (folder / "generation_config.json").write_text(
        json.dumps({"_from_model_config": True, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))
    (folder / "special_tokens_map.json").write_text("{}")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())


def into_hub_cache(folder: Path, cache: Path, repository: str, commit: str = COMMIT) -> Path:
    """Move a checkpoint into a hub's cache: files lie in blobs, a snapshot links to them. Returns the snapshot."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    for place in (snapshot, home / "blobs", home / "refs"):
        place.mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = home / "blobs" / f"{number:064x}"
        path.rename(blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot
