"""LLaMA's layers in fewer operations: rotary positions, on a CPU norms and attention as well, gradients by hand.

transformers writes the former as a dozen elementwise operations each, and autograd doubles that; PyTorch's fused
attention computes in blocks that short rows do not fill. In a small model they take longer than the products. Results
are theirs, to rounding.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm, eager_attention_forward

from rankadaptor.models.kernels.patching import replaced

# Tokens a row: up to here, and no further, attention by products of whole rows is 1.2 to 1.8 times as fast on a CPU as
# PyTorch's fused one, forward and backward, on one thread and on two. Forward alone it is not.
_SHORT = 64
Project = Callable[[Sequence[nn.Module], torch.Tensor], Sequence[torch.Tensor]]


def _each(modules: Sequence[nn.Module], x: torch.Tensor) -> Sequence[torch.Tensor]:
    return [module(x) for module in modules]


@contextlib.contextmanager
def quick_layers(model: nn.Module, project: Project = _each) -> Iterator[int]:
    """Let the layers of a LLaMA, in float32 on a CPU or in any type on a GPU, compute as above; yields how many do.

    Args:
        model: Any LLaMA, pruned or with an adapter; what is of another type, or elsewhere, stays as it is.
        project: Applies several linear layers to one input.
    """
    ways: dict[type[nn.Module], Callable[..., Any]] = {
        LlamaRMSNorm: _norm, LlamaAttention: partial(_attention, project), LlamaMLP: partial(_mlp, project),
    }
    with contextlib.ExitStack() as stack:
        counts = [
            stack.enter_context(replaced([one for one in model.modules() if type(one) is kind and _is_here(one)], way))
            for kind, way in ways.items()
        ]
        yield sum(counts)


def _is_here(module: nn.Module) -> bool:
    return all(one.device.type == "cuda" or (one.device.type == "cpu" and one.dtype == torch.float32)
               for one in module.parameters())


def _norm(module: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
    if x.device.type == "cuda":  # PyTorch has a kernel for it there
        return functional.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)
    if torch.is_grad_enabled() and module.weight.requires_grad:
        return LlamaRMSNorm.forward(module, x)
    return _Norm.apply(x, module.weight, module.variance_epsilon)


class _Norm(torch.autograd.Function):
    """w x / sqrt(mean x^2 + epsilon), over the last dimension (Zhang and Sennrich 2019, Eq. 4); no gradient for w."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        normed = x * scale
        if not ctx.needs_input_grad[0]:
            return normed.mul_(weight)  # in place: what is written anew does not stay in the caches
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normed, scale, weight = ctx.saved_tensors
        gradient = gradients[0] * weight
        along = (gradient * normed).mean(-1, keepdim=True)
        return gradient.addcmul_(normed, along, value=-1).mul_(scale), None, None


def _attention(
    project: Project,
    module: LlamaAttention,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **settings: Any,
) -> tuple[torch.Tensor, Any]:
    """As LlamaAttention.forward; a cache is left to it."""
    if past_key_values is not None:
        return LlamaAttention.forward(
            module, hidden_states, position_embeddings, attention_mask, past_key_values, **settings)
    shape = (*hidden_states.shape[:-1], -1, module.head_dim)
    query, key, value = (
        part.view(shape) for part in project([module.q_proj, module.k_proj, module.v_proj], hidden_states)
    )  # (rows, tokens, heads, head width)
    query, key, value = (part.transpose(1, 2) for part in (
        _Rotated.apply(query, *position_embeddings), _Rotated.apply(key, *position_embeddings), value))
    dropout = module.attention_dropout if module.training else 0.0
    kind = module.config._attn_implementation
    is_short = query.device.type == "cpu" and query.shape[2] <= _SHORT
    if is_short and kind == "sdpa" and attention_mask is None and not dropout:
        found, weights = _ShortAttention.apply(query, key, value, module.scaling).transpose(1, 2), None
    else:
        attend = AttentionInterface().get_interface(kind, eager_attention_forward)
        found, weights = attend(
            module, query, key, value, attention_mask, dropout=dropout, scaling=module.scaling, **settings)
    return module.o_proj(found.reshape(*hidden_states.shape[:-1], -1)), weights


class _Rotated(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, Eq. 34), of halves as transformers pairs them.

    Inputs: x (rows, tokens, heads, head width), cosines and sines (rows or 1, tokens, head width).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cosines, sines)
        return _rotated(x, cosines, sines)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        return _rotated(gradients[0], cosines, -sines.roll(sines.shape[-1] // 2, -1)), None, None


def _rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    cosines, sines = cosines[:, :, None], sines[:, :, None]
    turned = x * cosines
    turned[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return turned


class _ShortAttention(torch.autograd.Function):
    """Causal attention by products of whole rows; query heads of one key are stacked.

    Inputs: query (rows, heads, tokens, head width), key and value (rows, kv heads, tokens, head width), scale.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        tokens, width = query.shape[2:]
        flat, group = len(key) * key.shape[1], query.shape[1] // key.shape[1]
        asked = query.reshape(flat, -1, width)  # (rows x kv heads, group x tokens, head width)
        kept, said = key.reshape(flat, tokens, width), value.reshape(flat, tokens, width)
        later = torch.full((tokens, tokens), -torch.inf, dtype=query.dtype).triu_(1).repeat(group, 1)
        weights = torch.baddbmm(later.expand(flat, -1, -1), asked, kept.mT, alpha=scale).softmax(-1)
        found = weights @ said
        ctx.save_for_backward(asked, kept, said, weights, found)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape)
        return found.view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        asked, key, value, weights, found = ctx.saved_tensors
        gradient = gradients[0].reshape(found.shape)
        of_value = weights.mT @ gradient
        along = (gradient * found).sum(-1, keepdim=True)
        of_scores = (gradient @ value.mT).sub_(along).mul_(weights)
        of_query, of_key = (of_scores @ key).mul_(ctx.scale), (of_scores.mT @ asked).mul_(ctx.scale)
        of_asked, of_kept = ctx.shapes
        return of_query.view(of_asked), of_key.view(of_kept), of_value.view(of_kept), None


def _mlp(project: Project, module: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
    gate, up = project([module.gate_proj, module.up_proj], x)
    if torch.is_grad_enabled() or not isinstance(module.act_fn, SiLUActivation):
        return module.down_proj(module.act_fn(gate) * up)
    return module.down_proj(functional.silu(gate, inplace=True).mul_(up))
