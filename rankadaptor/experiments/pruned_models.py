"""The pruned models of a profile, looked into: which units went, how important they were, what that did to the model.

    models = pruned_models(profile="tiny").run()    # prunes and measures what the ledger lacks
    models.head_rates()     # of every KV head, the first rate at which it goes
    models.losses()         # parameters left, multiply-accumulates, perplexity
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.architecture import Architecture
from rankadaptor.evaluation.footprint import footprint
from rankadaptor.experiments.parameters import DEFAULT_LEDGER, Words, named_ledger, named_profile, parse_blocks
from rankadaptor.experiments.skeleton import ProfileExperiment, Run
from rankadaptor.pipeline.execution import Batches
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pruning.spec import Block


def pruned_models(profile: str, blocks: Words = "", ledger: Path | str = DEFAULT_LEDGER) -> "PrunedModels":
    """Every block of a profile, or some.

    Args:
        profile: Name of a profile, or path of a YAML file.
        blocks: Such as "llm-pruner:20 shortened:50"; empty for all.
        ledger: Folder of finished results.

    Raises:
        BadInput: on anything unknown.
    """
    source = named_profile(profile)
    return PrunedModels(named_ledger(ledger), source, parse_blocks(blocks, source))


@dataclass(frozen=True)
class PrunedModels(ProfileExperiment):
    """See `pruned_models`."""

    blocks: tuple[Block, ...]

    @property
    def title(self) -> str:
        """Title of the plan."""
        return "Pruned models"

    @property
    def scores_tasks(self) -> bool:
        """Perplexity alone is measured."""
        return False

    def details(self) -> tuple[str, ...]:
        """Blocks."""
        return (f"blocks {', '.join(map(str, self.blocks))}",)

    def pieces(self, runner: Runner) -> list[Batches]:
        """The perplexities of the unpruned and of every pruned model."""
        return [self._measured(parent) for parent in (None, *map(self.prune, self.blocks))]

    def _measured(self, parent: Step | None) -> Batches:
        yield [self.perplexity(parent)]

    def perplexity(self, parent: Step | None) -> Step:
        """The perplexity of the base model (None) or of a pruned one."""
        return Step("perplexity", self.profile.evaluation.perplexity, parent)

    def collect(self, run: Run, outcomes: Sequence[Any]) -> "PrunedModelsResult":
        """Results that the ledger holds."""
        return PrunedModelsResult(self, run.runner, run.computed, tuple(run.keys))


class PrunedModelsResult:
    """The pruned models of a profile, read from the ledger.

    Attributes:
        computed: (stage, key) of every step that the run computed.
        stages: Keys of all that the page stands on.
    """

    def __init__(
        self, work: PrunedModels, runner: Runner, computed: tuple[tuple[str, str], ...], stages: tuple[str, ...]
    ):
        self._work, self._runner, self.computed, self.stages = work, runner, computed, stages
        self.profile, self.blocks, self.ledger = work.profile, work.blocks, work.ledger

    def keys(self) -> dict[str, list[str]]:
        """Keys of the pruned models and perplexities behind the page, by block."""
        keys = {"Dense": [self._runner.key(self._work.perplexity(None))]}
        for block in self.blocks:
            pruned = self._work.prune(block)
            keys[str(block)] = [self._runner.key(pruned), self._runner.key(self._work.perplexity(pruned))]
        return keys

    @property
    def dense(self) -> Architecture:
        """Shapes of the base model."""
        return self._runner.results.architecture(None)

    def of(self, pruner: str) -> list[Block]:
        """The blocks of one pruner, mildest first."""
        return sorted((b for b in self.blocks if b.pruner == pruner), key=lambda block: block.rate_percent)

    def importance(self, block: Block) -> Any:
        """`importance.json` of a block: see `pruning.checkpoints`."""
        return self._runner.results.read_json(self._work.prune(block), "importance.json")

    def kept_units(self, block: Block) -> Any:
        """`kept.json` of a block: see `pruning.checkpoints`."""
        return self._runner.results.read_json(self._work.prune(block), "kept.json")

    def head_rates(self) -> np.ndarray:
        """The first rate (percent) at which each KV head goes under LLM-Pruner, NaN if it always stays.

        Returns:
            (layers, most KV heads of a layer); NaN also where a layer has no such head.
        """
        rates = np.full((len(self.dense.layers), max(shape.kv_heads for shape in self.dense.layers)), np.nan)
        for block in reversed(self.of("llm-pruner")):  # the mildest overwrites the others
            for layer, units in enumerate(self.kept_units(block)["layers"]):
                gone = np.setdiff1d(np.arange(self.dense.layers[layer].kv_heads), units["kv_heads"])
                rates[layer, gone] = block.rate_percent
        return rates

    def block_rates(self) -> np.ndarray:
        """The first rate (percent) at which each decoder block goes under Shortened LLaMA, NaN if it always stays."""
        rates = np.full(len(self.dense.layers), np.nan)
        for block in reversed(self.of("shortened")):
            rates[np.setdiff1d(np.arange(len(rates)), self.kept_units(block)["blocks"])] = block.rate_percent
        return rates

    def losses(self) -> pd.DataFrame:
        """Cost of each rate: block, share of all parameters left, MACs of 64 tokens, perplexity; dense first."""
        lines = []
        for block in (None, *self.blocks):
            parent = None if block is None else self._work.prune(block)
            shapes = self._runner.results.architecture(parent)
            lines.append({
                "block": "Dense" if block is None else str(block),
                "parameters": shapes.parameters(),
                "parameters left (%)": 100 * shapes.parameters() / self.dense.parameters(),
                "multiply-accumulates of 64 tokens": shapes.macs(64),
                "perplexity": self._runner.results.perplexity(self._work.perplexity(parent)),
            })
        return pd.DataFrame(lines)

    def footprints(self, tokens: int = 64) -> pd.DataFrame:
        """Memory and speed of the dense and every pruned model, measured now, on this machine."""
        lines = []
        for block in (None, *self.blocks):
            step = None if block is None else self._work.prune(block)
            measured = footprint(self._runner.models.model(step), tokens)
            peak = "" if measured.peak_bytes is None else f"{measured.peak_bytes / 2**20:,.1f}"
            lines.append({
                "block": "Dense" if block is None else str(block),
                "weights (MiB)": measured.weight_bytes / 2**20,
                "peak of a forward pass (MiB)": peak,
                f"forward pass of {tokens} tokens (ms)": 1000 * measured.forward_seconds,
                "decoding (tokens/s)": measured.decode_tokens_per_second,
            })
        return pd.DataFrame(lines)
