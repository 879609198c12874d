"""Every variant of both pruners keeps what a reference written straight from the formulas keeps."""

import dataclasses
import itertools

import pytest
import torch
from helpers.models import gradients, tiny_llama

from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput
from rankadaptor.keys import identity_key, stage_identity
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.pruning import prune
from rankadaptor.pruning.importance import layer_importance, unit_importance
from rankadaptor.pruning.spec import PruneSpec

LAYERS, HEAD_DIM, WIDTH = 4, 8, 48
WINDOWS = torch.randint(0, 96, (3, 12), generator=torch.Generator().manual_seed(0))
SPEC = PruneSpec("llm-pruner", 50, "element1", 1, 3, 0.5, None, None, 3, 12, 0)
ATTENTION, MLP = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")


def channel_score(criterion, weight, first, second, projection):
    """One score a row (a column of o and down)."""
    dim = 0 if projection in ("o_proj", "down_proj") else 1
    if criterion == "vector":
        return (weight * first).sum(dim).abs()
    salience = {"element1": weight * first, "element2": weight * second * weight,
                "mixed": weight * first - 0.5 * weight * second * weight, "l1": weight.abs(), "l2": weight**2}
    return salience[criterion].abs().sum(dim)


def reference(model, criterion, reduction):
    """(layer, "kv_heads" or "channels", unit) -> score, one unit after the other."""
    whole = gradients(model, WINDOWS)
    single = [gradients(model, window[None]) for window in WINDOWS]
    second = {name: sum(gradient[name] ** 2 for gradient in single) / len(single) for name in whole}
    reduce = {"sum": sum, "mean": lambda values: sum(values) / len(values), "max": max,
              "prod": lambda values: torch.stack(values).prod()}[reduction]
    weights = dict(model.named_parameters())
    scores = {}
    for layer, shape in enumerate(architecture_of(model).layers):
        def part(projection, layer=layer):
            name = f"model.layers.{layer}.{'mlp' if projection in MLP else 'self_attn'}.{projection}.weight"
            return channel_score(criterion, weights[name].detach(), whole[name], second[name], projection)

        group = shape.heads // shape.kv_heads
        by_projection = {projection: part(projection) for projection in (*ATTENTION, *MLP)}
        for head in range(shape.kv_heads):
            total = 0.0
            for channel in range(HEAD_DIM):
                queries = [(head * group + query) * HEAD_DIM + channel for query in range(group)]
                own = head * HEAD_DIM + channel
                total += reduce([by_projection["q_proj"][queries].sum(), by_projection["k_proj"][own],
                                 by_projection["v_proj"][own], by_projection["o_proj"][queries].sum()])
            scores[layer, "kv_heads", head] = float(total)
        for channel in range(shape.mlp_width):
            scores[layer, "channels", channel] = float(reduce([by_projection[p][channel] for p in MLP]))
    return scores


def gone(kept_units, model):
    """Units of the dense model that are not kept."""
    shape = architecture_of(model).layers[0]
    counts = {"kv_heads": shape.kv_heads, "channels": shape.mlp_width}
    return {(layer, part, unit) for layer, units in enumerate(kept_units["layers"]) for part, count in counts.items()
            for unit in set(range(count)) - set(units[part])}


@pytest.mark.parametrize("criterion", ["element1", "element2", "mixed", "vector", "l1", "l2"])
@pytest.mark.parametrize(("reduction", "kv_heads"), itertools.product(["sum", "mean", "max", "prod"], [4, 2]))
def test_scores_and_kept_units_are_the_references(criterion, reduction, kv_heads):
    model = tiny_llama(kv_heads=kv_heads)
    scores = reference(model, criterion, reduction)
    measured = unit_importance(model, WINDOWS, criterion, reduction)
    by_unit = {(layer, part, unit): float(value) for layer, importance in enumerate(measured)
               for part in ("kv_heads", "channels") for unit, value in enumerate(getattr(importance, part))}
    assert by_unit == pytest.approx(scores, rel=1e-4)
    spec = dataclasses.replace(SPEC, importance=criterion, group_reduction=reduction)
    expected = set()
    for layer, (part, count) in itertools.product((1, 2), (("kv_heads", kv_heads // 2), ("channels", WIDTH // 2))):
        units = sorted((key for key in scores if key[:2] == (layer, part)), key=scores.get)
        expected |= set(units[:count])
    assert gone(prune(model, spec, WINDOWS).kept_units, model) == expected


@pytest.mark.parametrize("criterion", ["element1", "l2"])
def test_global_ranking_takes_the_lowest_of_one_pool(criterion):
    model = tiny_llama(kv_heads=4)
    scores = reference(model, criterion, "sum")
    pool = sorted((key for key in scores if key[0] in (1, 2)), key=scores.get)
    spec = dataclasses.replace(SPEC, importance=criterion, ranking="global", ratio=0.4)
    assert gone(prune(model, spec, WINDOWS).kept_units, model) == set(pool[: len(pool) - int(len(pool) * 0.6)])


def test_global_ranking_meets_a_share_of_parameters():
    model = tiny_llama(kv_heads=4)
    spec = dataclasses.replace(SPEC, ranking="global", decoder_share=0.2)
    dense, pruned = architecture_of(model), architecture_of(prune(model, spec, WINDOWS).model)
    share = 1 - pruned.decoder_parameters() / dense.decoder_parameters()
    head = dense.kv_head_parameters(dense.layers[0]) / dense.decoder_parameters()
    assert 0.2 <= share < 0.2 + head


def test_global_ranking_leaves_every_layer_a_head_and_a_channel():
    model = tiny_llama(kv_heads=4)
    spec = dataclasses.replace(SPEC, ranking="global", ratio=0.95)
    layers = prune(model, spec, WINDOWS).kept_units["layers"]
    assert min(len(units[part]) for units in layers for part in units) == 1
    with pytest.raises(BadInput, match="the last head or channel of every layer: give a smaller ratio"):
        prune(model, dataclasses.replace(spec, ratio=0.99), WINDOWS)


@pytest.mark.parametrize("ranking", ["local", "global"])
def test_iterative_pruning_measures_anew_to_the_same_size(ranking):
    model = tiny_llama(kv_heads=4)
    once = dataclasses.replace(SPEC, ranking=ranking)
    stepwise = dataclasses.replace(once, iterations=2)
    pruned = prune(model, stepwise, WINDOWS)
    half = prune(model, dataclasses.replace(once, ratio=0.25), WINDOWS)
    scores = reference(half.model, "element1", "sum")
    before = half.kept_units["layers"]
    if ranking == "local":
        for layer in (1, 2):
            channels = sorted(range(len(before[layer]["channels"])), key=lambda i: -scores[layer, "channels", i])
            expected = sorted(before[layer]["channels"][i] for i in channels[: WIDTH // 2])
            assert pruned.kept_units["layers"][layer]["channels"] == expected
    assert gone(pruned.kept_units, model) >= gone(half.kept_units, model)
    assert len(gone(pruned.kept_units, model)) == len(gone(prune(model, once, WINDOWS).kept_units, model))
    assert len(pruned.importance["later_steps"]) == 1


def test_heads_and_channels_may_have_ranges_of_their_own():
    pruned = prune(tiny_llama(kv_heads=4), dataclasses.replace(SPEC, mlp_range=(0, 2)), WINDOWS)
    shapes = architecture_of(pruned.model).layers
    assert [shape.kv_heads for shape in shapes] == [4, 2, 2, 4]
    assert [shape.mlp_width for shape in shapes] == [24, 24, 48, 48]


def test_ties_stay_in_order():
    model = tiny_llama(kv_heads=4)
    for parameter in model.parameters():
        torch.nn.init.ones_(parameter)
    units = prune(model, dataclasses.replace(SPEC, importance="l1"), WINDOWS).kept_units["layers"][1]
    assert units == {"kv_heads": [0, 1], "channels": list(range(24))}


def test_random_importance_is_a_function_of_the_seed():
    model = tiny_llama(kv_heads=4)
    specs = [dataclasses.replace(SPEC, importance="random", seed=seed) for seed in (0, 0, 1)]
    first, same, other = (prune(model, spec, WINDOWS).kept_units for spec in specs)
    assert first == same
    assert first != other


def test_uniform_width_gives_a_plain_llama(tmp_path):
    from transformers import LlamaForCausalLM

    model = tiny_llama(kv_heads=2)
    pruned = prune(model, dataclasses.replace(SPEC, uniform_width=True), WINDOWS)
    pruned.model.save_pretrained(tmp_path)
    stock = LlamaForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(stock(ids).logits, pruned.model(ids).logits)
    assert len(set(architecture_of(pruned.model).layers)) == 1
    assert architecture_of(stock) == architecture_of(pruned.model)


@pytest.mark.parametrize("criterion", ["magnitude", "perplexity"])
def test_layers_by_magnitude_and_by_perplexity(criterion):
    model = tiny_llama(seed=3)
    scores = layer_importance(model, WINDOWS, criterion)
    for layer in range(LAYERS):
        if criterion == "magnitude":
            expected = sum(w.abs().sum() for n, w in model.named_parameters() if n.startswith(f"model.layers.{layer}."))
        else:
            shorter = tiny_llama(seed=3)
            del shorter.model.layers[layer]
            expected = shorter(input_ids=WINDOWS, labels=WINDOWS, use_cache=False).loss.exp()
        assert float(scores[layer]) == pytest.approx(expected.item(), rel=1e-5)
    assert len(model.model.layers) == LAYERS


def test_new_options_leave_old_keys_alone():
    def key(spec):
        return identity_key(stage_identity("prune", spec, "parent", {}))

    assert "group_reduction" not in stage_identity("prune", SPEC, "parent", {})["spec"]
    variants = [SPEC, *(dataclasses.replace(SPEC, **change) for change in (
        {"group_reduction": "max"}, {"ranking": "global"}, {"iterations": 2}, {"mlp_range": (0, 2)},
        {"uniform_width": True}))]
    assert len({key(spec) for spec in variants}) == len(variants)


@pytest.mark.parametrize(("change", "message"), [
    ({"importance": "taylor"}, "unknown importance 'taylor' of llm-pruner: use one of element1, element2"),
    ({"group_reduction": "median"}, "unknown group reduction 'median': use one of sum, mean, max, prod"),
    ({"ranking": "both"}, "unknown ranking 'both': use local or global"),
    ({"iterations": 0}, "iterations is 0: give at least 1"),
    ({"uniform_width": True, "ranking": "global"}, "uniform_width was asked for with global ranking"),
    ({"ratio": 1.0}, "llm-pruner needs a ratio between 0 and 1"),
])
def test_bad_specs_are_one_line(change, message):
    with pytest.raises(BadInput) as error:
        dataclasses.replace(SPEC, **change)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"end_layer": 5}, {"mlp_range": (3, 3)}, {"first_layer": 4, "end_layer": 4}])
@pytest.mark.parametrize("ranking", ["local", "global"])
def test_ranges_out_of_the_model_are_refused(change, ranking):
    with pytest.raises(BadInput, match="do not lie in a model of 4 layers"):
        prune(tiny_llama(), dataclasses.replace(SPEC, ranking=ranking, **change), WINDOWS)


def test_an_architecture_is_read_from_either_checkpoint():
    for uniform in (False, True):
        pruned = prune(tiny_llama(), dataclasses.replace(SPEC, uniform_width=uniform), WINDOWS).model
        assert Architecture.from_config(pruned.config.to_dict()).parameters() == pruned.num_parameters()
