"""testbed: the embedded model, made anew and scored."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from rankadaptor.commands.groups import Command, group
from rankadaptor.destinations import require_writable

testbed = group("Make the embedded model anew, and score it.")


@testbed.command("pretrain", cls=Command)
def pretrain_model(
    folder: Path,
    changes: Annotated[list[str] | None, typer.Option(
        "--set", metavar="NAME=VALUE", help="Change the recipe; may be given several times.")] = None,
) -> None:
    """Train the embedded model in FOLDER; resumes (20 minutes)."""
    from rankadaptor.experiments.embedded_model import pretrain_with

    require_writable("the model", folder)
    print(pretrain_with(folder, changes or []))


@testbed.command("score", cls=Command)
def score_model(folder: Path) -> None:
    """Print the accuracy of a model folder on every split, and write it to scores.json there."""
    from rankadaptor.experiments.embedded_model import score_splits

    if folder.is_dir():  # else it holds no model, which is the error
        require_writable("scores.json", folder)
    score_splits(folder, _print_split)


def _print_split(split: str, scores: Mapping[str, float]) -> None:
    print(split, " ".join(f"{task} {100 * value:.1f}" for task, value in scores.items()), flush=True)
