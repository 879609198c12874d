"""The pruning page says of every unit what the checkpoints say, and survives profiles of one pruner alone."""

import json

import numpy as np
import pytest

from rankadaptor.experiments.pruned_models import pruned_models
from rankadaptor.reporting import pruning as page

BLOCKS = "llm-pruner:20 llm-pruner:50 shortened:20 shortened:50"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    return str(tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="module")
def models(tiny_profile, ledger):
    result = pruned_models(str(tiny_profile), BLOCKS, ledger).run()
    assert len(result.computed) == 1 + 2 * 4
    return result


def test_units_go_from_the_mildest_rate_that_takes_them(models):
    heads, blocks = models.head_rates(), models.block_rates()
    assert heads.shape == (6, 2)
    for block in models.blocks:
        kept = models.kept_units(block)
        if block.pruner == "shortened":
            gone = {i for i, rate in enumerate(blocks) if rate <= block.rate_percent}
            assert gone == set(range(6)) - set(kept["blocks"])
        else:
            for layer, units in enumerate(kept["layers"]):
                assert {i for i in range(2) if not heads[layer, i] <= block.rate_percent} == set(units["kv_heads"])
    assert {20, 50} <= set(blocks[~np.isnan(blocks)])
    assert 50 in heads


def test_losses_are_the_models_own(models):
    losses = models.losses().set_index("block")
    assert losses.index[0] == "Dense"
    assert losses.loc["Dense", "parameters left (%)"] == 100
    assert (losses["perplexity"] > 1).all()
    for block in models.blocks:
        model = models._runner.models.model(models._work.prune(block))
        assert losses.loc[str(block), "parameters"] == model.num_parameters()
    speeds = models.footprints(tokens=8)
    assert len(speeds) == len(losses)
    assert (speeds["decoding (tokens/s)"] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "drawn"), [
    (BLOCKS, {"heads", "importance", "blocks", "perplexity"}),
    ("llm-pruner:50", {"heads", "importance", "perplexity"}),
    ("shortened:20", {"blocks", "perplexity"}),
])
def test_the_page_is_written_again_byte_by_byte(models, tiny_profile, ledger, tmp_path, blocks, drawn):
    work = pruned_models(str(tiny_profile), blocks, ledger)
    assert work.is_complete()
    again = work.run()
    assert again.computed == ()
    written = []
    for name in "ab":
        figures = page.page_figures(again)
        assert figures.keys() == drawn
        page.write_page(again, again.losses(), figures, tmp_path / name)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == 3 + 2 * len(drawn)
    behind = json.loads(written[0]["pruning-provenance.json"])
    assert behind["ledger_keys"].keys() == {"Dense", *blocks.split()}
    assert {"benchmarks", "item_seed", "text"} <= behind["revisions"].keys()
    assert len(behind["machines"]) == 1
