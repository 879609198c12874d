"""Tables and figures of a result that is made up here: its own tasks, and figures from outside the package."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest

from rankadaptor.data.tasks import BENCHMARKS, TASKS, Benchmark
from rankadaptor.experiments.methods import ADALORA, DENSE, LORA, NO_RECOVERY
from rankadaptor.experiments.results import BlockResult, Row, TableResult
from rankadaptor.experiments.tables import TABLES
from rankadaptor.profiles import load_profile
from rankadaptor.reporting import figures, tables
from rankadaptor.reporting.paper import published_architecture

BLOCK = "llm-pruner:20"
ARCHITECTURE = published_architecture("llama-7b")


def made_up_result(tasks, seeds=2, items=20):
    """Table 1 on one block, with random outcomes."""
    generator = np.random.default_rng(0)

    def row(block, method, rank=0):
        outcomes = {task: generator.integers(0, 2, (seeds, items)).astype(float) for task in tasks}
        ranks = (rank,) * 32
        return Row(
            block, method, outcomes, {task: values / 2 for task, values in outcomes.items()}, subjects={},
            parameters=ARCHITECTURE.parameters(), trainable_parameters=rank, learning_rate=0.001 if rank else None,
            perplexity=None, training_loss=1.0 if rank else None, allocations=(ranks,) if rank else (),
            realised_ranks={"q_proj": ranks} if rank else {}, keys=(),
        )

    profile = load_profile("llama-7b")
    block = BlockResult(ARCHITECTURE, (row(BLOCK, NO_RECOVERY), row(BLOCK, LORA, 8), row(BLOCK, ADALORA, 8)))
    return TableResult(
        TABLES["table1"], profile, "standard", profile.budget("standard"), tuple(range(seeds)), base=ARCHITECTURE,
        dense=row(DENSE, DENSE), blocks={BLOCK: block}, computed=(),
    )


@pytest.fixture
def eight(monkeypatch):
    """A result with an eighth benchmark."""
    monkeypatch.setitem(BENCHMARKS, "toy", Benchmark(
        name="toy", label="Toy", metric="acc", chance=1 / 2, report_split="validation",
        read_gold=lambda row: row["label"], definition="piqa"))
    return made_up_result((*TASKS, "toy"))


def test_an_eighth_benchmark_has_a_column(eight, tmp_path):
    assert tables.measured_table(eight)["Toy"].str.contains("[", regex=False).all()
    assert tables.task_table(eight)["Toy"].notna().all()
    caption = tables.caption(eight)
    assert "acc for BoolQ, PIQA, WinoGrande, ARC-e, Toy; acc_norm" in caption
    assert "the mean of the other seven stands beside the mean of eight" in caption
    ticks = [label.get_text() for label in figures.task_figure(eight, ADALORA).axes[0].get_xticklabels()]
    assert ticks[-2:] == ["Toy", "mean"]
    assert {path.name for path in tables.write_table(eight, tmp_path)} == {
        f"table1{end}" for end in (
            ".md", ".csv", ".tex", "-differences.csv", "-pooled.csv", "-power.csv", "-spread.csv")}


def test_a_mean_is_of_the_results_own_tasks(eight):
    cells = tables.cells(eight)
    cells = cells[(cells["block"] == BLOCK) & (cells["method"] == LORA)].set_index("column")["value"]
    assert cells["mean"] == pytest.approx(cells[[*TASKS, "toy"]].mean())
    assert cells["mean without BoolQ"] == pytest.approx(cells[[*TASKS[1:], "toy"]].mean())
    without = made_up_result(TASKS[1:])
    assert "mean without BoolQ" not in set(tables.cells(without)["column"])
    assert "BoolQ" not in tables.caption(without)


def test_the_verdict_follows_the_paired_differences():
    result = made_up_result(TASKS)
    lora = next(row for row in result.blocks[BLOCK].rows if row.method == LORA)
    worse = dataclasses.replace(lora, method=ADALORA, outcomes={
        task: np.zeros_like(values) for task, values in lora.outcomes.items()})
    block = dataclasses.replace(result.blocks[BLOCK], rows=(lora, worse))
    lost = dataclasses.replace(result, blocks={BLOCK: block}, budget=dataclasses.replace(result.budget, decided=True))
    difference = tables.differences_to_lora(lost).set_index("method").loc[ADALORA]
    assert difference["high"] < -5
    assert difference["verdict"] == "supported"  # the claim is a loss of 0.56 points
    assert difference["published"] == pytest.approx(-0.56)


def test_intervals_of_accuracies_stay_within_their_range():
    result = made_up_result(TASKS)
    lora = next(row for row in result.blocks[BLOCK].rows if row.method == LORA)
    good, bad = np.ones((2, 20)), np.zeros((2, 20))
    good[0, :6], bad[0, :6] = 0, 1  # Student's tails of two such trainings reach far beyond
    for values, end in ((good, "high"), (bad, "low")):
        row = dataclasses.replace(lora, outcomes=dict.fromkeys(TASKS, values))
        changed = dataclasses.replace(result, blocks={BLOCK: dataclasses.replace(result.blocks[BLOCK], rows=(row,))})
        cells = tables.cells(changed)
        ends = cells.loc[cells["method"] == LORA, end]
        assert set(ends) == {1.0 if end == "high" else 0.0}


def test_blocks_are_pooled_before_anything_is_resampled():
    """Two blocks whose differences are opposite on every item and seed are one difference of exactly 0."""
    result = made_up_result(TASKS)
    none, lora, other = result.blocks[BLOCK].rows
    changed = {task: values + 2 for task, values in none.outcomes.items()}
    lora = dataclasses.replace(lora, outcomes={task: values - 1 for task, values in changed.items()})
    mirrored = dataclasses.replace(other, outcomes={
        task: 2 * lora.outcomes[task] - values for task, values in other.outcomes.items()})
    first, second = (dataclasses.replace(result.blocks[BLOCK], rows=(none, lora, row)) for row in (other, mirrored))
    flat = dataclasses.replace(first, rows=(dataclasses.replace(none, outcomes=lora.outcomes), lora, other))
    both = dataclasses.replace(result, dense=dataclasses.replace(result.dense, outcomes=changed),
                               blocks={BLOCK: first, "llm-pruner:25": second, "llm-pruner:30": flat})
    pooled = tables.pooled_frame(both).iloc[0]
    assert (pooled["blocks"], pooled["left_out"]) == (2, 1)  # LoRA wins nothing back on the third
    assert (pooled["difference"], pooled["low"], pooled["high"]) == pytest.approx((0, 0, 0), abs=1e-9)
    assert pooled["all_low"] < pooled["all_difference"] < pooled["all_high"] < 0


def test_figures_are_those_that_suit_a_table():
    result = made_up_result(TASKS)
    drawn = figures.table_figures(result)
    assert list(drawn) == ["means", "tasks", "allocations", "ranks"]
    other = dataclasses.replace(result, contents=TABLES["table2"])
    assert list(figures.table_figures(other)) == ["means", "allocations"]


def test_a_figure_of_ones_own_is_drawn(monkeypatch, tmp_path):
    monkeypatch.setattr(figures.registry, "FIGURES", dict(figures.FIGURES))

    def draw(result):
        figure, axis = plt.subplots()
        axis.bar(list(result.blocks), [1] * len(result.blocks))
        plt.close(figure)
        return figure

    own = figures.TableFigure("own", draw, lambda result: result.contents.name == "table1")
    figures.register(own)
    with pytest.raises(ValueError, match="figure 'own' is registered already"):
        figures.register(own)
    result = made_up_result(TASKS)
    drawn = figures.table_figures(result)
    assert "own" in drawn
    assert "own" not in figures.table_figures(dataclasses.replace(result, contents=TABLES["table2"]))
    for folder in ("first", "second"):
        figures.save_figures({"own": drawn["own"]}, tmp_path / folder, "table1")
    for suffix in ("svg", "png"):
        first, second = ((tmp_path / folder / f"table1-own.{suffix}").read_bytes() for folder in ("first", "second"))
        assert first == second
