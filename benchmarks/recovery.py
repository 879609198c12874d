"""The recovery loop against transformers' Trainer with PEFT, on one pruned model. `make bench-recovery`.

Both train the same LoRA, from the same adapter, on as many rows of the same data with LLM-Pruner's recipe (AdamW,
warm-up, answers only, dropout 0.05, 256 tokens at most), in random batches, tokenised beforehand. The Trainer pads rows
to the longest of a micro-batch, as LLM-Pruner's script does; ours lets them follow one another. What counts is tokens
of real text, padding left out. Losses are compared on held-out rows; and step by step on the very same batches, with a
plain loop over PEFT's own pass.
"""

import argparse
import dataclasses
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measuring
import torch
from torch.nn import functional
from transformers import PreTrainedModel, Trainer, TrainingArguments

from rankadaptor.allocation import uniform_allocation
from rankadaptor.data.benchmarks import Row
from rankadaptor.data.instruction_rows import recovery_rows
from rankadaptor.data.sources import Source
from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.profiles import Profile
from rankadaptor.recovery.adapters import attach_adapter
from rankadaptor.recovery.plain_loop import plain_losses
from rankadaptor.recovery.prompts import IGNORED, Example, batches, collate, tokenise
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.recovery.training import train

HELD_OUT = 64


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


@torch.inference_mode()
def held_out_loss(adapted: Any, tokenizer: Any, rows: Sequence[Row], most: int) -> float:
    """Nats a supervised token."""
    total = count = 0.0
    for start in range(0, len(rows), 16):
        examples = [tokenise(row, tokenizer, most) for row in rows[start : start + 16]]
        ids, mask, labels = (one.to(adapted.device) for one in collate(examples, tokenizer.pad_token_id))
        logits = adapted(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        total += functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED,
                                          reduction="sum").item()
        count += int((labels[:, 1:] != IGNORED).sum())
    return total / count


@dataclass(frozen=True)
class Way:
    """One way of training, and what was measured of it, seed by seed."""

    run: Callable[[PreTrainedModel, Any, Sequence[Row], RecoverySpec], tuple[float, int, Any]]
    micro_batch_rows: int
    speeds: list[float] = field(default_factory=list)  # tokens of real text a second
    losses: list[float] = field(default_factory=list)  # of held-out rows, nats a supervised token
    memory: dict[str, str] = field(default_factory=dict)

    def measure(
        self, options: argparse.Namespace, tokenizer: Any, rows: Sequence[Row], held: Sequence[Row], spec: RecoverySpec
    ) -> None:
        recipe = dataclasses.replace(spec.recipe, micro_batch_rows=self.micro_batch_rows)
        _, model = measuring.pruned_model(options)
        memory = measuring.PeakMemory(model.device)
        memory.begin()
        seconds, tokens, adapted = self.run(model, tokenizer, rows, dataclasses.replace(spec, recipe=recipe))
        self.memory.update(memory.column())
        self.speeds.append(tokens / seconds)
        self.losses.append(held_out_loss(adapted, tokenizer, held, recipe.max_length_tokens))

    def line(self, name: str) -> dict[str, str]:
        loss = f"{statistics.mean(self.losses):.4f} [{min(self.losses):.4f}, {max(self.losses):.4f}]"
        return {"way": name, "tokens of real text a second": f"{statistics.median(self.speeds):,.0f}",
                "held-out loss, mean and range over seeds": loss} | self.memory


def _operations(model: PreTrainedModel, planned: Sequence[Sequence[Example]]) -> float:
    """A token: of products with frozen weights, forward and backward, in the head only where a token is supervised."""
    examples = [example for batch in planned for example in batch]
    tokens = sum(len(example.input_ids) for example in examples)
    supervised = sum(label != IGNORED for example in examples for label in example.labels[1:])
    return 4 * (measuring.body_parameters(model) + supervised / tokens * model.lm_head.weight.numel())


def _rows(options: argparse.Namespace, profile: Profile) -> tuple[str, list[Row], list[Row]]:
    """What the data are called, rows to be held out, and rows to be trained on."""
    data = profile.recovery_data
    if options.data:
        data = dataclasses.replace(data, label=Path(options.data).name, source=Source("dir", options.data, None),
                                   rows_per_set=None)
    rows = [row for row in recovery_rows(data, profile.benchmarks, profile.evaluation.search_pool,
                                         profile.evaluation.item_seed) if row["output"].strip()]
    random.Random(0).shuffle(rows)
    return data.label, rows[:HELD_OUT], rows[HELD_OUT:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    measuring.model_options(parser)
    parser.add_argument("--data", default="", help=".jsonl of instruction rows; default: the profile's")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rows", type=int, default=16, help="of a step; default: 16")
    parser.add_argument("--micro", default="16", help="rows of the Trainer's micro-batches, and of ours; default: 16")
    parser.add_argument("--seeds", default="0 1 2")
    options = parser.parse_args()
    measuring.without_plans()
    profile, model = measuring.pruned_model(options)
    tokenizer = load_tokenizer(base_model_folder(profile.base_model))
    data, held, rows = _rows(options, profile)
    sizes, seeds = ([int(number) for number in text.split()] for text in (options.micro, options.seeds))
    recipe = Recipe(options.steps, options.rows, sizes[0], 1e-3, max(1, options.steps // 10), 256, 0.05, 0.0, 1.0,
                    "micro_batches")
    spec = RecoverySpec("lora", uniform_allocation(profile.adapters.lora_rank, architecture_of(model)), "fixed_alpha",
                        profile.adapters.alpha, recipe, seeds[0])
    device, dtype = model.device, model.dtype
    name, label = measuring.named("recovery", options.profile, device, options.block, options.shape, options.dtype)
    operations = [_operations(model, batches(rows, tokenizer, recipe, seed)) for seed in seeds]  # and all is tokenised
    plain_ways = {f"Trainer + PEFT, micro-batches of {size}": Way(plain, size) for size in sizes}
    ways = plain_ways | {"ours": (our := Way(ours, sizes[0]))}
    del model
    if device.type == "cuda":  # its first steps load what later ones have
        for way in ways.values():
            dataclasses.replace(way, speeds=[], losses=[]).measure(options, tokenizer, rows, held, spec)
    for seed in seeds:
        for called, way in ways.items():
            way.measure(options, tokenizer, rows, held, dataclasses.replace(spec, seed=seed))
            print(f"seed {seed}, {called}: {way.speeds[-1]:.0f} tokens/s, loss {way.losses[-1]:.4f}", flush=True)
    best = max(plain_ways.values(), key=lambda way: statistics.median(way.speeds))
    ratios = [a / b for a, b in zip(our.speeds, best.speeds, strict=True)]
    rates = [speed * work for speed, work in zip(our.speeds, operations, strict=True)]
    curves = _curves(options, tokenizer, rows, spec)
    apart = max(abs(a - b) for a, b in zip(*curves, strict=True))
    peak = measuring.matrix_product_peak(device, dtype)
    about = (
        f"{label}, {data}: {options.steps} steps of {options.rows} rows, dropout 0.05, LoRA"
        f" r={profile.adapters.lora_rank}, seeds {options.seeds}; ours within the memory that micro-batches of"
        f" {sizes[0]} rows of full length would take.\n\n**Speed:** {statistics.median(ratios):.2f} times the Trainer's"
        f" at the best of these micro-batches, paired by seed ({', '.join(f'{ratio:.2f}' for ratio in ratios)}). Ours"
        f" reaches {statistics.median(rates) / peak:.0%} of the machine's matrix-product peak ({peak / 1e9:,.0f}"
        " GFLOP/s in its precision), where only products with frozen weights count, forward and backward."
        "\n\n**Equality:** on the very same batches, without dropout, our loop and a plain one over PEFT's own pass"
        f" have losses that differ by at most {apart:.1e} at any of {recipe.steps} steps, on their way from"
        f" {curves[0][0]:.3f} to {curves[0][-1]:.3f}."
    )
    measuring.write(options.out, name, "Recovery: our loop against transformers' Trainer", about,
                    [way.line(called) for called, way in ways.items()],
                    {"options": measuring.told(options) | {"data": data}, "ratios": ratios,
                     "speeds": {called: way.speeds for called, way in ways.items()},
                     "losses": {called: way.losses for called, way in ways.items()},
                     "curves": curves, "peak_flops": peak, "flops": rates})


def _curves(options: argparse.Namespace, tokenizer: Any, rows: Sequence[Row], spec: RecoverySpec) -> list[list[float]]:
    """Losses by step, ours and a plain loop's, on the very same batches without dropout."""
    recipe = dataclasses.replace(spec.recipe, lora_dropout=0.0, batch_rows=spec.recipe.micro_batch_rows)
    exact = dataclasses.replace(spec, recipe=recipe)
    first = train(attach_adapter(measuring.pruned_model(options)[1], exact), tokenizer, rows, exact).losses
    return [first, plain_losses(attach_adapter(measuring.pruned_model(options)[1], exact), tokenizer, rows, exact)]


if __name__ == "__main__":
    main()
