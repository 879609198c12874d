"""Parameter counts from configuration alone, against published and recomputed numbers. No weights are made."""

import pytest

from rankadaptor.allocation import trainable_parameters, uniform_allocation
from rankadaptor.architecture import Architecture, Ranges
from rankadaptor.errors import BadInput
from rankadaptor.models import architecture_of
from rankadaptor.profiles import load_profile

LLAMA_7B = {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 11008,
            "vocab_size": 32000}
LLAMA_13B = {"hidden_size": 5120, "num_attention_heads": 40, "num_hidden_layers": 40, "intermediate_size": 13824,
             "vocab_size": 32000}
LLAMA_3_8B = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32,
              "intermediate_size": 14336, "vocab_size": 128256}
TINYLLAMA = {"hidden_size": 2048, "num_attention_heads": 32, "num_key_value_heads": 4, "num_hidden_layers": 22,
             "intermediate_size": 5632, "vocab_size": 32000}
SMOLLM2 = {"hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "num_hidden_layers": 30,
           "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True}


@pytest.mark.parametrize(
    ("config", "dense", "layers", "ratio", "pruned"),
    [
        # 5,422,977,024 is what users of LLM-Pruner log for ratio 0.25 (its issue 34).
        (LLAMA_7B, 6_738_415_616, (4, 30), 0.25, 5_422_977_024),
        (LLAMA_7B, 6_738_415_616, (4, 30), 0.32, 5_067_599_872),
        (LLAMA_7B, 6_738_415_616, (4, 30), 0.38, 4_747_366_400),
        (LLAMA_7B, 6_738_415_616, (4, 30), 0.50, 4_107_538_432),
        (LLAMA_7B, 6_738_415_616, (4, 30), 0.635, 3_414_355_968),
        (LLAMA_13B, 13_015_864_320, (4, 36), 0.25, 10_478_310_400),
        (LLAMA_13B, 13_015_864_320, (4, 36), 0.32, 9_834_746_880),
        (LLAMA_13B, 13_015_864_320, (4, 36), 0.38, 9_175_127_040),
        (LLAMA_13B, 13_015_864_320, (4, 36), 0.50, 7_940_756_480),
        (LLAMA_13B, 13_015_864_320, (4, 36), 0.635, 6_603_658_240),
        # Grouped-query attention: LLM-Pruner's more_results/README.md.
        (LLAMA_3_8B, 8_030_261_248, (4, 30), 0.25, 6_612_586_496),
        (TINYLLAMA, 1_100_048_384, (4, 18), 0.25, 945_907_712),
    ],
)
def test_width_pruned_counts(config, dense, layers, ratio, pruned):
    architecture = Architecture.from_config(config)
    assert architecture.parameters() == dense
    assert architecture.width_pruned(Ranges(layers, layers), ratio).parameters() == pruned


@pytest.mark.parametrize(
    ("config", "blocks", "pruned"),
    [
        # 5,524,115,456 stands in Shortened LLaMA's results/st-llama-1-5.5b-taylor.
        (LLAMA_7B, 6, 5_524_115_456),
        (LLAMA_7B, 8, 5_119_348_736),
        (LLAMA_7B, 10, 4_714_582_016),
        (LLAMA_7B, 16, 3_500_281_856),
        (LLAMA_13B, 8, 10_478_228_480),
        (LLAMA_13B, 10, 9_843_819_520),
        (LLAMA_13B, 12, 9_209_410_560),
        (LLAMA_13B, 20, 6_671_774_720),
    ],
)
def test_depth_pruned_counts(config, blocks, pruned):
    architecture = Architecture.from_config(config).depth_pruned(tuple(range(10, 10 + blocks)))
    assert architecture.parameters() == pruned
    assert architecture.original_layers[10] == 10 + blocks


@pytest.mark.parametrize(
    ("config", "layers", "ratio", "trained"),
    [
        (LLAMA_7B, (4, 30), 0.25, 17_419_264),
        (LLAMA_7B, (4, 30), 0.32, 16_725_168),
        (LLAMA_7B, (4, 30), 0.38, 16_099_712),
        (LLAMA_7B, (4, 30), 0.635, 13_496_176),
        (LLAMA_13B, (4, 36), 0.25, 27_328_512),
        (LLAMA_13B, (4, 36), 0.635, 21_274_368),
    ],
)
def test_lora_counts_of_rank_8(config, layers, ratio, trained):
    pruned = Architecture.from_config(config).width_pruned(Ranges(layers, layers), ratio)
    assert trainable_parameters(uniform_allocation(8, pruned), pruned) == trained


def test_lora_counts_of_dense_and_shortened_7b():
    dense = Architecture.from_config(LLAMA_7B)
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
    dense = Architecture.from_config(SMOLLM2)
    assert dense.parameters() == 134_515_008
    pruned = dense.width_pruned(spec.ranges, spec.ratio, spec.decoder_share)
    gone = 1 - pruned.decoder_parameters() / dense.decoder_parameters()
    assert abs(gone - rate / 100) < 0.005
    assert pruned.layers[10].kv_heads == (3 if rate <= 25 else 2)


def test_counts_agree_with_a_real_model(llama):
    assert architecture_of(llama).parameters() == llama.num_parameters()


def test_a_ratio_that_leaves_nothing_is_refused():
    with pytest.raises(BadInput, match=r"ratio 0\.999 leaves a layer without"):
        Architecture.from_config(SMOLLM2).width_pruned(Ranges((4, 28), (4, 28)), 0.999)
    with pytest.raises(BadInput, match=r"layers 4\.\.39 do not lie in a model of 30 layers"):
        Architecture.from_config(SMOLLM2).width_pruned(Ranges((4, 28), (4, 40)), 0.25)
