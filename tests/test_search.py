"""The search against objectives that can be computed at once."""

import dataclasses

import numpy as np
import pytest
from test_allocation import DEPTH, WIDTH, space

from rankadaptor.performance_model import PerformanceModel, PerformanceModelSettings
from rankadaptor.search import Round, SearchSettings, has_converged, mean_score, search

SETTINGS = SearchSettings(initial=6, rounds=10, batch=2, candidates_per_round=400, threshold=0.0, patience=1, seed=0)
WEIGHTS = np.linspace(-1, 1, 32)


def objective(allocations):
    """High ranks pay at the top of the model; three tasks that agree but for scale."""
    values = [float(np.dot(WEIGHTS, a)) / 100 for a in allocations]
    return [{"a": v, "b": 2 * v, "c": v + 1} for v in values]


def never(allocations):
    raise AssertionError("asked for a measurement")


@pytest.mark.parametrize("architecture", [WIDTH, DEPTH])
def test_every_proposal_is_new_and_lies_in_the_space(architecture):
    one = space(architecture)
    result = search(one, objective, SETTINGS)
    proposals = [a for r in result.rounds for a in r.proposals]
    assert len(proposals) == len(set(proposals)) == 6 + 10 * 2
    assert all(one.contains(a) for a in proposals)
    assert result.best in proposals


def test_the_best_measured_allocation_is_chosen():
    result = search(space(), objective, SETTINGS)
    measured = {a: s for r in result.rounds for a, s in zip(r.proposals, r.scores, strict=True)}
    assert mean_score(measured[result.best]) == max(map(mean_score, measured.values()))
    for task, allocation in result.best_by_task.items():
        assert measured[allocation][task] == max(s[task] for s in measured.values())


def test_prediction_finds_better_than_chance():
    """Median over seeds: the search's best against as many random allocations."""
    found, random = [], []
    for seed in range(5):
        settings = dataclasses.replace(SETTINGS, seed=seed, rounds=14)
        found.append(mean_score(objective([search(space(), objective, settings).best])[0]))
        draws = space().sample(6 + 14 * 2, np.random.default_rng(100 + seed))
        random.append(max(map(mean_score, objective(draws))))
    assert np.median(found) > np.median(random)


def test_a_search_is_a_function_of_its_seed():
    first, again = search(space(), objective, SETTINGS), search(space(), objective, SETTINGS)
    assert first == again
    assert search(space(), objective, dataclasses.replace(SETTINGS, seed=1)).best != first.best


def test_a_trace_is_taken_as_it_is_and_gone_on_from():
    rounds = []
    whole = search(space(), objective, SETTINGS, on_round=rounds.append)
    for cut in (0, 1, 5, len(rounds)):
        trace = [Round.from_json(one.to_json()) for one in rounds[:cut]]
        asked = []
        resumed = search(space(), lambda a, asked=asked: asked.extend(a) or objective(a), SETTINGS, trace)
        assert resumed == whole
        assert len(asked) == sum(len(one.proposals) for one in rounds[cut:])
    assert search(space(), never, SETTINGS, rounds) == whole


def test_proposals_do_not_depend_on_the_order_of_results():
    first = search(space(), objective, dataclasses.replace(SETTINGS, rounds=0)).rounds[0]
    turned = dataclasses.replace(first, proposals=first.proposals[::-1], scores=first.scores[::-1])
    settings = dataclasses.replace(SETTINGS, rounds=1)
    one, other = (search(space(), objective, settings, [start]).rounds[1] for start in (first, turned))
    assert one == other


def test_convergence_wants_patience():
    def scored(number, gap):
        return Round(number, ((1,),), (0.5 + gap,), ({"a": 0.5},))

    start = Round(0, ((1,),), None, ({"a": 0.5},))
    settings = dataclasses.replace(SETTINGS, threshold=0.1, patience=2)
    assert not has_converged([start], settings)
    assert not has_converged([start, scored(1, 0.05)], settings)
    assert not has_converged([start, scored(1, 0.05), scored(2, 0.2)], settings)
    assert has_converged([start, scored(1, 0.2), scored(2, 0.05), scored(3, -0.05)], settings)
    easy = search(space(), lambda a: [{"a": 1.0}] * len(a), dataclasses.replace(settings, rounds=50))
    assert easy.converged
    assert len(easy.rounds) == 1 + settings.patience


def test_a_small_space_is_measured_whole_and_the_search_ends():
    tiny = space(free_layers=(4, 5), candidates=(2, 4))
    result = search(tiny, objective, dataclasses.replace(SETTINGS, initial=10, rounds=10))
    assert len({a for r in result.rounds for a in r.proposals}) == 4


def test_the_model_learns_a_linear_score_and_predicts_in_its_unit():
    draws = np.array(space().sample(120, np.random.default_rng(0)))
    scores = 0.4 + draws @ WEIGHTS / 5000
    model = PerformanceModel(32, 7.0, PerformanceModelSettings(), seed=0)
    model.fit(draws[:90], scores[:90])
    predicted = model.predict(draws[90:])
    assert np.corrcoef(predicted, scores[90:])[0, 1] > 0.6
    assert abs(predicted.mean() - scores[90:].mean()) < 3 * scores.std()


def test_meta_learning_helps_a_related_task():
    """Fitted to few points, a model meta-learned on related tasks errs less than a fresh one."""
    draws = np.array(space().sample(60, np.random.default_rng(0)))
    tasks = np.stack([draws @ WEIGHTS * scale + shift for scale, shift in ((1, 0), (2, 5), (0.5, -3))], axis=1)
    fresh, learned = (PerformanceModel(32, 7.0, PerformanceModelSettings(fit_steps=20), seed=0) for _ in range(2))
    learned.meta_train(draws[:40], tasks[:40])
    target = draws @ WEIGHTS * 3
    errors = []
    for model in (fresh, learned):
        model.fit(draws[40:46], target[40:46])
        errors.append(np.square(model.predict(draws[46:]) - target[46:]).mean())
    assert errors[1] < errors[0]
