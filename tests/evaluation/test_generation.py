"""Continuations against generation by hand, and their statistics against counts by hand."""

import math

import numpy as np
import pytest
import torch
from helpers.data import sentence
from helpers.models import tiny_llama
from transformers import PreTrainedTokenizerFast

from rankadaptor.errors import BadInput
from rankadaptor.evaluation.generation import COLUMNS, continuations, statistics
from rankadaptor.evaluation.spec import GenerationSpec
from rankadaptor.experiments import main_table as experiments
from rankadaptor.reporting import samples

PROMPTS = (sentence(1, 5), sentence(2, 9))


def spec(**changes):
    settings = {"prompts": PROMPTS, "max_new_tokens": 6, "samples": 2, "temperature": 1.0, "top_k": 50, "top_p": 0.95,
                "seed": 0}
    return GenerationSpec(**(settings | changes))


def by_hand(model, tokenizer, prompt, count, bos=()):
    """Greedy tokens, one whole forward pass each, and the mean loss of them."""
    ids = [*bos, *tokenizer(prompt, add_special_tokens=False).input_ids]
    start, losses = len(ids), []
    for _ in range(count):
        with torch.no_grad():
            scores = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        if int(scores.argmax()) == tokenizer.eos_token_id:
            break
        ids = [*ids, int(scores.argmax())]
        losses.append(-float(scores.max()))
    return ids[start:], losses


def test_greedy_continuations_equal_steps_by_hand(tokenizer):
    model, judge = tiny_llama(seed=1), tiny_llama(seed=2)
    found = continuations(model, judge, tokenizer, spec())
    assert tuple(found.columns) == COLUMNS
    greedy = found[found["decoding"] == "greedy"].set_index("prompt")
    assert len(greedy) == 2
    for prompt in PROMPTS:
        ids, losses = by_hand(model, tokenizer, prompt, 6)
        assert greedy.loc[prompt, "text"] == tokenizer.decode(ids, skip_special_tokens=True)
        assert greedy.loc[prompt, "tokens"] == len(ids)
        assert greedy.loc[prompt, "own_perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
        assert greedy.loc[prompt, "dense_perplexity"] > greedy.loc[prompt, "own_perplexity"]  # its own first choices


@pytest.mark.parametrize("prompt", [PROMPTS[0], f"<unk>{PROMPTS[0]}"])
def test_a_prompt_begins_with_one_bos_where_it_is_wanted(tokenizer, prompt):
    bos = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<unk>", eos_token="<end>")
    model = tiny_llama(seed=1)
    table = continuations(model, model, bos, spec(prompts=(prompt,), samples=0, bos=True))
    ids, losses = by_hand(model, tokenizer, PROMPTS[0], 6, bos=[1])
    assert table["text"][0] == tokenizer.decode(ids, skip_special_tokens=True)
    assert table["own_perplexity"][0] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    assert ids != by_hand(model, tokenizer, PROMPTS[0], 6)[0]


def test_samples_follow_the_seed_and_no_global_state(tokenizer):
    model = tiny_llama(seed=1)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = continuations(model, model, tokenizer, spec())
    assert torch.equal(torch.rand(2), expected)
    assert first.equals(continuations(model, model, tokenizer, spec()))
    other = continuations(model, model, tokenizer, spec(seed=1))
    is_greedy = first["decoding"] == "greedy"
    assert first[is_greedy].equals(other[is_greedy])
    assert not first[~is_greedy].equals(other[~is_greedy])
    sampled = first[~is_greedy].groupby("prompt")["text"]
    assert sampled.nunique().eq(2).all()  # two samples of a prompt differ
    assert (first["own_perplexity"] == first["dense_perplexity"]).all()


def test_repetition_and_distinct_n_are_counted():
    assert statistics([1, 2, 3, 4, 5]) == {"repetition": 0, "distinct_1": 1, "distinct_2": 1}
    found = statistics([1, 2, 1, 2, 1, 2, 1, 2])  # five 4-grams of two kinds, seven pairs of two kinds
    assert found == pytest.approx({"repetition": 3 / 5, "distinct_1": 2 / 8, "distinct_2": 2 / 7})
    assert all(map(math.isnan, statistics([]).values()))


def test_an_end_of_text_ends_a_continuation(tokenizer):
    model = tiny_llama(seed=1)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every token is as likely: the first id, which is the end of text, wins
    assert tokenizer.eos_token_id == 0
    found = continuations(model, model, tokenizer, spec(samples=0))
    assert (found["tokens"] == 0).all()
    assert found["own_perplexity"].isna().all()


@pytest.mark.parametrize(("change", "says"), [
    ({"prompts": ()}, "there are no prompts"),
    ({"prompts": ("a", "")}, "or an empty one"),
    ({"max_new_tokens": 0}, "max_new_tokens is 0: give at least 1"),
    ({"samples": -1}, "samples is -1"),
    ({"temperature": 0.0}, r"temperature is 0\.0"),
    ({"top_p": 1.5}, r"top_p is 1\.5"),
])
def test_settings_out_of_range_are_refused(change, says):
    with pytest.raises(BadInput, match=says):
        spec(**change)


@pytest.mark.slow
def test_a_table_with_continuations_resumes_and_is_written(tiny_profile, tmp_path):
    table = experiments.main_table(str(tiny_profile), "shortened:20", ledger=str(tmp_path / "ledger"), table="figure5")
    planned = table.plan().missing.total()
    result = table.run()
    assert planned == len(result.computed)
    assert table.plan().missing.total() == 0
    written = samples.continuations(result)
    assert set(written["method"]) == {"Dense", "No recovery", "LoRA", "RankAdaptor (one model)"}
    prompts = result.profile.evaluation.generation.prompts
    assert written.groupby(["method", "prompt"]).size().eq(3).all()
    assert written["prompt"].nunique() == len(prompts)
    counted = samples.sample_statistics(result)
    assert len(counted) == 4 * 2
    page = samples.side_by_side(result, "shortened:20")
    assert page.count("<table") == len(prompts)
    assert page.count("<td>") == 4 * len(prompts)
    paths = samples.write_samples(result, tmp_path / "reports")
    assert [path.name for path in paths] == ["figure5-samples.csv", "figure5-samples.md"]
    assert all(path.stat().st_size for path in paths)
