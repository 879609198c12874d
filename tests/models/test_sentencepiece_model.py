"""A folder with tokenizer.model alone: the ids are SentencePiece's own."""

import json

import pytest
from helpers.tokenizers import with_flat_scores, write_llama_with, write_sentencepiece
from sentencepiece import SentencePieceProcessor

from rankadaptor.errors import BadInput
from rankadaptor.models.tokenizers import load_tokenizer

TEXTS = ("the cat runs", " the cat", "  two  spaces   three", "a\n\n b\tc", "héllo 世界 🙂", "ﬁne ２０２４", 
         "1999 dogs", "", "   ", "▁the", "trailing  ", "\nthe", "the\u00a0cat")


def assert_same_ids(folder):
    own, tokenizer = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")), load_tokenizer(folder)
    for text in TEXTS:
        assert tokenizer(text, add_special_tokens=False).input_ids == own.encode(text)
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    return tokenizer


@pytest.mark.parametrize("settings", [
    {},
    {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": True},
    {"tokenizer_class": "LlamaTokenizer", "legacy": True},
    {"tokenizer_class": "LLaMATokenizer", "bos_token": "", "eos_token": "", "unk_token": "", "pad_token": ""},
    {"bos_token": {"__type": "AddedToken", "content": "<s>", "normalized": True}, "pad_token": None},
], ids=["no settings", "llama 2", "legacy", "empty names", "mappings"])
def test_ids_are_those_of_sentencepiece(tmp_path, sentencepiece_file, settings):
    tokenizer = assert_same_ids(write_llama_with(tmp_path / "model", sentencepiece_file, **settings))
    assert tokenizer.pad_token_id == 2


@pytest.mark.parametrize("options", [
    {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    {"byte_fallback": False, "vocab_size": 100},
    {"add_dummy_prefix": False},
], ids=["normalised", "no bytes", "no space in front"])
def test_the_model_file_says_how_text_is_prepared(tmp_path, options):
    write_sentencepiece(tmp_path / "made", **options)
    assert_same_ids(write_llama_with(tmp_path / "model", tmp_path / "made"))


def test_the_space_in_front_can_be_switched_off(tmp_path, sentencepiece_file):
    tokenizer = load_tokenizer(write_llama_with(tmp_path / "model", sentencepiece_file, add_prefix_space=False))
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("the cat", add_special_tokens=False).input_ids)
    assert "".join(pieces) == "the▁cat"


def test_added_tokens_have_the_ids_that_their_file_says(tmp_path, sentencepiece_file):
    folder = write_llama_with(tmp_path / "model", sentencepiece_file)
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": 340, "<|user|>": 341}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]", "eos_token": "</s>"}))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.pad_token_id == 340
    assert tokenizer("<|user|>the", add_special_tokens=False).input_ids[0] == 341
    assert len(tokenizer) == 342


@pytest.mark.parametrize(("options", "says"), [
    ({"model_type": "unigram", "vocab_size": 300}, "is a SentencePiece model of type 1, LLaMA's are BPE"),
    (None, "ranks its pieces by scores that do not fall with their ids"),
], ids=["unigram", "joined vocabularies"])
def test_models_that_would_get_other_ids_are_refused(tmp_path, sentencepiece_file, options, says):
    if options:
        write_sentencepiece(tmp_path / "made", **options)
    else:
        with_flat_scores(sentencepiece_file, tmp_path / "made")
    with pytest.raises(BadInput, match=says):
        load_tokenizer(write_llama_with(tmp_path / "model", tmp_path / "made"))
