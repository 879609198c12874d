"""Output head and cross-entropy in one, a piece of the tokens at a time, so that logits never stand as a whole.

Autograd keeps logits, their log-softmax and both gradients, each of tokens x vocabulary numbers; here a piece of the
logits turns into its gradient in place, and that into the gradient of the states, while the loss is computed.

Source: fused linear cross-entropy, Hsu et al. 2024 (Liger Kernel), section 3.2.
"""

from typing import Any

import torch
from torch import nn

from rankadaptor.models.kernels.products import product

_LOGITS = {"cpu": 2**23, "cuda": 2**27}  # numbers of a piece; on a CPU half or twice as many were 5 to 10 % slower


def summed_cross_entropy(head: nn.Linear, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Sum of -log p(target | state) over tokens, in nats.  # ()

    Args:
        head: Without a bias, and frozen: no gradient flows to it.
        states: (tokens, width).
        targets: (tokens,).
    """
    if head.bias is not None or head.weight.requires_grad:
        raise ValueError("the output head has a bias or is trained")
    return _SummedCrossEntropy.apply(states, head.weight, targets)


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        exact = torch.promote_types(states.dtype, torch.float32)
        total = torch.zeros((), dtype=exact, device=states.device)
        of_states = torch.empty_like(states)
        rows = max(1, _LOGITS.get(states.device.type, _LOGITS["cpu"]) // len(weight))
        for part, chosen, gradient in zip(
            states.split(rows), targets[:, None].split(rows), of_states.split(rows), strict=True
        ):
            logits = product(part, weight).to(exact)
            most = logits.amax(-1, keepdim=True)
            total -= logits.gather(-1, chosen).sub_(most).sum()
            sums = logits.sub_(most).exp_().sum(-1, keepdim=True)
            total += sums.log().sum()
            of_logits = logits.div_(sums)  # softmax; less 1 where the target is
            of_logits.scatter_add_(-1, chosen, of_logits.new_full((), -1).expand_as(chosen))
            gradient.copy_(product(of_logits.to(states.dtype), weight.T))
        ctx.save_for_backward(of_states)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (of_states,) = ctx.saved_tensors
        return of_states * gradients[0].to(of_states.dtype), None, None
