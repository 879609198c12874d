"""The performance model and its rivals as predictors."""

import time

import numpy as np
import pytest
import torch
from test_allocation import space

from rankadaptor.errors import BadInput
from rankadaptor.search.performance_model import MetaTask, PerformanceModel, PerformanceModelSettings
from rankadaptor.search.predictors import PREDICTORS, GaussianProcess, make_predictor, register
from rankadaptor.search.settings import SearchSettings

WEIGHTS = np.linspace(-1, 1, 32)
DRAWS = space().encode(space().sample(160, np.random.default_rng(0)))
SCORES = (0.4 + DRAWS @ WEIGHTS / 500)[:, None]


@pytest.mark.parametrize("name", PREDICTORS)
def test_predictions_have_the_scores_unit_in_any_order(name):
    one, turned = make_predictor(name, 0), make_predictor(name, 0)
    one.fit(DRAWS[:120], SCORES[:120])
    turned.fit(DRAWS[:120][::-1], SCORES[:120][::-1])
    found = one.predict(DRAWS[120:])
    assert found.mean.shape == (40,)
    assert np.allclose(found.mean, turned.predict(DRAWS[120:]).mean)
    assert abs(found.mean.mean() - SCORES.mean()) < 3 * SCORES.std()
    assert np.all(found.spread >= 0)
    if name not in ("constant", "guess"):
        assert np.corrcoef(found.mean, SCORES[120:, 0])[0, 1] > 0.6


@pytest.mark.parametrize("name", ["ensemble", "forest", "gaussian process"])
def test_doubt_grows_away_from_what_was_measured(name):
    one = make_predictor(name, 0)
    one.fit(DRAWS[:60], SCORES[:60])
    assert one.predict(3 * DRAWS[100:]).spread.mean() > one.predict(DRAWS[:60]).spread.mean()


def test_the_network_is_the_papers():
    """l-32-32-32-1 with ReLU between, linear at the end: torch's own layers with its weights say the same."""
    model = PerformanceModel(PerformanceModelSettings(), seed=0)
    model.fit(DRAWS, SCORES)
    layers = []
    for weight, bias in zip(model._weights[::2], model._weights[1::2], strict=True):
        layer = torch.nn.Linear(*weight.shape[1:])
        layer.load_state_dict({"weight": weight[0].T, "bias": bias[0, 0]})
        layers += [layer, torch.nn.ReLU()]
    assert [layer.weight.shape for layer in layers[::2]] == [(32, 32), (32, 32), (32, 32), (1, 32)]
    with torch.no_grad():
        output = torch.nn.Sequential(*layers[:-1])(torch.as_tensor(DRAWS, dtype=torch.float32))[:, 0].double().numpy()
    assert np.allclose(output * SCORES.std() + SCORES.mean(), model.predict(DRAWS).mean, atol=1e-6)


def test_an_ensemble_is_its_members():
    """Members do not share anything: an ensemble of one network's seeds predicts the mean of what each says alone."""
    ensemble = PerformanceModel(PerformanceModelSettings(members=3), seed=5)
    single = PerformanceModel(PerformanceModelSettings(members=1), seed=5)
    for model in (ensemble, single):
        model.fit(DRAWS[:40], SCORES[:40])
    found = ensemble.predict(DRAWS)
    assert np.allclose(found.members[0], single.predict(DRAWS).mean, atol=1e-5)
    assert np.allclose(found.mean, found.members.mean(axis=0))


def test_heads_are_learned_together_and_averaged():
    targets = np.hstack([SCORES, 3 - 2 * SCORES, 10 * SCORES])
    model = PerformanceModel(PerformanceModelSettings(), seed=0)
    model.fit(DRAWS[:120], targets[:120])
    mean = targets.mean(axis=1)
    assert np.corrcoef(model.predict(DRAWS[120:]).mean, mean[120:])[0, 1] > 0.6


def test_a_ranking_is_put_into_the_scores_unit():
    model = PerformanceModel(PerformanceModelSettings(loss="ranking"), seed=0)
    model.fit(DRAWS[:120], SCORES[:120])
    found = model.predict(DRAWS[:120]).mean
    assert found.mean() == pytest.approx(SCORES[:120].mean(), abs=SCORES.std() / 10)
    slope = np.polyfit(found, SCORES[:120, 0], 1)[0]
    assert slope == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
def test_meta_learning_helps_a_related_task():
    """Fitted to few points, a model that was meta-learned on related tasks errs less than a fresh one."""
    settings = PerformanceModelSettings(fit_steps=20)
    tasks = [MetaTask(DRAWS[:100], SCORES[:100] * scale + shift) for scale, shift in ((1, 0), (2, 5), (0.5, -3))]
    errors = {False: [], True: []}
    for seed in range(4):
        for learned in errors:
            model = PerformanceModel(settings, seed)
            model.meta_train(tasks if learned else [])
            model.fit(DRAWS[100:108], 3 * SCORES[100:108])
            errors[learned].append(np.square(model.predict(DRAWS[108:]).mean - 3 * SCORES[108:, 0]).mean())
    assert max(errors[True]) < min(errors[False])


def test_nothing_measured_is_forgotten():
    """After an update with allocations of another region, the model is the one that learned from all at once."""
    low, high = DRAWS[DRAWS[:, 10] < 0], DRAWS[DRAWS[:, 10] > 0]
    both = np.vstack([low, high])
    stepwise, fresh = (PerformanceModel(PerformanceModelSettings(), seed=0) for _ in range(2))
    stepwise.fit(low, (low @ WEIGHTS)[:, None])
    stepwise.fit(both, (both @ WEIGHTS)[:, None])
    fresh.fit(both[::-1], (both[::-1] @ WEIGHTS)[:, None])
    assert np.allclose(stepwise.predict(low).mean, fresh.predict(low).mean)
    assert np.corrcoef(stepwise.predict(low).mean, low @ WEIGHTS)[0, 1] > 0.9


def test_100_000_allocations_are_predicted_in_a_second():
    model = PerformanceModel(PerformanceModelSettings(), seed=0)
    model.fit(DRAWS, SCORES)
    many = np.tile(DRAWS, (625, 1))
    started = time.perf_counter()
    assert model.predict(many).mean.shape == (100_000,)
    assert time.perf_counter() - started < 2.0  # 0.1 s on a quiet core; tests share theirs


def test_an_unknown_predictor_is_refused():
    with pytest.raises(BadInput, match="unknown predictor 'oracle': use one of paper"):
        make_predictor("oracle", 0)


def test_a_registered_predictor_is_one_that_settings_accept():
    register("toy", GaussianProcess, has_members=True)
    try:
        settings = SearchSettings(1, 1, 1, 1, 0.0, 1, seed=0, predictor="toy", acquisition="thompson")
        assert isinstance(make_predictor(settings.predictor, 0), GaussianProcess)
        with pytest.raises(ValueError, match="predictor 'toy' is registered already: give it another name"):
            register("toy", GaussianProcess)
    finally:
        del PREDICTORS["toy"]
    with pytest.raises(BadInput, match="unknown predictor 'toy'"):
        SearchSettings(1, 1, 1, 1, 0.0, 1, seed=0, predictor="toy")
