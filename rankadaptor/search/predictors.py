"""Predictors of an allocation's score: the performance model in its variants, and those that it must beat.

A predictor has `meta_train` (without effect where nothing is learned offline), `fit` and `predict`, as
`performance_model.PerformanceModel` describes them. One entry of the registry is one predictor:

    register("ridge", lambda seed: Regression(RidgeCV()))
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rankadaptor.errors import BadInput
from rankadaptor.plugins import add_entry
from rankadaptor.search.performance_model import MetaTask, PerformanceModel, PerformanceModelSettings, Prediction

_GUESS = 5  # stream of one seed, see `proposals`


class Predictor(Protocol):
    """Predicts the mean over heads of the scores of encoded allocations."""

    def meta_train(self, tasks: Sequence[MetaTask]) -> None:
        """Offline meta-learning (Section 3.2)."""

    def fit(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        """Learn from everything measured so far; (n, features) and (n, heads)."""

    def predict(self, inputs: np.ndarray) -> Prediction:
        """Q of encoded allocations.  # (m, features)"""


class IncrementalPredictor(Predictor, Protocol):
    """One that can learn on from new scores alone."""

    def go_on(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        """Learn from new scores, after `fit`; (n, features) and (n, heads)."""


@dataclass(frozen=True)
class PredictorEntry:
    """One predictor of the registry."""

    build: Callable[[int], Predictor]  # from a seed
    has_members: bool = False  # whether Thompson sampling can draw one of its members
    goes_on: bool = False  # whether it is an `IncrementalPredictor`


PREDICTORS: dict[str, PredictorEntry] = {}


def register(
    name: str, build: Callable[[int], Predictor], has_members: bool = False, goes_on: bool = False
) -> None:
    """Add a predictor under the name by which settings call it.

    Args:
        build: Makes the predictor from a seed.
        has_members: Whether the members of its predictions are models that each predict on their own.
        goes_on: Whether it can learn on from new scores alone, with `go_on`.

    Raises:
        BadInput: if another predictor has that name.
    """
    add_entry(PREDICTORS, "predictor", name, PredictorEntry(build, has_members, goes_on))


def find_predictor(name: str) -> PredictorEntry:
    """The entry of a predictor.

    Raises:
        BadInput: if no predictor has that name.
    """
    if name not in PREDICTORS:
        raise BadInput(f"unknown predictor {name!r}: use one of {', '.join(PREDICTORS)}")
    return PREDICTORS[name]


def make_predictor(name: str, seed: int) -> Predictor:
    """A new predictor, which has learned nothing.

    Raises:
        BadInput: if no predictor has that name.
    """
    return find_predictor(name).build(seed)


class Regression:
    """A regressor of scikit-learn on the mean over heads."""

    def __init__(self, estimator: Any):
        self._estimator = estimator

    def meta_train(self, tasks: Sequence[MetaTask]) -> None:
        """No effect: a regression learns nothing offline."""

    def fit(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        """Fit in an order that does not depend on when allocations were measured; (n, features) and (n, heads)."""
        order = np.lexsort(inputs.T)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a kernel without noise is a valid fit
            self._estimator.fit(inputs[order], scores[order].mean(axis=1))

    def predict(self, inputs: np.ndarray) -> Prediction:
        """Q of encoded allocations.  # (m, features)"""
        mean = self._estimator.predict(inputs)
        return Prediction(mean, self._members(inputs, mean))

    def _members(self, inputs: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Q of every member, whose spread is the doubt.  # (members, m)"""
        return mean[None]


class GaussianProcess(Regression):
    """A Gaussian process; its two members have the mean and the standard deviation of the posterior."""

    def __init__(self, seed: int):
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(3.0, (0.3, 30.0)) + WhiteKernel(0.5, (1e-3, 1e1))
        super().__init__(
            GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0, random_state=seed)
        )

    def _members(self, inputs: np.ndarray, mean: np.ndarray) -> np.ndarray:
        _, deviation = self._estimator.predict(inputs, return_std=True)
        return np.stack([mean - deviation, mean + deviation])


class Forest(Regression):
    """A random forest; its members are its trees."""

    def __init__(self, seed: int):
        super().__init__(RandomForestRegressor(100, min_samples_leaf=2, random_state=seed))

    def _members(self, inputs: np.ndarray, mean: np.ndarray) -> np.ndarray:
        return np.stack([tree.predict(inputs) for tree in self._estimator.estimators_])


class Guess:
    """Scores drawn at random: a search with it has proposals and no predictor."""

    def __init__(self, seed: int):
        self._seed, self._measured = seed, 0
        self._mean = 0.0

    def meta_train(self, tasks: Sequence[MetaTask]) -> None:
        """No effect: there is nothing to learn."""

    def fit(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        """Keeps the number of scores and their mean. Shapes: (n, features) and (n, heads)."""
        self._measured, self._mean = len(inputs), float(scores.mean())

    def predict(self, inputs: np.ndarray) -> Prediction:
        """The mean of all scores, in random order.  # (m, features)"""
        draws = np.random.default_rng([self._seed, _GUESS, self._measured]).standard_normal(len(inputs))
        return Prediction(self._mean + 1e-9 * draws, draws[None])


PAPER = PerformanceModelSettings()
ENSEMBLE = replace(PAPER, members=8, fit_steps=100)

register("paper", lambda seed: PerformanceModel(PAPER, seed), goes_on=True)  # setting 1 of Table 3
register("setting 2", lambda seed: PerformanceModel(replace(PAPER, hidden=(32, 64, 32)), seed), goes_on=True)
register("setting 3", lambda seed: PerformanceModel(replace(PAPER, hidden=(32, 16, 32)), seed), goes_on=True)
register("single", lambda seed: PerformanceModel(replace(ENSEMBLE, members=1), seed), goes_on=True)
register("ensemble", lambda seed: PerformanceModel(ENSEMBLE, seed), has_members=True, goes_on=True)
register("ranking", lambda seed: PerformanceModel(replace(ENSEMBLE, loss="ranking"), seed), has_members=True)
register("ridge", lambda seed: Regression(make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 4, 13)))))
register("gaussian process", GaussianProcess)
register("forest", Forest, has_members=True)
register("constant", lambda seed: Regression(DummyRegressor()))
register("guess", Guess)
