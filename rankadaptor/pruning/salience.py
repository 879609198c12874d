"""Saliences of weights, Eq. 2 and its relatives, in one backward pass and little memory.

With W a weight, G the gradient of the mean next-token loss over all windows, g_j that over window j alone and
H = mean_j g_j^2 (the diagonal of the empirical Fisher matrix, Eq. 2's Hessian):

| kind | salience S | score of a row or column |
|---|---|---|
| element1 | W G | sum of abs(S) |
| element2 | W H W | sum of abs(S) |
| mixed | W G - W H W / 2 | sum of abs(S) |
| vector | W G | abs of the sum of S |

Source: LLM-Pruner `param_first`, `param_second`, `param_mix`, `vectorize`; Shortened LLaMA `taylor`.

A linear layer's gradient over window j is (dL/dy_j)^T x_j, a product of two small matrices that backpropagation holds
anyway. So all g_j of a weight are formed one after another as soon as backpropagation reaches its layer, reduced in
float32 to the few sums that are needed, and dropped: no gradient of the model's size ever exists, and the second-order
kinds cost no further passes. Layers are checkpointed, and the output head takes one window at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from rankadaptor.models.kernels.products import product, quick_products

Kind = Literal["element1", "element2", "mixed", "vector"]

# What is computed from a weight's salience, which is float32 and of the weight's shape.
Reduction = Callable[[torch.Tensor], torch.Tensor]


def reduce_saliences(
    model: PreTrainedModel, windows: torch.Tensor, kind: Kind, reductions: Mapping[str, Reduction]
) -> dict[str, torch.Tensor]:
    """Reduce the saliences of some weights of the decoder's layers.

    Args:
        model: A LLaMA without biases; its weights, `requires_grad` and gradients are left as they were.
        windows: Token ids.  # (samples, tokens)
        kind: Which salience of the table above.
        reductions: Parameter name -> reduction of its signed salience. The weights of norms have only element1 and
            vector: their gradients are formed for all windows at once.

    Returns:
        Parameter name -> the reduction's result, on the CPU.
    """
    results: dict[str, torch.Tensor] = {}
    linear = {f"{name}.weight": module for name, module in model.named_modules()
              if isinstance(module, torch.nn.Linear) and f"{name}.weight" in reductions}
    norms = {name: parameter for name, parameter in model.named_parameters()
             if name in reductions and name not in linear}

    def on_linear(name: str, weight: torch.Tensor, inputs: torch.Tensor, grad_output: torch.Tensor) -> None:
        results[name] = reductions[name](_salience(kind, weight.detach().float(), inputs, grad_output, scale)).cpu()

    def on_norm(name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        results[name] = reductions[name](parameter.detach().float() * (parameter.grad.float() / scale)).cpu()
        parameter.grad = None

    scale = loss_scale(model, windows)

    with _frozen(model), _tapped(linear, on_linear), quick_products(model.lm_head), _checkpointed(model):
        hooks = []
        for name, parameter in norms.items():
            parameter.requires_grad_(True)
            hooks.append(parameter.register_post_accumulate_grad_hook(partial(on_norm, name)))
        try:
            _backward(model, windows.to(model.device), scale)
        finally:
            for hook in hooks:
                hook.remove()
    return results


def loss_scale(model: PreTrainedModel, windows: torch.Tensor) -> float:
    """Factor on the mean loss before backpropagation: in float16 the gradients of a mean would underflow."""
    return float(windows[:, 1:].numel()) if model.dtype == torch.float16 else 1.0


def _salience(
    kind: Kind, weight: torch.Tensor, inputs: torch.Tensor, grad_output: torch.Tensor, scale: float
) -> torch.Tensor:
    """The salience of a linear layer's weight.

    Args:
        kind: Which salience.
        weight: float32.  # (out, in)
        inputs: Of the layer.  # (samples, tokens, in)
        grad_output: Gradient of the mean loss over all samples, times `scale`.  # (samples, tokens, out)
        scale: See `loss_scale`.

    Returns:
        float32.  # (out, in)
    """
    inputs, grad_output = inputs.float(), grad_output.float() / scale
    if kind in ("element1", "vector"):
        return weight * product(grad_output.flatten(0, 1).T, inputs.flatten(0, 1).T)
    samples = len(inputs)
    total, squares = torch.zeros_like(weight), torch.zeros_like(weight)
    for x, dy in zip(inputs, grad_output, strict=True):
        gradient = product(dy.T, x.T)  # of the mean over all samples: g_j / samples
        squares.addcmul_(gradient, gradient, value=samples)  # g_j^2 / samples
        if kind == "mixed":
            total += gradient
    second = squares.mul_(weight).mul_(weight)
    return second if kind == "element2" else total.mul_(weight).sub_(second, alpha=0.5)


def _backward(model: PreTrainedModel, windows: torch.Tensor, scale: float) -> None:
    """Backpropagate the mean next-token loss over all windows, through the output head one window at a time."""
    embedded = model.get_input_embeddings()(windows).requires_grad_(True)
    hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state  # (samples, tokens, hidden)
    targets = windows[:, 1:]
    grads = []
    for states, target in zip(hidden.detach(), targets, strict=True):
        states.requires_grad_(True)
        logits = model.lm_head(states[:-1]).float()  # (tokens - 1, vocabulary)
        loss = functional.cross_entropy(logits, target, reduction="sum") / (targets.numel() / scale)
        grads.append(torch.autograd.grad(loss, states)[0])  # (tokens, hidden)
    hidden.backward(torch.stack(grads))


class _Tap(torch.autograd.Function):
    """A linear map whose backward pass hands its inputs and the gradient of its output to a callback."""

    @staticmethod
    def forward(
        context: Any, inputs: torch.Tensor, weight: torch.Tensor, callback: Callable[..., None]
    ) -> torch.Tensor:
        """x W^T.  # (samples, tokens, out)"""
        context.save_for_backward(inputs, weight)
        context.callback = callback
        return product(inputs, weight)

    @staticmethod
    def backward(context: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Gradient of the inputs; the callback reduces that of the weight."""
        inputs, weight = context.saved_tensors
        context.callback(weight, inputs, grads[0])
        return product(grads[0], weight.T), None, None


@contextmanager
def _tapped(modules: Mapping[str, torch.nn.Linear], callback: Callable[..., None]) -> Iterator[None]:
    """Calls `callback(name, weight, inputs, grad_output)` for each module during backpropagation."""
    for name, module in modules.items():
        module.forward = partial(  # type: ignore[method-assign]
            lambda inputs, weight, callback: _Tap.apply(inputs, weight, callback),
            weight=module.weight, callback=partial(callback, name))
    try:
        yield
    finally:
        for module in modules.values():
            del module.forward


@contextmanager
def _checkpointed(model: PreTrainedModel) -> Iterator[None]:
    """Layers keep only their inputs and are computed again during backpropagation."""
    layers = list(model.model.layers)
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No parameter gets a gradient; restores `requires_grad` and gradients on exit."""
    before = {name: (parameter.requires_grad, parameter.grad) for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = None
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            requires_grad, parameter.grad = before[name]
            parameter.requires_grad_(requires_grad)
