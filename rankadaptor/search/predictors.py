"""Predictors of an allocation's score, by name: the performance model in its variants, and those it must beat.

Every one has `meta_train` (does nothing where there is nothing to learn offline), `fit` and `predict`, as
`performance_model.PerformanceModel` describes them.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
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
from rankadaptor.search.performance_model import MetaTask, PerformanceModel, PerformanceModelSettings, Prediction


class Predictor(Protocol):
    def meta_train(self, tasks: Sequence[MetaTask]) -> None: ...

    def fit(self, inputs: np.ndarray, scores: np.ndarray) -> None: ...

    def predict(self, inputs: np.ndarray) -> Prediction: ...


class Regression:
    """One of scikit-learn's regressors, on the mean over heads."""

    def __init__(self, estimator: Any):
        self._estimator = estimator

    def meta_train(self, tasks: Sequence[MetaTask]) -> None:
        """None of them learns offline."""

    def fit(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        order = np.lexsort(inputs.T)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a kernel without noise is an answer, too
            self._estimator.fit(inputs[order], scores[order].mean(axis=1))

    def predict(self, inputs: np.ndarray) -> Prediction:
        mean = self._estimator.predict(inputs)
        return Prediction(mean, self._members(inputs, mean))

    def _members(self, inputs: np.ndarray, mean: np.ndarray) -> np.ndarray:
        if isinstance(self._estimator, GaussianProcessRegressor):
            _, deviation = self._estimator.predict(inputs, return_std=True)
            return np.stack([mean - deviation, mean + deviation])  # whose mean and spread are the posterior's
        if isinstance(self._estimator, RandomForestRegressor):
            return np.stack([tree.predict(inputs) for tree in self._estimator.estimators_])
        return mean[None]


class Guess:
    """Scores drawn at random: a search with it keeps its proposals and loses its predictor."""

    def __init__(self, seed: int):
        self._seed, self._measured = seed, 0
        self._mean = 0.0

    def meta_train(self, tasks: Sequence[MetaTask]) -> None:
        """There is nothing to learn."""

    def fit(self, inputs: np.ndarray, scores: np.ndarray) -> None:
        self._measured, self._mean = len(inputs), float(scores.mean())

    def predict(self, inputs: np.ndarray) -> Prediction:
        draws = np.random.default_rng([self._seed, 5, self._measured]).standard_normal(len(inputs))
        return Prediction(self._mean + 1e-9 * draws, draws[None])


PAPER = PerformanceModelSettings()
ENSEMBLE = replace(PAPER, members=8, fit_steps=100)
WITH_MEMBERS = ("ensemble", "ranking", "forest")  # predictors that Thompson sampling can draw from


def _gaussian_process(seed: int) -> GaussianProcessRegressor:
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(3.0, (0.3, 30.0)) + WhiteKernel(0.5, (1e-3, 1e1))
    return GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=0, random_state=seed)


_FACTORIES: dict[str, Callable[[int], Predictor]] = {
    "paper": lambda seed: PerformanceModel(PAPER, seed),  # setting 1 of Table 3
    "setting 2": lambda seed: PerformanceModel(replace(PAPER, hidden=(32, 64, 32)), seed),
    "setting 3": lambda seed: PerformanceModel(replace(PAPER, hidden=(32, 16, 32)), seed),
    "single": lambda seed: PerformanceModel(replace(ENSEMBLE, members=1), seed),
    "ensemble": lambda seed: PerformanceModel(ENSEMBLE, seed),
    "ranking": lambda seed: PerformanceModel(replace(ENSEMBLE, loss="ranking"), seed),
    "ridge": lambda seed: Regression(make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 4, 13)))),
    "gaussian process": lambda seed: Regression(_gaussian_process(seed)),
    "forest": lambda seed: Regression(RandomForestRegressor(100, min_samples_leaf=2, random_state=seed)),
    "constant": lambda seed: Regression(DummyRegressor()),
    "guess": Guess,
}
PREDICTORS = tuple(_FACTORIES)


def make_predictor(name: str, seed: int) -> Predictor:
    if name not in _FACTORIES:
        raise BadInput(f"unknown predictor {name!r}: use one of {', '.join(PREDICTORS)}")
    return _FACTORIES[name](seed)
