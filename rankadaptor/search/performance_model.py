"""The performance model Q(R_H) of Section 3.2: an MLP from a rank allocation to the score of the recovered model.

Input l ranks, three hidden layers (32-32-32 by default, Section 4.1) with ReLU, a linear output, trained on the squared
error (P - Q)^2 of Eq. 5. Offline meta-learning is first-order (Reptile, Nichol et al. 2018, arXiv 1803.02999) over
tasks. The settings' defaults are the paper's model; members, ranking loss and heads by task are ours.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch.nn import functional

_WEIGHTS, _META = 3, 4  # streams of one seed, see `proposals`
Loss = Literal["squared", "ranking"]


@dataclass(frozen=True)
class PerformanceModelSettings:
    """Shape and training of the performance model; the defaults are the paper's, where it gives them."""

    hidden: tuple[int, ...] = (32, 32, 32)  # Table 3's other settings: (32, 64, 32) and (32, 16, 32)
    members: int = 1  # networks that differ in their initialisation; their spread measures its doubt
    loss: Loss = "squared"  # Eq. 5, or ranking: logistic over pairs (BRP-NAS, Dudziak et al. 2020)
    learning_rate: float = 0.01
    weight_decay: float = 0.01  # a handful of recoveries does not determine thousands of weights
    fit_steps: int = 200
    meta_iterations: int = 50
    meta_inner_steps: int = 10
    meta_rows: int = 32  # allocations of a task, drawn for each iteration
    meta_step_size: float = 0.3  # share of the way from the initialisation to the adapted weights, decaying to 0


class MetaTask(NamedTuple):
    """Scores of one benchmark on one block, or of several benchmarks, one head each."""

    inputs: np.ndarray  # (n, features)
    scores: np.ndarray  # (n, heads)


class Prediction(NamedTuple):
    """Q of some allocations, and of every member of a predictor that has several."""

    mean: np.ndarray  # in the unit of the scores.  # (m,)
    members: np.ndarray  # one row where the predictor does not estimate its own doubt.  # (members, m)

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation over members.  # (m,)"""
        return self.members.std(axis=0)


class PerformanceModel:
    """Predicts the mean over heads of the scores of allocations. Its state is a function of its data and its seed.

    Weights of all members are stacked, so that an ensemble costs little more than one network.

    Source: Section 3.2.
    """

    def __init__(self, settings: PerformanceModelSettings, seed: int):
        """
        Args:
            seed: Of the initial weights and of the draws of meta-learning.
        """
        self.settings = settings
        self._seed = seed
        self._initial: list[torch.Tensor] | None = None  # made when the number of inputs and heads is known
        self._weights: list[torch.Tensor] = []  # of each layer (members, in, out), then its bias (members, 1, out)
        self._mean, self._spread = np.zeros(1), np.ones(1)

    def meta_train(self, tasks: Sequence[MetaTask]) -> None:
        """Offline meta-learning: move the initialisation to a point that is a few steps away from every task.

        Scores are standardised per task, so that tasks share their shape and not their level.

        Source: Section 3.2, phase 1; Reptile's update w += step * (adapted - w).
        """
        if not tasks:
            return
        settings, generator = self.settings, np.random.default_rng([self._seed, _META])
        initial = self._initialise(tasks[0].inputs.shape[1], tasks[0].scores.shape[1])
        standard = [(task.inputs, _standardise(task.scores)[0]) for task in tasks]
        for iteration in range(settings.meta_iterations):
            inputs, targets = standard[generator.integers(len(standard))]
            rows = generator.permutation(len(inputs))[: settings.meta_rows]
            adapted = self._descend(initial, inputs[rows], targets[rows], settings.meta_inner_steps)
            step = settings.meta_step_size * (1 - iteration / settings.meta_iterations)
            initial = [old + step * (new - old) for old, new in zip(initial, adapted, strict=True)]
        self._initial = initial

    def fit(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        """Online incremental learning: from the (meta-learned) initialisation, on everything measured so far.

        Training restarts on all measurements in place of continuing on the newest ones, so that nothing is forgotten
        and the result does not depend on the order of measurements.

        Args:
            inputs: Encoded allocations.  # (n, features)
            scores: # (n, heads)

        Source: Section 3.2, phase 2; Eq. 5.
        """
        order = np.lexsort(inputs.T)
        targets, self._mean, self._spread = _standardise(scores[order])
        initial = self._initial or self._initialise(inputs.shape[1], scores.shape[1])
        self._weights = self._descend(initial, inputs[order], targets, self.settings.fit_steps)
        if self.settings.loss == "ranking":  # outputs of a ranking have no unit: scale them to the scores' one
            self._weights[-2:] = self._rescaled(inputs[order], targets)

    def go_on(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        """Incremental learning as the paper words it: from the present weights, on new scores alone.

        Scores keep the mean and the spread of those that `fit` was given.

        Args:
            inputs: Encoded allocations.  # (n, features)
            scores: # (n, heads)

        Source: Section 3.3, "Iteration Phase".
        """
        order = np.lexsort(inputs.T)
        targets = (scores[order] - self._mean) / np.where(self._spread > 0, self._spread, np.inf)
        self._weights = self._descend(self._weights, inputs[order], targets, self.settings.fit_steps)

    def predict(self, inputs: np.ndarray) -> Prediction:
        """Q of encoded allocations.

        Args:
            inputs: # (m, features)
        """
        scores = self._forward(inputs) * self._spread + self._mean  # (members, m, heads)
        members = scores.mean(axis=2)
        return Prediction(members.mean(axis=0), members)

    def _rescaled(self, inputs: np.ndarray, targets: np.ndarray) -> list[torch.Tensor]:
        """Weight and bias of the output layer with which every head fits the targets best, by least squares."""
        raw = self._forward(inputs)  # (members, n, heads)
        middle = raw.mean(axis=1, keepdims=True)
        variance = np.maximum(raw.var(axis=1, keepdims=True), 1e-12)
        slope = ((raw - middle) * targets).mean(axis=1, keepdims=True) / variance  # (members, 1, heads)
        weight, bias = (tensor.double().numpy() for tensor in self._weights[-2:])
        return [torch.as_tensor(scaled, dtype=torch.float32) for scaled in (slope * weight, slope * (bias - middle))]

    def _initialise(self, features: int, heads: int) -> list[torch.Tensor]:
        """Uniform within 1 / sqrt(inputs), as torch initialises a linear layer; each member draws for itself."""
        stacked = []
        widths = (features, *self.settings.hidden, heads)
        generators = [np.random.default_rng([self._seed, _WEIGHTS, member]) for member in range(self.settings.members)]
        for inputs, outputs in itertools.pairwise(widths):
            for shape in ((inputs, outputs), (1, outputs)):
                draws = [generator.uniform(-1, 1, shape) / np.sqrt(inputs) for generator in generators]
                stacked.append(torch.as_tensor(np.stack(draws), dtype=torch.float32))
        return stacked

    def _descend(
        self, initial: list[torch.Tensor], inputs: np.ndarray, targets: np.ndarray, steps: int
    ) -> list[torch.Tensor]:
        """Weights after `steps` steps of AdamW on all rows."""
        weights = [weight.clone().requires_grad_() for weight in initial]
        x = torch.as_tensor(inputs, dtype=torch.float32)
        y = torch.as_tensor(targets, dtype=torch.float32)
        optimizer = torch.optim.AdamW(
            weights, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay, fused=True
        )
        loss_of = _squared_error if self.settings.loss == "squared" else _ranking_loss
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(_network(weights, x), y).backward()
            optimizer.step()
        return [weight.detach() for weight in weights]

    def _forward(self, inputs: np.ndarray) -> np.ndarray:
        """Standardised Q of every member and head.  # (members, m, heads)"""
        with torch.no_grad():
            return _network(self._weights, torch.as_tensor(inputs, dtype=torch.float32)).double().numpy()


def _network(weights: Sequence[torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """The MLP of every member: linear layers with ReLU between them.

    Args:
        weights: Of each layer (members, in, out), then its bias (members, 1, out).
        inputs: # (n, features)

    Returns:
        # (members, n, heads)
    """
    hidden = inputs.expand(len(weights[0]), *inputs.shape)
    for number in range(0, len(weights), 2):
        hidden = torch.baddbmm(weights[number + 1], hidden, weights[number])
        if number + 2 < len(weights):
            hidden = torch.relu(hidden)
    return hidden


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Eq. 5 as a mean over allocations and heads, summed over members, which do not share weights."""
    return (outputs - targets).square().mean(dim=(1, 2)).sum()


def _ranking_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Logistic loss of the difference of outputs, over all pairs of allocations with different scores."""
    gaps = outputs[:, :, None] - outputs[:, None, :]  # (members, n, n, heads)
    better = (targets[:, None] > targets[None, :]).float()  # (n, n, heads)
    return (functional.softplus(-gaps) * better).sum(dim=(1, 2, 3)).sum() / better.sum().clamp(min=1)


def _standardise(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores minus their mean, over their standard deviation, per head; equal scores have a spread of 0 and become 0.

    Args:
        scores: # (n, heads)

    Returns:
        Standardised scores (n, heads), means (heads,) and standard deviations (heads,).
    """
    mean, spread = scores.mean(axis=0), scores.std(axis=0)
    spread = np.where(spread > 1e-9 * np.abs(mean), spread, 0.0)
    return (scores - mean) / np.where(spread > 0, spread, np.inf), mean, spread
