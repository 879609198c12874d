"""The pruned models of a profile, looked into: which units went, how important they were, what that did to the model.

    models = pruned_models(profile="tiny")
    models.compute()        # prunes and measures what the ledger lacks
    models.head_rates()     # of every KV head, the first rate at which it goes
    models.losses()         # parameters left, multiply-accumulates, perplexity
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.architecture import Architecture
from rankadaptor.evaluation.footprint import footprint
from rankadaptor.experiments.parameters import DEFAULT_LEDGER, Words, parse_blocks
from rankadaptor.experiments.plan import missing_steps, steps_cost
from rankadaptor.experiments.progress import ProgressBar, run_missing
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.pruning.spec import Block, PruningMethod


def pruned_models(profile: str, blocks: Words = "", ledger: Path | str = DEFAULT_LEDGER) -> "PrunedModels":
    """Every block of a profile, or some.

    Args:
        profile: Name of a profile, or path of a YAML file.
        blocks: Such as "llm-pruner:20 shortened:50"; empty for all.
        ledger: Folder of finished results.

    Raises:
        BadInput: on anything unknown.
    """
    chosen = load_profile(profile)
    return PrunedModels(chosen, parse_blocks(blocks, chosen), Ledger(ledger))


class PrunedModels:
    """See `pruned_models`."""

    def __init__(self, profile: Profile, blocks: Sequence[Block], ledger: Ledger):
        self.profile, self.blocks = profile, tuple(blocks)
        self._bar = ProgressBar(profile.cost)
        self.ledger = ledger
        self._runner = Runner(profile.inputs(), ledger, self._bar.on_progress)

    def plan(self) -> str:
        """What would run, and for how long."""
        return steps_cost(missing_steps(self._runner, self._steps()), self.profile.cost)

    def is_complete(self) -> bool:
        """Whether the ledger holds every stage."""
        return not missing_steps(self._runner, self._steps())

    def compute(self) -> int:
        """Run what the ledger lacks; returns how many stages that was."""
        self._runner.computed.clear()
        run_missing(self._runner, self._bar, self._steps(), self.profile.cost)
        return len(self._runner.computed)

    def _steps(self) -> Iterator[Step]:
        for parent in (None, *map(self._prune, self.blocks)):
            yield self._perplexity(parent)

    def _prune(self, block: Block) -> Step:
        return Step("prune", self.profile.prune_spec(block))

    def _perplexity(self, parent: Step | None) -> Step:
        return Step("perplexity", self.profile.evaluation.perplexity, parent)

    def keys(self) -> dict[str, list[str]]:
        """Of the pruned models and the perplexities behind the page, in the ledger, by block."""
        blocks = {str(block): self._prune(block) for block in self.blocks}
        keys = {"Dense": [self._runner.key(self._perplexity(None))]}
        return keys | {name: [self._runner.key(step), self._runner.key(self._perplexity(step))]
                       for name, step in blocks.items()}

    # -- what came out ------------------------------------------------------------------------------------------------

    @property
    def dense(self) -> Architecture:
        return self._runner.results.architecture(None)

    def of(self, pruner: PruningMethod) -> list[Block]:
        """The blocks of one pruner, mildest first."""
        return sorted((b for b in self.blocks if b.pruner == pruner), key=lambda block: block.rate_percent)

    def importance(self, block: Block) -> Any:
        """`importance.json` of a block: see `pruning.checkpoints`."""
        return self._runner.results.read_json(self._prune(block), "importance.json")

    def kept(self, block: Block) -> Any:
        """`kept.json` of a block: see `pruning.checkpoints`."""
        return self._runner.results.read_json(self._prune(block), "kept.json")

    def head_rates(self) -> np.ndarray:
        """The first rate (percent) at which each KV head goes under LLM-Pruner, NaN if it always stays.

        Returns:
            (layers, most KV heads of a layer); NaN also where a layer has no such head.
        """
        rates = np.full((len(self.dense.layers), max(shape.kv_heads for shape in self.dense.layers)), np.nan)
        for block in reversed(self.of("llm-pruner")):  # the mildest overwrites the others
            for layer, units in enumerate(self.kept(block)["layers"]):
                gone = np.setdiff1d(np.arange(self.dense.layers[layer].kv_heads), units["kv_heads"])
                rates[layer, gone] = block.rate_percent
        return rates

    def block_rates(self) -> np.ndarray:
        """The first rate (percent) at which each decoder block goes under Shortened LLaMA, NaN if it always stays."""
        rates = np.full(len(self.dense.layers), np.nan)
        for block in reversed(self.of("shortened")):
            rates[np.setdiff1d(np.arange(len(rates)), self.kept(block)["blocks"])] = block.rate_percent
        return rates

    def losses(self) -> pd.DataFrame:
        """What each rate costs: block, share of all parameters left, MACs of 64 tokens, perplexity; dense first."""
        lines = []
        for block in (None, *self.blocks):
            parent = None if block is None else self._prune(block)
            shapes = self._runner.results.architecture(parent)
            lines.append({
                "block": "Dense" if block is None else str(block),
                "parameters": shapes.parameters(),
                "parameters left (%)": 100 * shapes.parameters() / self.dense.parameters(),
                "multiply-accumulates of 64 tokens": shapes.macs(64),
                "perplexity": self._runner.results.perplexity(self._perplexity(parent)),
            })
        return pd.DataFrame(lines)

    def footprints(self, tokens: int = 64) -> pd.DataFrame:
        """Memory and speed of the dense and every pruned model, measured now, on this machine."""
        lines = []
        for block in (None, *self.blocks):
            found = footprint(self._runner.models.model(None if block is None else self._prune(block)), tokens)
            lines.append({
                "block": "Dense" if block is None else str(block),
                "weights (MiB)": found.weight_bytes / 2**20,
                "peak of a forward pass (MiB)": "" if found.peak_bytes is None else f"{found.peak_bytes / 2**20:,.1f}",
                f"forward pass of {tokens} tokens (ms)": 1000 * found.forward_seconds,
                "decoding (tokens/s)": found.decode_tokens_per_second,
            })
        return pd.DataFrame(lines)
