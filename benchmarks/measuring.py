"""What the benchmarks share: the machine's own peak, and one way of writing down what was measured."""

import argparse
import dataclasses
import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rankadaptor import machine as provenance
from rankadaptor.escaping import markdown_text
from rankadaptor.models.base_model import base_model_folder
from rankadaptor.models.kernels.products import product
from rankadaptor.models.random_models import random_model
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.pruning import pruned_shapes
from rankadaptor.pruning.spec import Block
from rankadaptor.reporting.paper import published_architecture

OUT = Path(__file__).parents[1] / "build" / "benchmarks"


def out_option(parser: argparse.ArgumentParser) -> None:
    """Where the record goes. Committed records change only where reports/benchmarks is named."""
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the record; default: build/benchmarks")


def model_options(parser: argparse.ArgumentParser) -> None:
    """What says which model is measured; see `pruned_model`."""
    parser.add_argument("--profile", default="smollm2", help="whose model, data and tokenizer; default: smollm2")
    parser.add_argument("--block", default="llm-pruner:20")
    parser.add_argument("--shape", default="", help="a profile such as llama-7b, whose shapes random weights are given")
    parser.add_argument("--dtype", default="", choices=("", "float32", "bfloat16"), help="default: as it is saved")
    parser.add_argument("--ledger", default="ledger")
    out_option(parser)


def pruned_model(options: argparse.Namespace) -> tuple[Profile, PreTrainedModel]:
    """A profile, and one of its pruned models: from the ledger, or pruned now; or random weights of another shape."""
    chosen, block = load_profile(options.profile), Block.parse(options.block)
    if options.shape:
        shape = pruned_shapes(published_architecture(options.shape), load_profile(options.shape).prune_spec(block))
        vocabulary = len(load_tokenizer(base_model_folder(chosen.base_model)))
        model = random_model(dataclasses.replace(shape, vocab_size=vocabulary))
    else:
        model = Runner(chosen.inputs(), Ledger(options.ledger)).models.model(Step("prune", chosen.prune_spec(block)))
    return chosen, model.to(getattr(torch, options.dtype)) if options.dtype else model


def named(
    kind: str, profile: str, device: torch.device, block: str = "", shape: str = "", dtype: str = ""
) -> tuple[str, str]:
    """What a record is called, and what it says of the model; as `model_options` has them."""
    chosen = load_profile(profile)
    label = f"random weights in the shape of {shape}, bfloat16" if shape else markdown_text(chosen.base_model.label)
    name = "-".join([kind, shape or chosen.name, *([dtype] if dtype else []),
                     *(["gpu"] if device.type == "cuda" else [])])
    return name, ", ".join([label, *([block] if block else []), *([f"as {dtype}"] if dtype else [])])


def without_plans() -> None:
    """cuDNN's attention plans every shape anew on a GPU, which in a short run would count against the others."""
    torch.backends.cuda.enable_cudnn_sdp(False)


def now(device: torch.device) -> float:
    """Seconds, once a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class PeakMemory:
    """Most memory of a GPU that was held since `begin`; nothing elsewhere."""

    def __init__(self, device: torch.device):
        self._device = device

    def begin(self) -> None:
        if self._device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)

    def held(self) -> int | None:
        """Bytes; None where there is no GPU."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None

    def column(self) -> dict[str, str]:
        """For a line of a table."""
        held = self.held()
        return {} if held is None else {"peak memory (GB)": f"{held / 1e9:.1f}"}


def matrix_product_peak(device: torch.device, dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> float:
    """Floating-point operations a second of the best square product, a multiplication and an addition each.

    Of our products: on a CPU the faster one of MKL and oneDNN is not always what PyTorch takes.
    """
    best = 0.0
    for size in (512, 1024, 2048) if device.type == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
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
    """The options of a benchmark as its record has them: where this machine keeps things is no part of it."""
    kept = {name: value for name, value in vars(options).items() if name not in ("ledger", "out")}
    return kept | {"profile": load_profile(options.profile).name}


def write(
    folder: Path, name: str, title: str, about: str, table: Sequence[dict[str, Any]], more: dict[str, Any]
) -> Path:
    """Write NAME.md and NAME.json into a folder, with machine and versions; prints the table."""
    columns = list(table[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    lines += ["| " + " | ".join(str(line[column]) for column in columns) + " |" for line in table]
    text = f"# {title}\n\n{about}\n\n" + "\n".join(lines) + "\n"
    machine = provenance.machine()
    text += (f"\nMachine: {machine['processor']}, {machine['cores']} cores, {machine['torch_threads']} threads,"
             f" accelerator {machine['accelerator'] or 'none'}; Python {machine['python']}, "
             + ", ".join(f"{package} {version}" for package, version in machine["versions"].items()) + ".\n")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(text)
    path.with_suffix(".json").write_text(
        json.dumps({"table": list(table), "machine": machine} | more, indent=1, sort_keys=True) + "\n")
    print(text)
    return path
