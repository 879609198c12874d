"""A stage that is registered outside the package is computed, found in the ledger, and planned."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from rankadaptor.errors import BadInput
from rankadaptor.experiments.plan import Plan, stage_kind, stage_seconds
from rankadaptor.experiments.planning import PlanningRunner, StepCount, base_architecture
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import ledger_frame, rubbish
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.stages import STAGES, register
from rankadaptor.pipeline.stages.prune import Prune
from rankadaptor.pipeline.stages.stage import Stage
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.spec import Block


@dataclass(frozen=True)
class CountSpec:
    numerics_version: ClassVar[int] = 3

    layer: int


class Count(Stage):
    """Counts the parameters of one layer."""

    name = "count"
    spec_type = CountSpec

    def revisions(self, inputs):
        return {}

    def compute(self, task):
        with task.models.ready(task.step.parent) as model:
            layer = model.model.layers[task.step.spec.layer]
            (task.folder / "names.txt").write_text("\n".join(dict(layer.named_parameters())))
            return {"parameters": sum(weight.numel() for weight in layer.parameters())}

    def size(self, spec: Any) -> int:
        return spec.layer

    def seconds(self, size, cost):
        return 60.0 * size

    def describe(self, size):
        return f"count (layer {size})"


@pytest.fixture
def registered():
    register(Count())
    yield
    del STAGES["count"]


def planned(profile, ledger, step):
    """The plan of one step."""
    count = StepCount()
    runner = PlanningRunner(profile.inputs(), ledger, base_architecture(profile.base_model))
    count.follow(runner, (batch for batch in [[step]]))
    return Plan("Count", (), profile.inputs(), profile.cost, count.needed, count.missing)


def test_a_registered_stage_is_computed_found_and_planned(registered, tiny_profile, tmp_path):
    profile, ledger = load_profile(str(tiny_profile)), Ledger(tmp_path / "ledger")
    pruned = Step("prune", profile.prune_spec(Block("shortened", 20)))
    step = Step("count", CountSpec(layer=2), pruned)
    runner = Runner(profile.inputs(), ledger)

    plan = planned(profile, ledger, step)
    assert plan.missing == plan.needed == {stage_kind(pruned): 1, stage_kind(step): 1}
    assert plan.missing_seconds() == 120 + stage_seconds(stage_kind(pruned), profile.cost)
    assert "count (layer 2)" in str(plan)
    assert "to run: 2 stages" in str(plan)

    entry = runner.run(step)
    assert entry.result["result"]["parameters"] > 0
    assert "self_attn.q_proj.weight" in entry.path("names.txt").read_text()
    assert [stage for stage, _ in runner.computed] == ["prune", "count"]

    again = Runner(profile.inputs(), Ledger(tmp_path / "ledger"))
    assert again.run(step).key == entry.key
    assert again.computed == []
    assert not planned(profile, ledger, step).missing
    assert set(ledger_frame(tmp_path / "ledger")["stage"]) == {"prune", "count"}
    assert rubbish(tmp_path / "ledger", outdated=True) == []
    CountSpec.numerics_version = 4
    try:
        assert [piece.path for piece in rubbish(tmp_path / "ledger", outdated=True)] == [entry.folder]
        assert again.find(step) is None
    finally:
        CountSpec.numerics_version = 3


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="stage 'prune' is registered already: give it another name"):
        register(Prune())


def test_a_stage_that_is_not_registered_is_one_line(tiny_profile, tmp_path):
    runner = Runner(load_profile(str(tiny_profile)).inputs(), Ledger(tmp_path))
    with pytest.raises(BadInput, match=r"unknown stage 'count': use one of prune, .* in RANKADAPTOR_PLUGINS"):
        runner.run(Step("count", CountSpec(layer=2)))
