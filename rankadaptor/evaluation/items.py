"""Log-likelihoods become one row an item: outcome, normalised outcome and probability of the right choice."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.errors import NotFinite
from rankadaptor.evaluation.requests import Question

COLUMNS = ("task", "item", "document_sha256", "gold", "log_likelihoods", "choice_characters", "acc", "acc_norm",
           "gold_probability")


def gold_probability(log_likelihoods: np.ndarray, characters: np.ndarray, gold: int, metric: str) -> float:
    """Probability of the right choice: softmax over the choices' log-likelihoods, the gold entry.

    Args:
        log_likelihoods: One a choice, in nats.  # (choices,)
        characters: Length of each choice; divides where the metric is acc_norm.  # (choices,)
        gold: Index of the right choice.
        metric: "acc" or "acc_norm".
    """
    scores = log_likelihoods / characters if metric == "acc_norm" else log_likelihoods
    shifted = np.exp(scores - scores.max())
    return float(shifted[gold] / shifted.sum())


def item_table(questions: Sequence[Question], log_likelihoods: Sequence[float]) -> pd.DataFrame:
    """One row an item, in the order of the questions.

    Args:
        questions: All that were scored.
        log_likelihoods: Of every choice of every question, in order, in nats.

    Returns:
        Columns COLUMNS.

    Raises:
        NotFinite: if a log-likelihood is NaN or infinite: the largest of them would be no answer.
    """
    rows, start = [], 0
    not_finite: Counter[str] = Counter()
    for question in questions:
        end = start + len(question.choices)
        scores = np.array(log_likelihoods[start:end])
        start = end
        if not np.isfinite(scores).all():
            not_finite[question.task] += 1
            continue
        characters = np.array(question.choice_characters)
        probability = gold_probability(scores, characters, question.gold,
                                       BENCHMARKS[question.task].metric)
        values = (question.task, question.item, question.document_sha256, question.gold, scores.tolist(),
                  characters.tolist(), float(np.argmax(scores) == question.gold),
                  float(np.argmax(scores / characters) == question.gold), probability)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    if not_finite:
        totals = Counter(question.task for question in questions)
        counts = ", ".join(f"{count} of {totals[task]} items of {task}" for task, count in not_finite.items())
        raise NotFinite(f"log-likelihoods are NaN or infinite in {counts}: check the model's weights, or give them a"
                        " type of wider range, such as float32")
    return pd.DataFrame(rows, columns=list(COLUMNS))


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
