"""prune and measure: a checkpoint of one's own, pruned and looked at; and `plan prune`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankadaptor.commands.groups import Model, Out, registered
from rankadaptor.destinations import require_new_folder
from rankadaptor.errors import BadInput, check_name

if TYPE_CHECKING:
    from rankadaptor.architecture import Architecture
    from rankadaptor.pruning.spec import PruneSpec

_WIDTH = "llm-pruner"


def criteria_by_pruner() -> list[str]:
    """Criteria of importance, such as "shortened: taylor, perplexity, magnitude"."""
    from rankadaptor.pruning.spec import PRUNERS

    return ["; ".join(f"{name}: {', '.join(pruner.criteria)}" for name, pruner in PRUNERS.items())]


@dataclass(frozen=True)
class PruningOptions:
    """What is pruned, and how."""

    model: Model
    method: Annotated[str, typer.Option(help="{pruners}: width or depth.")] = _WIDTH
    importance: Annotated[str, typer.Option(help="{criteria}; the first by default.")] = ""
    ratio: Annotated[float | None, typer.Option(
        help="llm-pruner: share of heads and channels that goes from each layer.")] = None
    share: Annotated[float | None, typer.Option(
        help="llm-pruner: solve the MLP width for this share of the decoder.")] = None
    blocks: Annotated[int | None, typer.Option(help="shortened: how many decoder blocks go.")] = None
    layers: Annotated[str, typer.Option(
        metavar="FIRST:END", help="0-based, END excluded; by default 4:30 of 32 and 4:36 of 40, as in the paper; else"
        " the first eighth and the last sixteenth stay.")] = ""
    mlp_layers: Annotated[str, typer.Option(metavar="FIRST:END", help="Of MLP channels, where not the same.")] = ""
    reduction: Annotated[str, typer.Option(help="Over the tensors of a group: {reductions}.")] = "sum"
    ranking: Annotated[str, typer.Option(help="local or global.")] = "local"
    iterations: Annotated[int, typer.Option(help="Steps to the rate, importance measured anew before each.")] = 1
    uniform_width: Annotated[bool, typer.Option(
        "--uniform-width", help="Every layer alike: a plain LLaMA checkpoint.")] = False
    samples: Annotated[int, typer.Option(help="Calibration windows.")] = 10
    tokens: Annotated[int, typer.Option(help="Of a window; 0: 64 of llm-pruner, 128 of shortened.")] = 0
    seed: Annotated[int, typer.Option(help="Of the calibration windows.")] = 42

    def spec(self, dense: "Architecture") -> "PruneSpec":
        """The pruning of a model.

        Raises:
            BadInput: on options that contradict each other, or that the pruner refuses.
        """
        from rankadaptor.experiments.parameters import number_range, whole_number
        from rankadaptor.pruning.folders import default_range
        from rankadaptor.pruning.spec import PRUNERS, PruneSpec

        check_name("pruner", self.method, registered("pruners"))
        pruner = PRUNERS[self.method]
        if self.uniform_width and self.layers:
            raise BadInput(f"layers {self.layers} was given with uniform width, which prunes all: leave one out")
        first, end = number_range(self.layers) if self.layers else default_range(len(dense.layers))
        return PruneSpec(
            method=self.method,
            rate_percent=round(100 * _finite(self.share or self.ratio or 0)),
            importance=self.importance or pruner.criteria[0],
            first_layer=first,
            end_layer=end,
            ratio=self.ratio,
            decoder_share=self.share,
            blocks_removed=self.blocks,
            calibration_samples=self.samples,
            calibration_tokens=self.tokens or pruner.window_tokens,
            seed=whole_number("seed", self.seed, 0),
            group_reduction=self.reduction,  # type: ignore[arg-type]
            ranking=self.ranking,  # type: ignore[arg-type]
            iterations=self.iterations,
            mlp_range=number_range(self.mlp_layers) if self.mlp_layers else None,
            uniform_width=self.uniform_width,
        )


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise BadInput(f"ratio or share is {number}: give a number between 0 and 1")
    return number


def prune(
    options: PruningOptions,
    out: Out,
    calibration: Annotated[Path, typer.Option(
        metavar="FILE", help="Text with blank lines between documents, or .json: a list of token-id lists, as it is.")],
) -> None:
    """Prune a LLaMA checkpoint."""
    from rankadaptor.data.hub import checkpoint_folder
    from rankadaptor.models.gate import check_llama, read_architecture
    from rankadaptor.pruning.folders import prune_folder, summary

    require_new_folder("out", out)
    dense = check_llama(checkpoint_folder(options.model, weights=False))
    pruned = prune_folder(options.model, options.spec(dense), calibration, out)
    dense = check_llama(checkpoint_folder(options.model))  # with its weights, which tell whether embeddings are tied
    print(f"{pruned}: {summary(dense, read_architecture(pruned))}")


def plan_prune(options: PruningOptions) -> None:
    """Print sizes of a pruned LLaMA. Reads its configuration alone; MODEL may be a published one, such as llama-7b."""
    from rankadaptor.data.hub import checkpoint_folder
    from rankadaptor.models.gate import check_llama
    from rankadaptor.pruning import pruned_shapes
    from rankadaptor.pruning.folders import summary
    from rankadaptor.pruning.spec import PRUNERS
    from rankadaptor.reporting.paper import published_architecture

    name = options.model
    if "/" in name or Path(name).is_dir():
        dense = check_llama(checkpoint_folder(name, weights=False))
    else:
        dense = published_architecture(name)
    print(f"{name}: {summary(dense, pruned_shapes(dense, options.spec(dense)))}")
    if PRUNERS[options.method].kind == "depth":
        print("which blocks go depends on the weights: the first of the range stand for them here")


def measure(
    model: Model,
    text: Annotated[str, typer.Option(help="File, or folder of .txt files, to take the perplexity of.")] = "",
    max_windows: Annotated[int | None, typer.Option(help="Of 128 tokens; all of the text by default.")] = None,
) -> None:
    """Print what a LLaMA costs. Parameters, multiply-accumulates, memory, latency and perplexity; dense or pruned."""
    from rankadaptor.experiments.measure import measure_folder

    print(measure_folder(model, text or None, max_windows))
