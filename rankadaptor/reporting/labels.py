"""What tasks, methods and counts are called in tables and figures, and which tasks a result has."""

from collections.abc import Iterable

from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.experiments.methods import RANKADAPTOR, RANKADAPTOR_PER_TASK
from rankadaptor.experiments.results import TableResult

MEAN, MEAN_WITHOUT_BOOLQ = "mean", "mean without BoolQ"
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def result_tasks(result: TableResult) -> tuple[str, ...]:
    """The tasks that every row of a result was evaluated on, in the order of its columns."""
    return tuple(result.dense.outcomes)


def task_label(column: str) -> str:
    """How a task is written in tables and figures; other columns, such as `mean`, keep their name."""
    return BENCHMARKS[column].label if column in BENCHMARKS else column


def metrics_label(tasks: Iterable[str]) -> str:
    """Tasks by their metric, such as `acc for BoolQ, PIQA; acc_norm for HellaSwag`."""
    tasks_by_metric: dict[str, list[str]] = {}
    for task in tasks:
        tasks_by_metric.setdefault(BENCHMARKS[task].metric, []).append(task_label(task))
    return "; ".join(f"{metric} for {', '.join(labels)}" for metric, labels in tasks_by_metric.items())


def count_word(count: int) -> str:
    """A small number as a word, a large one in digits."""
    return _COUNTS[count] if count < len(_COUNTS) else str(count)


def paper_method(method: str) -> str:
    """The paper's name of a method of ours."""
    return "RankAdaptor" if method in (RANKADAPTOR, RANKADAPTOR_PER_TASK) else method
