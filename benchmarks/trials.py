"""What a trial costs by stage, and how cost grows with layers, width, items and choices. `make bench-trials`.

A trial is a recovery and its evaluation, as the search makes them at the `quick` budget, with as many threads as the
profile gives a worker. Growth is measured on random LLaMAs: one size is doubled at a time.
"""

import argparse
import dataclasses
import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measuring
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rankadaptor.allocation import uniform_allocation
from rankadaptor.data.instruction_rows import recovery_rows
from rankadaptor.data.tasks import TASKS
from rankadaptor.evaluation import evaluate
from rankadaptor.evaluation.layout import TokenisedPair, lay_out
from rankadaptor.evaluation.shared_context import limits_of, score
from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.checkpoints import architecture_of, default_device
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.recovery.adapters import attach_adapter, save_adapter
from rankadaptor.recovery.loaded import LoadedModel
from rankadaptor.recovery.training import train

_LONG_ROW = {"instruction": "", "input": "", "output": "what a row holds " * 40}  # over 48 tokens, all learned from
BASE = {"layers": 12, "width": 128, "items": 200, "choices": 4}


def by_stage(profile: Profile, block: str, ledger: str, repeats: int) -> list[dict[str, Any]]:
    """Medians of every part of a trial, in this process."""
    budget = profile.budget("quick")
    runner = Runner(profile.inputs(), Ledger(ledger))
    pruned = Step("prune", profile.prune_spec(Block.parse(block)))
    tokenizer = load_tokenizer(base_model_folder(profile.base_model))
    rows = recovery_rows(profile.recovery_data, profile.benchmarks, profile.evaluation.search_pool,
                         profile.evaluation.item_seed)
    architecture = architecture_of(runner.models.model(pruned))
    spec = profile.lora_spec(budget, uniform_allocation(8, architecture), budget.learning_rates[0], 0)
    evaluation = profile.evaluation_spec(budget, "search")
    requests = runner.models.requests(evaluation)
    times: dict[str, list[float]] = {}
    loaded = _timed(times, "load the pruned model, once a block", lambda: LoadedModel(runner.models.model(pruned)))
    _timed(times, "tokenise and lay out, once for all", lambda: evaluate(loaded.base, tokenizer, evaluation, requests))
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            target, attached = Path(folder) / "adapter", loaded.attached(spec)
            adapted = _timed(times, "attach an adapter", attached.__enter__)
            trained = _timed(times, f"train, {spec.recipe.steps} steps of {spec.recipe.batch_rows} rows",
                             lambda adapted=adapted: train(adapted, tokenizer, rows, spec))
            _timed(times, "save it", lambda adapted=adapted, target=target: save_adapter(adapted, target))
            _timed(times, "take it off", lambda attached=attached: attached.__exit__(None, None, None))
            recovered = loaded.recovered(target)
            model = _timed(times, "load it and merge", recovered.__enter__)
            _timed(times, f"evaluate {len(requests.questions):,} questions",
                   lambda model=model: evaluate(model, tokenizer, evaluation, requests))
            _timed(times, "put the weights back", lambda recovered=recovered: recovered.__exit__(None, None, None))
    trial = {name: seconds for name, seconds in times.items() if "once" not in name}
    whole = sum(map(statistics.median, trial.values()))
    lines = [{"part": name, "seconds": f"{statistics.median(seconds):.2f}",
              "share of a trial": f"{statistics.median(seconds) / whole:.0%}" if name in trial else ""}
             for name, seconds in times.items()]
    return [*lines, {"part": f"whole trial ({trained.tokens:,} tokens read)", "seconds": f"{whole:.2f}",
                     "share of a trial": ""}]


def _timed(times: dict[str, list[float]], name: str, work: Callable[[], Any]) -> Any:
    began = measuring.now(default_device())
    result = work()
    times.setdefault(name, []).append(measuring.now(default_device()) - began)
    return result


def growth(repeats: int) -> list[dict[str, Any]]:
    """Seconds of a training step and of an evaluation, each size doubled alone."""
    plain, lines = _cost(BASE, repeats), []
    for name in (None, *BASE):
        size = BASE if name is None else BASE | {name: 2 * BASE[name]}
        step, scoring = plain if name is None else _cost(size, repeats)
        lines.append({
            "size": " · ".join(f"{value} {key}" for key, value in size.items()),
            "training step (ms)": f"{1000 * step:.0f}", "step grows by": f"{step / plain[0]:.2f}",
            "evaluation (ms)": f"{1000 * scoring:.0f}", "evaluation grows by": f"{scoring / plain[1]:.2f}",
        })
    return lines


def _cost(size: dict[str, int], repeats: int) -> tuple[float, float]:
    """Seconds of (a training step of 8 rows of 48 tokens, an evaluation)."""
    model = _random_llama(size["layers"], size["width"])
    profile = load_profile("tiny")
    spec = profile.lora_spec(profile.budget("quick"), uniform_allocation(8, architecture_of(model)), 1e-3, 0)
    recipe = dataclasses.replace(spec.recipe, steps=10 * repeats, batch_rows=8, micro_batch_rows=8,
                                 max_length_tokens=48)
    adapted = attach_adapter(model, spec)
    ends = [time.perf_counter()]
    train(adapted, load_tokenizer(base_model_folder(profile.base_model)), [_LONG_ROW],
          dataclasses.replace(spec, recipe=recipe), lambda step, loss: ends.append(time.perf_counter()))
    steps = [end - began for began, end in itertools.pairwise(ends[1:])]  # but for the first, which packs weights
    model = adapted.unload().eval()
    pairs = _questions(size["items"], size["choices"])
    batches = lay_out(pairs, 512, limits_of(model.device))
    scorings = []
    for _ in range(repeats):
        began = time.perf_counter()
        score(model, batches, len(pairs))
        scorings.append(time.perf_counter() - began)
    return statistics.median(steps), statistics.median(scorings)


def _random_llama(layers: int, width: int) -> PreTrainedModel:
    config = LlamaConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=8,
                         intermediate_size=2 * width, vocab_size=1536, max_position_embeddings=512)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def _questions(items: int, choices: int) -> list[TokenisedPair]:
    """Contexts of 20 tokens, choices of 6."""
    draw = random.Random(0)
    contexts = [[draw.randrange(1, 1000) for _ in range(20)] for _ in range(items)]
    return [(("", ""), context, [draw.randrange(1, 1000) for _ in range(6)]) for context in contexts
            for _ in range(choices)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--block", default="llm-pruner:20")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--growth", action="store_true", help="how cost grows, instead; of random models")
    parser.add_argument("--ledger", default="ledger")
    measuring.out_option(parser)
    options = parser.parse_args()
    profile = load_profile(options.profile)
    if options.growth:
        about = ("Random LLaMAs; one size doubled at a time. A training step is one of the recovery loop, on 8 rows of"
                 " 48 tokens with LoRA r=8; an evaluation scores choices of 6 tokens after contexts of 20. Medians of"
                 f" {10 * options.repeats} steps and {options.repeats} evaluations.")
        measuring.write(options.out, "growth", "How cost grows", about, growth(options.repeats), {})
        return
    torch.set_num_threads(profile.threads or torch.get_num_threads())
    trial = by_stage(profile, options.block, options.ledger, options.repeats)
    name, label = measuring.named("trials", options.profile, default_device(), options.block)
    about = (f"{label}, {len(TASKS)} tasks, budget quick, medians of"
             f" {options.repeats}.")
    measuring.write(options.out, name, "What a trial costs", about, trial, {"options": measuring.told(options)})


if __name__ == "__main__":
    main()
