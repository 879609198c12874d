"""Parameter counts from configuration alone, against published and recomputed numbers. No weights are made."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rankadaptor.__main__ import main
from rankadaptor.allocation import trainable_parameters, uniform_allocation
from rankadaptor.architecture import Ranges
from rankadaptor.errors import BadInput
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.width import empty_model
from rankadaptor.reporting.paper import published_architecture, published_config


def planned(capsys, model, layers, *more):
    """What `plan prune` says of the parameters."""
    assert main(["plan", "prune", model, "--layers", "{}:{}".format(*layers), *more]) == 0
    return capsys.readouterr().out.partition(": ")[2].partition(" parameters,")[0] + " parameters"


@pytest.mark.parametrize(
    ("model", "dense", "layers", "ratio", "pruned"),
    [
        # 5,422,977,024 is what users of LLM-Pruner log for ratio 0.25 (its issue 34).
        ("llama-7b", 6_738_415_616, (4, 30), 0.25, 5_422_977_024),
        ("llama-7b", 6_738_415_616, (4, 30), 0.32, 5_067_599_872),
        ("llama-7b", 6_738_415_616, (4, 30), 0.38, 4_747_366_400),
        ("llama-7b", 6_738_415_616, (4, 30), 0.50, 4_107_538_432),
        ("llama-7b", 6_738_415_616, (4, 30), 0.635, 3_414_355_968),
        ("llama-13b", 13_015_864_320, (4, 36), 0.25, 10_478_310_400),
        ("llama-13b", 13_015_864_320, (4, 36), 0.32, 9_834_746_880),
        ("llama-13b", 13_015_864_320, (4, 36), 0.38, 9_175_127_040),
        ("llama-13b", 13_015_864_320, (4, 36), 0.50, 7_940_756_480),
        ("llama-13b", 13_015_864_320, (4, 36), 0.635, 6_603_658_240),
        # Grouped-query attention: LLM-Pruner's more_results/README.md.
        ("llama-3-8b", 8_030_261_248, (4, 30), 0.25, 6_612_586_496),
        ("tinyllama-1.1b", 1_100_048_384, (4, 18), 0.25, 945_907_712),
    ],
)
def test_width_pruned_counts(model, dense, layers, ratio, pruned, capsys):
    architecture = published_architecture(model)
    assert architecture.parameters() == dense
    after = architecture.width_pruned(Ranges(layers, layers), ratio)
    assert after.parameters() == pruned
    assert planned(capsys, model, layers, "--ratio", str(ratio)) == f"{pruned:,} of {dense:,} parameters"
    with torch.device("meta"):
        assert empty_model(published_config(model), after).num_parameters() == pruned


@pytest.mark.parametrize(
    ("model", "blocks", "pruned"),
    [
        # 5,524,115,456 stands in Shortened LLaMA's results/st-llama-1-5.5b-taylor.
        ("llama-7b", 6, 5_524_115_456),
        ("llama-7b", 7, 5_321_732_096),
        ("llama-7b", 8, 5_119_348_736),
        ("llama-7b", 9, 4_916_965_376),
        ("llama-7b", 10, 4_714_582_016),
        ("llama-7b", 11, 4_512_198_656),
        ("llama-7b", 16, 3_500_281_856),
        ("llama-7b", 17, 3_297_898_496),
        ("llama-13b", 8, 10_478_228_480),
        ("llama-13b", 9, 10_161_024_000),
        ("llama-13b", 10, 9_843_819_520),
        ("llama-13b", 11, 9_526_615_040),
        ("llama-13b", 12, 9_209_410_560),
        ("llama-13b", 15, 8_257_797_120),
        ("llama-13b", 20, 6_671_774_720),
        ("llama-13b", 21, 6_354_570_240),
    ],
)
def test_depth_pruned_counts(model, blocks, pruned, capsys):
    dense = published_architecture(model)
    after = dense.depth_pruned(tuple(range(10, 10 + blocks)))
    assert after.parameters() == pruned
    assert after.original_layers[10] == 10 + blocks
    layers = (4, len(dense.layers) - 2)
    said = planned(capsys, model, layers, "--method", "shortened", "--blocks", str(blocks))
    assert said == f"{pruned:,} of {dense.parameters():,} parameters"
    with torch.device("meta"):
        assert empty_model(published_config(model), after).num_parameters() == pruned


@pytest.mark.parametrize(
    ("model", "layers", "ratio", "trained"),
    [
        ("llama-7b", (4, 30), 0.25, 17_419_264),
        ("llama-7b", (4, 30), 0.32, 16_725_168),
        ("llama-7b", (4, 30), 0.38, 16_099_712),
        ("llama-7b", (4, 30), 0.635, 13_496_176),
        ("llama-13b", (4, 36), 0.25, 27_328_512),
        ("llama-13b", (4, 36), 0.32, 26_322_944),
        ("llama-13b", (4, 36), 0.38, 25_292_288),
        ("llama-13b", (4, 36), 0.635, 21_274_368),
    ],
)
def test_lora_counts_of_rank_8(model, layers, ratio, trained):
    pruned = published_architecture(model).width_pruned(Ranges(layers, layers), ratio)
    assert trainable_parameters(uniform_allocation(8, pruned), pruned) == trained


def test_lora_counts_of_dense_and_shortened_7b():
    dense = published_architecture("llama-7b")
    assert trainable_parameters(uniform_allocation(8, dense), dense) == 19_988_480
    for blocks, trained in ((6, 16_240_640), (8, 14_991_360), (10, 13_742_080), (16, 9_994_240)):
        shorter = dense.depth_pruned(tuple(range(4, 4 + blocks)))
        assert trainable_parameters(uniform_allocation(8, shorter), shorter) == trained


@pytest.mark.parametrize("rate", [20, 25, 30, 50])
def test_few_kv_heads_still_meet_the_rate(rate):
    """SmolLM2 has 3 KV heads: the MLP width makes up for what their rounding leaves, within half a percent."""
    profile = load_profile("smollm2")
    block = next(b for b in profile.blocks() if b.pruner == "llm-pruner" and b.rate_percent == rate)
    spec = profile.prune_spec(block)
    dense = published_architecture("smollm2-135m")
    assert dense.parameters() == 134_515_008
    pruned = dense.width_pruned(spec.ranges, spec.ratio, spec.decoder_share)
    gone = 1 - pruned.decoder_parameters() / dense.decoder_parameters()
    assert abs(gone - rate / 100) < 0.005
    assert pruned.layers[10].kv_heads == (3 if rate <= 25 else 2)


def test_counts_agree_with_a_real_model(llama):
    assert architecture_of(llama).parameters() == llama.num_parameters()


@pytest.mark.parametrize("ranges", [None, Ranges((1, 3), (0, 4))])
def test_multiply_accumulates_are_those_that_torch_counts(llama, ranges):
    architecture = architecture_of(llama)
    if ranges:
        llama = empty_model(llama.config.to_dict(), architecture.width_pruned(ranges, 0.5))
    llama.set_attn_implementation("eager")  # torch does not count its fused attention on CPUs
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        llama(torch.zeros(1, 24, dtype=torch.long), use_cache=False)
    assert 2 * architecture_of(llama).macs(24) == counter.get_total_flops()


def test_a_ratio_that_leaves_nothing_is_refused():
    with pytest.raises(BadInput, match=r"ratio 0\.999 leaves a layer without"):
        published_architecture("smollm2-135m").width_pruned(Ranges((4, 28), (4, 28)), 0.999)
    with pytest.raises(BadInput, match=r"layers 4\.\.39 do not lie in a model of 30 layers"):
        published_architecture("smollm2-135m").width_pruned(Ranges((4, 28), (4, 40)), 0.25)
