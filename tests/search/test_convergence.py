"""When a search stops because prediction has met reality."""

import dataclasses

from test_allocation import space

from rankadaptor.search.convergence import has_converged
from rankadaptor.search.loop import search
from rankadaptor.search.rounds import Round
from rankadaptor.search.settings import SearchSettings

SETTINGS = SearchSettings(initial=6, rounds=8, batch=2, candidates_per_round=300, threshold=0.0, patience=1, seed=0)


def test_convergence_is_relative_to_the_spread_over_rounds():
    def scored(number, gap, measured=0.5):
        return Round(number, ((number,),), (measured + gap,), ({"a": measured},))

    start = Round(0, ((90,), (91,)), None, ({"a": 0.4}, {"a": 0.6}))  # standard deviation 0.1
    settings = dataclasses.replace(SETTINGS, threshold=0.5, patience=2)
    assert not has_converged([start], settings)
    assert not has_converged([start, scored(1, 0.01)], settings)
    assert not has_converged([start, scored(1, 0.01), scored(2, 0.2)], settings)
    assert has_converged([start, scored(1, 0.2), scored(2, 0.01), scored(3, -0.01)], settings)
    # The same gaps in a unit a hundred times as large are the same gaps.
    small = [dataclasses.replace(one, predictions=one.predictions and tuple(q / 100 for q in one.predictions),
                                 scores=tuple({"a": s["a"] / 100} for s in one.scores))
             for one in (start, scored(1, 0.01), scored(2, 0.2))]
    assert not has_converged(small, settings)


def test_a_search_over_equal_scores_ends_at_once():
    settings = dataclasses.replace(SETTINGS, threshold=0.5, patience=2, rounds=50)
    easy = search(space(), lambda a: [{"a": 1.0}] * len(a), settings)
    assert easy.converged
    assert len(easy.rounds) == 1 + settings.patience
