"""The recovery loop: AdamW, linear warm-up and decay, loss on answers only (LLM-Pruner's recipe)."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from peft import PeftModel
from torch import nn
from transformers import get_linear_schedule_with_warmup

from rankadaptor.data.benchmarks import Row
from rankadaptor.errors import BadInput, RecoveryDiverged
from rankadaptor.models.kernels.cross_entropy import summed_cross_entropy
from rankadaptor.models.kernels.fast_layers import quick_layers
from rankadaptor.models.kernels.fused_lora import fused
from rankadaptor.models.kernels.products import quick_products
from rankadaptor.models.tokenizers import Tokenizer, check_ids, padding_id, vocabulary_of
from rankadaptor.recovery.packing import Piece, packing, pieces
from rankadaptor.recovery.prompts import batches
from rankadaptor.recovery.spec import RecoverySpec, adapter_method


@dataclass(frozen=True)
class Training:
    """The record of a recovery, beside the adapter."""

    losses: list[float]  # mean loss per supervised token, in nats, by optimizer step
    ranks: dict[str, int]  # realised, by module
    trainable_parameters: int
    tokens: int  # read, without padding


def train(
    adapted: PeftModel,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    spec: RecoverySpec,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Training:
    """Train an adapter in place. Batches, dropout and result are functions of the spec, the rows and the device.

    The loss of a step is the mean over the supervised tokens of its whole batch, however it is cut into micro-batches.

    Args:
        adapted: As `attach_adapter` returns it for the same spec.
        on_step: Called after every optimizer step with its number, 1-based, and its loss.

    Raises:
        BadInput: if no row has an answer within the maximum length, a token has no embedding in the model, or the
            method cannot use the batches.
        RecoveryDiverged: on a loss or gradient that is not finite.
    """
    recipe, method = spec.recipe, adapter_method(spec.method)
    planned = batches(rows, tokenizer, recipe, spec.seed)
    vocabulary = vocabulary_of(adapted.get_base_model())
    check_ids(chain.from_iterable(example.input_ids for batch in planned for example in batch), tokenizer, vocabulary,
              "recovery rows")
    padding = padding_id(tokenizer, vocabulary)
    method.prepare(adapted, planned, spec, padding)
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    trainable = sum(parameter.numel() for parameter in parameters)
    losses: list[float] = []
    tokens = 0
    adapted.train()
    devices = [adapted.device] if adapted.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _fast_paths(adapted), _flattened(parameters) as flat, \
            packing(adapted.get_base_model(), recipe) as packs:
        optimizer = torch.optim.AdamW([flat], lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        schedule = get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
        torch.manual_seed(spec.seed)  # dropout draws from the global generator
        for step, batch in enumerate(planned, 1):
            batch_pieces = pieces(batch, recipe, packs, padding, adapted.device)
            loss = _accumulate(adapted, batch_pieces, method.penalty)
            norm = torch.nn.utils.clip_grad_norm_([flat], recipe.clip_norm).item()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise RecoveryDiverged(f"loss {loss} and gradient norm {norm} at step {step} of {recipe.steps}:"
                                       f" lower the learning rate of {recipe.learning_rate}")
            optimizer.step()
            schedule.step()
            method.after_step(adapted, step)
            optimizer.zero_grad(set_to_none=False)
            losses.append(loss)
            tokens += sum(len(example.input_ids) for example in batch)
            on_step(step, loss)
    adapted.eval()
    ranks = method.realised_ranks(adapted)
    method.check_trained(ranks, spec)
    return Training(losses, ranks, trainable, tokens)


@contextlib.contextmanager
def _flattened(parameters: Sequence[nn.Parameter]) -> Iterator[nn.Parameter]:
    """Yields one flat parameter; meanwhile the parameters are views of it, and their gradients of its gradient.

    An optimizer's step, the norm and the clipping are then one operation each, and not one for every parameter.
    """
    flat = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, values, gradient in zip(parameters, flat.detach().split(sizes), flat.grad.split(sizes), strict=True):
        parameter.data, parameter.grad = values.view_as(parameter), gradient.view_as(parameter)
    try:
        yield flat
    finally:
        for parameter in parameters:
            parameter.data, parameter.grad = parameter.detach().clone(), None


@contextlib.contextmanager
def _fast_paths(adapted: PeftModel) -> Iterator[None]:
    """Compute by the kernels of `rankadaptor.models.kernels`."""
    with fused(adapted) as fused_modules, quick_products(adapted), quick_layers(adapted, fused_modules):
        yield


def _accumulate(
    adapted: PeftModel,
    batch_pieces: Sequence[Piece],
    penalty: Callable[[PeftModel], torch.Tensor | None] = lambda adapted: None,
) -> float:
    """Gradients of one batch's mean loss over supervised tokens, plus the penalty's; returns the loss, in nats.

    The output head reads the states of supervised tokens only.

    Raises:
        BadInput: if no token of the batch is supervised.
    """
    model = adapted.get_base_model()
    supervised = sum(len(piece.targets) for piece in batch_pieces)
    if not supervised:  # the mean over no token is NaN, and would look like a recovery that diverged
        raise BadInput("a batch holds no token to learn: give rows that have an answer within max_length_tokens")
    losses = []
    for piece in [piece.to(model.device) for piece in batch_pieces]:  # all at once: a GPU would wait between them
        hidden = model.model(input_ids=piece.ids, position_ids=piece.positions, rows=piece.rows, use_cache=False)
        states = hidden.last_hidden_state.flatten(0, 1)  # (tokens, width)
        loss = summed_cross_entropy(model.lm_head, states[piece.supervised], piece.targets) / supervised
        loss.backward()
        losses.append(loss.detach())
    penalty_term = penalty(adapted)
    if penalty_term is not None:
        penalty_term.backward()
    return sum(loss.item() for loss in losses)
