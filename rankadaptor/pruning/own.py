"""Pruning a model of one's own: a folder in, a folder out."""

import json
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig

from rankadaptor.corpora.downloads import settle
from rankadaptor.corpora.text import calibration_windows
from rankadaptor.errors import BadInput
from rankadaptor.models import Tokenizer, load_model, load_tokenizer, read_architecture
from rankadaptor.pruning import prune
from rankadaptor.pruning.checkpoints import save_pruned
from rankadaptor.specs import PruneSpec


def prune_folder(model: Path | str, spec: PruneSpec, calibration: Path | str, out: Path | str) -> Path:
    """Prune a LLaMA checkpoint and write the pruned one, or nothing at all.

    Args:
        model: Folder with `config.json`, safetensors and a tokenizer.
        calibration: Text, one document a paragraph (blank lines between), or a JSON list of token-id lists, all of one
            length, used as they are; then the spec's samples, tokens and seed of the windows are not read.
        out: Folder to be made; see `checkpoints` for what it holds.

    Raises:
        BadInput: on a folder that is no LLaMA, calibration that is too short, or an `out` that exists.
    """
    source, target = Path(model), Path(out)
    if target.exists():
        raise BadInput(f"{target} is there already: name a folder that is not, or remove it")
    read_architecture(source)
    check_llama(source)
    tokenizer = load_tokenizer(source)
    windows = read_calibration(Path(calibration), tokenizer, spec)
    pruned = prune(load_model(source), spec, windows)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".prune-") as scratch:
        save_pruned(pruned, tokenizer, Path(scratch) / "model")
        settle(Path(scratch) / "model", target)
    return target


def default_range(folder: Path) -> tuple[int, int]:
    """The middle layers, as the paper has them: 4 of 32 at the beginning and 2 at the end stay, in proportion."""
    layers = len(read_architecture(folder).layers)
    return round(layers / 8), layers - round(layers / 16)


def summary(dense: Path, pruned: Path) -> str:
    """Parameters before and after, and the shape of every layer."""
    before, after = read_architecture(dense), read_architecture(pruned)
    share = 1 - after.parameters() / before.parameters()
    lines = [f"{pruned}: {after.parameters():,} of {before.parameters():,} parameters, {100 * share:.2f} % fewer"]
    for original, shape in zip(after.original_layers, after.layers, strict=True):
        lines.append(f"layer {original}: {shape.heads} heads, {shape.kv_heads} KV heads, {shape.mlp_width} channels")
    return "\n".join(lines)


def check_llama(folder: Path) -> None:
    """Raises BadInput unless the folder's model has LLaMA's architecture, without biases."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if config.model_type != "llama":
        raise BadInput(f"the model in {folder} is of type {config.model_type!r}: only dense llama models are pruned")
    if config.attention_bias or config.mlp_bias:
        raise BadInput(f"the model in {folder} has biases in its projections: only LLaMA without them is pruned")


def read_calibration(path: Path, tokenizer: Tokenizer, spec: PruneSpec) -> torch.Tensor:
    """Calibration token ids.  # (samples, tokens)"""
    if not path.is_file():
        raise BadInput(f"no calibration file {path}: give text, or a JSON list of token-id lists")
    if path.suffix == ".json":
        return _read_windows(path, len(tokenizer))
    texts = [text.strip() for text in path.read_text(encoding="utf-8").split("\n\n") if text.strip()]
    return torch.tensor(calibration_windows(
        texts, lambda text: tokenizer(text, add_special_tokens=False).input_ids,
        spec.calibration_samples, spec.calibration_tokens, spec.seed))


def _read_windows(path: Path, vocabulary: int) -> torch.Tensor:
    try:
        windows = json.loads(path.read_text(encoding="utf-8"))
        ids = torch.tensor(windows)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{path} is not a JSON list of token-id lists of one length ({str(error).splitlines()[0]}):"
                       " mend it") from None
    if ids.dim() != 2 or ids.dtype != torch.int64 or ids.shape[1] < 2:
        raise BadInput(f"{path} holds numbers of shape {list(ids.shape)}: give a list of lists of token ids, each of"
                       " one length of at least 2")
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise BadInput(f"{path} holds token ids from {int(ids.min())} to {int(ids.max())}, the tokenizer has"
                       f" {vocabulary}: tokenise with the model's own tokenizer")
    return ids
