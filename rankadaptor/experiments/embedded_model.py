"""The embedded model: pretrained with changes of its recipe, and scored on every split."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.errors import BadInput, did_you_mean
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.items import task_metrics
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.experiments.pretraining import PretrainingRecipe, pretrain
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.recovery.prompts import alpaca_prompt
from rankadaptor.testbed.corpus import recovery_rows
from rankadaptor.testbed.tasks import task_rows
from rankadaptor.testbed.world import SEED, SPLITS


def pretrain_with(folder: Path, changes: Sequence[str]) -> Path:
    """Pretrain the embedded model in a folder; resumes.

    Args:
        changes: Fields of the recipe, as NAME=VALUE.

    Returns:
        The folder of the model.

    Raises:
        BadInput: on a change that is none, or a folder with a run of another recipe.
    """
    types = {name: type(value) for name, value in asdict(PretrainingRecipe()).items()}
    values = {}
    for change in changes:
        name, _, value = change.partition("=")
        try:
            values[name] = types[name](value.encode("ascii"))  # int() reads digits of other scripts, too
        except (KeyError, ValueError):
            raise BadInput(f"{change!r} is no change of the recipe: write NAME=VALUE with NAME one of"
                           f" {', '.join(types)}{did_you_mean(name, types.keys() - {name})}") from None
    recipe = PretrainingRecipe(**values)
    prompts = [alpaca_prompt(row) for row in recovery_rows(recipe.world_seed) if row["instruction"]]
    return pretrain(recipe, folder, prompts)


def score_splits(folder: Path, on_split: Callable[[str, dict[str, float]], None]) -> None:
    """Score a model on every split of the world that it was pretrained on, and write scores.json into its folder.

    Args:
        on_split: Called with every split and the accuracy of its tasks, as proportions.
    """
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    record = folder / "pretraining.json"
    seed = json.loads(record.read_text())["recipe"]["world_seed"] if record.is_file() else SEED
    world, scores = Source("testbed", str(seed), None), {}
    for split in SPLITS:
        spec = EvaluationSpec(TASKS, split, None, 0, 256)  # type: ignore[arg-type]
        requests = Requests(spec, {task: task_rows(task, split, seed) for task in TASKS}, world)
        metrics = task_metrics(evaluate(model, tokenizer, spec, requests))
        scores[split] = {task: round(metrics[task][BENCHMARKS[task].metric], 4) for task in TASKS}
        on_split(split, scores[split])
    (folder / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
