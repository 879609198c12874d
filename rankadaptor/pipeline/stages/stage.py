"""What a stage of the pipeline is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Entry
from rankadaptor.pipeline.loaded_models import LoadedModels
from rankadaptor.pipeline.step import Step


@dataclass(frozen=True)
class Task:
    """One computation of a stage."""

    step: Step
    parent: Entry | None  # result of the step's parent; None where that is the base model
    folder: Path  # files beside the result are written here
    models: LoadedModels
    report: Callable[[float], None]  # called with the share that is done, from 0 to 1

    @property
    def diverged(self) -> str:
        """Why the recovery that this is computed from diverged; empty where it did not."""
        return "" if self.parent is None else self.parent.result["result"].get("diverged", "")


class Stage(ABC):
    """A pure function of a spec and a parent's result, kept in the ledger under its key."""

    name: ClassVar[str]
    spec_type: ClassVar[Any]  # the dataclass of its specs

    @abstractmethod
    def revisions(self, inputs: Inputs) -> dict[str, str]:
        """Pinned identities of the data that the stage reads, as a part of its keys."""

    @abstractmethod
    def compute(self, task: Task) -> dict[str, Any]:
        """Compute the result, JSON-able; files go to `task.folder`. A recovery that diverged is a result as well:
        {"diverged": reason}."""

    @abstractmethod
    def seconds(self, size: int | None, cost: Cost) -> float:
        """Estimate for a step of some size on the machine that the costs were measured on."""

    def size(self, spec: Any) -> int | None:
        """What a step's cost grows with, in the unit of `describe`; None: steps cost alike, or all data is meant."""
        return None

    def megabytes(self, cost: Cost) -> float:
        """Disk that a step's result takes."""
        return 0.1

    def describe(self, size: int | None) -> str:
        """How a plan names steps of some size."""
        return self.name

    def current_version(self, spec: Mapping[str, Any]) -> int:
        """Version of the numerics by which results of a spec are looked up now.

        Args:
            spec: As the ledger holds it.
        """
        return self.spec_type.numerics_version
