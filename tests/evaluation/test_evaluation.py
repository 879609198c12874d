"""Scores through lm-eval: its own definitions, our rows, joint tokenisation, BOS only where it is wanted."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.data import benchmark_row
from helpers.models import tiny_llama
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import TASKS
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.items import gold_probability, task_metrics
from rankadaptor.evaluation.scoring import backend_of
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.testbed.tasks import task_rows
from rankadaptor.testbed.world import SEED

SPEC = EvaluationSpec(TASKS, "report", 6, 0, 4)
ROWS = {task: [benchmark_row(task, i) for i in range(6)] for task in TASKS}


@pytest.fixture(scope="module")
def items(tokenizer):
    return evaluate(tiny_llama(), tokenizer, SPEC, Requests(SPEC, ROWS))


def log_likelihood(model, tokenizer, context, continuation, bos=()):
    """By hand: one joint tokenisation, the continuation is what follows the context's tokens."""
    whole = [*bos, *tokenizer(context + continuation, add_special_tokens=False).input_ids]
    start = len(bos) + len(tokenizer(context, add_special_tokens=False).input_ids)
    with torch.no_grad():
        scores = model(torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(scores[i - 1, whole[i]].item() for i in range(start, len(whole)))


def choices_of(task, row):
    """(context, continuation) of every choice, as the tasks' definitions word them."""
    if task == "boolq":
        return [(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", f" {word}") for word in ("no", "yes")]
    if task == "piqa":
        return [(f"Question: {row['goal']}\nAnswer:", f" {row[name]}") for name in ("sol1", "sol2")]
    if task == "hellaswag":
        return [(f"{row['activity_label']}: {row['ctx_a']} ".strip(), f" {ending}") for ending in row["endings"]]
    if task == "winogrande":
        start, end = row["sentence"].split("_")
        return [(start + row[name], f" {end.strip()}") for name in ("option1", "option2")]
    context = row["question_stem"] if task == "openbookqa" else f"Question: {row['question']}\nAnswer:"
    return [(context, f" {text}") for text in row["choices"]["text"]]


@pytest.mark.parametrize("task", TASKS)
def test_log_likelihoods_are_those_computed_by_hand(task, items, tokenizer):
    model = tiny_llama()
    for item, row in enumerate(ROWS[task]):
        found = items[(items["task"] == task) & (items["item"] == item)].iloc[0]
        expected = [log_likelihood(model, tokenizer, *choice) for choice in choices_of(task, row)]
        assert found["log_likelihoods"] == pytest.approx(expected, abs=1e-3)


@pytest.fixture
def with_bos(tokenizer):
    """The tokenizer, with <s> as BOS, which it adds by itself where special tokens are wanted."""
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.add_special_tokens(["<s>"])
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 96)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="<end>", pad_token="<end>")


@pytest.mark.parametrize("engine", ["shared_context", "lm_eval"])
def test_one_bos_stands_in_front_where_the_spec_wants_it(with_bos, tokenizer, engine):
    model = tiny_llama(vocabulary=97)
    spec = dataclasses.replace(SPEC, tasks=("piqa", "winogrande"), bos=True, engine=engine)
    requests = Requests(spec, ROWS)
    items = evaluate(model, with_bos, spec, requests)
    for task in spec.tasks:
        for item, row in enumerate(ROWS[task]):
            scores = items[(items["task"] == task) & (items["item"] == item)].iloc[0]["log_likelihoods"]
            expected = [log_likelihood(model, tokenizer, *choice, bos=[96]) for choice in choices_of(task, row)]
            assert scores == pytest.approx(expected, abs=1e-3)
    without = evaluate(model, with_bos, dataclasses.replace(spec, bos=False), requests)  # of the same questions
    plain = log_likelihood(model, tokenizer, *choices_of("piqa", ROWS["piqa"][0])[0])
    assert without.iloc[0]["log_likelihoods"][0] == pytest.approx(plain, abs=1e-3)
    assert abs(without.iloc[0]["log_likelihoods"][0] - items.iloc[0]["log_likelihoods"][0]) > 1e-3
    theirs = HFLM(pretrained=model, tokenizer=with_bos, add_bos_token=True, backend="causal")
    pairs = [pair for question in requests.questions for pair in question.choices]
    assert [pair[1:] for pair in requests.tokenised(backend_of(model, with_bos, spec))] == [
        theirs._encode_pair(*pair) for pair in pairs]


def test_metrics_follow_from_the_items(items):
    metrics = task_metrics(items)
    assert list(metrics) == list(TASKS)
    for task, group in items.groupby("task"):
        assert metrics[task]["items"] == len(group) == 6
        for _, item in group.iterrows():
            best = int(np.argmax(item["log_likelihoods"]))
            assert item["acc"] == (best == item["gold"])
        assert metrics[task]["acc"] == pytest.approx(group["acc"].mean())


@pytest.mark.parametrize("testbed", [False, True])
def test_items_are_those_of_lm_evals_own_evaluator(tokenizer, testbed):
    rows = {task: list(task_rows(task, "tuning", SEED)[:6]) for task in TASKS} if testbed else ROWS
    requests = Requests(SPEC, rows, Source("testbed", str(SEED), None) if testbed else None)
    ours = evaluate(tiny_llama(), tokenizer, SPEC, requests)
    backend = backend_of(tiny_llama(), tokenizer, SPEC)
    theirs = evaluator.evaluate(backend, {"tasks": requests.tasks}, bootstrap_iters=0, log_samples=True)["samples"]
    for task, group in ours.groupby("task"):
        samples = sorted(theirs[f"testbed_{task}" if testbed else task], key=lambda sample: sample["doc_id"])
        for sample, (_, item) in zip(samples, group.iterrows(), strict=True):
            assert item["acc"] == sample["acc"]
            assert item["acc_norm"] == sample.get("acc_norm", item["acc_norm"])
            assert item["document_sha256"] == sample["doc_hash"]
            assert item["log_likelihoods"] == pytest.approx([r[0] for r in sample["filtered_resps"]], abs=1e-4)


def test_gold_probability_divides_where_the_metric_does():
    scores, characters = np.array([-2.0, -3.0]), np.array([1, 3])
    assert gold_probability(scores, characters, 0, "acc") == pytest.approx(1 / (1 + np.exp(-1)))
    assert gold_probability(scores, characters, 0, "acc_norm") == pytest.approx(1 / (1 + np.exp(1)))


def test_the_batch_size_changes_no_outcome(items, tokenizer):
    alone = evaluate(tiny_llama(), tokenizer, EvaluationSpec(TASKS, "report", 6, 0, 1), Requests(SPEC, ROWS))
    assert alone["acc"].tolist() == items["acc"].tolist()
    assert np.allclose(alone["gold_probability"], items["gold_probability"], atol=1e-5)
