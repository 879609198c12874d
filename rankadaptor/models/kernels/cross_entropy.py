"""Output head and cross-entropy in one, a piece of the tokens at a time, so that logits are never held as a whole.

Autograd keeps logits, their log-softmax and both gradients, each of tokens x vocabulary numbers; here a piece of the
logits turns into its gradient in place, and that into the gradient of the states, while the loss is computed.

Plain counterpart: `torch.nn.functional.cross_entropy` of the head's logits, `reduction="sum"`. Switch: calling
`summed_cross_entropy` in its place.

Source: fused linear cross-entropy, Hsu et al. 2024 (Liger Kernel), section 3.2.
"""

from typing import Any

import torch
from torch import nn

from rankadaptor.models.kernels.products import product

_PIECE_LOGITS = {"cpu": 2**23, "cuda": 2**27}  # logits at a time; half or twice as many were 5 to 10 % slower on a CPU


def summed_cross_entropy(head: nn.Linear, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of -log p(target | state) over tokens, in nats.  # ()

    Args:
        head: Without a bias, and frozen: no gradient flows to it.
        states: (tokens, width).
        targets: (tokens,).

    Raises:
        ValueError: if the head has a bias or is trained.
    """
    if head.bias is not None or head.weight.requires_grad:
        raise ValueError("the output head has a bias or is trained")
    return _SummedCrossEntropy.apply(states, head.weight, targets)


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        dtype = torch.promote_types(states.dtype, torch.float32)
        loss = torch.zeros((), dtype=dtype, device=states.device)
        grad_states = torch.empty_like(states)  # (tokens, width)
        tokens = max(1, _PIECE_LOGITS.get(states.device.type, _PIECE_LOGITS["cpu"]) // len(weight))
        for piece, target, grad_piece in zip(
            states.split(tokens), targets[:, None].split(tokens), grad_states.split(tokens), strict=True
        ):
            logits = product(piece, weight).to(dtype)  # (tokens, vocabulary)
            largest = logits.amax(-1, keepdim=True)  # (tokens, 1)
            loss -= logits.gather(-1, target).sub_(largest).sum()
            sums = logits.sub_(largest).exp_().sum(-1, keepdim=True)  # (tokens, 1)
            loss += sums.log().sum()
            grad_logits = logits.div_(sums)  # the softmax, minus 1 at the target in the next line
            grad_logits.scatter_add_(-1, target, grad_logits.new_full((), -1).expand_as(target))
            grad_piece.copy_(product(grad_logits.to(states.dtype), weight.T))
        ctx.save_for_backward(grad_states)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_states,) = ctx.saved_tensors
        return grad_states * grad_outputs[0].to(grad_states.dtype), None, None
