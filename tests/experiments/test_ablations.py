"""One thing changed at a time: variants differ in what they name and in nothing else."""

import dataclasses
import shutil

import numpy as np
import pytest

from rankadaptor.__main__ import main
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.experiments.ablations import ABLATIONS, HONEST, NAIVE, TABLE_3, ablation_tables
from rankadaptor.profiles import load_profile
from rankadaptor.reporting import ablations as drawn
from rankadaptor.search.rounds import mean_score


def flat(value, path=""):
    """Every leaf of a profile by its path."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {leaf: v for name, one in value.items() for leaf, v in flat(one, f"{path}.{name}").items()}
    return {path: value}


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "protocol"])
@pytest.mark.parametrize("profile", ["tiny", "smollm2"])
def test_variants_differ_in_one_field(name, profile):
    variants = {label: flat(one) for label, one in ABLATIONS[name].variants(load_profile(profile), "quick").items()}
    assert len(variants) > 1
    first = next(iter(variants.values()))
    changed = {path for one in variants.values() for path in one if one[path] != first[path]}
    assert len(changed) == 1
    values = [str(one[next(iter(changed))]) for one in variants.values()]
    assert len(set(values)) == len(values)


def test_the_papers_four_have_published_means():
    assert TABLE_3 == ["samples", "micro_batch", "importance", "performance_model"]
    assert drawn._published("importance") == pytest.approx({"element1": 59.43, "element2": 59.12}, abs=0.005)
    assert set(drawn._published("samples")) == {"10 samples", "50 samples"}
    assert drawn._published("scaling") == {}


@pytest.fixture(scope="module")
def made(tiny_profile, finished, tmp_path_factory):
    ledger = shutil.copytree(finished.ledger, tmp_path_factory.mktemp("ablations") / "ledger")
    work = ablation_tables(str(tiny_profile), "micro_batch protocol", "llm-pruner:50", ledger=str(ledger))
    return work, work.run()


def test_micro_batches_of_one_batch_train_alike(made):
    _, results = made
    losses = [[row.training_loss for block in result.blocks.values() for row in block.rows if row.method == "LoRA"]
              for result in results["micro_batch"].values()]
    assert len(losses) == 3
    assert np.ptp(losses) < 1e-4


def test_as_searched_reports_the_recovery_its_items_chose(made):
    work, results = made
    result = results["protocol"][NAIVE]
    block = result.blocks["llm-pruner:50"]
    assert result.seeds == (result.profile.search.training_seed,)
    row = next(row for row in block.rows if row.method == "RankAdaptor (one model)")
    best = max(mean_score(scores) for one in block.search.rounds for scores in one.scores)
    assert np.mean([row.outcomes[task].mean() for task in TASKS]) == pytest.approx(best)
    per_task = next(row for row in block.rows if row.method == "RankAdaptor (per task)")
    for task in TASKS:
        highest = max(scores[task] for one in block.search.rounds for scores in one.scores)
        assert per_task.outcomes[task].mean() == pytest.approx(highest)
    honest = results["protocol"][HONEST]
    assert honest.seeds == (0,)
    assert "to run at most" in str(work.plan())
    assert str(work.plan()).endswith("to run: nothing, every result is in the ledger")


def test_the_table_pairs_variants_of_equal_seeds_alone(made, tmp_path):
    work, results = made
    micro = drawn.ablation_frame(results["micro_batch"]).set_index(["variant", "method"])
    labels = list(results["micro_batch"])
    assert micro.loc[labels[0], "change"].isna().all()
    assert micro.loc[labels[1], "change"].notna().all()
    shown = drawn.ablation_table("protocol", results["protocol"])
    assert (shown.loc[shown["variant"] == HONEST, "published mean"] == "").all()
    figure = drawn.ablation_figure("protocol", results["protocol"])
    assert all(axis.get_xlabel() for axis in figure.axes)
    path = drawn.write_ablations(work, results, tmp_path)
    assert path.read_text().count("## ") == 2
    assert (tmp_path / "ablations.csv").is_file()
    assert (tmp_path / "ablations-provenance.json").is_file()


@pytest.mark.parametrize(("given", "says"), [
    ({"ablation": "luck"}, "unknown ablation 'luck': use table3, or some of samples"),
    ({"blocks": "llm-pruner:20 llm-pruner:50"}, "ablations are of one block, and .* names 2: name one"),
    ({"ablation": "table3", "blocks": "shortened:20"}, "ablation importance is of LLM-Pruner"),
])
def test_bad_input_is_told_in_one_line(given, says, tmp_path):
    with pytest.raises(BadInput, match=says):
        ablation_tables("tiny", **given, ledger=str(tmp_path))


def test_options_that_ablations_do_not_know_are_refused(capsys):
    assert main(["plan", "ablations", "--allocation", "8"]) == 2
    assert "allocation '8' was given for ablations" in capsys.readouterr().err
    assert main(["plan", "table2", "--ablation", "scaling"]) == 2
    assert "ablation 'scaling' was given for table2" in capsys.readouterr().err
