"""The search and its rivals against objectives that can be computed at once."""

import concurrent.futures
import dataclasses
import random
import time

import numpy as np
import pytest
from test_allocation import DEPTH, WIDTH, space

from rankadaptor.errors import BadInput
from rankadaptor.power import noise_of, smallest_gain
from rankadaptor.search.guided import meta_tasks
from rankadaptor.search.loop import ask, search
from rankadaptor.search.pool import MeasuredPool
from rankadaptor.search.predictors import make_predictor
from rankadaptor.search.rivals import RIVALS
from rankadaptor.search.rounds import Record, Round, best_first, mean_score, measured_scores
from rankadaptor.search.settings import SearchSettings
from rankadaptor.statistics import bootstrap_macro_mean
from rankadaptor.verdicts import Evidence, verdict

SETTINGS = SearchSettings(initial=6, rounds=8, batch=2, candidates_per_round=300, threshold=0.0, patience=1, seed=0)
OURS = dataclasses.replace(SETTINGS, predictor="ensemble", proposals="near")
WEIGHTS = np.linspace(-1, 1, 32)
PAIRS = np.random.default_rng(0).normal(0, 0.15, size=(32, 32))


def objective(allocations):
    """High ranks pay at the top of the model; three tasks that agree but for scale."""
    values = [float(np.dot(WEIGHTS, a)) / 100 for a in allocations]
    return [{"a": v, "b": 2 * v, "c": v + 1} for v in values]


def with_interactions(allocations):
    """Layers help or hinder one another."""
    inputs = space().encode(allocations)
    return [{"a": float(v)} for v in inputs @ WEIGHTS + np.einsum("ni,ij,nj->n", inputs, PAIRS, inputs)]


def noise(allocations):
    """A score that says nothing, the same one each time it is asked for."""
    return [{"a": np.random.default_rng(list(a)).normal()} for a in allocations]


def never(allocations):
    raise AssertionError("asked for a measurement")


def proposals_of(result):
    return [a for r in result.rounds for a in r.proposals]


@pytest.mark.parametrize("architecture", [WIDTH, DEPTH])
@pytest.mark.parametrize("method", ["paper", "ours", *RIVALS])
def test_every_proposal_is_new_and_lies_in_the_space(architecture, method):
    solutions = space(architecture)
    settings = OURS if method == "ours" else SETTINGS
    result = search(solutions, objective, settings, proposer=RIVALS.get(method))
    proposals = proposals_of(result)
    assert len(proposals) == len(set(proposals)) == 6 + 8 * 2
    assert all(solutions.contains(a) for a in proposals)
    assert result.best in proposals


@pytest.mark.slow
@pytest.mark.parametrize("method", ["paper", *RIVALS])
def test_all_methods_begin_alike_and_end_with_their_pool(method):
    """In a pool, proposals are its unseen members, until there are none."""
    pool = MeasuredPool(space(), tuple(space().sample(16, np.random.default_rng(3))))
    result = search(pool, objective, dataclasses.replace(SETTINGS, rounds=20), proposer=RIVALS.get(method))
    assert sorted(proposals_of(result)) == sorted(set(pool.allocations))
    assert result.rounds[0] == search(pool, objective, dataclasses.replace(SETTINGS, rounds=0)).rounds[0]


@pytest.mark.parametrize("method", ["ours", *RIVALS])
def test_a_search_that_begins_with_lora_measures_it(method):
    solutions, settings = space(), dataclasses.replace(OURS, start="LoRA and random")
    result, without = (search(solutions, objective, s, proposer=RIVALS.get(method)) for s in (settings, OURS))
    lora = solutions.fill([solutions.fixed_rank] * len(solutions.free_layers))
    assert result.rounds[0].proposals == (lora, *without.rounds[0].proposals[:-1])
    measured = {a: mean_score(s) for r in result.rounds for a, s in zip(r.proposals, r.scores, strict=True)}
    assert measured[result.best] >= measured[lora]


def test_lora_is_measured_where_the_space_holds_it():
    settings = dataclasses.replace(OURS, rounds=0, start="LoRA and random")
    without = dataclasses.replace(space(), candidates=(2, 4, 12))
    assert without.baseline is None
    assert search(without, objective, settings) == search(without, objective, dataclasses.replace(OURS, rounds=0))
    pool = MeasuredPool(space(), tuple(space().sample(16, np.random.default_rng(3))))
    assert pool.baseline is None
    holding = dataclasses.replace(pool, allocations=(*pool.allocations, space().baseline))
    assert search(holding, objective, settings).rounds[0].proposals[0] == space().baseline


def test_the_best_measured_allocation_is_chosen():
    result = search(space(), objective, SETTINGS)
    measured = {a: s for r in result.rounds for a, s in zip(r.proposals, r.scores, strict=True)}
    assert mean_score(measured[result.best]) == max(map(mean_score, measured.values()))
    for task, allocation in result.best_by_task.items():
        assert measured[allocation][task] == max(s[task] for s in measured.values())


def test_the_papers_choice_is_the_best_prediction():
    """Which a fluke of measurement need not have, where the predictor does not fit noise."""
    differ = 0
    for seed in range(4):
        settings = dataclasses.replace(SETTINGS, seed=seed, predictor="ridge")
        measured = search(space(), noise, settings)
        predicted = search(space(), noise, dataclasses.replace(settings, selection="predicted"))
        assert predicted.rounds == measured.rounds
        assert space().contains(predicted.best)
        differ += predicted.best != measured.best
    assert differ


def evaluations_to(target, settings, pool, score, proposer=None):
    """How many measurements a search takes until it has measured `target`."""
    asking, measured = ask(pool, settings, proposer=proposer), 0
    proposals = next(asking)
    while target not in proposals:
        measured += len(proposals)
        proposals = asking.send(score(proposals))
    return measured + proposals.index(target) + 1


@pytest.mark.slow
@pytest.mark.parametrize(("base", "score"), [(SETTINGS, objective), (OURS, objective), (OURS, with_interactions)],
                         ids=["paper separable", "ours separable", "ours with interactions"])
def test_the_optimum_takes_half_of_random_searchs_evaluations(base, score):
    """Median of 20 seeds, in pools whose best member is known."""
    needed, random_needed = [], []
    for seed in range(20):
        members = tuple(dict.fromkeys(space().sample(160, np.random.default_rng(1000 + seed))))
        target = max(members, key=lambda a: mean_score(score([a])[0]))
        settings = dataclasses.replace(base, seed=seed, batch=8, rounds=100, initial=16)
        pool = MeasuredPool(space(), members)
        needed.append(evaluations_to(target, settings, pool, score))
        random_needed.append(evaluations_to(target, settings, pool, score, RIVALS["random search"]))
    assert np.median(needed) <= np.median(random_needed) / 2


def trained_again(allocation, generator):
    """Outcomes of 3 retrainings less those of LoRA, per item: on average as good, whatever the allocation."""
    own = np.random.default_rng(list(allocation)).random()  # an allocation has items of its own that it gains and loses
    return {"a": generator.choice([-1, 0, 1], size=(3, 400), p=[0.1 * own, 1 - 0.2 * own, 0.1 * own])}


@pytest.mark.slow
def test_where_there_is_nothing_to_find_nothing_is_claimed():
    """Searches over noise: their choice looks well as measured, and what it does when trained again is no gain."""
    says = []
    for seed in range(20):
        result = search(space(), noise, dataclasses.replace(OURS, seed=seed, rounds=2))
        assert mean_score(noise([result.best])[0]) > 0.5  # the winner's curse
        generator = np.random.default_rng(seed)
        outcomes = trained_again(result.best, generator)
        interval = bootstrap_macro_mean(outcomes, seed, draws=1000)
        says.append(verdict(Evidence(interval, 0.007, smallest_gain(noise_of(outcomes), seeds=3))))
    assert sum(one in ("supported", "smaller than claimed") for one in says) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["paper", "ours", *RIVALS])
def test_a_search_is_a_function_of_its_seed(method):
    settings = OURS if method == "ours" else SETTINGS
    first, again = (search(space(), objective, settings, proposer=RIVALS.get(method)) for _ in range(2))
    assert first == again
    other = search(space(), objective, dataclasses.replace(settings, seed=1), proposer=RIVALS.get(method))
    assert not set(proposals_of(other)) & set(proposals_of(first))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 4])
def test_proposals_do_not_depend_on_workers_or_completion_order(workers):
    def slowly(allocation):
        time.sleep(random.random() / 200)
        return objective([allocation])[0]

    def in_parallel(allocations):
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            jobs = {pool.submit(slowly, allocation): place for place, allocation in enumerate(allocations)}
            done = {jobs[job]: job.result() for job in concurrent.futures.as_completed(jobs)}
        return [done[place] for place in range(len(allocations))]

    settings = dataclasses.replace(OURS, batch=4)
    assert search(space(), in_parallel, settings) == search(space(), objective, settings)


@pytest.mark.parametrize("method", ["paper", "ours", *RIVALS])
def test_proposals_are_a_function_of_the_set_of_results(method):
    settings = dataclasses.replace(OURS if method == "ours" else SETTINGS, rounds=1)
    first = search(space(), objective, dataclasses.replace(settings, rounds=0)).rounds[0]
    turned = dataclasses.replace(first, proposals=first.proposals[::-1], scores=first.scores[::-1])
    one, other = (
        search(space(), objective, settings, proposer=RIVALS.get(method), trace=[start]).rounds[1]
        for start in (first, turned)
    )
    assert one == other


@pytest.mark.slow
def test_proposals_near_the_best_beat_uniform_ones_in_the_open():
    """Where S cannot be predicted whole: what a pool, which offers all its members, cannot show."""
    found = {}
    for proposals in ("near", "uniform"):
        settings = [dataclasses.replace(OURS, proposals=proposals, seed=seed) for seed in range(5)]
        found[proposals] = [mean_score(objective([search(space(), objective, one).best])[0]) for one in settings]
    assert np.median(found["near"]) > np.median(found["uniform"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ours", "mutation"])
def test_a_trace_is_taken_as_it_is_and_gone_on_from(method):
    rounds = []
    whole = search(space(), objective, OURS, proposer=RIVALS.get(method), on_round=rounds.append)
    for cut in (0, 1, 5, len(rounds)):
        trace = [Round.from_json(one.to_json()) for one in rounds[:cut]]
        asked = []
        resumed = search(space(), lambda a, asked=asked: asked.extend(a) or objective(a), OURS,
                         proposer=RIVALS.get(method), trace=trace)
        assert resumed == whole
        assert len(asked) == sum(len(one.proposals) for one in rounds[cut:])
    assert search(space(), never, OURS, proposer=RIVALS.get(method), trace=rounds) == whole


@pytest.mark.slow
@pytest.mark.parametrize("acquisition", ["greedy", "upper confidence", "thompson"])
@pytest.mark.parametrize("heads", ["mean", "tasks"])
def test_every_acquisition_beats_chance(acquisition, heads):
    found, by_chance = [], []
    for seed in range(5):
        settings = dataclasses.replace(OURS, seed=seed, acquisition=acquisition, heads=heads)
        found.append(mean_score(objective([search(space(), objective, settings).best])[0]))
        draws = space().sample(6 + 8 * 2, np.random.default_rng(100 + seed))
        by_chance.append(max(map(mean_score, objective(draws))))
    assert np.median(found) > max(by_chance)


@pytest.mark.slow
def test_records_of_another_block_help_the_first_rounds():
    """Offline meta-learning on a block that wants the same ranks: better first proposals than without, on average."""
    draws = tuple(space().sample(60, np.random.default_rng(9)))
    record = Record("another", draws, tuple(objective(draws)))
    firsts = {}
    for records in ((), (record,)):
        settings = [dataclasses.replace(SETTINGS, seed=seed, rounds=1, initial=3) for seed in range(8)]
        firsts[len(records)] = [
            np.mean([mean_score(s) for s in search(space(), objective, one, records).rounds[1].scores])
            for one in settings
        ]
    assert np.mean(firsts[1]) > np.mean(firsts[0])


def test_a_small_space_is_measured_whole_and_the_search_ends():
    tiny = space(free_layers=(4, 5), candidates=(2, 4))
    result = search(tiny, objective, dataclasses.replace(SETTINGS, initial=10, rounds=10))
    assert len(set(proposals_of(result))) == 4


@pytest.mark.parametrize(("scores", "says"), [
    (lambda a: [{"a": float("nan")}] * len(a), "on a is nan: return a finite number"),
    (lambda a: [{"a": 1.0}], "1 scores of 6 allocations"),
    (lambda a: [{}] * len(a), "score the same tasks of all"),
    (lambda a: [{"a": 1.0}] * (len(a) - 1) + [{"b": 1.0}], "score the same tasks of all"),
])
def test_an_objective_that_answers_wrongly_is_refused(scores, says):
    with pytest.raises(BadInput, match=says):
        search(space(), scores, SETTINGS)


@pytest.mark.parametrize(("change", "says"), [
    ({"initial": 0}, "initial of a search is 0"),
    ({"patience": 0}, "patience of a search is 0"),
    ({"rounds": -1}, "rounds of a search is -1"),
    ({"acquisition": "thompson", "predictor": "gaussian process"}, "draws members, and predictor 'gaussian process'"),
])
def test_settings_that_cannot_be_are_refused(change, says):
    with pytest.raises(BadInput, match=says):
        dataclasses.replace(SETTINGS, **change)


def test_records_of_other_tasks_go_with_one_head_alone():
    draws = tuple(space().sample(20, np.random.default_rng(9)))
    record = Record("another", draws, tuple({"z": float(sum(a))} for a in draws))
    assert search(space(), objective, SETTINGS, [record]).rounds
    with pytest.raises(BadInput, match="record another has scores of z, the search of a, b, c"):
        search(space(), objective, dataclasses.replace(SETTINGS, heads="tasks"), [record])


@pytest.mark.parametrize("change", [{"predictor": "oracle"}, {"acquisition": "luck"}, {"proposals": "all"},
                                    {"heads": "two"}, {"selection": "first"}, {"start": "zero"},
                                    {"threshold_unit": "inch"}, {"learning": "never"}, {"labels": "none"}])
def test_unknown_settings_are_refused(change):
    with pytest.raises(BadInput, match="use one of"):
        dataclasses.replace(SETTINGS, **change)


def test_an_absolute_threshold_stops_before_a_share_does():
    """Noise of 0.01: within a threshold of 0.5 in the score's own unit, and never within a hundredth of its spread."""
    def small(allocations):
        return [{"a": 0.01 * scores["a"]} for scores in noise(allocations)]

    settings = dataclasses.replace(SETTINGS, threshold=0.5, threshold_unit="score")
    absolute, relative = search(space(), small, settings), search(
        space(), small, dataclasses.replace(settings, threshold=0.01, threshold_unit="spread"))
    assert absolute.converged
    assert len(absolute.rounds) == 2
    assert not relative.converged
    assert len(relative.rounds) == 9


def test_incremental_learning_goes_on_from_round_to_round():
    """Its predictions are those of one model that was fitted once and told each round by itself, in turn."""
    settings = dataclasses.replace(SETTINGS, learning="continue")
    result = search(space(), objective, settings)
    model = make_predictor("paper", settings.seed)
    start = result.rounds[0]
    model.meta_train(meta_tasks(space(), [Record("initialization", start.proposals, start.scores)], settings))
    for number, finished in enumerate(result.rounds):
        ranked = best_first([finished])
        if number:
            expected = model.predict(space().encode(finished.proposals)).mean
            assert finished.predictions == pytest.approx(expected, abs=1e-6)
        means = np.array([[mean_score(measured_scores([finished])[a])] for a in ranked])
        (model.go_on if number else model.fit)(space().encode(ranked), means)
    assert result.rounds[1].proposals == search(space(), objective, SETTINGS).rounds[1].proposals
    assert result.rounds[2].proposals != search(space(), objective, SETTINGS).rounds[2].proposals


def test_a_predictor_that_cannot_go_on_is_refused():
    with pytest.raises(BadInput, match="predictor 'ridge' cannot: use one of paper, setting 2, setting 3, single, ens"):
        dataclasses.replace(SETTINGS, predictor="ridge", learning="continue")


@pytest.mark.parametrize("learning", ["restart", "continue"])
def test_shuffled_scores_teach_nothing(learning):
    """Where ranks decide the score, the model that is told it proposes better allocations than one that is told the
    same scores of other allocations."""
    def proposed(labels):
        settings = dataclasses.replace(SETTINGS, predictor="ensemble", learning=learning, labels=labels)
        results = [search(space(), objective, dataclasses.replace(settings, seed=seed)) for seed in range(4)]
        return np.mean([mean_score(s) for result in results for r in result.rounds[1:] for s in r.scores])

    drawn = np.mean([mean_score(s) for s in objective(space().sample(2000, np.random.default_rng(0)))])
    spread = np.std([mean_score(s) for s in objective(space().sample(2000, np.random.default_rng(0)))])
    assert proposed("measured") > drawn + 0.8 * spread
    assert abs(proposed("shuffled") - drawn) < 0.5 * spread


def by_layers(allocations):
    """Two tasks that want opposite things."""
    values = [float(np.dot(WEIGHTS, a)) / 100 for a in allocations]
    return [{"top": v, "bottom": -v} for v in values]


def test_each_task_proposes_by_its_own_prediction():
    """A mean of opposite tasks has nothing to prefer; with a prediction each, both get what they want."""
    settings = dataclasses.replace(OURS, rounds=6, acquisition="each task")
    result = search(space(), by_layers, settings)
    assert {len(r.proposals) for r in result.rounds[1:]} == {2}
    reached = {task: float(np.dot(WEIGHTS, a)) / 100 for task, a in result.best_by_task.items()}
    drawn = [s["top"] for s in by_layers(space().sample(2000, np.random.default_rng(0)))]
    assert reached["top"] > np.quantile(drawn, 0.97)
    assert reached["bottom"] < np.quantile(drawn, 0.03)


def test_a_prediction_each_needs_one_head():
    with pytest.raises(BadInput, match="acquisition 'each task' predicts every task for itself, and heads are 'tasks'"):
        dataclasses.replace(SETTINGS, acquisition="each task", heads="tasks")
