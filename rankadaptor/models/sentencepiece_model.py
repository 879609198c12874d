"""LLaMA's tokenizer from `tokenizer.model` alone, with the ids that SentencePiece itself gives.

The conversion of transformers leaves out the model's normalisation, the space in front of a text that begins with a
space, unknown characters, and in a folder without a `tokenizer_class` the space in front of every text. Here they are
what the model file says, and a tokenizer whose ids still differ is refused. What stays transformers' own: special
tokens are special in a text as well, and a text that begins with one has no space in front.

Source: the SentencePiece model file (Kudo and Richardson 2018); `LlamaConverter` of transformers.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from transformers import LlamaTokenizer, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import SentencePieceExtractor

from rankadaptor.errors import BadInput

_BPE, _ORDINARY = 2, 1  # ModelProto's numbers of a model type, and of a piece that text is merged to
_SPACE = "▁"
_PROBES = ("The cat's 3 dogs, 1999.", " a  leading space ", "\n\n= A heading =\n", "def f(x):\n\treturn x**2  # é", "",
           "世界 🙂 ﬁne ２０２４ Größe", "zero\u200bwidth, hard\u00a0space", "A\tb  \n  c",
           "http://x.org/a_b?c=d&e=%20", "▁the", "   ", "aaaaaaaa")


def read_sentencepiece(
    folder: Path, add_prefix_space: bool, named: Mapping[str, str | None]
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder with `tokenizer.model`, and without `tokenizer.json`.

    Args:
        folder: Of a checkpoint. Added tokens and chat template are read as transformers does.
        add_prefix_space: False leaves out the space in front of a text, whatever the model file says.
        named: Special tokens by their role as the folder's JSON files name them, None for an empty name; those of the
            model file stand for the ones without a name.

    Raises:
        BadInput: if the file is no SentencePiece model of LLaMA's kind.
    """
    path = folder / "tokenizer.model"
    model = _read_model(path)
    model.normalizer_spec.add_dummy_prefix &= add_prefix_space
    processor = SentencePieceProcessor(model_proto=model.SerializeToString())
    names = {"bos_token": processor.bos_id(), "eos_token": processor.eos_id(), "unk_token": processor.unk_id()}
    own = {name: processor.id_to_piece(number) if number >= 0 else None for name, number in names.items()}
    unnamed = {name: own.get(name) for name in {*own, *named} if not named.get(name)}
    tokenizer = LlamaTokenizer.from_pretrained(folder, local_files_only=True, **unnamed)
    _tokenise_as(model, tokenizer.backend_tokenizer, tokenizer.legacy)
    for text in _PROBES:
        ids, right = tokenizer(text, add_special_tokens=False).input_ids, processor.encode(text)
        if ids != right:
            raise BadInput(f"{path} gives {text!r} the ids {right[:8]}, transformers' reading of it {ids[:8]}: put the"
                           " model's tokenizer.json beside it")
    return tokenizer


def _read_model(path: Path) -> Any:
    """The ModelProto of a file. Raises BadInput where transformers could not tokenise as it does."""
    try:
        model = SentencePieceExtractor(str(path)).proto
        SentencePieceProcessor(model_proto=model.SerializeToString()).piece_to_id(model.pieces[0].piece)
    except ImportError as error:
        raise BadInput(f"{path} cannot be read ({' '.join(str(error).split())[:80]}): install sentencepiece and"
                       " protobuf, or put tokenizer.json beside it") from None
    except Exception:  # protobuf's DecodeError, SentencePiece's RuntimeError, or IndexError: no pieces
        raise BadInput(f"{path} is no SentencePiece model: restore it, or put the model's tokenizer.json beside it (the"
                       " tokenizer.model of LLaMA 3 is tiktoken's, which is not read)") from None
    if model.trainer_spec.model_type != _BPE:
        raise BadInput(f"{path} is a SentencePiece model of type {model.trainer_spec.model_type}, LLaMA's are BPE"
                       f" (type {_BPE}): put the model's tokenizer.json beside it")
    scores = [piece.score for piece in model.pieces if piece.type == _ORDINARY]
    if any(score <= following for score, following in pairwise(scores)):
        raise BadInput(f"{path} ranks its pieces by scores that do not fall with their ids, as transformers takes them:"
                       " put the model's tokenizer.json beside it")
    return model


def _tokenise_as(model: Any, backend: Tokenizer, legacy: bool) -> None:
    """Set everything of a tokenizer's pipeline but its vocabulary as SentencePiece's model file says.

    Args:
        legacy: transformers' switch: a space in front of what follows a special token, too.
    """
    rules = model.normalizer_spec
    steps: list[Any] = [normalizers.Precompiled(rules.precompiled_charsmap)] if rules.precompiled_charsmap else []
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    # "first" means the first character of the text as it was, which normalisation may have removed.
    prefixed = ("always" if legacy or steps else "first") if rules.add_dummy_prefix else "never"
    # Metaspace puts its own symbol in front only of a text without it. The first one's symbol is a plain space, which
    # no text has at this point; the second one turns it into SentencePiece's.
    backend.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Metaspace(" ", prefixed, split=False), pre_tokenizers.Metaspace(_SPACE, "never", split=False)])
    backend.model.unk_token = model.trainer_spec.unk_piece
    backend.model.byte_fallback = model.trainer_spec.byte_fallback
