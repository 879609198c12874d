"""The interface of a stage: a function from a spec and a parent's result to a result in the ledger."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger_files import Entry
from rankadaptor.pipeline.loaded_models import LoadedModels
from rankadaptor.pipeline.step import Step


@dataclass(frozen=True)
class Task:
    """One computation of a stage."""

    step: Step
    parent: Entry | None  # result of the step's parent; None: the base model
    folder: Path  # the stage writes files beside its result here
    models: LoadedModels  # models, tokenizer and inputs of this process
    report: Callable[[float], None]  # call it with the finished share of the work, from 0 to 1

    @property
    def diverged(self) -> str:
        """Why the parent, a recovery, diverged; empty if it did not."""
        return "" if self.parent is None else self.parent.result["result"].get("diverged", "")


class Stage(ABC):
    """A pure function of a spec and a parent's result; the ledger stores its results.

    Attributes:
        name: Name in `Step.stage`, in keys, and in plans.
        spec_type: Frozen dataclass of the stage's specs, with the class variable `numerics_version`; see `keys.Spec`.
        result_fields: Fields that every result has, beside those of one that diverged, and their types. An entry of the
            ledger without them is damaged.
    """

    name: ClassVar[str]
    spec_type: ClassVar[Any]
    result_fields: ClassVar[Mapping[str, type]] = {}

    @abstractmethod
    def revisions(self, inputs: Inputs) -> dict[str, str]:
        """Pinned identities of the data that the stage reads, as a part of its keys. Reads no data."""

    @abstractmethod
    def compute(self, task: Task) -> dict[str, Any]:
        """Compute a step.

        Returns:
            The result, JSON-able; arrays are written to `task.folder`. A recovery that diverged, and each step computed
            from it, returns {"diverged": reason}.
        """

    @abstractmethod
    def seconds(self, size: int | None, cost: Cost) -> float:
        """Estimated seconds of a step of this size, on the machine that the costs were measured on."""

    def size(self, spec: Any) -> int | None:
        """Size that the cost grows with, in the unit of `describe`; None: all steps cost alike, or use all data."""
        return None

    def megabytes(self, cost: Cost) -> float:
        """Estimated disk space of a step's result, in MB."""
        return 0.1

    def describe(self, size: int | None) -> str:
        """Label of steps of this size in a plan."""
        return self.name

    def current_version(self, spec: Mapping[str, Any]) -> int:
        """Numerics version of the results that this code reads and writes.

        Args:
            spec: A spec as the ledger stores it.
        """
        return self.spec_type.numerics_version
