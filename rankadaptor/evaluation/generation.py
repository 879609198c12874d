"""Continuations of prompts, greedy and sampled, and statistics of them: single continuations are no evidence.

Perplexity is of the continuation after its prompt, under the model itself and under the dense base model, a judge that
is the same for all. It is low for dull text as well as for sensible text, so repetition and distinct n-grams stand
beside it.
Source: Welleck et al. 2020 (repetition), Li et al. 2016 (distinct-n); sampling as LLM-Pruner's `generate.py`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import GenerationSpec
from rankadaptor.models.tokenizers import Tokenizer, check_ids, padding_id, vocabulary_of, with_bos

COLUMNS = ("prompt", "decoding", "number", "text", "tokens", "own_perplexity", "dense_perplexity", "repetition",
           "distinct_1", "distinct_2")
_REPEATED = 4  # length in tokens of the n-grams that count as repetition when they return


def continuations(
    model: PreTrainedModel, judge: PreTrainedModel, tokenizer: Tokenizer, spec: GenerationSpec
) -> pd.DataFrame:
    """Continue every prompt once greedily and `spec.samples` times by sampling.

    Args:
        model: That continues; in evaluation mode.
        judge: The dense base model, in evaluation mode.
        tokenizer: Of both.
        spec: Prompts, lengths and sampling.

    Raises:
        BadInput: if a prompt has no tokens or one without an embedding, or the spec wants a BOS that is missing.

    Returns:
        One row a continuation, with the columns COLUMNS: `decoding` is greedy or sampled; `number` counts samples;
        `text` is the continuation alone; `tokens` leaves out the end of text; perplexities are not a number where
        nothing was generated; repetition and distinct-n are those of `statistics`.
    """
    lines: list[dict[str, Any]] = []
    for prompt_number, prompt in enumerate(spec.prompts):
        prompt_ids = _prompt_ids(model, tokenizer, prompt, spec.bos)  # (1, tokens)
        for number in range(1 + spec.samples):
            seed = [spec.seed, prompt_number, number]
            ids = _continue(model, tokenizer, prompt_ids, spec, sampled=number > 0, seed=seed)
            lines.append({
                "prompt": prompt,
                "decoding": "sampled" if number else "greedy",
                "number": number,
                "text": tokenizer.decode(ids, skip_special_tokens=True),
                "tokens": len(ids),
                "own_perplexity": _perplexity(model, prompt_ids, ids),
                "dense_perplexity": _perplexity(judge, prompt_ids, ids),
                **statistics(ids),
            })
    return pd.DataFrame(lines, columns=list(COLUMNS))


def _prompt_ids(model: PreTrainedModel, tokenizer: Tokenizer, prompt: str, bos: bool) -> torch.Tensor:
    """Token ids of a prompt, on the model's device.  # (1, tokens)"""
    ids = tokenizer(prompt, add_special_tokens=False).input_ids
    ids = with_bos(ids, tokenizer) if bos else ids
    if not ids:
        raise BadInput(f"the prompt {prompt!r} has no tokens: give some text")
    check_ids(ids, tokenizer, vocabulary_of(model), "a prompt")
    return torch.tensor([ids], device=model.device)


def statistics(ids: Sequence[int]) -> dict[str, float]:
    """Repetition and diversity of one continuation.

    Args:
        ids: Its tokens.

    Returns:
        repetition: share of 4-grams that occurred before; distinct_1, distinct_2: different n-grams over all n-grams.
        Not a number where the continuation is too short to have one.
    """

    def distinct(size: int) -> float:
        """Different n-grams over all n-grams of `size` tokens."""
        grams = list(zip(*(ids[offset:] for offset in range(size)), strict=False))
        return len(set(grams)) / len(grams) if grams else math.nan

    return {"repetition": 1 - distinct(_REPEATED), "distinct_1": distinct(1), "distinct_2": distinct(2)}


def _continue(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    prompt_ids: torch.Tensor,
    spec: GenerationSpec,
    sampled: bool,
    seed: Sequence[int],
) -> list[int]:
    """Tokens that follow a prompt, without the end of text."""
    decoding: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    if sampled:
        decoding = {"do_sample": True, "temperature": spec.temperature, "top_k": spec.top_k, "top_p": spec.top_p}
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(int(np.random.default_rng(seed).integers(2**31)))
        output = model.generate(
            prompt_ids, attention_mask=torch.ones_like(prompt_ids), max_new_tokens=spec.max_new_tokens,
            pad_token_id=padding_id(tokenizer, vocabulary_of(model)), **decoding,
        )
    ids = output[0, prompt_ids.shape[1] :].tolist()
    return ids[: ids.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in ids else ids


def _perplexity(model: PreTrainedModel, prompt_ids: torch.Tensor, ids: list[int]) -> float:
    """exp of the mean loss of a continuation's tokens, after its prompt."""
    if not ids:
        return math.nan
    whole = torch.cat([prompt_ids, torch.tensor([ids], device=prompt_ids.device)], dim=1).to(model.device)
    with torch.inference_mode():
        logits = model(input_ids=whole, use_cache=False).logits[0, -len(ids) - 1 : -1].float()  # (tokens, vocabulary)
    return float(functional.cross_entropy(logits, whole[0, -len(ids) :]).exp())
