"""Shared-context scoring: log-probabilities of every choice alone, from fewer tokens."""

import pytest
import torch
from helpers.data import benchmark_row, ragged_choices
from helpers.models import llamas, tiny_llama
from lm_eval import evaluator
from lm_eval.api.instance import Instance

from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.layout import Limits, lay_out
from rankadaptor.evaluation.scoring import backend_of
from rankadaptor.evaluation.shared_context import score
from rankadaptor.evaluation.spec import EvaluationSpec

MOST = 512  # tokens a batch
ROWS = {task: [benchmark_row(task, i) for i in range(6)] for task in TASKS}
SPEC = EvaluationSpec(TASKS, "report", 6, 0, 4)


def alone(model, context, continuation):
    """(log-likelihood, greedy) of one choice, by a plain pass over it."""
    with torch.no_grad():
        logits = model(torch.tensor([context + continuation])).logits[0].double().log_softmax(-1)
    rows = logits[len(context) - 1 : -1]
    return (sum(row[token].item() for row, token in zip(rows, continuation, strict=True)),
            all(int(row.argmax()) == token for row, token in zip(rows, continuation, strict=True)))


@pytest.mark.parametrize("name", ["grouped", "plain", "width", "depth"])
@pytest.mark.parametrize("tokens_per_batch", [1, 200, 4096])
def test_every_choice_scores_as_it_does_alone(name, tokens_per_batch):
    model, pairs = llamas()[name], ragged_choices(tokens_per_batch)
    found, greedy = score(model, lay_out(pairs, 512, Limits(tokens_per_batch)), len(pairs))
    for place, (_, context, continuation) in enumerate(pairs):
        expected, is_greedy = alone(model, context, continuation)
        assert found[place].item() == pytest.approx(expected, abs=2e-5)
        assert greedy[place].item() == is_greedy


def test_eager_attention_gives_the_same():
    model, pairs = tiny_llama(), ragged_choices(1)
    assert model.config._attn_implementation == "sdpa"
    batches = lay_out(pairs, 512, Limits(MOST))
    expected, _ = score(model, batches, len(pairs))
    model.set_attn_implementation("eager")
    assert torch.allclose(score(model, batches, len(pairs))[0], expected, atol=1e-5)


def test_an_error_restores_the_models_attention(monkeypatch):
    model = tiny_llama()
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)
    with pytest.raises(TypeError):
        score(model, lay_out(ragged_choices(1), 512, Limits(MOST)), 1)
    assert model.config._attn_implementation == "sdpa"
    assert not [module for module in model.modules() if "forward" in vars(module)]


def test_half_precision_is_as_exact_as_a_plain_pass():
    pairs = ragged_choices(2)
    exact, _ = score(tiny_llama(), lay_out(pairs, 512, Limits(MOST)), len(pairs))
    rounded = tiny_llama().bfloat16()
    ours, _ = score(rounded, lay_out(pairs, 512, Limits(MOST)), len(pairs))
    plain = torch.tensor([alone(rounded, context, continuation)[0] for _, context, continuation in pairs])
    assert (ours - exact).abs().mean() < 1.2 * (plain - exact).abs().mean()
    assert (ours - exact).abs().max() < 0.5


def test_choices_too_long_lose_tokens_on_the_left():
    model, pairs = tiny_llama(), ragged_choices(3)
    found, _ = score(model, lay_out(pairs, 12, Limits(MOST)), len(pairs))
    for place, (_, context, continuation) in enumerate(pairs):
        whole = (context + continuation)[-13:]
        cut = whole[: len(whole) - len(continuation)]
        assert found[place].item() == pytest.approx(alone(model, cut, continuation)[0], abs=2e-5)


def test_requests_of_benchmarks_take_fewer_tokens(tokenizer):
    requests = Requests(SPEC, ROWS)
    backend = backend_of(tiny_llama(), tokenizer, SPEC)
    plain = sum(len(context) + len(continuation) - 1 for _, context, continuation in requests.tokenised(backend))
    batches = requests.batches(backend)
    assert requests.batches(backend) is batches  # laid out once for all models
    computed = sum(len(batch.tokens) for batch in batches)
    assert computed < 0.6 * plain
    attended = sum(group.queries.numel() for batch in batches for group in batch.groups)
    assert attended < 1.1 * computed  # padding, within attention alone


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
