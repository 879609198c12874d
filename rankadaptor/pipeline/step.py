"""One stage to be done, as plain data."""

from collections.abc import Iterator
from dataclasses import dataclass

from rankadaptor.keys import Spec


@dataclass(frozen=True)
class Step:
    """One stage to be done. The parent is None where the unpruned base model is meant."""

    stage: str  # one of `stages.STAGES`
    spec: Spec
    parent: "Step | None" = None

    def chain(self) -> Iterator["Step"]:
        """This step and what it is computed from, parents first."""
        if self.parent is not None:
            yield from self.parent.chain()
        yield self
