"""Paper-scale profiles: they plan, say what stands in the way, and rehearse every stage."""

from pathlib import Path

import pytest
import torch
from helpers.profile import write_checkpoint

from rankadaptor.__main__ import main
from rankadaptor.errors import BadInput
from rankadaptor.experiments import preflight
from rankadaptor.experiments.main_table import main_table
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.pipeline.ledger_tools import ledger_frame
from rankadaptor.profiles import load_profile
from rankadaptor.pruning import pruned_shapes
from rankadaptor.reporting.paper import published_architecture

BIG = ("llama-7b", "vicuna-7b", "llama-13b")
# Facts of the two pruners' own code: what is left of 6,738,415,616 and of 13,015,864,320 parameters.
LEFT = {
    "llama-7b": [5_422_977_024, 5_067_599_872, 4_747_366_400, 3_414_355_968,
                 5_524_115_456, 5_119_348_736, 4_714_582_016, 3_500_281_856],
    "llama-13b": [10_478_310_400, 9_834_746_880, 9_175_127_040, 6_603_658_240,
                  10_478_228_480, 9_843_819_520, 9_209_410_560, 6_671_774_720],
}


@pytest.mark.parametrize("name", BIG)
def test_blocks_have_the_papers_sizes(name):
    profile, dense = load_profile(name), published_architecture(name)
    left = [pruned_shapes(dense, profile.prune_spec(block)).parameters() for block in profile.blocks()]
    assert left == LEFT["llama-13b" if name == "llama-13b" else "llama-7b"]


@pytest.mark.parametrize("name", BIG)
def test_the_recipe_is_the_papers(name):
    recipe = load_profile(name).budget("standard").training.recipe(1e-4)
    assert (recipe.batch_rows, recipe.micro_batch_rows, recipe.warmup_steps) == (64, 4, 100)
    assert (recipe.max_length_tokens, recipe.lora_dropout, recipe.weight_decay, recipe.clip_norm) == (256, 0.05, 0, 1)
    assert 2 * 49_760 <= recipe.steps * recipe.batch_rows < 2 * 49_760 + 64
    adapters = load_profile(name).adapters
    assert (adapters.lora_rank, adapters.alpha, adapters.scaling) == (8, 16, "fixed_alpha")


def test_a_plan_says_what_it_takes_and_what_stands_in_the_way(tmp_path, capsys):
    blocks = " ".join(map(str, load_profile("llama-7b").blocks()))
    assert main(["plan", "table2", "--profile", "llama-7b", "--budget", "standard", "--blocks", blocks,
                 "--ledger", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for part in ("about 114 GPU-hours on one H100 or H200 (from an H200's records", "downloads: 13,700 MB",
                 "memory: one GPU of 80 GB", "MB of disk", "recover (99520 rows)",
                 "before it can run: base model baffo32/decapoda-research-llama-7B-hf is not pinned to a commit"):
        assert part in text
    assert not list(tmp_path.iterdir())


def plan_of(name, tmp_path, monkeypatch, model=""):
    monkeypatch.setenv("RANKADAPTOR_MODEL", model)
    return main_table(name, "llm-pruner:20", ledger=tmp_path / "ledger").plan()


class Card:
    def __init__(self, gigabytes):
        self.total_memory = gigabytes * 10**9


def test_preflight_looks_at_memory_disk_model_and_network(tmp_path, monkeypatch):
    free = {"bytes": 10**13}
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free["bytes"]}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    plan = plan_of("vicuna-7b", tmp_path, monkeypatch)
    problems = preflight.check(plan, tmp_path / "ledger")
    assert "is not in the hub's cache, and HF_HUB_OFFLINE is set" in problems[0]
    assert "recovery data yahma/alpaca-cleaned" in problems[1]
    assert "give RECOVERY_DATA=FILE" in problems[1]
    assert "no GPU is visible, and one of 80 GB is needed" in problems[2]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card(40))
    assert "a GPU has 40 GB, and 80 are needed" in preflight.check(plan, tmp_path)[2]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card(80))
    monkeypatch.setattr(preflight.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for reason in ("ConnectTimeout", "RevisionNotFoundError", "it has no safetensors files"):
        monkeypatch.setattr(preflight, "is_reachable", lambda _, reason=reason: reason)
        assert f"cannot be reached ({reason})" in preflight.check(plan, tmp_path)[0]
    monkeypatch.setattr(preflight, "is_reachable", lambda _: "")
    assert preflight.check(plan, tmp_path) == []
    free["bytes"] = 10**9
    assert "has 1,000 MB free, and" in preflight.check(plan, tmp_path)[0]


def test_preflight_looks_into_a_folder_given_as_the_model(tmp_path, monkeypatch, tokenizer, tiny_profile):
    monkeypatch.setenv("RANKADAPTOR_MODEL", load_profile(str(tiny_profile)).base_model.source.location)
    with pytest.raises(BadInput, match=r"layers 4\.\.29 do not lie in a model of 6 layers"):
        main_table("vicuna-7b", "llm-pruner:20", ledger=tmp_path / "ledger").plan()
    folder = tmp_path / "model"
    write_checkpoint(folder, tokenizer, layers=32)
    told = preflight.check(plan_of("vicuna-7b", tmp_path, monkeypatch, str(folder)), tmp_path)
    assert "safetensors" not in " ".join(told)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    told = preflight.check(plan_of("vicuna-7b", tmp_path, monkeypatch, str(folder)), tmp_path)
    assert f"no safetensors files in {folder} (model.safetensors" in told[0]
    assert "convert them (python -m rankadaptor convert)" in told[0]
    with pytest.raises(BadInput, match=r"typo' of RANKADAPTOR_MODEL is no folder: give MODEL=FOLDER"):
        plan_of("vicuna-7b", tmp_path, monkeypatch, str(tmp_path / "typo"))


def test_needs_on_one_disk_add_up(tmp_path, monkeypatch):
    plan = plan_of("vicuna-7b", tmp_path, monkeypatch)
    both = plan.missing_disk_megabytes() + plan.cost.download_megabytes
    assert plan.downloads
    monkeypatch.setattr(preflight.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for free, says in ((both * 1e6 + 1, False), (both * 1e6 - 1, True)):
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert any("MB free" in one for one in preflight.check(plan, tmp_path / "ledger")) == says


def test_full_size_wants_a_gpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["rehearse", "--profile", "llama-7b", "--out", str(tmp_path), "--full-size"]) == 2
    assert "no GPU is visible to rehearse llama-7b at full size" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_of_downloads_takes_the_place_of_a_hubs_model(tmp_path, monkeypatch, tiny_profile):
    folder = load_profile(str(tiny_profile)).base_model.source.location
    monkeypatch.setenv("RANKADAPTOR_MODEL", folder)
    source = load_profile("llama-7b").base_model.source
    assert (source.kind, source.location) == ("dir", folder)
    monkeypatch.setenv("RANKADAPTOR_MODEL", "org/name@" + "0" * 40)
    assert load_profile("llama-7b").base_model.source.kind == "hub"
    assert load_profile("tiny").base_model.source.kind == "testbed"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-7b"])
def test_every_stage_of_a_big_profile_runs_on_a_narrow_copy(name, tmp_path, capsys):
    assert main(["rehearse", "--profile", name, "--out", str(tmp_path), "--blocks", "shortened:50"]) == 0
    text = capsys.readouterr().out
    assert "| shortened:50  | 3,500,281,856 " in text
    place = tmp_path / f"{name}-shrunken"
    assert load_tokenizer(place / "model").bos_token == "<end>"  # for profiles that want one
    stages = ledger_frame(place / "ledger")
    assert set(stages["stage"]) == {"prune", "recover", "evaluate", "perplexity", "generate"}
    assert {"adalora", "lora"} <= set(stages["spec.method"].dropna())
    reports = place / "reports"
    assert "table2.md" in {path.name for path in reports.iterdir()}
    assert Path(place / "rehearsal.md").read_text() in text
