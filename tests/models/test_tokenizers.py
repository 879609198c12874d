"""Tokenizers of folders: read whole, copied byte by byte, one BOS where it is wanted, ids that models have."""

import json
import stat

import pytest
from helpers.models import tiny_llama

from rankadaptor.errors import BadInput
from rankadaptor.models.tokenizers import (
    check_ids,
    copy_tokenizer,
    end_id,
    load_tokenizer,
    padding_id,
    vocabulary_of,
    with_bos,
)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_tokenizer_without_padding_gets_one(dense, tokenizer):
    edit(dense / "tokenizer_config.json", pad_token=None)
    assert load_tokenizer(dense).pad_token_id == tokenizer.eos_token_id


@pytest.mark.parametrize("ids", [0, [95, 0], [400, 0]])
def test_the_end_of_text_may_be_the_configs_own(dense, ids):
    edit(dense / "tokenizer_config.json", eos_token=None, pad_token=None)
    edit(dense / "config.json", eos_token_id=ids)  # 95 is a word, and 400 beyond the vocabulary
    tokenizer = load_tokenizer(dense)
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.pad_token_id) == ("<end>", 0, 0)


def test_an_end_of_text_beyond_the_vocabulary_is_the_configs(dense):
    """As after `add_special_tokens` without resized embeddings."""
    grown = load_tokenizer(dense)
    grown.add_special_tokens({"eos_token": "<|im_end|>"})
    grown.save_pretrained(dense)
    assert len(load_tokenizer(dense)) == 97
    assert load_tokenizer(dense).eos_token_id == 0
    edit(dense / "config.json", vocab_size=97)
    assert load_tokenizer(dense).eos_token == "<|im_end|>"


def test_no_end_of_text_is_an_error_where_one_is_needed(dense):
    edit(dense / "tokenizer_config.json", eos_token=None)
    edit(dense / "config.json", eos_token_id=None)
    with pytest.raises(BadInput, match="no end of text, which closes every recovery row: set eos_token"):
        end_id(load_tokenizer(dense))


def test_copies_are_regular_files_that_can_be_written(dense, tmp_path):
    """From the hub's cache, whose files are links to read-only ones."""
    store, source, target = tmp_path / "store", tmp_path / "source", tmp_path / "target"
    store.mkdir()
    (dense / "chat_template.jinja").write_text("{{ messages }}")
    (dense / "additional_chat_templates").mkdir()
    (dense / "additional_chat_templates" / "tool.jinja").write_text("{{ tools }}")
    (dense / "tokenizer").mkdir()  # a folder of that name, which is none of a tokenizer's files
    (dense / "tokenizer.py").write_text("raise SystemExit")
    names = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "additional_chat_templates/tool.jinja"]
    for number, path in enumerate(path for path in dense.rglob("*") if path.is_file()):
        link = source / path.relative_to(dense)
        link.parent.mkdir(parents=True, exist_ok=True)
        (store / str(number)).write_bytes(path.read_bytes())
        (store / str(number)).chmod(0o444)
        link.symlink_to(store / str(number))
    copy_tokenizer(load_tokenizer(source), source, target)
    copies = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
    assert sorted(copies) == sorted(names)
    for name, path in copies.items():
        assert not path.is_symlink()
        assert path.stat().st_mode & stat.S_IWUSR
        assert path.read_bytes() == (dense / name).read_bytes()


def test_a_copy_that_tokenises_otherwise_is_refused(dense, tmp_path):
    other = load_tokenizer(dense)
    other.add_tokens(["3 dogs"])
    with pytest.raises(BadInput, match="gives a text other ids once its files are copied"):
        copy_tokenizer(other, dense, tmp_path / "target")


def test_ids_beyond_the_embeddings_are_named(tokenizer):
    check_ids([5, 95, 0], tokenizer, 96, "a text")
    check_ids([], tokenizer, 96, "a text")
    with pytest.raises(BadInput, match=r"a text: token id 95 \('.+'\) has no embedding in the model, which has 90: "):
        check_ids([5, 95, 0], tokenizer, 90, "a text")
    assert vocabulary_of(tiny_llama()) == 96


def test_padding_has_an_embedding(tokenizer):
    assert padding_id(tokenizer, 96) == tokenizer.pad_token_id == 0
    tokenizer = load_with(tokenizer, pad_token="[PAD]")
    assert tokenizer.pad_token_id == 96
    assert padding_id(tokenizer, 97) == 96
    assert padding_id(tokenizer, 96) == 0


def load_with(tokenizer, **special):
    """A copy with more special tokens."""
    copy = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<end>", unk_token="<unk>")
    copy.add_special_tokens(special)
    return copy


def test_exactly_one_bos_stands_in_front(tokenizer):
    with pytest.raises(BadInput, match="has none that the model has an embedding of: leave bos out, or set bos_token"):
        with_bos([5, 6], tokenizer)
    tokenizer = load_with(tokenizer, bos_token="<s>")
    bos = tokenizer.bos_token_id
    assert with_bos([5, 6], tokenizer) == with_bos([bos, 5, 6], tokenizer) == [bos, 5, 6]
    assert with_bos([], tokenizer) == [bos]
