"""A profile in small: a tiny random LLaMA, a tokenizer trained on the spot, seven tiny benchmarks, forty rows."""

import json
from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from helpers.data import benchmark_row, sentence
from helpers.models import tiny_llama
from rankadaptor.data.tasks import TASKS
from rankadaptor.profiles import FOLDER


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 96 tokens."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=96, special_tokens=["<end>", "<unk>"], show_progress=False)
    core.train_from_iterator([sentence(i) for i in range(50)] + ["Question: Answer: yes no"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<end>", eos_token="<end>", unk_token="<unk>")


def write_checkpoint(folder: Path, tokenizer: PreTrainedTokenizerFast, layers: int = 4) -> None:
    """A tiny LLaMA and its tokenizer, as transformers saves them."""
    tiny_llama(layers=layers).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_benchmarks(folder: Path) -> None:
    """Forty rows a split of every benchmark, as <task>/<split>.jsonl."""
    for task in TASKS:
        (folder / task).mkdir()
        for split, start in (("train", 0), ("validation", 1000), ("test", 2000)):
            rows = [benchmark_row(task, start + i) for i in range(40)]
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_instruction_rows(path: Path) -> None:
    """Forty rows, every second one with an input."""
    rows = [{"instruction": sentence(5000 + i, 6), "input": sentence(i, 4) if i % 2 else "", "output": sentence(i, 4)}
            for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_profile(path: Path, base: Path, benchmarks: Path, instruction_rows: Path) -> None:
    """The shipped profile of SmolLM2 over other sources, with budgets of seconds: the code path of the real ones."""
    profile = yaml.safe_load((FOLDER / "smollm2.yaml").read_text())
    profile |= {"name": "test", "threads": 1}
    profile["base_model"] = {"label": "tiny random LLaMA", "gguf": None, "dtype": "saved",
                             "source": {"kind": "dir", "location": str(base), "sha256": None}}
    profile["benchmarks"] = {"kind": "dir", "location": str(benchmarks), "sha256": None}
    profile["recovery_data"] = {"label": "test rows", "rows_per_set": None,
                                "source": {"kind": "dir", "location": str(instruction_rows), "sha256": None}}
    profile["evaluation"]["search_pool"] = 12
    profile["evaluation"]["perplexity"]["window_tokens"] = 8
    for pruner, tokens in (("llm-pruner", 8), ("shortened", 8)):
        profile["pruning"][pruner] |= {"first_layer": 1, "end_layer": 5}
        profile["pruning"][pruner]["calibration"] = {"samples": 3, "tokens": tokens, "seed": 1}
    profile["pruning"]["shortened"]["blocks"] = {20: 1, 50: 3}
    quick = profile["budgets"]["quick"]
    profile["evaluation"]["generation"] |= {"max_new_tokens": 6, "samples": 2}
    quick["training"] |= {"steps": 5, "batch_rows": 4, "micro_batch_rows": 3, "max_length_tokens": 300}
    quick |= {"search_items": 4, "report_items": 6}
    quick["search"] |= {"initial": 2, "rounds": 2, "candidates_per_round": 50, "threshold": 0.0}
    full = dict(quick, per_task=True, training_seeds=[0, 1], learning_rates=[1e-3, 1e-2],
                adalora_learning_rates=[1e-2, 3e-2], decided=True)
    profile["budgets"] = {"quick": quick, "two-seeds": full}
    path.write_text(yaml.safe_dump(profile))
