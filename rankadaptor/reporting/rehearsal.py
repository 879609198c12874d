"""A rehearsal of a profile: the same layers, blocks, methods and stages on random weights, before a machine is rented.

    rehearse("llama-7b", Path("build/rehearsal"))    # a narrow copy, for a CPU
    rehearse("llama-7b", folder, full_size=True)     # the profile's own shape, for one GPU

The tokenizer, the questions and the rows are the embedded testbed's, and budgets are cut to a few steps. A rehearsal
shows that every stage runs and what it takes; it shows nothing about the method.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from transformers import LlamaConfig

from rankadaptor.architecture import Architecture
from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput
from rankadaptor.escaping import markdown_text
from rankadaptor.experiments.main_table import main_table
from rankadaptor.experiments.parameters import parse_blocks
from rankadaptor.machine import machine
from rankadaptor.models.base_model import BaseModel
from rankadaptor.models.checkpoints import random_weights
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.pipeline.ledger_tools import ledger_frame
from rankadaptor.profiles import Budget, Profile, load_profile
from rankadaptor.pruning import pruned_shapes
from rankadaptor.reporting import pages
from rankadaptor.reporting.paper import published_architecture, published_config
from rankadaptor.reporting.tables.writing import markdown, write_markdown
from rankadaptor.testbed import MODEL as EMBEDDED

PAGE, ALONGSIDE = "table2", ("table6", "figure5")  # the first is rendered as well
_HEAD_WIDTH, _MLP_DIVISOR = 4, 32  # of a narrow copy: width of a head, divisor of the MLP width
_STEPS, _ROWS, _ITEMS = 4, 4, 4  # AdaLoRA reallocates ranks from four steps on


def rehearse(name: str, folder: Path, full_size: bool = False, blocks: str = "") -> Path:
    """Run tables of a profile through every stage, on random weights.

    Args:
        name: A profile whose shapes are in reporting/paper/models.csv, such as llama-7b.
        folder: Of the model, the ledger and the reports; results that are there already are not computed again.
        full_size: Whether the model has the profile's own shape, which needs a GPU, or a narrow one.
        blocks: Such as "llm-pruner:20 shortened:50"; empty for the first of each pruner.

    Returns:
        `rehearsal.md`: every stage with its number, seconds and peak memory; parameter counts of the real shapes.

    Raises:
        BadInput: on a profile without published shapes, or full size without a GPU.
    """
    real = load_profile(name)
    config = published_config(real.name)
    rehearsed = blocks.strip() or " ".join({block.pruner: str(block) for block in reversed(real.blocks())}.values())
    parse_blocks(rehearsed, real)
    if full_size and not torch.cuda.is_available():
        raise BadInput(f"no GPU is visible to rehearse {real.name} at full size on: take a machine that has one,"
                       " or rehearse a narrow copy")
    size = "full" if full_size else "shrunken"
    place = folder / f"{real.name}-{size}"
    _write_model(config, place / "model", full_size)
    profile = place / f"{real.name}-rehearsal.yaml"
    profile.write_text(yaml.safe_dump(_plain(_rehearsed(real, place / "model", full_size))), encoding="utf-8")
    parameters: dict[str, Any] = {"profile": str(profile), "blocks": rehearsed, "budget": "quick", "seeds": [],
                                  "ledger": str(place / "ledger")}
    pages.reproduce(PAGE, parameters, place / "reports", quiet=True)
    for table in ALONGSIDE:
        main_table(**parameters, table=table).run()
    return _write_record(real, size, rehearsed, place)


def narrow(config: Mapping[str, Any], vocabulary: int) -> dict[str, Any]:
    """The entries of a `config.json` with as many layers and heads, for a CPU."""
    return {**config, "hidden_size": int(config["num_attention_heads"]) * _HEAD_WIDTH, "vocab_size": vocabulary,
            "intermediate_size": int(config["intermediate_size"]) // _MLP_DIVISOR}


def _write_model(config: Mapping[str, Any], folder: Path, full_size: bool) -> None:
    """Random weights in bfloat16, with the embedded model's tokenizer."""
    if folder.is_dir():
        return
    tokenizer = load_tokenizer(EMBEDDED)
    tokenizer.bos_token = tokenizer.eos_token  # the embedded model's has no BOS, and a profile may want one
    shape = dict(config) if full_size else narrow(config, len(tokenizer))
    model = random_weights(LlamaConfig(**shape, pad_token_id=tokenizer.pad_token_id,
                                       bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id))
    draft = folder.with_name(f".{folder.name}")
    model.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    del model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # for the notebook's kernel
    draft.rename(folder)


def _rehearsed(real: Profile, model: Path, full_size: bool) -> Profile:
    """The profile with the testbed's data and a budget of a few steps."""
    tiny = load_profile("tiny")
    budget = real.budget("quick")
    training = dataclasses.replace(budget.training, steps=_STEPS, batch_rows=_ROWS, micro_batch_rows=_ROWS,
                                   warmup_steps=1)
    search = dataclasses.replace(budget.search, initial=2, rounds=1, candidates_per_round=200)
    short: Budget = dataclasses.replace(budget, training=training, search=search, search_items=_ITEMS,
                                        report_items=_ITEMS)
    text = dataclasses.replace(real.evaluation.perplexity, max_windows=4)
    generation = dataclasses.replace(real.evaluation.generation, prompts=real.evaluation.generation.prompts[:1],
                                  max_new_tokens=8, samples=1)
    return dataclasses.replace(
        real,
        name=f"{real.name}-rehearsal",
        base_model=BaseModel(f"random weights in the shape of {real.base_model.label}",
                             Source("dir", str(model.absolute()), None), None, real.base_model.dtype),
        benchmarks=tiny.benchmarks,
        recovery_data=tiny.recovery_data,
        evaluation=dataclasses.replace(real.evaluation, search_pool=tiny.evaluation.search_pool, perplexity=text,
                                       generation=generation),
        cost=real.cost if full_size else dataclasses.replace(
            real.cost, accelerator_gigabytes=None, pruned_model_megabytes=tiny.cost.pruned_model_megabytes,
            adapter_megabytes=tiny.cost.adapter_megabytes),
        budgets={"quick": short},
        defaults=None,
    )


def _plain(value: Any) -> Any:
    """A profile in the types of YAML: mappings, lists and plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _write_record(real: Profile, size: str, blocks: str, place: Path) -> Path:
    stages = ledger_frame(place / "ledger")
    results = [json.loads((place / "ledger" / key / "result.json").read_text()) for key in stages["key"]]
    stages["peak"] = [result["provenance"]["peak_memory_bytes"] for result in results]
    by_stage = stages.groupby("stage").agg(
        entries=("key", "size"), seconds=("seconds", "median"), peak=("peak", lambda peak: peak.max() / 1e9))
    dense = published_architecture(real.name)
    pruned = {str(block): pruned_shapes(dense, real.prune_spec(block)) for block in real.blocks()}
    about = machine()
    path = place / "rehearsal.md"
    write_markdown([
        f"# Rehearsal of {real.name}, {size}",
        markdown_text(
            f"Random weights, the embedded testbed's questions and rows, blocks {blocks};"
            f" {', '.join((PAGE, *ALONGSIDE))} and every stage behind them. On {about['processor']},"
            f" {about['accelerator'] or 'no accelerator'}, torch {about['versions']['torch']}."),
        markdown(by_stage.reset_index().rename(columns={"seconds": "seconds (median)", "peak": "peak memory (GB)"})),
        "Peak memory is the process's until then. Rows of the testbed are shorter than Alpaca's, which take more.",
        "Parameters of the real shapes:",
        markdown(pd.DataFrame([_counted(label, shape, dense) for label, shape in {"dense": dense, **pruned}.items()])),
    ], path)
    return path


def _counted(label: str, shape: Architecture, dense: Architecture) -> dict[str, Any]:
    share = 1 - shape.parameters() / dense.parameters()
    return {"model": label, "parameters": f"{shape.parameters():,}", "gone (%)": f"{100 * share:.1f}",
            "bfloat16 (GB)": f"{2 * shape.parameters() / 1e9:.1f}"}
