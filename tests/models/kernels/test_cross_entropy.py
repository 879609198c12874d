"""Output head and cross-entropy in pieces: PyTorch's loss and gradients, and never all logits at once."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from rankadaptor.models.kernels import cross_entropy
from rankadaptor.models.kernels.cross_entropy import summed_cross_entropy

VOCABULARY, WIDTH, TOKENS = 50, 12, 23


def drawn(dtype=torch.float32, scale=1.0):
    """A frozen head, states and targets."""
    draw = torch.Generator().manual_seed(0)
    head = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype).requires_grad_(False)
    head.weight.copy_(scale * torch.randn(VOCABULARY, WIDTH, generator=draw))
    states = torch.randn(TOKENS, WIDTH, generator=draw, dtype=torch.float32).to(dtype).requires_grad_()
    return head, states, torch.randint(0, VOCABULARY, (TOKENS,), generator=draw)


def plain(head, states, targets):
    return functional.cross_entropy(head(states).to(torch.promote_types(states.dtype, torch.float32)), targets,
                                    reduction="sum")


@pytest.mark.parametrize("logits", [1, 4 * VOCABULARY, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loss_and_gradients_are_pytorchs(logits, dtype, monkeypatch):
    monkeypatch.setitem(cross_entropy._PIECE_LOGITS, "cpu", logits)
    head, states, targets = drawn(dtype)
    expected = plain(head, states, targets)
    (grad_states,) = torch.autograd.grad(expected / 7, states)
    loss = summed_cross_entropy(head, states, targets)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    rounding = {"rtol": 0.016, "atol": 1e-3} if dtype == torch.bfloat16 else {}  # of both, before and after the 7
    torch.testing.assert_close(torch.autograd.grad(loss / 7, states)[0], grad_states, **rounding)


def test_gradients_are_those_of_finite_differences():
    head, states, targets = drawn(torch.float64)
    assert torch.autograd.gradcheck(lambda x: summed_cross_entropy(head, x, targets), (states,))


def test_logits_of_hundreds_stay_finite():
    head, states, targets = drawn(scale=300.0)
    loss = summed_cross_entropy(head, states, targets)
    assert plain(head, states, targets).item() > 1000 * TOKENS
    torch.testing.assert_close(loss, plain(head, states, targets))
    assert torch.autograd.grad(loss, states)[0].isfinite().all()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_not_hidden(number):
    head, states, targets = drawn()
    with torch.no_grad():
        states[3, 2] = number
    assert not summed_cross_entropy(head, states, targets).isfinite()


def test_no_more_logits_stand_at_once_than_a_piece_holds(monkeypatch):
    monkeypatch.setitem(cross_entropy._PIECE_LOGITS, "cpu", 4 * VOCABULARY)
    sizes = []
    product = cross_entropy.product

    def watched(x, weight):
        output = product(x, weight)
        sizes.append(output.numel())
        return output

    monkeypatch.setattr(cross_entropy, "product", watched)
    summed_cross_entropy(*drawn())
    assert max(sizes) == 4 * VOCABULARY
    assert sum(sizes) == TOKENS * (VOCABULARY + WIDTH)


def test_no_token_is_no_loss():
    head, states, targets = drawn()
    assert summed_cross_entropy(head, states[:0], targets[:0]).item() == 0


@pytest.mark.parametrize("head", [nn.Linear(WIDTH, VOCABULARY).requires_grad_(False),
                                  nn.Linear(WIDTH, VOCABULARY, bias=False)])
def test_heads_that_are_trained_or_have_a_bias_are_refused(head):
    _, states, targets = drawn()
    with pytest.raises(ValueError, match="the output head has a bias or is trained"):
        summed_cross_entropy(head, states, targets)
