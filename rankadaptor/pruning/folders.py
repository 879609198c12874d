"""Pruning a user's own model: a checkpoint folder in, a checkpoint folder out."""

import itertools
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from rankadaptor.allocation import trainable_parameters, uniform_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.data.hub import checkpoint_folder
from rankadaptor.data.text import read_text
from rankadaptor.errors import BadInput
from rankadaptor.files import scratch_beside, settle
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.gate import check_checkpoint, check_llama
from rankadaptor.models.tokenizers import Tokenizer, check_ids, copy_tokenizer, load_tokenizer
from rankadaptor.pruning import prune, pruned_shapes
from rankadaptor.pruning.calibration import tokenised_windows
from rankadaptor.pruning.checkpoints import save_pruned
from rankadaptor.pruning.spec import PruneSpec

_TOKENS = 64  # length of the sequence whose multiply-accumulates are counted, as in LLM-Pruner


def prune_folder(model: Path | str, spec: PruneSpec, calibration: Path | str, out: Path | str) -> Path:
    """Prune a LLaMA checkpoint and write the pruned one, or nothing at all.

    Args:
        model: Folder with `config.json`, safetensors and a tokenizer, or a pinned hub id (`data.hub`).
        spec: What to remove.
        calibration: Text, one document a paragraph (blank lines between, spaces on them or not), or a JSON list of
            token-id lists, all of one length, used as they are; then the spec's samples and tokens are not read.
        out: Folder to be made; see `checkpoints` for what it holds.

    Returns:
        `out`.

    Raises:
        BadInput: on a folder that is no LLaMA, calibration that is too short or has tokens without an embedding, or an
            `out` that exists.
    """
    target = Path(out)
    if target.exists():
        raise BadInput(f"{target} is there already: name a folder that is not, or remove it")
    if not Path(calibration).is_file():
        raise BadInput(f"no calibration file {calibration}: give text, or a JSON list of token-id lists")
    dense = check_llama(checkpoint_folder(str(model), weights=False))
    if spec.ranking == "local":  # widths under global ranking depend on the weights
        pruned_shapes(dense, spec)
    source = checkpoint_folder(str(model))
    check_checkpoint(source)
    tokenizer = load_tokenizer(source)
    windows = read_calibration(Path(calibration), tokenizer, spec, dense.vocab_size)
    with scratch_beside(target) as scratch:
        save_pruned(prune(load_model(source), spec, windows), scratch / "model")
        copy_tokenizer(tokenizer, source, scratch / "model")
        if (generation := source / "generation_config.json").is_file():
            shutil.copyfile(generation, scratch / "model" / generation.name)
        settle(scratch / "model", target)
    return target


def default_range(layers: int) -> tuple[int, int]:
    """Layers that are pruned by default, as [first, end).

    4..29 of 32 and 4..35 of 40, as in the paper; at other depths the first eighth and the last sixteenth stay whole.
    """
    if layers in (32, 40):
        return 4, layers - (2 if layers == 32 else 4)
    return round(layers / 8), layers - round(layers / 16)


def summary(before: Architecture, after: Architecture) -> str:
    """Sizes before and after, and the shape of every layer, with equal neighbours on one line."""
    share = 1 - after.parameters() / before.parameters()
    trained = trainable_parameters(uniform_allocation(8, after), after)
    lines = [
        f"{after.parameters():,} of {before.parameters():,} parameters, {100 * share:.2f} % fewer",
        f"{after.macs(_TOKENS):,} of {before.macs(_TOKENS):,} multiply-accumulates for {_TOKENS} tokens",
        f"{2 * after.parameters() / 2**20:,.1f} of {2 * before.parameters() / 2**20:,.1f} MiB of weights at 16 bits",
        f"{trained:,} parameters to train in LoRA with rank 8",
    ]
    for shape, run in itertools.groupby(range(len(after.layers)), lambda position: after.layers[position]):
        originals = [after.original_layers[position] for position in run]
        lines.append(f"{_layer_names(originals)}: {shape.heads} heads, {shape.kv_heads} KV heads,"
                     f" {shape.mlp_width} channels")
    return "\n".join(lines)


def _layer_names(layers: Sequence[int]) -> str:
    """Such as `layers 0-3, 10-31`, or `layer 0`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    numbers = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"layer{'s' if len(layers) > 1 else ''} {numbers}"


def read_calibration(path: Path, tokenizer: Tokenizer, spec: PruneSpec, vocabulary: int) -> torch.Tensor:
    """Calibration token ids from text, or from a JSON list of token-id lists.

    Args:
        vocabulary: Number of the model's embeddings.

    Returns:
        int64.  # (samples, tokens)

    Raises:
        BadInput: on text that is too short, on JSON that is no such list, or on a token without an embedding.
    """
    if path.suffix == ".json":
        windows = _read_windows(path, len(tokenizer))
        check_ids(windows.flatten().tolist(), tokenizer, vocabulary, str(path))
        return windows
    texts = [text.strip() for text in re.split(r"\n\s*\n", read_text(path)) if text.strip()]
    return tokenised_windows(texts, tokenizer, spec, vocabulary)


def _read_windows(path: Path, vocabulary: int) -> torch.Tensor:
    try:
        windows = json.loads(read_text(path))
        ids = torch.tensor(windows)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput(f"{path} is not a JSON list of token-id lists of one length ({str(error).splitlines()[0]}):"
                       " mend it") from None
    if ids.dim() != 2 or ids.dtype != torch.int64 or ids.shape[1] < 2:
        raise BadInput(f"{path} holds numbers of shape {list(ids.shape)}: give a list of lists of token ids, each of"
                       " one length of at least 2")
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise BadInput(f"{path} holds token ids from {int(ids.min())} to {int(ids.max())}, the tokenizer has"
                       f" {vocabulary}: tokenise with the model's own tokenizer")
    return ids
