"""The recovery loop: AdamW, linear warm-up and decay, loss on answers only (LLM-Pruner's recipe)."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.adalora import AdaLoraModel, SVDLinear
from torch import nn
from transformers import get_linear_schedule_with_warmup

from rankadaptor.data.benchmarks import Row
from rankadaptor.errors import RecoveryDiverged
from rankadaptor.models.checkpoints import Tokenizer
from rankadaptor.models.kernels.cross_entropy import summed_cross_entropy
from rankadaptor.models.kernels.fast_layers import quick_layers
from rankadaptor.models.kernels.fused_lora import fused
from rankadaptor.models.kernels.products import quick_products
from rankadaptor.recovery.adapters import realised_ranks
from rankadaptor.recovery.eva import initialise_eva
from rankadaptor.recovery.packing import Piece, packing, pieces
from rankadaptor.recovery.prompts import batches
from rankadaptor.recovery.spec import RecoverySpec


@dataclass(frozen=True)
class Training:
    """What a recovery leaves behind beside the adapter."""

    losses: list[float]  # mean loss per supervised token, by optimizer step
    ranks: dict[str, int]  # realised, by module
    trainable_parameters: int
    tokens: int  # read, padding left out


def train(
    adapted: PeftModel,
    tokenizer: Tokenizer,
    rows: Sequence[Row],
    spec: RecoverySpec,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> Training:
    """Train an adapter in place. Batches, dropout and result are functions of the spec, the rows and the device.

    The loss of a step is the mean over the supervised tokens of its whole batch, however it is cut into micro-batches.

    Raises:
        RecoveryDiverged: on a loss or gradient that is not finite.
    """
    recipe = spec.recipe
    planned = batches(rows, tokenizer, recipe, spec.seed)
    if spec.method == "eva":
        initialise_eva(adapted, planned, recipe.micro_batch_rows, tokenizer.pad_token_id, spec.seed)
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    trainable = sum(parameter.numel() for parameter in parameters)
    losses: list[float] = []
    tokens = 0
    adapted.train()
    devices = [adapted.device] if adapted.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _quick(adapted), _as_one(parameters) as numbers, \
            packing(adapted.get_base_model(), recipe) as packs:
        optimizer = torch.optim.AdamW([numbers], lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
        schedule = get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
        torch.manual_seed(spec.seed)  # dropout draws from the global generator
        for step, batch in enumerate(planned):
            loss = _accumulate(adapted, pieces(batch, recipe, packs, tokenizer.pad_token_id, adapted.device))
            norm = torch.nn.utils.clip_grad_norm_([numbers], recipe.clip_norm).item()
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise RecoveryDiverged(f"loss {loss} and gradient norm {norm} at step {step + 1} of {recipe.steps}:"
                                       f" lower the learning rate of {recipe.learning_rate}")
            optimizer.step()
            schedule.step()
            if spec.method == "adalora":
                # After the optimizer's step and before gradients go: importance is gradient x weight.
                adapted.base_model.update_and_allocate(step + 1)
            optimizer.zero_grad(set_to_none=False)
            losses.append(loss)
            tokens += sum(len(example.input_ids) for example in batch)
            on_step(step + 1, loss)
    adapted.eval()
    ranks = realised_ranks(adapted)
    if spec.method == "adalora":
        _assert_reallocated(ranks, spec)
    return Training(losses, ranks, trainable, tokens)


@contextlib.contextmanager
def _as_one(parameters: Sequence[nn.Parameter]) -> Iterator[nn.Parameter]:
    """All numbers of parameters in one, which they are views of meanwhile, as their gradients are of its gradient.

    An optimizer's step, the norm and the clipping are then one operation each, where they are one a parameter.
    """
    one = nn.Parameter(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    one.grad = torch.zeros_like(one)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, values, gradient in zip(parameters, one.detach().split(sizes), one.grad.split(sizes), strict=True):
        parameter.data, parameter.grad = values.view_as(parameter), gradient.view_as(parameter)
    try:
        yield one
    finally:
        for parameter in parameters:
            parameter.data, parameter.grad = parameter.detach().clone(), None


@contextlib.contextmanager
def _quick(adapted: PeftModel) -> Iterator[None]:
    """The passes that are this project's own."""
    with fused(adapted) as together, quick_products(adapted), quick_layers(adapted, together):
        yield


def _accumulate(adapted: PeftModel, cut: Sequence[Piece]) -> float:
    """Gradients of one batch's mean loss over supervised tokens; the output head sees those tokens only."""
    model = adapted.get_base_model()
    supervised = sum(len(piece.targets) for piece in cut)
    losses = []
    for piece in [piece.to(model.device) for piece in cut]:  # all at once: a GPU would wait between them
        hidden = model.model(input_ids=piece.ids, position_ids=piece.positions, rows=piece.rows, use_cache=False)
        states = hidden.last_hidden_state.flatten(0, 1)  # (tokens, width)
        loss = summed_cross_entropy(model.lm_head, states[piece.read], piece.targets) / supervised
        loss.backward()
        losses.append(loss.detach())
    if isinstance(adapted.base_model, AdaLoraModel):
        _orthogonality(adapted).backward()
    return sum(loss.item() for loss in losses)


def _orthogonality(adapted: PeftModel) -> torch.Tensor:
    """AdaLoRA's penalty, weight x mean ||P P^T - I||_F over its factors (Zhang et al. 2023, Eq. 4).

    PEFT adds it inside `AdaLoraModel.forward` when labels are given, which the loop above goes past.
    """
    terms = []
    for module in adapted.modules():
        if isinstance(module, SVDLinear):
            for factor in (module.lora_A["default"], module.lora_B["default"].T):
                gram = factor @ factor.T  # (rank, rank)
                terms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)))
    return adapted.peft_config["default"].orth_reg_weight * torch.stack(terms).mean()


def _assert_reallocated(ranks: dict[str, int], spec: RecoverySpec) -> None:
    """AdaLoRA is known to stay silently at its initial ranks when it is called wrongly."""
    assert spec.adalora_init_rank is not None
    target = max(spec.allocation)
    mean = sum(ranks.values()) / len(ranks)
    if len(set(ranks.values())) == 1 or abs(mean - target) > 0.05 * target:
        raise RuntimeError(f"AdaLoRA did not reallocate: ranks {sorted(set(ranks.values()))}, mean {mean:.2f},"
                           f" from {spec.adalora_init_rank} to {target}")
