"""Zero-shot scores of a user's model, dense or pruned, with an adapter or without."""

from pathlib import Path

import numpy as np
import pandas as pd

from rankadaptor.data.benchmarks import evaluation_rows, tasks_in
from rankadaptor.data.hub import checkpoint_folder
from rankadaptor.data.sources import Source
from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.items import task_metrics
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.gate import check_checkpoint
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.profiles import load_profile
from rankadaptor.recovery.adapters import load_adapter
from rankadaptor.recovery.merging import merged
from rankadaptor.statistics import wilson_interval

BATCH_SIZE = 16  # of lm-eval's own backend
_WHEEL_PROFILE = "smollm2"  # pins the wheel of the seven benchmarks


def model_folder(model: Path | str) -> Path:
    """Folder of a LLaMA, dense or pruned. Raises BadInput if it is none."""
    folder = checkpoint_folder(str(model))
    check_checkpoint(folder, pruned=True)
    return folder


def benchmark_source(folder: Path | str) -> Source:
    """A folder of benchmarks, or the wheel that holds the seven where the name is empty."""
    return Source("dir", str(folder), None) if folder else load_profile(_WHEEL_PROFILE).benchmarks


def task_names(text: str, source: Source) -> tuple[str, ...]:
    """Benchmarks named in a text such as "piqa arc_easy", each once; all that the source holds where it is empty."""
    return tuple(dict.fromkeys(text.replace(",", " ").split())) or tasks_in(source)


def scores(
    model: Path | str, adapter: Path | str = "", benchmarks: Path | str = "", tasks: str = "", items: int | None = None,
    bos: bool = False,
) -> pd.DataFrame:
    """Zero-shot scores of a LLaMA, dense or pruned, with an adapter or without, on the report split.

    Args:
        adapter: Folder of a PEFT adapter in safetensors.
        benchmarks, tasks: As of `user_model.user_model`.
        items: At most so many a task; None for all.
        bos: Whether one BOS stands in front of every question.

    Returns:
        One row per task and one of their mean: metric, score with its 95 % interval (Wilson; of single tasks), gold
        probability, as proportions; items.
    """
    folder, source = model_folder(model), benchmark_source(benchmarks)
    spec = EvaluationSpec(task_names(tasks, source), "report", items, 0, BATCH_SIZE, bos=bos)
    rows = {task: evaluation_rows(source, task, "report", items, spec.item_seed, 0) for task in spec.tasks}
    loaded = load_model(folder)
    if adapter:
        loaded = merged(load_adapter(loaded, Path(adapter)))
    outcomes = evaluate(loaded, load_tokenizer(folder), spec, Requests(spec, rows, source))
    lines = []
    for task, metrics in task_metrics(outcomes).items():
        count = round(metrics["items"])
        interval = wilson_interval(round(metrics[BENCHMARKS[task].metric] * count), count)
        lines.append({"task": task, "metric": BENCHMARKS[task].metric, "score": interval.value, "low": interval.low,
                      "high": interval.high, "gold probability": metrics["gold_probability"], "items": count})
    frame = pd.DataFrame(lines)
    mean = {"task": "mean", "metric": "", "score": frame["score"].mean(), "low": np.nan, "high": np.nan,
            "gold probability": frame["gold probability"].mean(), "items": frame["items"].sum()}
    return pd.concat([frame, pd.DataFrame([mean])], ignore_index=True)
