"""Memory and time of importance: ours, and the plain way that keeps every gradient. `make bench-pruning`.

Each measurement runs in a process of its own. Memory is the highest resident size while importance is measured, over
what the process held before the weights were read, as a multiple of the weights' own size; on a GPU it is what PyTorch
allocated at most. glibc is told to give back what is freed, so that memory held means memory in use.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from transformers import PreTrainedModel

from rankadaptor.models import base_model_folder, load_model
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.importance import unit_importance

_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
CRITERIA = ("element1", "element2", "mixed")


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


def measure(profile: str, way: str, criterion: str, samples: int, tokens: int) -> dict[str, float]:
    """Peak memory over the weights, and seconds, in this process."""
    folder = base_model_folder(load_profile(profile).base_model)
    before = _resident_bytes()
    model = load_model(folder)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # not mapped from the file, whose pages the system may drop
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    windows = torch.randint(0, model.config.vocab_size, (samples, tokens), generator=torch.Generator().manual_seed(0))
    windows = windows.to(model.device)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    if way == "plain":
        plain_importance(model, windows, criterion)
    else:
        unit_importance(model, windows, criterion)
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    used = torch.cuda.max_memory_allocated() if model.device.type == "cuda" else peak[0] - before
    return {"memory": used / weights, "seconds": seconds}


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="smollm2")
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "CRITERION"), help="measure in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.profile, *options.one, options.samples, options.tokens)))
        return
    print(f"{options.profile}, {options.samples} windows of {options.tokens} tokens\n")
    print(f"{'importance':<12}{'plain: memory':>14}{'time':>9}{'ours: memory':>14}{'time':>9}{'speed-up':>10}")
    for criterion in CRITERIA:
        found = {}
        for way in ("plain", "ours"):
            command = [sys.executable, __file__, "--profile", options.profile, "--samples", str(options.samples),
                       "--tokens", str(options.tokens), "--one", way, criterion]
            found[way] = json.loads(subprocess.run(
                command, check=True, capture_output=True, text=True, env=os.environ | _GIVE_BACK).stdout)
        plain, ours = found["plain"], found["ours"]
        print(f"{criterion:<12}{plain['memory']:>12.2f} x{plain['seconds']:>7.1f} s{ours['memory']:>12.2f} x"
              f"{ours['seconds']:>7.1f} s{plain['seconds'] / ours['seconds']:>9.1f}x", flush=True)


if __name__ == "__main__":
    main()
