"""Scores a model on lm-eval's requests."""

from typing import Any

import pandas as pd
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.evaluation.items import item_table
from rankadaptor.evaluation.requests import Requests
from rankadaptor.evaluation.shared_context import SharedContextLM, score
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.evaluation.tokenisation import PlainLM
from rankadaptor.models.tokenizers import Tokenizer


def evaluate(model: PreTrainedModel, tokenizer: Tokenizer, spec: EvaluationSpec, requests: Requests) -> pd.DataFrame:
    """Score a model, zero-shot.

    Outcomes follow from the log-likelihoods by lm-eval's formulas; tests compare them with lm-eval's own evaluator.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        spec: Engine, batch size and tokenisation. lm-eval's request cache stays off, since its keys ignore the model.
        requests: The questions; may serve many models of one tokenizer.

    Returns:
        One row an item, with the columns `items.COLUMNS`.

    Raises:
        BadInput: if the spec's tokenisation is not offered, a choice has no token to score, or a token has no embedding
            in the model.
        NotFinite: if the model's log-likelihoods are NaN or infinite.
    """
    backend = backend_of(model, tokenizer, spec)
    pairs = requests.tokenised(backend)
    if isinstance(backend, SharedContextLM):
        log_likelihoods = score(model, requests.batches(backend), len(pairs))[0].tolist()
    else:
        log_likelihoods = [value for value, _ in backend._loglikelihood_tokens(pairs, disable_tqdm=True)]
    return item_table(requests.questions, log_likelihoods)


def backend_of(model: PreTrainedModel, tokenizer: Tokenizer, spec: EvaluationSpec) -> HFLM:
    """A loaded model as one of lm-eval's: with lm-eval's own scoring, or with this project's in its place.

    Raises:
        BadInput: if the spec's tokenisation is not offered.
    """
    if spec.tokenisation != "joint":
        raise BadInput(f"tokenisation {spec.tokenisation!r} is not offered: use joint")
    settings: dict[str, Any] = {"batch_size": spec.batch_size, "add_bos_token": spec.bos, "backend": "causal"}
    backend = PlainLM if spec.engine == "lm_eval" else SharedContextLM
    return backend(pretrained=model, tokenizer=tokenizer, **settings)
