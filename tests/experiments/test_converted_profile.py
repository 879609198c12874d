"""A profile of the paper's models, over a hub's cache as it ships: pickled shards and a sentencepiece model alone."""

import json

import huggingface_hub.constants
import pytest
import yaml
from helpers.pickled import COMMIT, into_hub_cache, write_llama_of_2023

from rankadaptor.__main__ import main
from rankadaptor.experiments.main_table import main_table
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.ledger_tools import ledger_frame
from rankadaptor.reporting.provenance import write_provenance

NAME = f"baffo32/decapoda-research-llama-7B-hf@{COMMIT}"
BUDGETS = ("quick", "day", "standard", "full")
BUDGET = {
    "training_seeds": [0], "decided": False, "per_task": False, "learning_rates": [1e-3],
    "adalora_learning_rates": [1e-3], "search_items": 3, "report_items": 4,
    "training": {"steps": 4, "batch_rows": 4, "micro_batch_rows": 4, "warmup_steps": 1, "max_length_tokens": 400},
    "search": {"initial": 1, "rounds": 1, "candidates_per_round": 50},
}


@pytest.fixture
def profile(tmp_path, monkeypatch, benchmark_folder, recovery_file):
    """LLaMA-7B's own profile with small numbers; its model lies in a hub's cache, nowhere else."""
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write_llama_of_2023(tmp_path / "model", shards=3)
    into_hub_cache(tmp_path / "model", tmp_path / "hub", NAME.partition("@")[0])
    layers = {"first_layer": 1, "end_layer": 3}
    calibration = {"calibration": {"samples": 2, "tokens": 8}}
    content = {
        "extends": "llama-7b", "name": "narrow", "threads": 1, "base_model": {"source": {"location": NAME}},
        "benchmarks": {"kind": "dir", "location": str(benchmark_folder), "sha256": None},
        "recovery_data": {"source": {"kind": "dir", "location": str(recovery_file)}},
        "pruning": {"llm-pruner": layers | calibration, "shortened": layers | calibration | {
            "blocks": {20: 1, 25: 1, 30: 1, 50: 2}}},
        "evaluation": {"search_pool": 12, "tasks": ["boolq", "arc_easy"]},
        "cost": {"accelerator_gigabytes": None, "download_megabytes": 1, "pruned_model_megabytes": 1},
        "budgets": dict.fromkeys(BUDGETS, BUDGET),
    }
    path = tmp_path / "narrow.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.slow
def test_a_hubs_pickles_go_through_every_stage(profile, tmp_path, capsys):
    options = ["--profile", str(profile), "--ledger", str(tmp_path / "ledger"), "--blocks", "llm-pruner:20"]
    assert main(["plan", "table2", *options]) == 0
    assert f"before it can run: base model {NAME} has pickled weights alone: convert them once" in (
        capsys.readouterr().out)
    assert main(["convert", "--profile", str(profile)]) == 0
    assert "mended: config.json: eos_token_id 1 -> 2" in capsys.readouterr().out
    assert main(["plan", "table2", *options]) == 0
    text = capsys.readouterr().out
    assert "before it can run" not in text
    assert "converted from pickled weights, 11 entries of its configuration mended" in text
    table = main_table(str(profile), "llm-pruner:20", "day", ledger=tmp_path / "ledger")
    result = table.run()
    assert set(ledger_frame(tmp_path / "ledger")["stage"]) == {"prune", "recover", "evaluate"}
    assert {row.method for row in result.rows()} == {
        "Dense", "No recovery", "LoRA", "LoRA*", "AdaLoRA", "RankAdaptor (one model)"}
    provenance = write_provenance(result, Ledger(tmp_path / "ledger"), tmp_path)
    assert provenance["conversion"]["source"] == NAME
    assert "config.json: pad_token_id -1 -> null" in provenance["conversion"]["mends"]
    stored = [json.loads(path.read_text()) for path in (tmp_path / "ledger").glob("*/model/tokenizer_config.json")]
    assert [tokens["eos_token"] for tokens in stored] == ["</s>"]
    assert table.is_complete()
