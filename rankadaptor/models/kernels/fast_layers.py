"""LLaMA's layers in fewer operations: rotary positions, on a CPU norms and attention as well, gradients by hand.

transformers writes rotary positions and norms as a dozen elementwise operations each, and autograd doubles that;
PyTorch's fused attention computes in blocks that short rows do not fill. In a small model they take longer than the
products.

Plain counterparts, equal to rounding: transformers' `LlamaRMSNorm`, `LlamaAttention` (with `apply_rotary_pos_emb`) and
`LlamaMLP`; PyTorch's `scaled_dot_product_attention`. Switch: `quick_layers`.
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

from rankadaptor.models.patching import replaced

# Tokens a row. Up to here, attention by products of whole rows is 1.2 to 1.8 times as fast on a CPU as PyTorch's fused
# one, forward and backward, on one thread and on two. The forward pass alone is not faster.
_SHORT_TOKENS = 64
Project = Callable[[Sequence[nn.Module], torch.Tensor], Sequence[torch.Tensor]]


def _project_each(modules: Sequence[nn.Module], x: torch.Tensor) -> Sequence[torch.Tensor]:
    return [module(x) for module in modules]


@contextlib.contextmanager
def quick_layers(model: nn.Module, project: Project = _project_each) -> Iterator[int]:
    """Let the layers of a LLaMA, in float32 on a CPU or in any dtype on a GPU, compute in fewer operations.

    Args:
        model: Any LLaMA, pruned or with an adapter. Layers of another type, dtype or device are left as they are.
        project: Applies several linear layers to one input.

    Yields:
        The number of layers that do.
    """
    forwards: dict[type[nn.Module], Callable[..., Any]] = {
        LlamaRMSNorm: _norm, LlamaAttention: partial(_attention, project), LlamaMLP: partial(_mlp, project),
    }
    with contextlib.ExitStack() as stack:
        counts = []
        for layer_type, forward in forwards.items():
            modules = [module for module in model.modules() if type(module) is layer_type and _is_supported(module)]
            counts.append(stack.enter_context(replaced(modules, forward)))
        yield sum(counts)


def _is_supported(module: nn.Module) -> bool:
    return all(weight.device.type == "cuda" or (weight.device.type == "cpu" and weight.dtype == torch.float32)
               for weight in module.parameters())


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
        normed = x * scale  # (..., width), scale (..., 1)
        if not ctx.needs_input_grad[0]:
            return normed.mul_(weight)  # in place: memory that is written anew is not in the caches
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normed, scale, weight = ctx.saved_tensors
        grad_normed = grad_outputs[0] * weight  # (..., width)
        radial = (grad_normed * normed).mean(-1, keepdim=True)  # (..., 1)
        return grad_normed.addcmul_(normed, radial, value=-1).mul_(scale), None, None


def _attention(
    project: Project,
    module: LlamaAttention,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None = None,
    past_key_values: Any = None,
    **settings: Any,
) -> tuple[torch.Tensor, Any]:
    """As LlamaAttention.forward, to which passes with a cache are left."""
    if past_key_values is not None:
        return LlamaAttention.forward(
            module, hidden_states, position_embeddings, attention_mask, past_key_values, **settings)
    shape = (*hidden_states.shape[:-1], -1, module.head_dim)
    query, key, value = (
        states.view(shape) for states in project([module.q_proj, module.k_proj, module.v_proj], hidden_states)
    )  # (rows, tokens, heads, head width)
    query, key, value = (states.transpose(1, 2) for states in (
        _Rotary.apply(query, *position_embeddings), _Rotary.apply(key, *position_embeddings), value,
    ))  # (rows, heads, tokens, head width)
    dropout = module.attention_dropout if module.training else 0.0
    implementation = module.config._attn_implementation
    is_short = query.device.type == "cpu" and query.shape[2] <= _SHORT_TOKENS
    if is_short and implementation == "sdpa" and attention_mask is None and not dropout:
        output, weights = _ShortAttention.apply(query, key, value, module.scaling).transpose(1, 2), None
    else:
        attend = AttentionInterface().get_interface(implementation, eager_attention_forward)
        output, weights = attend(
            module, query, key, value, attention_mask, dropout=dropout, scaling=module.scaling, **settings)
    return module.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


class _Rotary(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, Eq. 34), of halves as transformers pairs them.

    Inputs: x (rows, tokens, heads, head width), cosines and sines (rows or 1, tokens, head width).
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cosines, sines)
        return _rotated(x, cosines, sines)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        return _rotated(grad_outputs[0], cosines, -sines.roll(sines.shape[-1] // 2, -1)), None, None


def _rotated(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    cosines, sines = cosines[:, :, None], sines[:, :, None]  # (rows or 1, tokens, 1, head width)
    rotated = x * cosines
    rotated[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    rotated[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return rotated


class _ShortAttention(torch.autograd.Function):
    """Causal attention by products of whole rows; query heads that share a key head are stacked.

    Inputs: query (rows, heads, tokens, head width), key and value (rows, kv heads, tokens, head width), scale.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        tokens, width = query.shape[2:]
        batch, group = len(key) * key.shape[1], query.shape[1] // key.shape[1]  # rows x kv heads; query heads of each
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape)
        query = query.reshape(batch, -1, width)  # (batch, group x tokens, head width)
        key, value = key.reshape(batch, tokens, width), value.reshape(batch, tokens, width)
        mask = torch.full((tokens, tokens), -torch.inf, dtype=query.dtype).triu_(1).repeat(group, 1)
        weights = torch.baddbmm(
            mask.expand(batch, -1, -1), query, key.mT, alpha=scale).softmax(-1)  # (batch, group x tokens, tokens)
        output = weights @ value  # (batch, group x tokens, head width)
        ctx.save_for_backward(query, key, value, weights, output)
        return output.view(ctx.shapes[0])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, weights, output = ctx.saved_tensors
        grad_output = grad_outputs[0].reshape(output.shape)  # (batch, group x tokens, head width)
        grad_value = weights.mT @ grad_output
        row_sums = (grad_output * output).sum(-1, keepdim=True)  # of weights x their gradients
        grad_scores = (grad_output @ value.mT).sub_(row_sums).mul_(weights)  # (batch, group x tokens, tokens)
        grad_query, grad_key = (grad_scores @ key).mul_(ctx.scale), (grad_scores.mT @ query).mul_(ctx.scale)
        query_shape, key_shape = ctx.shapes
        return grad_query.view(query_shape), grad_key.view(key_shape), grad_value.view(key_shape), None


def _mlp(project: Project, module: LlamaMLP, x: torch.Tensor) -> torch.Tensor:
    gate, up = project([module.gate_proj, module.up_proj], x)  # (..., mlp width) each
    if torch.is_grad_enabled() or not isinstance(module.act_fn, SiLUActivation):
        return module.down_proj(module.act_fn(gate) * up)
    return module.down_proj(functional.silu(gate, inplace=True).mul_(up))
