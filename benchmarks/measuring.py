"""What the benchmarks share: the machine's own peak, and one way of writing down what was measured."""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rankadaptor import provenance
from rankadaptor.ledger import Ledger
from rankadaptor.products import product
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.specs import Block
from rankadaptor.stages import Step, Workshop

REPORTS = Path(__file__).parents[1] / "reports" / "benchmarks"


def pruned_model(profile: str, block: str, ledger: str) -> tuple[Profile, PreTrainedModel]:
    """A profile, and one of its pruned models: from the ledger, or pruned now."""
    chosen = load_profile(profile)
    step = Step("prune", chosen.prune_spec(Block.parse(block)))
    return chosen, Workshop(chosen, Ledger(ledger)).model(step)


def matrix_product_peak(device: torch.device, seconds: float = 1.0) -> float:
    """Floating-point operations a second of the best square float32 product, a multiplication and an addition each.

    Of our products: on a CPU the faster one of MKL and oneDNN is not always what PyTorch takes.
    """
    best = 0.0
    for size in (512, 1024, 2048):
        a, b = (torch.randn(size, size, device=device) for _ in range(2))
        product(a, b)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            product(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize()
            count += 1
        best = max(best, 2 * size**3 * count / (time.perf_counter() - began))
    return best


def body_parameters(model: PreTrainedModel) -> int:
    """Of the decoder's matrices: what each token is multiplied by."""
    return sum(parameter.numel() for parameter in model.model.layers.parameters() if parameter.dim() == 2)


def told(options: argparse.Namespace) -> dict[str, Any]:
    """The options of a benchmark as its record has them: where this machine keeps its ledger is no part of it."""
    return {name: value for name, value in vars(options).items() if name != "ledger"}


def write(name: str, title: str, about: str, table: Sequence[dict[str, Any]], more: dict[str, Any]) -> Path:
    """Write reports/benchmarks/NAME.md and .json, with machine and versions; prints the table."""
    columns = list(table[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    lines += ["| " + " | ".join(str(line[column]) for column in columns) + " |" for line in table]
    text = f"# {title}\n\n{about}\n\n" + "\n".join(lines) + "\n"
    machine = provenance.machine()
    text += (f"\nMachine: {machine['processor']}, {machine['cores']} cores, {machine['torch_threads']} threads,"
             f" accelerator {machine['accelerator'] or 'none'}; Python {machine['python']}, "
             + ", ".join(f"{package} {version}" for package, version in machine["versions"].items()) + ".\n")
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / f"{name}.md"
    path.write_text(text)
    path.with_suffix(".json").write_text(
        json.dumps({"table": list(table), "machine": machine} | more, indent=1, sort_keys=True) + "\n")
    print(text)
    return path
