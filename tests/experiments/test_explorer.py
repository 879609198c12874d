"""Exploring by hand: calls and sliders say the same, and the button recovers for real."""

import numpy as np
import pytest

from rankadaptor.errors import BadInput
from rankadaptor.experiments.explorer import Explorer
from rankadaptor.reporting.explorer_panel import Panel

BLOCK = "llm-pruner:50"


def lines(panel):
    return [one["text"].rstrip("\n") for one in panel.figures.outputs if one["output_type"] == "stream"]


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    return Explorer("tiny", ledger=str(tmp_path_factory.mktemp("ledger")))


def test_costs_and_neighbours_of_uniform_ranks(shipped):
    space = shipped.space(BLOCK)
    ranks = space.fill([8] * len(space.free_layers))
    costs = shipped.costs(BLOCK, ranks)
    assert costs.parameters == costs.budget
    assert costs.within
    assert not shipped.costs(BLOCK, [24] * 13).within
    near = shipped.nearest(BLOCK, ranks)
    assert near.loc[0, "allocation"] == ranks
    assert near["distance"].is_monotonic_increasing
    assert near.loc[0, "distance"] == 0
    doubled = (*ranks[:5], 16, *ranks[6:])
    assert shipped.nearest(BLOCK, doubled).set_index("allocation")["distance"].get(ranks, 1.0) == pytest.approx(1.0)
    with pytest.raises(BadInput):
        shipped.costs(BLOCK, [8] * 12)


def test_predictions_are_of_the_table_and_absent_without_one(shipped):
    known = shipped.table_scores(BLOCK)
    best, worst = known.loc[known["gold probability"].idxmax()], known.loc[known["gold probability"].idxmin()]
    predicted = [shipped.predicted(BLOCK, row["allocation"]) for row in (best, worst)]
    assert predicted[0][0] > predicted[1][0]
    assert np.isclose(predicted[0][0], best["gold probability"], atol=0.01)
    assert predicted[0][1] > 0
    assert shipped.predicted("llm-pruner:20", shipped.space("llm-pruner:20").fill([8] * 10)) is None
    assert shipped.nearest("llm-pruner:20", [8] * 13).empty


def test_the_ledgers_results_are_shown_and_the_button_adds_one(finished, finished_copy, tiny_profile):
    lora = next(row for row in finished.result.blocks[BLOCK].rows if row.method == "LoRA")
    explorer = Explorer(str(tiny_profile), "quick", str(finished_copy))
    found = explorer.measured(BLOCK, lora.allocations[0])
    assert list(found["seed"]) == [0]
    assert found.loc[0, "accuracy"] == pytest.approx(np.mean([lora.outcomes[task].mean() for task in lora.outcomes]))
    assert found.loc[0, "low"] <= found.loc[0, "accuracy"] <= found.loc[0, "high"]
    assert explorer.table_scores(BLOCK).empty  # the table is of another model
    panel = Panel(explorer)
    panel.block.value = BLOCK
    assert panel.ranks() == [8] * 6
    assert [slider.disabled for slider in panel.sliders.children] == [True, False, False, False, False, True]
    panel.sliders.children[2].value = 2
    assert explorer.measured(BLOCK, panel.ranks()).empty
    assert lines(panel)[-1] == "measured: not yet"
    panel.button.click()
    measured = explorer.measured(BLOCK, panel.ranks())
    assert list(measured["seed"]) == [0]
    assert not panel.button.disabled
    assert lines(panel)[-1] == "measured, report split, percent:"
    assert f"{100 * measured.loc[0, 'accuracy']:.2f}" in panel.figures.outputs[-1]["data"]["text/html"]


def test_figures_follow_the_sliders(shipped):
    panel = Panel(shipped)
    panel.block.value = BLOCK
    said, predicted, _ = lines(panel)
    assert said.endswith("(100.0 %), within the budget")
    assert predicted.startswith("predicted: ")
    panel.sliders.children[5].value = max(panel.sliders.children[5].options)
    assert lines(panel)[0].endswith("beyond the budget")
    assert lines(panel)[1] != predicted
    nearest = panel.figures.outputs[-1]["data"]["text/html"]
    assert all(f"<td>{one:.6f}</td>" in nearest for one in shipped.nearest(BLOCK, panel.ranks())["distance"])


def test_what_goes_wrong_is_a_line_among_the_figures(shipped, monkeypatch):
    panel = Panel(shipped)

    def full(*_):
        raise BadInput("the disk is full")

    monkeypatch.setattr(shipped, "recover", full)
    before = lines(panel)
    panel.button.click()
    assert lines(panel) == [*before, "rankadaptor: the disk is full"]
    assert not panel.button.disabled
    monkeypatch.setattr(shipped, "costs", full)
    panel.sliders.children[5].value = panel.sliders.children[5].options[0]
    assert lines(panel) == ["rankadaptor: the disk is full"]


def test_layers_that_are_gone_have_sliders_that_do_not_move(tiny_profile, tmp_path):
    explorer = Explorer(str(tiny_profile), "quick", str(tmp_path))
    panel = Panel(explorer)
    panel.block.value = "shortened:50"
    gone = [layer for layer in range(6) if layer not in explorer.space("shortened:50").architecture.original_layers]
    assert len(gone) == 3
    assert all(panel.ranks()[layer] == 0 and panel.sliders.children[layer].disabled for layer in gone)
