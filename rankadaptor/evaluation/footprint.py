"""Costs of storing and running a model: parameters, MACs, memory, latency (LLM-Pruner's statistics table)."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of


@dataclass(frozen=True)
class Footprint:
    """Costs of one model. All but the first two depend on the machine and the dtype."""

    parameters: int
    macs: int  # multiply-accumulates of one forward pass over `tokens` tokens, output head included
    weight_bytes: int  # parameters and buffers, in memory
    peak_bytes: int | None  # of the device during a forward pass, weights included; None where torch does not count
    forward_seconds: float  # median over `repeats`
    decode_tokens_per_second: float  # greedy decoding with cache after the same prompt, one sequence
    tokens: int


def footprint(model: PreTrainedModel, tokens: int = 64, repeats: int = 5, decoded: int = 32) -> Footprint:
    """Measure one model, in its dtype and on its device, on one sequence of random token ids.

    Args:
        model: In evaluation mode.
        tokens: Length of the prompt; 64 is LLM-Pruner's.
        repeats: Forward passes whose median counts, after one that does not.
        decoded: Tokens decoded after the prompt.

    Raises:
        BadInput: if one of the three counts is below 1.
    """
    if min(tokens, repeats, decoded) < 1:
        raise BadInput(f"tokens {tokens}, repeats {repeats} and decoded {decoded}: give at least 1 of each")
    architecture = architecture_of(model)
    prompt = torch.randint(architecture.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    prompt = prompt.to(model.device)
    on_gpu = model.device.type == "cuda"
    with torch.inference_mode():
        model(input_ids=prompt, use_cache=False)
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(model.device)
        times = [_seconds(model, prompt) for _ in range(repeats)]
        peak = torch.cuda.max_memory_allocated(model.device) if on_gpu else None
        rate = decoded / _decode_seconds(model, prompt, decoded)
    tensors = [*model.parameters(), *model.buffers()]
    return Footprint(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=architecture.macs(tokens),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        peak_bytes=peak,
        forward_seconds=float(np.median(times)),
        decode_tokens_per_second=rate,
        tokens=tokens,
    )


def _seconds(model: PreTrainedModel, prompt: torch.Tensor) -> float:
    started = _now(model)
    model(input_ids=prompt, use_cache=False)
    return _now(model) - started


def _decode_seconds(model: PreTrainedModel, prompt: torch.Tensor, decoded: int) -> float:
    """Seconds of `decoded` single-token steps after the pass over the prompt, which is not timed."""
    output = model(input_ids=prompt, use_cache=True)
    started = _now(model)
    for _ in range(decoded):
        output = model(input_ids=output.logits[:, -1:].argmax(-1), past_key_values=output.past_key_values)
    return _now(model) - started


def _now(model: PreTrainedModel) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
