"""Questions as tokens by lm-eval's rule, and what is told where they are not what they seem."""

import contextlib
import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.data import benchmark_row
from helpers.models import tiny_llama
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput, NotFinite, RecoveryDiverged
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.items import item_table
from rankadaptor.evaluation.requests import Question, _encoded
from rankadaptor.evaluation.scoring import backend_of
from rankadaptor.evaluation.spec import EvaluationSpec, PerplexitySpec
from rankadaptor.pipeline.results import Results
from rankadaptor.pipeline.stages.evaluate import Evaluate
from rankadaptor.pipeline.stages.perplexity import Perplexity
from rankadaptor.pipeline.stages.stage import Task
from rankadaptor.pipeline.step import Step

SPEC = EvaluationSpec(("piqa", "openbookqa"), "report", 6, 0, 4)
ROWS = {task: [benchmark_row(task, i) for i in range(6)] for task in SPEC.tasks}
CHOICES = [("Question: the cat\nAnswer:", " a dog"), ("Question: the cat\nAnswer:", " tree"), ("the cat  ", "runs"),
           ("the cat\n", " runs"), ("", " a dog"), ("", "house"), ("the", "se runs")]


@pytest.mark.parametrize("bos", [False, True])
def test_choices_are_tokenised_by_lm_evals_own_rule(bos, tokenizer):
    with_bos = copy.deepcopy(tokenizer)
    with_bos.bos_token = "the"
    backend = backend_of(tiny_llama(), with_bos, dataclasses.replace(SPEC, bos=bos))
    backend._loglikelihood_tokens = lambda requests, **_: requests
    expected = backend.loglikelihood([Instance("loglikelihood", {}, choice, 0) for choice in CHOICES])
    encoded = _encoded(backend, CHOICES)
    assert [(context, continuation) for context, continuation, _ in encoded] == [pair[1:] for pair in expected]
    assert [is_joined for *_, is_joined in encoded] == [False] * len(CHOICES)


def test_a_blank_context_is_scored_after_bos(tokenizer):
    backend = backend_of(tiny_llama(), tokenizer, SPEC)
    (blank, continuation, _), (empty, same, _) = _encoded(backend, [("\n", "house"), ("", "\nhouse")])
    assert blank == empty == [backend.prefix_token_id]
    assert continuation == same == backend.tok_encode("\nhouse", add_special_tokens=False)


@pytest.fixture
def joining():
    """A tokenizer of letters, and of a token that spans a colon and the space behind it."""
    letters = [chr(code) for code in range(32, 127)] + ["\n"]
    vocabulary = {token: number for number, token in enumerate(["<end>", *letters, ": "])}
    core = Tokenizer(models.BPE(vocabulary, [(":", " ")]))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")


def test_items_that_the_tokenizer_joins_are_counted_and_told(joining, tokenizer, capsys):
    """The answers of PIQA follow "Answer:"; those of OpenBookQA follow the question's last word."""
    requests, model = Requests(SPEC, ROWS), tiny_llama(vocabulary=98)
    backend = backend_of(model, joining, SPEC)
    pairs = requests.tokenised(backend)
    assert requests.joined_items == {"piqa": 6, "openbookqa": 0}
    assert [(pair, *backend._encode_pair(*pair)) for pair, *_ in pairs] == pairs  # they are scored as lm-eval does
    assert requests.tokenised(backend) is pairs
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "start of a choice in 6 of 6 items of piqa: scored is what follows" in told
    assert "openbookqa" not in told
    requests.tokenised(backend_of(tiny_llama(), tokenizer, SPEC))
    assert requests.joined_items == {"piqa": 0, "openbookqa": 0}
    assert capsys.readouterr().err == ""


def test_a_choice_that_joins_the_question_wholly_is_refused():
    vocabulary = {token: number for number, token in enumerate(["<end>", *map(chr, range(32, 127)), "\n", ": ", ": a"])}
    core = Tokenizer(models.BPE(vocabulary, [(":", " "), (": ", "a")]))
    joining = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>")
    rows = {"piqa": [benchmark_row("piqa", 0), benchmark_row("piqa", 1) | {"sol2": "a"}]}
    spec = dataclasses.replace(SPEC, tasks=("piqa",))
    with pytest.raises(BadInput, match="item 1 of piqa has a choice without a token to score: give it text"):
        Requests(spec, rows).tokenised(backend_of(tiny_llama(vocabulary=99), joining, spec))


def test_a_choice_that_is_empty_without_its_tags_is_refused():
    """HellaSwag's brackets are taken out by lm-eval: no score by length follows from nothing."""
    row = benchmark_row("hellaswag", 1)
    rows = {"hellaswag": [row, row | {"endings": [*row["endings"][:3], "[header]"]}]}
    with pytest.raises(BadInput, match="item 1 of hellaswag has an empty choice as lm-eval words it: give it text"):
        Requests(dataclasses.replace(SPEC, tasks=("hellaswag",)), rows)


def question(task, item):
    return Question(task, item, "", 0, (1, 2), (("", "a"), ("", "bc")), False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_no_answer(value):
    questions = [question("piqa", 0), question("piqa", 1), question("boolq", 0)]
    assert item_table(questions, [-1.0, -3.0] * 3)["acc"].tolist() == [1, 1, 1]
    for place in (2, 3):
        scores = [-1.0, -3.0] * 3
        scores[place] = value
        with pytest.raises(NotFinite, match="NaN or infinite in 1 of 2 items of piqa: check the model's weights"):
            item_table(questions, scores)
    with pytest.raises(NotFinite, match="in 2 of 2 items of piqa, 1 of 1 items of boolq: check"):
        item_table(questions, [value] * 6)


@pytest.mark.parametrize("engine", ["shared_context", "lm_eval"])
def test_a_model_of_nan_has_a_reason_in_place_of_scores(engine, tokenizer, tmp_path):
    """Such an evaluation ends as that of a diverged recovery does: a table shows the reason and goes on."""
    model, spec = tiny_llama(), dataclasses.replace(SPEC, engine=engine)
    model.model.norm.weight.data[3] = float("nan")
    with pytest.raises(NotFinite, match="6 of 6 items of piqa, 6 of 6 items of openbookqa"):
        evaluate(model, tokenizer, spec, Requests(spec, ROWS))
    models = SimpleNamespace(ready=lambda step: contextlib.nullcontext(model), tokenizer=tokenizer,
                             requests=lambda spec: Requests(spec, ROWS))
    step = Step("evaluate", spec)
    result = Evaluate().compute(Task(step, None, tmp_path, models, lambda share: None))
    assert result.keys() == {"diverged"}
    assert list(tmp_path.iterdir()) == []
    entry = SimpleNamespace(result={"result": result})
    with pytest.raises(RecoveryDiverged, match="log-likelihoods are NaN or infinite in 6 of 6 items of piqa"):
        Results(None, lambda step: entry).metrics(step)


def test_a_perplexity_of_nan_has_a_reason_in_its_place(tokenizer, tmp_path, benchmark_folder, llama):
    inputs = SimpleNamespace(benchmarks=Source("dir", str(benchmark_folder), None), protection=(12, 0))
    models = SimpleNamespace(ready=lambda step: contextlib.nullcontext(llama), tokenizer=tokenizer, inputs=inputs)
    step = Step("perplexity", PerplexitySpec(8, "none"))
    assert Perplexity().compute(Task(step, None, tmp_path, models, lambda share: None))["perplexity"] > 1
    llama.model.norm.weight.data[3] = float("nan")
    result = Perplexity().compute(Task(step, None, tmp_path, models, lambda share: None))
    assert result == {"diverged": "perplexity is NaN: check the model's weights, or give it a type of wider range"}


def test_a_right_choice_that_is_none_of_them_is_refused():
    rows = [benchmark_row("piqa", 0), benchmark_row("piqa", 1) | {"label": 2}]  # as of a benchmark without a schema
    with pytest.raises(BadInput, match="item 1 of piqa has 2 choices, and the right one is 2: give an index from 0"):
        Requests(dataclasses.replace(SPEC, tasks=("piqa",)), {"piqa": rows})


@pytest.mark.parametrize("note", ["text", [1], 10**30])
def test_fields_that_fit_no_table_are_told(note):
    rows = [benchmark_row("piqa", 0) | {"note": 1}, benchmark_row("piqa", 1) | {"note": note}]
    with pytest.raises(BadInput, match="rows of piqa hold a number too large, or values of several types in"):
        Requests(dataclasses.replace(SPEC, tasks=("piqa",)), {"piqa": rows})


def test_a_task_is_named_once():
    with pytest.raises(BadInput, match="tasks 'piqa boolq piqa' repeat themselves: name each once"):
        EvaluationSpec(("piqa", "boolq", "piqa"), "report", 6, 0, 4)


def test_finite_scores_are_what_they_were():
    table = item_table([question("piqa", 0)], [-4.0, -6.0])
    assert table.loc[0, "acc"] == 1
    assert table.loc[0, "acc_norm"] == 0  # -4 for one character, -3 a character for two
    assert table.loc[0, "gold_probability"] == pytest.approx(1 / (1 + np.exp(-2)))
