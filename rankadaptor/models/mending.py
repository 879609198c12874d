"""Configuration of LLaMA's copies of 2023, mended where it contradicts the tokenizer that stands beside it.

The first conversions wrote empty special tokens, the ids of another tokenizer (end of text 1 in place of 2, padding -1)
and names of classes that were renamed since. The sentencepiece model is what the weights were trained with: it decides.
Every mend is a line, such as `config.json: eos_token_id 1 -> 2`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece

from rankadaptor.errors import BadInput
from rankadaptor.sealed import given_object

# Files of a checkpoint beside its weights.
COPIED = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json",
          "added_tokens.json", "tokenizer.json", "tokenizer.model", "chat_template.jinja")
_CLASSES = {"LLaMATokenizer": "LlamaTokenizer", "LLaMATokenizerFast": "LlamaTokenizerFast",
            "LLaMAForCausalLM": "LlamaForCausalLM"}
_TOKENS = ("bos", "eos", "unk")


def mend(folder: Path, out: Path) -> list[str]:
    """Copy the configuration and the tokenizer of a checkpoint, mended.

    Args:
        folder: Of the checkpoint.
        out: A folder that exists.

    Returns:
        What was mended, a line each; none where there is no `tokenizer.model` to decide, but for names of classes.

    Raises:
        BadInput: on a tokenizer that cannot be read or has more tokens than the model, or JSON that is no object.
    """
    tokenizer = _tokenizer(folder)
    mends: list[str] = []
    for name in COPIED:
        if not (folder / name).is_file():
            continue
        if not name.endswith("_config.json") and name not in ("config.json", "special_tokens_map.json"):
            shutil.copyfile(folder / name, out / name)
            continue
        content = given_object(folder / name)
        changes = _changes(name, content, tokenizer)
        mends += [f"{name}: {key} {json.dumps(content.get(key))} -> {json.dumps(value)}"
                  for key, value in changes.items()]
        (out / name).write_text(json.dumps(content | changes, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return mends


def _tokenizer(folder: Path) -> sentencepiece.SentencePieceProcessor | None:
    path = folder / "tokenizer.model"
    if not path.is_file():
        return None
    tokenizer = sentencepiece.SentencePieceProcessor()
    try:
        tokenizer.LoadFromSerializedProto(path.read_bytes())
    except (RuntimeError, ValueError, TypeError):
        raise BadInput(f"{path} is no sentencepiece model: fetch it again") from None
    most = given_object(folder / "config.json").get("vocab_size")
    if not isinstance(most, int) or tokenizer.GetPieceSize() > most:
        raise BadInput(f"{path} has {tokenizer.GetPieceSize()} tokens, and vocab_size in config.json is {most}: give"
                       " the tokenizer of this model")
    return tokenizer


def _changes(
    name: str, content: dict[str, Any], tokenizer: sentencepiece.SentencePieceProcessor | None
) -> dict[str, Any]:
    """New values by key of one file."""
    changes: dict[str, Any] = {}
    if content.get("tokenizer_class") in _CLASSES:
        changes["tokenizer_class"] = _CLASSES[content["tokenizer_class"]]
    classes = content.get("architectures")
    if isinstance(classes, list) and any(old in classes for old in _CLASSES):
        changes["architectures"] = [_CLASSES.get(old, old) for old in classes]
    longest = content.get("max_sequence_length")
    if name == "config.json" and isinstance(longest, int) and "max_position_embeddings" not in content:
        changes["max_position_embeddings"] = longest
    if tokenizer is not None:
        of_ids = name in ("config.json", "generation_config.json")
        changes |= _ids(content, tokenizer) if of_ids else _tokens(content, tokenizer)
    return changes


def _ids(content: dict[str, Any], tokenizer: sentencepiece.SentencePieceProcessor) -> dict[str, int | None]:
    """Ids that name another special token of the tokenizer, or none. An ordinary or an added token may be meant so."""
    changes: dict[str, int | None] = {}
    for token in ("bos", "eos"):
        value, right = content.get(f"{token}_token_id"), _id(tokenizer, token)
        if right >= 0 and type(value) is int and value != right and _is_special(tokenizer, value):
            changes[f"{token}_token_id"] = right
    padding = content.get("pad_token_id")
    if type(padding) is int and padding < 0:
        changes["pad_token_id"] = None
    return changes


def _is_special(tokenizer: sentencepiece.SentencePieceProcessor, token: int) -> bool:
    return token < 0 or (
        token < tokenizer.GetPieceSize() and (tokenizer.IsControl(token) or tokenizer.IsUnknown(token)))


def _tokens(content: dict[str, Any], tokenizer: sentencepiece.SentencePieceProcessor) -> dict[str, Any]:
    """Special tokens that are empty, as the tokenizer has them."""
    changes: dict[str, Any] = {}
    for token in _TOKENS:
        value, right = content.get(f"{token}_token"), _id(tokenizer, token)
        text = value.get("content") if isinstance(value, dict) else value
        if text == "" and right >= 0:
            piece = tokenizer.IdToPiece(right)
            changes[f"{token}_token"] = value | {"content": piece} if isinstance(value, dict) else piece
    return changes


def _id(tokenizer: sentencepiece.SentencePieceProcessor, token: str) -> int:
    """-1 where the tokenizer has no such token."""
    return {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "unk": tokenizer.unk_id}[token]()
