"""Memory and time of importance: ours, and the plain way that keeps every gradient. `make bench-pruning`.

Each measurement runs in a process of its own. Memory is the highest resident size while importance is measured, over
what the process held before the weights were read, as a multiple of the weights' own size; on a GPU it is what PyTorch
allocated at most. glibc is told to give back what is freed, so that memory held means memory in use. Runs are paired,
the plain way first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measuring
import torch
from transformers import PreTrainedModel

from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.checkpoints import default_device, load_model
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.importance import unit_importance
from rankadaptor.reporting.paper import published_architecture

_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
CRITERIA = ("element1", "element2", "mixed")
WAYS = ("plain", "ours")


def plain_importance(model: PreTrainedModel, windows: torch.Tensor, criterion: str) -> None:
    """As LLM-Pruner does it: one backward pass over the batch with a gradient for every parameter, and for the
    second-order kinds one more pass a window, squares summed up in a third copy of the model."""
    squares: dict[str, torch.Tensor] = {}
    if criterion != "element1":
        for window in windows:
            model(input_ids=window[None], labels=window[None], use_cache=False).loss.backward()
            for name, parameter in model.named_parameters():
                square = parameter.grad**2 / len(windows)
                squares[name] = squares[name] + square if name in squares else square
            model.zero_grad()
    model(input_ids=windows, labels=windows, use_cache=False).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            salience = 0.0 if criterion == "element2" else parameter * parameter.grad
            if criterion != "element1":
                salience = salience + parameter * squares[name] * parameter * (1.0 if criterion == "element2" else -0.5)
            salience.abs().sum(1)
    model.zero_grad()


def measure(options: argparse.Namespace, way: str, criterion: str) -> dict[str, Any]:
    """Peak memory over the weights, seconds, and operations that one pass over the windows needs, in this process."""
    folder = base_model_folder(load_profile(options.profile).base_model)
    before = _resident_bytes()
    if options.shape:
        model = measuring.random_model(published_architecture(options.shape))
    else:
        model = load_model(folder)
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()  # not mapped from the file, whose pages the system may drop
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    windows = torch.randint(0, model.config.vocab_size, (options.samples, options.tokens),
                            generator=torch.Generator().manual_seed(0)).to(model.device)

    def run(some: torch.Tensor) -> None:
        if way == "plain":
            plain_importance(model, some, criterion)
        else:
            unit_importance(model, some, criterion)

    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    memory = measuring.PeakMemory(model.device)
    if model.device.type == "cuda":
        run(windows[:1])  # a GPU's first pass loads what later ones have
    memory.begin()
    began = measuring.now(model.device)
    run(windows)
    seconds = measuring.now(model.device) - began
    done.set()
    watcher.join()
    used = memory.held() or peak[0] - before
    # A multiplication and an addition for each number of a matrix: forward, and backward to inputs and to weights.
    matrices = measuring.body_parameters(model) + model.lm_head.weight.numel()
    return {"memory": used / weights, "seconds": seconds, "operations": 6 * windows.numel() * matrices,
            "precision": str(model.dtype).removeprefix("torch.")}


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="smollm2")
    parser.add_argument("--shape", default="", help="a model such as llama-7b, whose shapes random weights are given")
    parser.add_argument("--criteria", default=" ".join(CRITERIA))
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3, help="paired runs of each kind of importance; default: 3")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "CRITERION"), help="measure in this process, print JSON")
    measuring.out_option(parser)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options, *options.one)))
        return
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    criteria = options.criteria.split()
    for criterion in criteria:
        for _ in range(options.runs):
            for way in WAYS:
                command = [sys.executable, __file__, "--profile", options.profile, "--shape", options.shape,
                           "--samples", str(options.samples), "--tokens", str(options.tokens), "--one", way, criterion]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | _GIVE_BACK)
                runs.setdefault((criterion, way), []).append(json.loads(done.stdout))
    precision = runs[criteria[0], "ours"][0]["precision"]
    peak = measuring.matrix_product_peak(default_device(), getattr(torch, precision))
    table = [_line(criterion, runs[criterion, "plain"], runs[criterion, "ours"], peak) for criterion in criteria]
    name, label = measuring.named("pruning", options.profile, default_device(), shape=options.shape)
    about = (
        f"{label}, {options.samples} windows of {options.tokens} tokens, medians of {options.runs}"
        " paired runs, each in a process of its own. Memory is the highest held while importance is measured, the"
        " weights included, as a multiple of the weights' size. Share of peak: what one pass forward and backward"
        f" needs, of the machine's matrix-product peak ({peak / 1e9:,.0f} GFLOP/s in {precision})."
    )
    told = {name: value for name, value in measuring.told(options).items() if name != "one"}
    measuring.write(options.out, name, "Importance: one pass against a gradient for every parameter", about,
                    table, {"options": told, "peak_flops": peak,
                            "runs": {" ".join(key): values for key, values in runs.items()}})


def _line(
    criterion: str, plain: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]], peak: float
) -> dict[str, Any]:
    def median(runs: Sequence[dict[str, Any]], what: str) -> float:
        return statistics.median(run[what] for run in runs)

    ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(plain, ours, strict=True))
    return {
        "importance": criterion,
        "plain: memory": f"{median(plain, 'memory'):.2f}", "plain: seconds": f"{median(plain, 'seconds'):.2f}",
        "ours: memory": f"{median(ours, 'memory'):.2f}", "ours: seconds": f"{median(ours, 'seconds'):.2f}",
        "ours is faster by": f"{ratio:.2f}",
        "ours: share of peak": f"{median(ours, 'operations') / median(ours, 'seconds') / peak:.0%}",
    }  # fmt: skip


if __name__ == "__main__":
    main()
