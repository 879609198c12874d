"""The performance model of Section 3.2: an MLP from a rank allocation to the score of the model recovered with it.

Input l ranks, three hidden layers (32-32-32 by default) with ReLU, one linear output, trained on the squared error of
Eq. 5. Meta-learning is first-order (Reptile, Nichol et al. 2018) over tasks.
"""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class PerformanceModelSettings:
    hidden: tuple[int, ...] = (32, 32, 32)  # Table 3's other settings: (32, 64, 32) and (32, 16, 32)
    learning_rate: float = 0.01
    weight_decay: float = 0.01  # a handful of recoveries cannot hold up thousands of weights unaided
    fit_steps: int = 200
    meta_iterations: int = 50
    meta_inner_steps: int = 10
    meta_step_size: float = 0.3  # share of the way from the initialisation to the adapted weights


class PerformanceModel:
    """Predicts the score of allocations of one model on one task. All state follows from what it was given and seed.

    Ranks are scaled to about [-1, 1] by `rank_scale`; scores are standardised with mean and spread of the data fitted.
    """

    def __init__(self, layers: int, rank_scale: float, settings: PerformanceModelSettings, seed: int):
        """
        Args:
            layers: l, entries of an allocation.
            rank_scale: The middle of the rank candidates; a rank r enters as r / rank_scale - 1.
        """
        self.settings = settings
        self._rank_scale = rank_scale
        self._mean, self._spread = 0.0, 1.0
        widths = (layers, *settings.hidden)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch's layers initialise from the global generator
            hidden = [m for i, o in itertools.pairwise(widths) for m in (nn.Linear(i, o), nn.ReLU())]
            self._network = nn.Sequential(*hidden, nn.Linear(widths[-1], 1))
        self._initial = copy.deepcopy(self._network.state_dict())

    def meta_train(self, allocations: np.ndarray, scores: np.ndarray) -> None:
        """Offline meta-learning: move the initialisation to where every task is a few steps away.

        Args:
            allocations: Measured allocations.  # (n, l)
            scores: Their scores, a column a task.  # (n, tasks)
        """
        inputs = self._encode(allocations)
        targets = [self._standardise(column)[0] for column in scores.T]
        for iteration in range(self.settings.meta_iterations):
            self._network.load_state_dict(self._initial)
            self._descend(inputs, targets[iteration % len(targets)], self.settings.meta_inner_steps)
            adapted = self._network.state_dict()
            step = self.settings.meta_step_size * (1 - iteration / self.settings.meta_iterations)
            self._initial = {
                name: weight + step * (adapted[name] - weight) for name, weight in self._initial.items()
            }

    def fit(self, allocations: np.ndarray, scores: np.ndarray) -> None:
        """Online incremental learning: from the (meta-learned) initialisation, on everything measured so far.

        Args:
            allocations: # (n, l)
            scores: # (n,)
        """
        order = np.lexsort(np.asarray(allocations).T)  # a function of the set of results, not of their order
        targets, self._mean, self._spread = self._standardise(np.asarray(scores, dtype=float)[order])
        self._network.load_state_dict(self._initial)
        self._descend(self._encode(np.asarray(allocations)[order]), targets, self.settings.fit_steps)

    def predict(self, allocations: np.ndarray) -> np.ndarray:
        """Q, the predicted scores, in the unit of the fitted scores.  # (m,)"""
        with torch.no_grad():
            standard = self._network(self._encode(allocations)).squeeze(-1).double().numpy()
        return standard * self._spread + self._mean

    def _descend(self, inputs: torch.Tensor, targets: torch.Tensor, steps: int) -> None:
        optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        for _ in range(steps):
            optimizer.zero_grad()
            loss = (self._network(inputs).squeeze(-1) - targets).square().mean()  # Eq. 5
            loss.backward()
            optimizer.step()

    def _encode(self, allocations: np.ndarray | Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.as_tensor(np.asarray(allocations), dtype=torch.float32) / self._rank_scale - 1

    @staticmethod
    def _standardise(scores: np.ndarray) -> tuple[torch.Tensor, float, float]:
        mean, spread = float(scores.mean()), float(scores.std())
        spread = spread if spread > 1e-9 else 1.0  # equal scores: nothing to learn but their mean
        return torch.as_tensor((scores - mean) / spread, dtype=torch.float32), mean, spread
