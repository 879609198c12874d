"""A pruner is one file that registers: blocks, specs, profiles and keys know it from then on."""

from dataclasses import dataclass

import pytest
import torch
import yaml
from helpers.models import tiny_llama

from rankadaptor.errors import BadInput
from rankadaptor.keys import stage_identity
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.profiles import FOLDER, load_profile
from rankadaptor.pruning import PRUNERS, Block, Pruned, Pruner, PruneSpec, prune, pruned_shapes, register
from rankadaptor.pruning.depth import remove_layers
from rankadaptor.pruning.spec import PruningSettings


@dataclass(frozen=True)
class TopLayers(PruningSettings):
    removed: dict[int, int]


class FromTheTop(Pruner[TopLayers]):
    """Removes the last layers of the range, whatever they do."""

    name, title, kind, criteria, window_tokens, settings = "top", "From the top", "depth", ("position",), 8, TopLayers

    def check(self, spec):
        if not spec.blocks_removed:
            raise BadInput(f"top needs blocks_removed: got {spec.blocks_removed}")

    def rates(self, settings):
        return list(settings.removed)

    def spec(self, settings, rate_percent):
        return PruneSpec(self.name, rate_percent, settings.importance, settings.first_layer, settings.end_layer, None,
                         None, settings.removed[rate_percent], settings.calibration.samples,
                         settings.calibration.tokens, settings.calibration.seed)

    def prune(self, model, spec, windows):
        scores = -torch.arange(len(model.model.layers), dtype=torch.float64)
        model, layers, order = remove_layers(model, scores, spec.first_layer, spec.end_layer, spec.blocks_removed)
        return Pruned(model, {"blocks": layers}, {"blocks": scores.tolist(), "order": order})

    def shapes(self, dense, spec):
        return dense.depth_pruned(tuple(range(spec.end_layer - spec.blocks_removed, spec.end_layer)))


@pytest.fixture
def top():
    register(FromTheTop())
    yield PRUNERS["top"]
    del PRUNERS["top"]


@pytest.fixture
def profile(top, tmp_path):
    content = yaml.safe_load((FOLDER / "tiny.yaml").read_text())
    content["pruning"]["top"] = {"importance": "position", "first_layer": 1, "end_layer": 3, "removed": {25: 1},
                                 "calibration": {"samples": 2, "tokens": 8, "seed": 0}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    return load_profile(str(tmp_path / "mine.yaml"))


def test_a_pruner_from_outside_prunes(profile):
    block = Block.parse("top:25")
    assert block in profile.blocks()
    spec = profile.prune_spec(block)
    assert isinstance(profile.pruning["top"], TopLayers)
    model = tiny_llama()
    pruned = prune(model, spec, torch.zeros(2, 8, dtype=torch.int64))
    assert pruned.kept_units == {"blocks": [0, 1, 3]}
    assert architecture_of(pruned.model) == pruned_shapes(architecture_of(model), spec)
    assert stage_identity("prune", spec, "parent", {})["spec"]["method"] == "top"


def test_the_papers_blocks_come_first(profile):
    assert [str(block) for block in profile.blocks()] == [
        f"{pruner}:{rate}" for pruner in ("llm-pruner", "shortened") for rate in (20, 25, 30, 50)] + ["top:25"]


def test_a_pruner_checks_specs_and_settings(top, profile):
    with pytest.raises(BadInput, match="top needs blocks_removed: got 0"):
        PruneSpec("top", 25, "position", 1, 3, None, None, 0, 2, 8, 0)
    with pytest.raises(BadInput, match="unknown importance 'taylor' of top: use one of position"):
        PruneSpec("top", 25, "taylor", 1, 3, None, None, 1, 2, 8, 0)


def test_a_name_is_registered_once(top):
    with pytest.raises(BadInput, match="pruner 'top' is registered already: give it another name"):
        register(FromTheTop())


def test_an_unknown_pruner_is_refused():
    with pytest.raises(BadInput, match=r"unknown pruner 'wanda': use one of llm-pruner, shortened$"):
        PruneSpec("wanda", 25, "l1", 1, 3, None, None, 0, 2, 8, 0)


def test_the_default_criterion_is_among_the_criteria():
    assert {name: pruner.criteria[0] for name, pruner in PRUNERS.items()} == {
        "llm-pruner": "element1", "shortened": "taylor"}
