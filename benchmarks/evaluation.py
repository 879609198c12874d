"""Shared-context scoring against lm-eval's own backend, on one pruned model. `make bench-evaluation`.

Speed: paired runs over questions in the seven tasks' natural mix, lm-eval's backend at batch sizes that double until
one is slower than the one before, ours right after each; the ratio is to its best batch size. Equality: every item of
an equal number from each task, with lm-eval's backend as it is and with its log-softmax in float64 (its
`softmax_dtype`); and for the choices of the largest log-likelihoods, which rounding moves furthest, how far either
backend is from a model that is all in float64.
"""

import argparse
import copy
import dataclasses
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import measuring
import pandas as pd
import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

from rankadaptor.data.benchmarks import evaluation_rows
from rankadaptor.data.tasks import TASKS
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.items import item_table
from rankadaptor.evaluation.layout import TokenisedPair, lay_out
from rankadaptor.evaluation.scoring import backend_of
from rankadaptor.evaluation.shared_context import limits_of
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.tokenizers import Tokenizer, load_tokenizer
from rankadaptor.profiles import Profile

# Items of the splits that are reported: validation, or test of ARC and OBQA.
SIZES = {"boolq": 3270, "piqa": 1838, "hellaswag": 10042, "winogrande": 1267, "arc_easy": 2376, "arc_challenge": 1172,
         "openbookqa": 500}


@dataclass(frozen=True)
class Measured:
    """A model, and what is asked of it."""

    options: argparse.Namespace
    profile: Profile
    model: PreTrainedModel
    tokenizer: Tokenizer
    spec: EvaluationSpec

    def requests(self, counts: dict[str, int]) -> Requests:
        rows = {task: evaluation_rows(self.profile.benchmarks, task, "report", counts[task], self.spec.item_seed,
                                      self.profile.evaluation.search_pool) for task in TASKS}
        return Requests(self.spec, rows, self.profile.benchmarks)

    def lm_eval(self, batch_size: int) -> EvaluationSpec:
        return dataclasses.replace(self.spec, engine="lm_eval", batch_size=batch_size)

    def items(self, spec: EvaluationSpec, requests: Requests) -> pd.DataFrame:
        return evaluate(self.model, self.tokenizer, spec, requests)

    def seconds(self, spec: EvaluationSpec, requests: Requests) -> float:
        began = time.perf_counter()
        self.items(spec, requests)
        return time.perf_counter() - began


def speed(of: Measured, mix: dict[str, int]) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
    """What there is to say, a table, and numbers: time, tokens and memory on questions in the natural mix."""
    timed, memory, runs = of.requests(mix), measuring.PeakMemory(of.model.device), of.options.runs
    for _ in range(2):  # tokenised, laid out, and warm
        memory.begin()
        of.items(of.spec, timed)
    held = memory.column()
    lines, ours, ratios, others = list[dict[str, Any]](), list[float](), list[float](), list[float]()
    asked = of.options.batches
    for size in map(int, asked.split()) if asked else (2**power for power in itertools.count(2)):
        pairs = []
        for _ in range(runs):
            memory.begin()
            theirs, taken = of.seconds(of.lm_eval(size), timed), memory.column()
            pairs.append((theirs, of.seconds(of.spec, timed)))
            print(f"lm-eval, batches of {size}: {pairs[-1][0]:.1f} s, ours: {pairs[-1][1]:.1f} s", flush=True)
        ratios.append(statistics.median(theirs / mine for theirs, mine in pairs))
        ours += [mine for _, mine in pairs]
        others.append(statistics.median(theirs for theirs, _ in pairs))
        lines.append({"engine": f"lm-eval, batches of {size}", "seconds": f"{others[-1]:.2f}",
                      "ours is faster by": f"{ratios[-1]:.2f}"} | taken)
        if not asked and others[-1] > min(others):
            break
    seconds = statistics.median(ours)
    lines.append({"engine": "ours", "seconds": f"{seconds:.2f}", "ours is faster by": "1"} | held)
    backend = backend_of(of.model, of.tokenizer, of.spec)
    choices, batches = timed.tokenised(backend), timed.batches(backend)
    began = time.perf_counter()
    lay_out(choices, backend.max_length, limits_of(of.model.device))
    laying_out = time.perf_counter() - began
    alone = sum(len(context) + len(continuation) - 1 for _, context, continuation in choices)
    tokens, heads = sum(len(batch.tokens) for batch in batches), sum(len(batch.predictors) for batch in batches)
    peak = measuring.matrix_product_peak(of.model.device, of.model.dtype)
    work = 2 * (tokens * measuring.body_parameters(of.model) + heads * of.model.lm_head.weight.numel())
    told = (
        f"{sum(mix.values())} questions in the natural mix of the seven tasks"
        f" ({', '.join(f'{task} {count}' for task, count in mix.items())}), medians of {runs} paired runs. Ours"
        f" computes {tokens:,} tokens where choices one by one have {alone:,} ({alone / tokens:.2f} times as many), and"
        f" the output head at {heads:,} positions; it reaches {work / seconds / peak:.0%} of the machine's"
        f" matrix-product peak ({peak / 1e9:,.0f} GFLOP/s in its precision; attention not counted). Laying choices out"
        f" takes {laying_out:.2f} s, once for all models of a tokenizer, and is not timed.\n\n**Speed:**"
        f" {min(ratios):.2f} times that of lm-eval's backend at the best of these batch sizes."
    )
    return told, lines, {"ratios": ratios, "tokens": tokens, "tokens_alone": alone, "head_positions": heads,
                         "lay_out_seconds": laying_out, "peak_flops": peak}


def equality(of: Measured, each: int, exact: int) -> tuple[str, dict[str, Any]]:
    """What there is to say, and numbers: predictions and log-likelihoods on so many items of each task."""
    checked = of.requests(dict.fromkeys(TASKS, each))
    mine, theirs = of.items(of.spec, checked), of.items(of.lm_eval(8), checked)
    choices = checked.tokenised(backend_of(of.model, of.tokenizer, of.spec))
    careful = HFLM(pretrained=of.model, tokenizer=of.tokenizer, batch_size=8, add_bos_token=of.spec.bos,
                   backend="causal", softmax_dtype="float64")
    exact_softmax = torch.tensor([one for one, _ in careful._loglikelihood_tokens(choices, disable_tqdm=True)],
                                 dtype=torch.float64)
    found, plain = _log_likelihoods(mine), _log_likelihoods(theirs)
    differing, differing_careful = (
        sum(int((mine[name] != items[name]).sum()) for name in ("acc", "acc_norm"))
        for items in (theirs, item_table(checked.questions, exact_softmax.tolist())))
    furthest, furthest_careful = (float((found - other).abs().max()) for other in (plain, exact_softmax))
    mine_off, theirs_off = _from_float64(of.model, choices, found, plain, exact)
    told = (
        f"**Equality** on {len(mine):,} items ({each} a task at most): {differing} predictions differ, log-likelihoods"
        f" by at most {furthest:.1e} nats; {differing_careful}, and by at most {furthest_careful:.1e}, where lm-eval's"
        f" backend takes its log-softmax in float64 (`softmax_dtype`). In the {exact} choices of the largest"
        f" log-likelihoods ours is at most {mine_off:.1e} nats from what the model computes in float64, lm-eval's"
        f" backend {theirs_off:.1e}."
    )
    return told, {
        "items_compared": len(mine), "predictions_that_differ": differing, "largest_difference_nats": furthest,
        "predictions_that_differ_float64_softmax": differing_careful,
        "largest_difference_nats_float64_softmax": furthest_careful,
        "furthest_from_float64_nats": {"ours": mine_off, "lm_eval": theirs_off}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    measuring.model_options(parser)
    parser.add_argument("--items", type=int, default=280, help="timed, in the natural mix; default: 280")
    parser.add_argument("--check", type=int, default=200, help="items per task that are compared; default: 200")
    parser.add_argument("--exact", type=int, default=40, help="choices computed in float64, too; default: 40")
    parser.add_argument("--batches", default="", help="sizes of lm-eval's backend; default: from 4 on, doubled")
    parser.add_argument("--runs", type=int, default=3, help="paired runs a batch size; default: 3")
    options = parser.parse_args()
    measuring.without_plans()
    profile, model = measuring.pruned_model(options)
    of = Measured(options, profile, model, load_tokenizer(base_model_folder(profile.base_model)),
                  EvaluationSpec(TASKS, "report", None, profile.evaluation.item_seed, 1))
    mix = {task: max(1, round(options.items * size / sum(SIZES.values()))) for task, size in SIZES.items()}
    said, lines, numbers = speed(of, mix)
    added, more = equality(of, options.check, options.exact)
    name, label = measuring.named("evaluation", options.profile, model.device, options.block, options.shape,
                                  options.dtype)
    measuring.write(options.out, name, "Evaluation: shared contexts against lm-eval's backend",
                    f"{label}, {said} {added}", lines, {"options": measuring.told(options)} | numbers | more)


@torch.no_grad()
def _from_float64(
    model: PreTrainedModel, pairs: Sequence[TokenisedPair], mine: torch.Tensor, others: torch.Tensor, count: int
) -> tuple[float, float]:
    """How far log-likelihoods, (choices,) each, are from float64 at most, in nats, in those where they are largest."""
    exact = copy.deepcopy(model).double()
    off = []
    for choice in mine.argsort()[:count].tolist():
        _, context, continuation = pairs[choice]
        given = torch.tensor([context + continuation], device=model.device)
        logits = exact(given[:, :-1]).logits[0, len(context) - 1 :].log_softmax(-1)  # (scored tokens, vocabulary)
        truth = float(logits.gather(1, given[0, len(context) :, None]).sum())
        off.append((abs(float(mine[choice]) - truth), abs(float(others[choice]) - truth)))
    return max(one for one, _ in off), max(other for _, other in off)


def _log_likelihoods(items: pd.DataFrame) -> torch.Tensor:
    """Of all choices, item by item.  # (choices,)"""
    return torch.tensor([one for item in items["log_likelihoods"] for one in item], dtype=torch.float64)


if __name__ == "__main__":
    main()
