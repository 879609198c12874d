"""SentencePiece models trained for tests, and checkpoints whose tokenizer is one."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import sentencepiece
from transformers.convert_slow_tokenizer import SentencePieceExtractor

from helpers.data import sentence
from helpers.models import tiny_llama

# As LLaMA's own: BPE with bytes for what is unknown, no normalisation, every space counts.
LLAMA = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity", "split_digits": True,
         "remove_extra_whitespaces": False, "allow_whitespace_only_pieces": True, "vocab_size": 340}


def write_sentencepiece(path: Path, **options: Any) -> None:
    """Train a SentencePiece model on a hundred sentences; `options` replace those of LLaMA."""
    model = io.BytesIO()
    texts = [*(sentence(i) for i in range(100)), "Question: Answer: yes no 1999", "a  b   c"]
    fixed = {"character_coverage": 1.0, "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, num_threads=1, **(fixed | LLAMA | options))
    path.write_bytes(model.getvalue())


def with_flat_scores(source: Path, path: Path) -> None:
    """A copy of a SentencePiece model whose last pieces all have the score 0, as in vocabularies that were joined."""
    model = SentencePieceExtractor(str(source)).proto
    for piece in model.pieces[-20:]:
        piece.score = 0
    path.write_bytes(model.SerializeToString())


def write_llama_with(folder: Path, model: Path, **settings: Any) -> Path:
    """A tiny LLaMA with `tokenizer.model` alone, and `tokenizer_config.json` where it has settings."""
    tiny_llama(vocabulary=360).save_pretrained(folder)
    shutil.copyfile(model, folder / "tokenizer.model")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
