"""From lm-eval's samples to one row per item: outcome, normalised outcome and probability of the right choice."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

# The paper's metric for each task (LLM-Pruner's choice): acc_norm divides log-likelihoods by the choices' characters.
METRIC = {
    "boolq": "acc",
    "piqa": "acc",
    "hellaswag": "acc_norm",
    "winogrande": "acc",
    "arc_easy": "acc",
    "arc_challenge": "acc_norm",
    "openbookqa": "acc_norm",
}

COLUMNS = ("task", "item", "document_sha256", "gold", "log_likelihoods", "choice_characters", "acc", "acc_norm",
           "gold_probability")


def gold_probability(log_likelihoods: np.ndarray, characters: np.ndarray, gold: int, metric: str) -> float:
    """Probability of the right choice: softmax over the choices' log-likelihoods, the gold entry.

    Args:
        log_likelihoods: One per choice, in nats.  # (choices,)
        characters: Length of each choice; divides where the metric is acc_norm.  # (choices,)
    """
    scores = log_likelihoods / characters if metric == "acc_norm" else log_likelihoods
    shifted = np.exp(scores - scores.max())
    return float(shifted[gold] / shifted.sum())


def item_table(samples: Mapping[str, Sequence[Mapping[str, Any]]], golds: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """One row per item, in the order of tasks and items.

    Args:
        samples: lm-eval's logged samples by task.
        golds: Index of the right choice of each item, by task, from the project's own reading of the data.

    Returns:
        Columns COLUMNS; `item` counts from 0 within the task.

    Raises:
        RuntimeError: if lm-eval's accuracy of an item differs from the one that its log-likelihoods and the gold
            index give: then one of the two has read the item wrongly.
    """
    rows = []
    for task, logged in samples.items():
        for sample in sorted(logged, key=lambda one: one["doc_id"]):
            item = sample["doc_id"]
            gold = golds[task][item]
            log_likelihoods = np.array([response[0] for response in sample["filtered_resps"]])
            characters = np.array(_choice_characters(task, sample["doc"], len(log_likelihoods)))
            acc = float(np.argmax(log_likelihoods) == gold)
            if acc != sample["acc"]:
                raise RuntimeError(f"{task} item {item}: lm-eval says acc {sample['acc']}, gold choice {gold} {acc}")
            normalised = float(np.argmax(log_likelihoods / characters) == gold)
            if normalised != sample.get("acc_norm", normalised):
                raise RuntimeError(f"{task} item {item}: lm-eval says acc_norm {sample['acc_norm']}, we {normalised}")
            probability = gold_probability(log_likelihoods, characters, gold, METRIC[task])
            values = (task, item, sample["doc_hash"], gold, log_likelihoods.tolist(), characters.tolist(), acc,
                      normalised, probability)
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _choice_characters(task: str, doc: Mapping[str, Any], count: int) -> list[int]:
    """Characters of each choice as lm-eval counts them for acc_norm."""
    if task == "boolq":
        return [len("no"), len("yes")]
    if task == "winogrande":
        # Both options are scored by the same continuation, so its length is no matter.
        return [1] * count
    if task == "piqa":
        return [len(doc["sol1"]), len(doc["sol2"])]
    if task == "hellaswag":
        return [len(choice) for choice in doc["choices"]]
    return [len(choice) for choice in doc["choices"]["text"]]


def task_metrics(items: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Means over the items of each task: acc, acc_norm, gold_probability, and how many items."""
    return {
        str(task): {
            "acc": float(group["acc"].mean()),
            "acc_norm": float(group["acc_norm"].mean()),
            "gold_probability": float(group["gold_probability"].mean()),
            "items": len(group),
        }
        for task, group in items.groupby("task", sort=False)
    }
