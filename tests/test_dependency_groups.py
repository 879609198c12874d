"""The groups of Eq. 1, stated in `pruning.importance`, are those that torch-pruning finds by tracing the model."""

import pytest
import torch
import torch_pruning
from helpers.models import tiny_llama

from rankadaptor.architecture import ATTENTION_PROJECTIONS, MLP_PROJECTIONS

pytestmark = pytest.mark.filterwarnings("ignore:Unwrapped parameters")  # norms: in no group of heads or channels
BY_COLUMN = ("o_proj", "down_proj")


@pytest.fixture(scope="module")
def graph():
    # Multi-head attention: of grouped-query attention the tracer does not come to an end. There masked models decide.
    model = tiny_llama(layers=3, heads=4, kv_heads=4).requires_grad_(True)
    ids = torch.randint(0, 96, (1, 4))
    found = torch_pruning.DependencyGraph().build_dependency(
        model, example_inputs=ids, forward_fn=lambda traced, given: traced(given, use_cache=False).logits)
    return model, found


@pytest.mark.parametrize(("part", "projections"), [("self_attn", ATTENTION_PROJECTIONS), ("mlp", MLP_PROJECTIONS)])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_projections_units_go_with_their_group_alone(graph, part, projections, layer):
    model, dependencies = graph
    channels = list(range(8, 16)) if part == "self_attn" else [5, 17]  # the second head; two MLP channels
    for root in (name for name in projections if name not in BY_COLUMN):
        group = dependencies.get_pruning_group(
            getattr(getattr(model.model.layers[layer], part), root), torch_pruning.prune_linear_out_channels, channels)
        names = {module: name for name, module in model.named_modules()}
        found = {(names[item.target.module], item.handler.__name__): indices for item, indices in group.items
                 if item.target.module in names}
        assert found == {
            (f"model.layers.{layer}.{part}.{name}", f"prune_{'in' if name in BY_COLUMN else 'out'}_channels"): channels
            for name in projections
        }
