"""`python -m rankadaptor.testbed pretrain FOLDER`: the embedded model, from nothing; `score FOLDER` scores one."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rankadaptor.errors import ArgumentParser, BadInput
from rankadaptor.testbed.world import SPLITS


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 on bad input."""
    parser = ArgumentParser(prog="rankadaptor.testbed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    pretrain = commands.add_parser("pretrain", help="train the embedded model in FOLDER; resumes (20 minutes)")
    pretrain.add_argument("folder", type=Path, metavar="FOLDER")
    pretrain.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="change the recipe")
    score = commands.add_parser("score", help="accuracy of a model folder on every split; writes scores.json there")
    score.add_argument("folder", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    try:
        _pretrain(options.folder, options.set) if options.command == "pretrain" else _score(options.folder)
    except BadInput as error:
        print(f"rankadaptor.testbed: {error}", file=sys.stderr)
        return 2
    return 0


def _pretrain(folder: Path, changes: Sequence[str]) -> None:
    from rankadaptor.experiments.pretraining import PretrainingRecipe, pretrain
    from rankadaptor.recovery.prompts import alpaca_prompt
    from rankadaptor.testbed.corpus import recovery_rows

    types = {name: type(value) for name, value in asdict(PretrainingRecipe()).items()}
    given = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            given[name] = types[name](value)
        except (KeyError, ValueError):
            raise BadInput(f"{change!r} is no change of the recipe: write NAME=VALUE with NAME one of"
                           f" {', '.join(types)}") from None
    recipe = PretrainingRecipe(**given)
    prompts = [alpaca_prompt(row) for row in recovery_rows(recipe.world_seed) if row["instruction"]]
    print(pretrain(recipe, folder, prompts))


def _score(folder: Path) -> None:
    from rankadaptor.data.sources import Source
    from rankadaptor.data.tasks import BENCHMARKS, TASKS
    from rankadaptor.evaluation import Requests, evaluate
    from rankadaptor.evaluation.items import task_metrics
    from rankadaptor.evaluation.spec import EvaluationSpec
    from rankadaptor.models.checkpoints import load_model, load_tokenizer
    from rankadaptor.testbed.tasks import task_rows
    from rankadaptor.testbed.world import SEED

    model, tokenizer = load_model(folder), load_tokenizer(folder)
    described = folder / "pretraining.json"
    seed = json.loads(described.read_text())["recipe"]["world_seed"] if described.is_file() else SEED
    world, scores = Source("testbed", str(seed), None), {}
    for split in SPLITS:
        spec = EvaluationSpec(TASKS, split, None, 0, 256)  # type: ignore[arg-type]
        requests = Requests(spec, {task: task_rows(task, split, seed) for task in TASKS}, world)
        metrics = task_metrics(evaluate(model, tokenizer, spec, requests))
        scores[split] = {task: round(metrics[task][BENCHMARKS[task].metric], 4) for task in TASKS}
        print(split, " ".join(f"{task} {100 * value:.1f}" for task, value in scores[split].items()))
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
