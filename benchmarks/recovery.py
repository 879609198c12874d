"""The recovery loop against transformers' Trainer with PEFT, on one pruned model. `make bench-recovery`.

Both train the same LoRA, from the same adapter, on as many rows of the same data with LLM-Pruner's recipe (AdamW,
warm-up, answers only, dropout 0.05, 256 tokens at most), in random batches, micro-batches of 16 rows. The Trainer pads
them to the longest, as LLM-Pruner's script does; ours lets them follow one another. What counts is tokens of real text,
padding left out. Losses are compared on held-out rows; and step by step on the very same batches, with a plain loop
over PEFT's own pass.
"""

import argparse
import dataclasses
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
import torch
from torch.nn import functional
from transformers import PreTrainedModel, Trainer, TrainingArguments, get_linear_schedule_with_warmup

from rankadaptor.allocation import uniform_allocation
from rankadaptor.corpora.benchmarks import Row
from rankadaptor.corpora.recovery_rows import recovery_rows
from rankadaptor.models import architecture_of, base_model_folder, load_tokenizer
from rankadaptor.profiles import Source
from rankadaptor.recovery.adapters import attach_adapter
from rankadaptor.recovery.prompts import IGNORED, Example, batches, collate, tokenise
from rankadaptor.recovery.training import train
from rankadaptor.specs import Recipe, RecoverySpec

HELD_OUT = 64
MICRO_BATCH = 16


def plain(model: PreTrainedModel, tokenizer: Any, rows: Sequence[Row], spec: RecoverySpec) -> tuple[float, int, Any]:
    """(seconds, tokens of real text, adapted model) of the Trainer."""
    recipe = spec.recipe
    adapted = attach_adapter(model, spec)
    drawn = random.Random(spec.seed).sample(list(rows), recipe.steps * recipe.batch_rows)
    examples = [tokenise(row, tokenizer, recipe.max_length_tokens) for row in drawn]

    def together(several: list[Example]) -> dict[str, torch.Tensor]:
        names = ("input_ids", "attention_mask", "labels")
        return dict(zip(names, collate(several, tokenizer.pad_token_id), strict=True))

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=recipe.micro_batch_rows,
            gradient_accumulation_steps=recipe.batch_rows // recipe.micro_batch_rows,
            max_steps=recipe.steps,
            warmup_steps=recipe.warmup_steps,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            max_grad_norm=recipe.clip_norm,
            seed=spec.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            use_cpu=model.device.type == "cpu",
            bf16=model.dtype == torch.bfloat16,
        )
        trainer = Trainer(adapted, arguments, together, examples)  # type: ignore[arg-type]
        began = measuring.now(model.device)
        trainer.train()
        seconds = measuring.now(model.device) - began
    return seconds, sum(len(example.input_ids) for example in examples), adapted.eval()


def ours(model: PreTrainedModel, tokenizer: Any, rows: Sequence[Row], spec: RecoverySpec) -> tuple[float, int, Any]:
    adapted = attach_adapter(model, spec)
    began = measuring.now(model.device)
    result = train(adapted, tokenizer, rows, spec)
    return measuring.now(model.device) - began, result.tokens, adapted


def same_batches(model: PreTrainedModel, tokenizer: Any, rows: Sequence[Row], spec: RecoverySpec) -> list[float]:
    """Losses by step of a plain loop over our own batches: PEFT's pass, logits of every token, padding masked."""
    recipe = spec.recipe
    adapted = attach_adapter(model, spec).train()
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
    losses = []
    for batch in batches(rows, tokenizer, recipe, spec.seed):
        ids, mask, labels = (one.to(adapted.device) for one in collate(batch, tokenizer.pad_token_id))
        loss = adapted(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def held_out_loss(adapted: Any, tokenizer: Any, rows: Sequence[Row], most: int) -> float:
    """Nats a supervised token."""
    total = count = 0.0
    for start in range(0, len(rows), MICRO_BATCH):
        examples = [tokenise(row, tokenizer, most) for row in rows[start : start + MICRO_BATCH]]
        ids, mask, labels = (one.to(adapted.device) for one in collate(examples, tokenizer.pad_token_id))
        logits = adapted(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        total += functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED,
                                          reduction="sum").item()
        count += int((labels[:, 1:] != IGNORED).sum())
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    measuring.model_options(parser)
    parser.add_argument("--data", default="", help=".jsonl of instruction rows; default: the profile's")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", type=int, default=16, help="of a step, in micro-batches of 16; default: 16")
    parser.add_argument("--seeds", default="0 1 2")
    options = parser.parse_args()
    profile, model = measuring.pruned_model(options)
    tokenizer = load_tokenizer(base_model_folder(profile.base_model))
    data = profile.recovery_data
    if options.data:
        data = dataclasses.replace(data, label=Path(options.data).name, source=Source("dir", options.data, None),
                                   rows_per_set=None)
    rows = [row for row in recovery_rows(data, profile.benchmarks, profile.evaluation.search_pool,
                                         profile.evaluation.item_seed) if row["output"].strip()]
    random.Random(0).shuffle(rows)
    held, rows = rows[:HELD_OUT], rows[HELD_OUT:]
    recipe = Recipe(options.steps, options.rows, MICRO_BATCH, 1e-3, max(1, options.steps // 10), 256, 0.05, 0.0, 1.0,
                    "micro_batches")
    architecture = architecture_of(model)
    allocation = uniform_allocation(profile.adapters.lora_rank, architecture)
    ways = {"Trainer + PEFT": plain, "ours": ours}
    layers, head = measuring.body_parameters(model), model.lm_head.weight.numel()
    rates: list[float] = []  # of ours: floating-point operations a second
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    losses: dict[str, list[float]] = {way: [] for way in ways}
    memory, held_memory = measuring.PeakMemory(model.device), dict[str, dict[str, str]]()
    seeds = [int(seed) for seed in options.seeds.split()]
    warm = [seeds[0]] if model.device.type == "cuda" else []  # a GPU's first steps load what later ones have
    adapted: Any = None
    for number, seed in enumerate([*warm, *seeds]):
        spec = RecoverySpec("lora", allocation, "fixed_alpha", profile.adapters.alpha, recipe, seed)
        for way, run in ways.items():
            del model, adapted  # before the next one takes their memory
            _, model = measuring.pruned_model(options)
            memory.begin()
            seconds, tokens, adapted = run(model, tokenizer, rows, spec)
            held_memory[way] = memory.column()
            if number < len(warm):
                continue
            speeds[way].append(tokens / seconds)
            losses[way].append(held_out_loss(adapted, tokenizer, held, recipe.max_length_tokens))
            if run is ours:
                labels = [one for batch in batches(rows, tokenizer, recipe, seed) for example in batch
                          for one in example.labels[1:]]
                supervised = sum(label != IGNORED for label in labels)
                rates.append(4 * (tokens * layers + supervised * head) / seconds)
            print(f"seed {seed} {way}: {speeds[way][-1]:.0f} tokens/s, held-out loss {losses[way][-1]:.4f}", flush=True)
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["Trainer + PEFT"], strict=True)]
    table = [{"way": way, "tokens of real text a second": f"{statistics.median(speeds[way]):,.0f}",
              "held-out loss, mean and range over seeds":
                  f"{statistics.mean(losses[way]):.4f} [{min(losses[way]):.4f}, {max(losses[way]):.4f}]"}
             | held_memory[way] for way in ways]
    device, dtype = model.device, model.dtype
    name, label = measuring.named("recovery", options, model.device, options.block)
    del model, adapted
    exact = dataclasses.replace(spec, recipe=dataclasses.replace(recipe, lora_dropout=0.0, batch_rows=MICRO_BATCH))
    curves = []
    for curve in (lambda base: train(attach_adapter(base, exact), tokenizer, rows, exact).losses,
                  lambda base: same_batches(base, tokenizer, rows, exact)):
        curves.append(curve(measuring.pruned_model(options)[1]))
    apart = max(abs(a - b) for a, b in zip(*curves, strict=True))
    peak = measuring.matrix_product_peak(device, dtype)
    about = (
        f"{label}, {data.label}: {options.steps} steps of {options.rows} rows,"
        f" micro-batches of {MICRO_BATCH}, dropout 0.05, LoRA r={profile.adapters.lora_rank}, seeds {options.seeds}."
        f"\n\n**Speed:** {statistics.median(ratios):.2f} times the Trainer's, paired by seed"
        f" ({', '.join(f'{ratio:.2f}' for ratio in ratios)}). Ours reaches {statistics.median(rates) / peak:.0%} of the"
        f" machine's matrix-product peak ({peak / 1e9:,.0f} GFLOP/s in its precision), where only products with frozen"
        " weights count, forward and backward.\n\n**Equality:** on the very same batches, without dropout, our loop and"
        f" a plain one over PEFT's own pass have losses that differ by at most {apart:.1e} at any of {recipe.steps}"
        f" steps, on their way from {curves[0][0]:.3f} to {curves[0][-1]:.3f}."
    )
    measuring.write(name, "Recovery: our loop against transformers' Trainer", about, table,
                 {"options": measuring.told(options) | {"data": data.label}, "ratios": ratios, "speeds": speeds,
                  "losses": losses, "curves": curves, "peak_flops": peak, "flops": rates})


if __name__ == "__main__":
    main()
