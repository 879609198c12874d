"""Pretraining of the embedded LLaMA: a tokenizer of its own, then next-token prediction on the endless stream.

Step k reads documents drawn from a generator of its own, so that a run resumes anywhere and no order is kept. The rate
warms up, stays, and falls linearly to zero at the end (warm-up, stable, decay), so that a longer run can start from the
stable part of a shorter one. Checkpoints are safetensors alone.
"""

import contextlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as CoreTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rankadaptor.errors import BadInput
from rankadaptor.keys import canonical_json
from rankadaptor.machine import machine
from rankadaptor.models.patching import restricted_to_layers
from rankadaptor.testbed.corpus import pretraining_digest, pretraining_documents, tokenizer_documents
from rankadaptor.testbed.world import SEED

_FROM_ZERO = ("world_seed", "seed", "warmup_steps", "weight_decay", "layer_drop")
_SHARES = ("decay_share", "layer_drop", "weight_decay", "learning_rate")
END = "<end>"  # ends a document, and pads


@dataclass(frozen=True)
class PretrainingRecipe:
    """Everything the shipped weights are a function of, up to floating point."""

    world_seed: int = SEED
    vocabulary: int = 1536
    hidden_size: int = 112
    layers: int = 13
    heads: int = 8
    mlp_width: int = 224
    max_positions: int = 512
    steps: int = 3600
    batch_rows: int = 16
    row_tokens: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    decay_share: float = 0.25  # of the steps, at the end
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    layer_drop: float = 0.02  # chance of a step to go past a layer; the first two and the last are always kept
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises BadInput on a number that no run can be made with."""
        for name, value in asdict(self).items():
            least = 0 if name in _FROM_ZERO else 1 if isinstance(value, int) else 1e-12
            most = 1 if name in _SHARES else 2**32 - 1
            if not least <= value <= most:
                raise BadInput(f"{name} is {value}: give a number from {least} to {most}")


def pretrain(
    recipe: PretrainingRecipe,
    folder: Path,
    more_texts: Sequence[str] = (),
    every: int = 250,
    report: Callable[[str], None] = print,
) -> Path:
    """Train, or go on training, in a folder; returns the folder of the finished model.

    Args:
        recipe: What to train.
        folder: Holds `tokenizer`, `checkpoint` (the newest, for resuming) and at the end `model`.
        more_texts: What the tokenizer should know beside the corpus, such as a prompt template.
        every: Steps between checkpoints.

    Raises:
        BadInput: if the folder holds a run of another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder / "recipe.json", recipe)
    tokenizer = trained_tokenizer(recipe, folder / "tokenizer", more_texts)
    model = new_model(recipe, tokenizer)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True,
    )
    start, last_loss = _resume(model, optimizer, folder / "checkpoint")
    began = time.monotonic()
    for step in range(start, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate_factor(step, recipe)
        ids = batch(step, recipe, tokenizer)  # (rows, tokens)
        with layers_dropped(model, recipe, step):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        for parameter in model.parameters():
            if parameter.grad is None:  # of a dropped layer: its moments decay all the same
                parameter.grad = torch.zeros_like(parameter)
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            last_loss = loss.item()
            _checkpoint(model, optimizer, step + 1, last_loss, folder / "checkpoint")
            speed = (step + 1 - start) * ids.numel() / (time.monotonic() - began)
            report(f"step {step + 1} of {recipe.steps}: loss {last_loss:.3f}, {speed:,.0f} tokens/s")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    described = {
        "recipe": asdict(recipe),
        "corpus_sha256": pretraining_digest(recipe.world_seed),
        "tokens": recipe.steps * recipe.batch_rows * recipe.row_tokens,
        "last_loss": last_loss,
        "machine": machine(),
    }
    (folder / "model" / "pretraining.json").write_text(json.dumps(described, indent=1) + "\n")
    return folder / "model"


def rate_factor(step: int, recipe: PretrainingRecipe) -> float:
    """Share of the peak learning rate at a step: up, level, down."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    decay_steps = recipe.decay_share * recipe.steps
    return min(1.0, (recipe.steps - step) / decay_steps)


def layers_dropped(
    model: LlamaForCausalLM, recipe: PretrainingRecipe, step: int
) -> contextlib.AbstractContextManager[None]:
    """Structured dropout of whole layers (LayerDrop, Fan et al. 2020), drawn anew for every step.

    Large models lose little with a layer, small ones much; trained like this, a small one is more like the large.
    """
    draw, count = random.Random(f"layers {recipe.seed} {step}"), len(model.model.layers)
    return restricted_to_layers(model, [
        layer for layer in range(count) if not 2 <= layer < count - 1 or draw.random() >= recipe.layer_drop
    ])


def batch(step: int, recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Documents of one step, end to end, cut into rows.  # (batch_rows, row_tokens)"""
    documents = pretraining_documents(recipe.world_seed, step)
    ids: list[int] = []
    while len(ids) < recipe.batch_rows * recipe.row_tokens:
        for encoding in tokenizer(list(islice(documents, 64)), add_special_tokens=False).input_ids:
            ids += [*encoding, tokenizer.eos_token_id]
    return torch.tensor(ids[: recipe.batch_rows * recipe.row_tokens]).view(recipe.batch_rows, recipe.row_tokens)


def new_model(recipe: PretrainingRecipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained LLaMA of the recipe's shape, initialised from its seed."""
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=recipe.vocabulary, hidden_size=recipe.hidden_size, intermediate_size=recipe.mlp_width,
        num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_positions, tie_word_embeddings=True, initializer_range=0.04,
        bos_token_id=end, eos_token_id=end, pad_token_id=end, attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(config)
        # Mimetic initialisation (Trockman & Kolter 2023): attention starts out looking for equal tokens and copying
        # them. Without it, and with small embeddings, nothing in context was learned within five million tokens.
        torch.nn.init.normal_(model.model.embed_tokens.weight, std=recipe.hidden_size**-0.5)
        for layer in model.model.layers:
            attention = layer.self_attn
            torch.nn.init.normal_(attention.q_proj.weight, std=0.1)
            torch.nn.init.normal_(attention.v_proj.weight, std=0.05)
            attention.k_proj.weight.data.copy_(attention.q_proj.weight)
            attention.o_proj.weight.data.copy_(attention.v_proj.weight.T)
        return model


def trained_tokenizer(
    recipe: PretrainingRecipe, folder: Path, more_texts: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the corpus and of more texts, read from the folder if it is there."""
    if not (folder / "tokenizer.json").is_file():
        texts = [*tokenizer_documents(recipe.world_seed), *more_texts]
        core = CoreTokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        core.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=recipe.vocabulary, special_tokens=[END], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        fast = PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END,
                                       clean_up_tokenization_spaces=False)
        fast.save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _claim(path: Path, recipe: PretrainingRecipe) -> None:
    content = canonical_json(recipe)
    if path.is_file() and path.read_text().strip() != content:
        raise BadInput(f"{path.parent} holds a run of another recipe: name another folder, or remove it")
    path.write_text(content + "\n")


def _checkpoint(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, step: int, loss: float, folder: Path
) -> None:
    """Weights and moments under one name, replaced as a whole; killed in between, the one before is set aside whole."""
    scratch = folder.with_name("checkpoint-writing")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"{moment}.{name}": state[moment] for moment in ("exp_avg", "exp_avg_sq")}
    save_file(tensors, scratch / "state.safetensors")
    (scratch / "step.json").write_text(json.dumps({"step": step, "loss": loss}) + "\n")
    shutil.rmtree(_aside(folder), ignore_errors=True)
    if folder.is_dir():
        os.rename(folder, _aside(folder))
    os.rename(scratch, folder)
    shutil.rmtree(_aside(folder), ignore_errors=True)


def _aside(folder: Path) -> Path:
    return folder.with_name("checkpoint-before")


def _resume(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, folder: Path) -> tuple[int, float]:
    """Load the newest checkpoint; returns how many steps are done, and the last one's loss."""
    if not folder.is_dir() and _aside(folder).is_dir():
        os.rename(_aside(folder), folder)
    if not (folder / "step.json").is_file():
        return 0, float("nan")
    done = json.loads((folder / "step.json").read_text())
    step = int(done["step"])
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            optimizer.state[parameter] = {"step": torch.tensor(float(step))} | {
                moment: tensors[f"{moment}.{name}"].clone() for moment in ("exp_avg", "exp_avg_sq")
            }
    return step, float(done["loss"])
