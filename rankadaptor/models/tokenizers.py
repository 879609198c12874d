"""Tokenizers of checkpoint folders: read, copied, compared, and checked against a model's embeddings.

Texts are tokenised without special tokens everywhere, and `with_bos` puts BOS in front where a spec says so: whether a
tokenizer adds one by itself depends on its files, and changed from version to version of transformers.
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from rankadaptor.errors import BadInput
from rankadaptor.models.sentencepiece_model import read_sentencepiece
from rankadaptor.sealed import given_object

Tokenizer: TypeAlias = PreTrainedTokenizerBase

# All that transformers reads a tokenizer from; never code.
_FILES = ("tokenizer*.json", "tokenizer.model*", "tiktoken.model", "special_tokens_map.json", "added_tokens.json",
          "vocab.json", "vocab.txt", "merges.txt", "*.jinja", "chat_template.json", "additional_chat_templates/*.jinja")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_PROBE = "The cat's 3 dogs, 1999.\n\n  Größe 世界 🙂\tdef f(x): return x**2  </s> <|im_start|> ﬁ [PAD] <s>"


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Its end of text is that of its own files, or else of the checkpoint's `config.json`. It has no BOS that has no
    embedding. Its padding is the end of text where it names none. A folder with `tokenizer.model` alone gives
    SentencePiece's own ids.

    Raises:
        BadInput: if there is none, a file is damaged, it needs code or a package that is not here, or an added token
            has another id than the files say.
    """
    settings = _json_object(folder / "tokenizer_config.json")
    auto_map = settings.get("auto_map")
    if auto_map and (not isinstance(auto_map, dict) or auto_map.get("AutoTokenizer")):
        raise BadInput(f"the tokenizer in {folder} needs code of its own (auto_map in tokenizer_config.json), which is"
                       " never run: give a tokenizer.json that needs none, and remove auto_map")
    special = _json_object(folder / "special_tokens_map.json")
    tokenizer = _read(folder, settings, {name: _content(special.get(name)) or _content(settings.get(name))
                                         for name in _NAMED if name in special or name in settings})
    _check_added_tokens(folder, settings, tokenizer)
    _fit_special_tokens(tokenizer, _json_object(folder / "config.json"))
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:  # LLaMA has none; padding is always masked
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _read(folder: Path, settings: dict[str, Any], named: dict[str, str | None]) -> Tokenizer:
    """A tokenizer as transformers reads it, or as SentencePiece does.

    Args:
        settings: `tokenizer_config.json`.
        named: Special tokens by their role; None for one that is named by an empty text, which transformers fails on.
    """
    try:
        if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
            prefix = settings.get("add_prefix_space") is not False
            return read_sentencepiece(folder, prefix, named)
        unnamed = {name: None for name, token in named.items() if not token}
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **unnamed)
    except BadInput:
        raise
    except Exception as error:  # the libraries raise all kinds, a plain Exception among them
        reason = " ".join(str(error).split())[:120]
        remedy = "install it" if isinstance(error, ImportError) else "restore its files"
        raise BadInput(f"the tokenizer in {folder} cannot be read ({type(error).__name__}: {reason}): {remedy}"
                       ) from None


def _check_added_tokens(folder: Path, settings: dict[str, Any], tokenizer: Tokenizer) -> None:
    """Raise BadInput if an added token has another id than a file says: the libraries number them anew over gaps."""
    fast = _json_object(folder / "tokenizer.json").get("added_tokens", [])
    declared = [(token["content"], token["id"]) for token in fast]
    if decoder := settings.get("added_tokens_decoder"):
        declared += [(_content(token), int(number)) for number, token in decoder.items()]
    else:  # transformers reads it only then
        declared += _json_object(folder / "added_tokens.json").items()
    for token, number in declared:
        if (actual := tokenizer.convert_tokens_to_ids(token)) != number:
            raise BadInput(f"added token {token!r} has id {number} in the files of {folder}, and {actual} in the"
                           " tokenizer that they make: number added tokens from the vocabulary's end, without a gap")


def _json_object(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty if there is none. Raises BadInput if it is no object."""
    return given_object(path) if path.is_file() else {}


def _content(token: Any) -> Any:
    """Text of a special token as files write it: plain, or as a mapping."""
    return token.get("content") if isinstance(token, dict) else token


def _fit_special_tokens(tokenizer: Tokenizer, config: dict[str, Any]) -> None:
    """Replace BOS and the end of text where the model has no embedding of them.

    BOS by none: transformers adds one to tokenizers whose files name none. The end of text, also where there is none,
    by that of `config.json` where that is valid.
    """
    given, end = config.get("vocab_size"), tokenizer.eos_token_id
    size: int = given if isinstance(given, int) else len(tokenizer)
    if tokenizer.bos_token_id is not None and tokenizer.bos_token_id >= size:
        tokenizer.bos_token = None
    if end is not None and end < size:
        return
    ids = config.get("eos_token_id")
    for number, token in sorted(tokenizer.added_tokens_decoder.items()):  # an ordinary word is no end of text
        if number < size and number in (ids if isinstance(ids, list) else [ids]):
            tokenizer.eos_token = token.content
            return


# -- copies -----------------------------------------------------------------------------------------------------------


def copy_tokenizer(tokenizer: Tokenizer, source: Path, target: Path) -> None:
    """Copy all files of a tokenizer, byte by byte, as regular files that can be written.

    Args:
        tokenizer: As it was loaded from `source`.

    Raises:
        BadInput: if one is a link to nothing, or the copy gives a text other ids.
    """
    for pattern in _FILES:
        for path in sorted(source.glob(pattern)):
            if path.is_symlink() and not path.exists():
                raise BadInput(f"{path} is a link to nothing: download the model anew")
            if path.is_file():
                copy = target / path.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)  # without its rights: files of the hub's cache are links, or read-only
    if _probe_ids(tokenizer) != _probe_ids(load_tokenizer(target)):
        raise BadInput(f"the tokenizer in {source} gives a text other ids once its files are copied: give a folder with"
                       " a whole tokenizer.json")


def _probe_ids(tokenizer: Tokenizer) -> list[Any]:
    """What a tokenizer makes of a text of many kinds, with special tokens and without, and its BOS and end of text.

    Not its padding: lm-eval gives a tokenizer one where there is none.
    """
    roles = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    return [tokenizer(_PROBE, add_special_tokens=special).input_ids for special in (False, True)] + roles


# -- ids --------------------------------------------------------------------------------------------------------------


def check_ids(ids: Iterable[int], tokenizer: Tokenizer, vocabulary: int, source: str) -> None:
    """Raise BadInput if token ids lie beyond a model's embeddings.

    Args:
        vocabulary: Number of the model's embeddings.
        source: What was tokenised, such as "calibration text".
    """
    if (largest := max(ids, default=0)) >= vocabulary:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise BadInput(f"{source}: token id {largest} ({token!r}) has no embedding in the model, which has"
                       f" {vocabulary}: leave that token out, or give a model whose embeddings were resized for its"
                       " tokenizer")


def vocabulary_of(model: PreTrainedModel) -> int:
    """How many token ids have an embedding in a model."""
    return model.get_input_embeddings().num_embeddings


def padding_id(tokenizer: Tokenizer, vocabulary: int) -> int:
    """Id that short rows are filled up with: the tokenizer's, or 0 where that has no embedding. It is always masked."""
    padding = tokenizer.pad_token_id
    return padding if padding is not None and padding < vocabulary else 0


def end_id(tokenizer: Tokenizer) -> int:
    """Id of the end of text. Raises BadInput if the tokenizer has none."""
    if tokenizer.eos_token_id is None:
        raise BadInput("the tokenizer has no end of text, which closes every recovery row: set eos_token in its"
                       " tokenizer_config.json")
    return tokenizer.eos_token_id


def with_bos(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """Token ids with exactly one BOS in front, also where the text begins with it already.

    Raises:
        BadInput: if the tokenizer has no BOS.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        raise BadInput("BOS is to be put in front, and the tokenizer has none that the model has an embedding of: leave"
                       " bos out, or set bos_token in its tokenizer_config.json")
    return list(ids) if ids and ids[0] == bos else [bos, *ids]
