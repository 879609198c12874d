"""Shared-context scoring: log-probabilities of every choice alone, from fewer tokens."""

import random

import pytest
import torch
from conftest import benchmark_row, tiny_llama
from lm_eval import evaluator
from lm_eval.api.instance import Instance

from rankadaptor.errors import BadInput
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.scoring import backend_of
from rankadaptor.evaluation.shared_context import lay_out, score
from rankadaptor.pruning import prune
from rankadaptor.specs import TASKS, EvaluationSpec, PruneSpec

VOCABULARY = 96
ROWS = {task: [benchmark_row(task, i) for i in range(6)] for task in TASKS}
SPEC = EvaluationSpec(TASKS, "report", 6, 0, 4)


def questions(seed, count=40):
    """Ragged choices of every shape: one token, several, one context, contexts that differ at the end or at once."""
    draw = random.Random(seed)

    def some(low, high):
        return [draw.randrange(2, VOCABULARY) for _ in range(draw.randint(low, high))]

    pairs = []
    for _ in range(count):
        context, ending = some(1, 30), some(1, 4)
        kind = draw.choice(["one token", "several", "partial context", "unlike", "alike"])
        for _ in range(draw.randint(1, 5)):
            pairs.append({
                "one token": (("", ""), context, some(1, 1)),
                "several": (("", ""), context, some(1, 9)),
                "partial context": (("", ""), context + some(1, 2), ending),
                "unlike": (("", ""), some(1, 20), some(1, 3)),
                "alike": (("", ""), context, ending),
            }[kind])
    return pairs


def alone(model, context, continuation):
    """(log-likelihood, greedy) of one choice, by a plain pass over it."""
    with torch.no_grad():
        logits = model(torch.tensor([context + continuation])).logits[0].double().log_softmax(-1)
    rows = logits[len(context) - 1 : -1]
    return (sum(row[token].item() for row, token in zip(rows, continuation, strict=True)),
            all(int(row.argmax()) == token for row, token in zip(rows, continuation, strict=True)))


def models():
    """Dense, GQA or not, and pruned in width and in depth."""
    windows = torch.randint(2, VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(0))
    width = PruneSpec("llm-pruner", 50, "l1", 1, 3, 0.5, None, None, 3, 8, 0)
    depth = PruneSpec("shortened", 50, "magnitude", 1, 3, None, None, 1, 3, 8, 0)
    return {"grouped": tiny_llama(), "plain": tiny_llama(kv_heads=4, seed=1),
            "width": prune(tiny_llama(kv_heads=4), width, windows).model,
            "depth": prune(tiny_llama(), depth, windows).model}


@pytest.mark.parametrize("name", ["grouped", "plain", "width", "depth"])
@pytest.mark.parametrize("tokens_per_batch", [1, 200, 4096])
def test_every_choice_scores_as_it_does_alone(name, tokens_per_batch):
    model, pairs = models()[name], questions(tokens_per_batch)
    found, greedy = score(model, lay_out(pairs, 512, tokens_per_batch), len(pairs))
    for place, (_, context, continuation) in enumerate(pairs):
        expected, is_greedy = alone(model, context, continuation)
        assert found[place].item() == pytest.approx(expected, abs=2e-5)
        assert greedy[place].item() == is_greedy


def test_eager_attention_gives_the_same():
    model, pairs = tiny_llama(), questions(1)
    assert model.config._attn_implementation == "sdpa"
    batches = lay_out(pairs, 512)
    expected, _ = score(model, batches, len(pairs))
    model.set_attn_implementation("eager")
    assert torch.allclose(score(model, batches, len(pairs))[0], expected, atol=1e-5)


def test_common_parts_take_no_mask_and_branches_no_more_than_they_see(monkeypatch):
    seen = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, attn_mask=None, **settings):
        seen.append((query.shape[2], key.shape[2], attn_mask is not None))
        return kernel(query, key, value, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    pairs = [(("", ""), list(range(length, 2 * length)), [length]) for length in (20, 19, 17)]
    pairs += [(("", ""), list(range(2, 20)), [choice, 30, 31]) for choice in range(40, 44)]
    batches = lay_out(pairs, 512)
    assert len(batches) == 1
    assert len(batches[0].tokens) == 20 + 19 + 17 + 18 + 4 * 2
    score(tiny_llama(layers=1), batches, len(pairs))
    assert sorted(seen) == [(2, 18 + 2, True), (20, 20, False)]


def test_no_row_is_padded_outside_of_attention():
    draw = random.Random(7)
    pairs = [(("", ""), [draw.randrange(2, 90) for _ in range(draw.randint(1, 60))], [5]) for _ in range(50)]
    batches = lay_out(pairs, 512, 128)
    assert sum(len(batch.tokens) for batch in batches) == sum(len(context) for _, context, _ in pairs)
    assert max(len(batch.tokens) for batch in batches) <= 128
    for batch in batches:  # every token asks once, at its own place
        asking = torch.cat([part.queries.flatten() for part in batch.parts])
        assert torch.equal(asking[batch.order], torch.arange(len(batch.tokens)))


def test_the_models_own_attention_is_back_after_an_error(monkeypatch):
    model = tiny_llama()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)
    with pytest.raises(TypeError):
        score(model, lay_out(questions(1), 512), 1)
    assert model.config._attn_implementation == "sdpa"
    assert not [module for module in model.modules() if "forward" in vars(module)]


@pytest.mark.parametrize(("context", "continuation"), [([], [5]), ([5], []), ([5], list(range(2, 15)))])
def test_what_lm_eval_refuses_is_refused(context, continuation):
    says = f"a choice has {len(context)} tokens of context and {len(continuation)} of continuation"
    with pytest.raises(BadInput, match=says):
        lay_out([(("", ""), [3, 4], [5]), (("", ""), context, continuation)], 12)


def test_half_precision_is_as_near_to_the_truth_as_a_plain_pass():
    pairs = questions(2)
    exact, _ = score(tiny_llama(), lay_out(pairs, 512), len(pairs))
    rounded = tiny_llama().bfloat16()
    ours, _ = score(rounded, lay_out(pairs, 512), len(pairs))
    plain = torch.tensor([alone(rounded, context, continuation)[0] for _, context, continuation in pairs])
    assert (ours - exact).abs().mean() < 1.2 * (plain - exact).abs().mean()
    assert (ours - exact).abs().max() < 0.5


def test_choices_longer_than_the_context_lose_tokens_on_the_left():
    model, pairs = tiny_llama(), questions(3)
    found, _ = score(model, lay_out(pairs, 12), len(pairs))
    for place, (_, context, continuation) in enumerate(pairs):
        whole = (context + continuation)[-13:]
        cut = whole[: len(whole) - len(continuation)]
        assert found[place].item() == pytest.approx(alone(model, cut, continuation)[0], abs=2e-5)


def test_no_choice_is_no_batch():
    assert lay_out([], 512) == []


def test_tokens_and_positions_are_counted_as_planned():
    """A guard against computing more than is needed: tokens of rows, and places that the head sees."""
    context, one, two = list(range(2, 22)), [30], [40, 41, 42]
    pairs = [(("", ""), context, choice) for choice in (one, [31])]  # one place predicts both
    pairs += [(("", ""), context[::-1], two), (("", ""), context[::-1], [50, 51])]  # 20 + 2 + 1 tokens
    pairs += [(("", ""), [*context[:10], option], [60, 61]) for option in (70, 71)]  # 10 + 2 x 2 tokens
    batches = lay_out(pairs, 512)
    assert sum(len(batch.tokens) for batch in batches) == 20 + 23 + 14
    assert sum(len(batch.read) for batch in batches) == 1 + 1 + 2 + 1 + 2 + 2
    # lm-eval's own backend would compute 20 + 22 + 21 + 12 + 12 tokens, and the head over all of them.


def test_requests_of_benchmarks_take_fewer_tokens(tokenizer):
    requests = Requests(SPEC, ROWS)
    backend = backend_of(tiny_llama(), tokenizer, SPEC)
    plain = sum(len(context) + len(continuation) - 1 for _, context, continuation in requests.tokenised(backend))
    batches = requests.batches(backend)
    assert requests.batches(backend) is batches  # laid out once for all models
    computed = sum(len(batch.tokens) for batch in batches)
    assert computed < 0.6 * plain
    attended = sum(part.queries.numel() for batch in batches for part in batch.parts)
    assert attended < 1.25 * computed  # padding, within attention alone


def test_both_engines_give_the_same_items(tokenizer):
    requests = Requests(SPEC, ROWS)
    plain = EvaluationSpec(TASKS, "report", 6, 0, 4, engine="lm_eval")
    ours, theirs = (evaluate(tiny_llama(), tokenizer, spec, requests) for spec in (SPEC, plain))
    assert ours["acc"].tolist() == theirs["acc"].tolist()
    assert ours["acc_norm"].tolist() == theirs["acc_norm"].tolist()
    for first, second in zip(ours["log_likelihoods"], theirs["log_likelihoods"], strict=True):
        assert first == pytest.approx(second, abs=1e-4)


def test_lm_evals_evaluator_takes_the_backend(tokenizer):
    """Beyond this project's own use: as an lm-eval model, rolling log-likelihoods included."""
    plain = EvaluationSpec(TASKS, "report", 6, 0, 4, engine="lm_eval")
    ours, theirs = (backend_of(tiny_llama(), tokenizer, spec) for spec in (SPEC, plain))
    tasks = Requests(SPEC, ROWS).tasks
    results = [evaluator.evaluate(one, {"tasks": tasks}, bootstrap_iters=0)["results"] for one in (ours, theirs)]
    for task in TASKS:
        assert results[0][task]["acc,none"] == results[1][task]["acc,none"], task
    rolling = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in ("the cat runs over a tree", "a red bird")]
    found, expected = (one.loglikelihood_rolling(rolling, disable_tqdm=True) for one in (ours, theirs))
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_unknown_engine_is_refused():
    with pytest.raises(BadInput, match="unknown engine 'vllm': use one of shared_context, lm_eval"):
        EvaluationSpec(TASKS, "report", 6, 0, 4, engine="vllm")
