"""A check of a new GPU machine before it is rented for a day: exactness, a recovery, an evaluation, speed and memory.

    print(check_table(check_gpu("llama-7b", Path("build/gpu-check"))))

Engines are compared with plain passes of transformers and PEFT on a small model; speed and memory are measured on
random weights of the profile's shape pruned by its first block, and compared with the figures that the profile's plans
count with; then every stage runs, as in `rehearsal`. Without a GPU the same runs on a narrow copy, and the check fails.
"""

import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import LlamaConfig, PreTrainedModel

from rankadaptor.allocation import uniform_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.evaluation.layout import TokenisedPair, lay_out
from rankadaptor.evaluation.shared_context import limits_of, score
from rankadaptor.machine import machine, peak_memory_bytes
from rankadaptor.models.checkpoints import architecture_of, default_device, random_weights
from rankadaptor.models.random_models import random_model
from rankadaptor.models.tokenizers import Tokenizer, load_tokenizer
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.pruning import pruned_shapes
from rankadaptor.recovery.adapters import attach_adapter
from rankadaptor.recovery.plain_loop import plain_losses
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.recovery.training import train
from rankadaptor.reporting.paper import published_config
from rankadaptor.reporting.rehearsal import narrow, rehearse
from rankadaptor.reporting.tables import markdown
from rankadaptor.testbed import MODEL as EMBEDDED

ROW_TOKENS = 122  # of a row of Alpaca in LLaMA's tokens, at most 256 of each: what plans count with
_SLOWEST = 3  # times slower than the plan's figure, at most
_MOST_NATS = {torch.float32: 1e-3, torch.bfloat16: 0.05}  # between an engine and a plain pass
_LONGEST = 256  # tokens of a row
_SMALL = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 4,
          "intermediate_size": 256, "initializer_range": 0.1}


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    check: str
    measured: str
    expected: str
    passed: bool


def check_gpu(name: str, out: Path, stages: bool = True) -> list[Check]:
    """Run every check.

    Args:
        name: Of a profile whose shapes are in reporting/paper/models.csv.
        out: Folder of the rehearsal.
        stages: Whether every stage of the pipeline is run as well, which takes most of the time.

    Raises:
        BadInput: on a profile without published shapes.
    """
    profile, device = load_profile(name), default_device()
    tokenizer, config = load_tokenizer(EMBEDDED), published_config(profile.name)
    if device.type == "cpu":
        config = narrow(config, len(tokenizer))
    checks = [_card(profile)]
    for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
        checks += [_scores(device, dtype), _losses(device, dtype, tokenizer)]
    shape = pruned_shapes(Architecture.from_config(config), profile.prune_spec(profile.blocks()[0]))
    label = f"{profile.name}'s shape, {profile.blocks()[0]}" + (", narrow" if device.type == "cpu" else "")
    checks += _within_memory(f"recovery and evaluation in {label}", lambda: _speeds(profile, shape, tokenizer, label))
    if stages:
        checks += _within_memory(f"every stage of {profile.name}", lambda: [_stages(profile, out, device)])
    return checks


def check_table(checks: list[Check]) -> str:
    """A table in Markdown, the machine under it, and how many checks failed."""
    about, failed = machine(), sum(not check.passed for check in checks)
    rows = [{"check": check.check, "measured": check.measured, "expected": check.expected,
             "": "pass" if check.passed else "FAIL"} for check in checks]
    return "\n\n".join([
        markdown(pd.DataFrame(rows)),
        f"{about['processor']}, {about['accelerator'] or 'no GPU'}, torch {about['versions']['torch']}: "
        + (f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed")])


def _within_memory(name: str, run: Callable[[], list[Check]]) -> list[Check]:
    try:
        return run()
    except torch.OutOfMemoryError as error:
        return [Check(name, " ".join(str(error).split())[:80], "fits into memory", False)]


def _card(profile: Profile) -> Check:
    needed = profile.cost.accelerator_gigabytes or 0
    if not torch.cuda.is_available():
        return Check("GPU", "there is no GPU", f"one of {needed} GB", False)
    about = torch.cuda.get_device_properties(0)
    held = about.total_memory / 1e9
    return Check("GPU", f"{about.name}, {held:.0f} GB", f"{needed} GB", held >= 0.95 * needed)


# -- engines against plain passes -------------------------------------------------------------------------------------


def _small(dtype: torch.dtype, device: torch.device, vocabulary: int = 512) -> PreTrainedModel:
    """A small random LLaMA; in float32 its weights are rounded as in bfloat16."""
    return random_weights(LlamaConfig(**_SMALL, vocab_size=vocabulary)).to(device=device, dtype=dtype).eval()


def _pairs(count: int, context: int, answer: int, vocabulary: int) -> list[TokenisedPair]:
    """Choices of random tokens, four a question, of about these lengths."""
    draw = random.Random(0)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(2, vocabulary) for _ in range(draw.randint(length // 2, length + length // 2))]

    questions = [tokens(context) for _ in range(count)]
    return [(("", ""), question, tokens(answer)) for question in questions for _ in range(4)]


@torch.inference_mode()
def _plain_scores(model: PreTrainedModel, pairs: list[TokenisedPair]) -> torch.Tensor:
    """Log-likelihoods of choices one by one.  # (choices,)"""
    scores = []
    for _, context, answer in pairs:
        logits = model(input_ids=torch.tensor([context + answer], device=model.device)).logits[0].double()
        predicted = logits[len(context) - 1 : -1].log_softmax(-1)
        scores.append(float(predicted.gather(1, torch.tensor(answer, device=model.device)[:, None]).sum()))
    return torch.tensor(scores)


def _scores(device: torch.device, dtype: torch.dtype) -> Check:
    pairs, model = _pairs(30, 40, 8, 512), _small(dtype, device)
    ours, _ = score(model, lay_out(pairs, 512, limits_of(device)), len(pairs))
    exact = _plain_scores(_small(torch.float32, torch.device("cpu")), pairs)
    error = float((ours - exact).abs().mean())
    name = f"log-likelihoods in {_short(dtype)}, from a plain float32 pass on the CPU"
    if dtype == torch.float32:
        return _nats(name, error, _MOST_NATS[dtype])
    plain = float((_plain_scores(model, pairs) - exact).abs().mean())
    return _nats(name, error, 1.3 * plain)


def _nats(name: str, error: float, most: float) -> Check:
    return Check(name, f"{error:.1e} nats", f"at most {most:.1e}", error <= most)


def _losses(device: torch.device, dtype: torch.dtype, tokenizer: Tokenizer) -> Check:
    """Losses of a recovery against a plain loop over PEFT's own pass, on the same batches."""
    recipe = Recipe(4, 8, 4, 1e-3, 1, _LONGEST, 0.0, 0.0, 1.0, "micro_batches")
    rows = _rows(tokenizer, 64)
    allocation = uniform_allocation(4, architecture_of(_small(dtype, device, len(tokenizer))))
    spec = RecoverySpec("lora", allocation, "fixed_alpha", 16, recipe, 0)
    ours = train(attach_adapter(_small(dtype, device, len(tokenizer)), spec), tokenizer, rows, spec).losses
    plain = plain_losses(attach_adapter(_small(dtype, device, len(tokenizer)), spec), tokenizer, rows, spec)
    error = max(abs(first - second) for first, second in zip(ours, plain, strict=True))
    return _nats(f"losses of a recovery in {_short(dtype)}, from a plain loop with PEFT", error, _MOST_NATS[dtype])


def _rows(tokenizer: Tokenizer, count: int) -> list[dict[str, str]]:
    """Plain text of random tokens; lengths are spread as Alpaca's are, around ROW_TOKENS."""
    draw = random.Random(0)
    lengths = [min(_LONGEST, 30 + int(draw.expovariate(1 / (ROW_TOKENS - 30)))) for _ in range(count)]
    texts = [tokenizer.decode([draw.randrange(10, len(tokenizer)) for _ in range(length)]) for length in lengths]
    return [{"instruction": "", "input": "", "output": text} for text in texts]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# -- speed and memory -------------------------------------------------------------------------------------------------


def _speeds(profile: Profile, shape: Architecture, tokenizer: Tokenizer, label: str) -> list[Check]:
    """A short recovery and an evaluation of random weights, after a first one that is not timed."""
    on_gpu = torch.cuda.is_available()
    steps, batch_rows, questions = (30, 64, 600) if on_gpu else (3, 2, 2)
    budget = profile.budget(profile.defaults.budget if profile.defaults else next(iter(profile.budgets)))
    recipe = replace(budget.training.recipe(1e-3), steps=steps, batch_rows=batch_rows, warmup_steps=1)
    spec = RecoverySpec("lora", uniform_allocation(profile.adapters.lora_rank, shape), "fixed_alpha", 16, recipe, 0)
    rows, pairs = _rows(tokenizer, steps * batch_rows), _pairs(questions, 70, 12, len(tokenizer))
    laid_out, model = lay_out(pairs, 2048, limits_of(default_device())), random_model(shape)
    model = model if on_gpu else model.float()  # a CPU is slow in bfloat16
    score(model, laid_out[:1], len(pairs))
    evaluation = _timed(lambda: score(model, laid_out, len(pairs)))[0]
    short = replace(spec, recipe=replace(recipe, steps=2, warmup_steps=0))
    train(adapted := attach_adapter(model, short), tokenizer, rows, short)
    adapted = attach_adapter(adapted.unload(), spec)
    seconds, training = _timed(lambda: train(adapted, tokenizer, rows, spec))
    speed, losses = training.tokens / seconds, training.losses
    return [
        Check(f"recovery of {label}: loss", f"{losses[0]:.2f} to {losses[-1]:.2f}", "falls", losses[-1] < losses[0]),
        _rate(f"recovery of {label}", speed, "tokens", ROW_TOKENS / profile.cost.recovery_seconds_per_row, on_gpu),
        _rate(f"evaluation of {label}, four choices each", questions / evaluation, "questions",
              1 / profile.cost.evaluation_seconds_per_item, on_gpu),
        _memory(profile, on_gpu),
    ]


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result), once a GPU has done what it was given."""
    started = time.perf_counter()
    result = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def _rate(name: str, speed: float, unit: str, planned: float, on_gpu: bool) -> Check:
    expected = f"{planned / _SLOWEST:,.0f} at least; plans count with {planned:,.0f}"
    return Check(name, f"{speed:,.0f} {unit} a second", expected if on_gpu else "no figure of a CPU",
                 not on_gpu or speed * _SLOWEST >= planned)


def _memory(profile: Profile, on_gpu: bool) -> Check:
    peak, most = peak_memory_bytes() / 1e9, profile.cost.accelerator_gigabytes
    limited = on_gpu and most is not None
    return Check("peak memory of both", f"{peak:.1f} GB", f"at most {most} GB" if limited else "no limit",
                 not limited or peak <= (most or 0))


def _stages(profile: Profile, out: Path, device: torch.device) -> Check:
    gc.collect()  # a notebook's kernel takes the memory of the GPU that the models here held
    torch.cuda.empty_cache()
    block = str(profile.blocks()[0])
    seconds, record = _timed(lambda: rehearse(profile.name, out, full_size=device.type == "cuda", blocks=block))
    return Check(f"every stage of Tables 2 and 6 and Figure 5, {block}", f"{seconds:,.0f} s, {record}", "all have run",
                 record.is_file())
