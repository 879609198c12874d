"""Perplexity in both old conventions, against its definition token by token; and what a model costs to run."""

import copy
import math
from pathlib import Path

import pytest
import torch
from helpers.data import sentence
from helpers.models import tiny_llama

from rankadaptor.data.sources import Source
from rankadaptor.data.text import perplexity_identity, perplexity_label, perplexity_texts
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.footprint import footprint
from rankadaptor.evaluation.perplexity import perplexity, text_windows
from rankadaptor.evaluation.spec import PerplexitySpec
from rankadaptor.models.checkpoints import architecture_of

TEXTS = [sentence(i, 12) for i in range(9)]


@pytest.fixture(scope="module")
def with_bos(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.bos_token = "<unk>"
    return other


def by_hand(model, ids, bos, size):
    """Windows cut by hand, each token's loss alone."""
    if bos == "first":
        ids = [1, *ids]
    losses, windows = [], 0
    for start in range(0, len(ids) - size + 1, size):
        window = ([1] if bos == "every" else []) + ids[start : start + size]
        windows += 1
        for place in range(1, len(window)):
            with torch.no_grad():
                scores = model(torch.tensor([window[:place]])).logits[0, -1].log_softmax(-1)
            losses.append(-scores[window[place]].item())
    return math.exp(sum(losses) / len(losses)), windows, len(losses)


@pytest.mark.parametrize("bos", ["none", "first", "every"])
def test_perplexity_is_its_definition(with_bos, bos):
    assert with_bos.bos_token_id == 1
    ids = with_bos("\n\n".join(TEXTS), add_special_tokens=False).input_ids
    model, found = tiny_llama(), {}
    for batch in (1, 4):
        found[batch] = perplexity(model, with_bos, TEXTS, PerplexitySpec(10, bos, batch))
        value, windows, tokens = by_hand(model, ids, bos, 10)
        assert found[batch]["perplexity"] == pytest.approx(value, rel=1e-5)
        assert (found[batch]["windows"], found[batch]["tokens"]) == (windows, tokens)
        assert tokens == windows * (10 if bos == "every" else 9)
    some = perplexity(model, with_bos, TEXTS, PerplexitySpec(10, bos, 4, max_windows=3))
    assert some["windows"] == 3


def test_too_little_text_and_a_missing_bos_are_refused(tokenizer):
    with pytest.raises(BadInput, match=r"perplexity text holds \d+ tokens, a window has 5000: give more text"):
        text_windows(tokenizer, TEXTS, PerplexitySpec(5000, "none"))
    assert tokenizer.bos_token_id is None
    with pytest.raises(BadInput, match="the tokenizer has no BOS: use bos none"):
        text_windows(tokenizer, TEXTS, PerplexitySpec(10, "every"))
    for change, says in (({"bos": "all"}, "unknown bos 'all'"), ({"window_tokens": 1}, "window_tokens is 1"),
                         ({"max_windows": 0}, "max_windows is 0")):
        with pytest.raises(BadInput, match=says):
            PerplexitySpec(**change)


def test_wikitext_beside_benchmarks_is_read_in_the_hubs_rows(benchmark_folder, tmp_path):
    bare = Source("dir", str(benchmark_folder), None)
    assert perplexity_identity(bare) == "second half"
    for path in benchmark_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    text = Path(tmp_path / "wikitext2" / "test.txt")
    text.parent.mkdir()
    text.write_text(" \n = Robert Boulter = \n \n Robert\u2028is an actor . \n")
    source = Source("dir", str(tmp_path), None)
    assert perplexity_texts(source, 12, 0) == ("", " = Robert Boulter = \n", "", " Robert\u2028is an actor . \n")
    assert perplexity_label(source) == "WikiText-2 (test)"
    assert perplexity_identity(source).startswith("wikitext2 ")


def test_a_footprint_counts_what_is_there(llama):
    found = footprint(llama, tokens=12, repeats=2, decoded=3)
    assert found.parameters == llama.num_parameters()
    assert found.macs == architecture_of(llama).macs(12)
    assert 4 * found.parameters <= found.weight_bytes < 4 * found.parameters + 4096
    assert footprint(llama.to(torch.bfloat16), 12, 1, 1).weight_bytes < 0.51 * found.weight_bytes
    assert min(found.forward_seconds, found.decode_tokens_per_second) > 0
    with pytest.raises(BadInput, match="tokens 0"):
        footprint(llama, tokens=0)
