"""One stage to be computed, as plain data."""

from collections.abc import Iterator
from dataclasses import dataclass

from rankadaptor.keys import Spec


@dataclass(frozen=True)
class Step:
    """One stage to be computed."""

    stage: str  # a name of `stages.STAGES`
    spec: Spec
    parent: "Step | None" = None  # what it is computed from; None: the unpruned base model

    def chain(self) -> Iterator["Step"]:
        """This step and the steps that it is computed from, parents first."""
        if self.parent is not None:
            yield from self.parent.chain()
        yield self
