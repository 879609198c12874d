"""Inputs of steps beside their specs: base model, data, and limits."""

from dataclasses import dataclass

from rankadaptor.data.benchmarks import benchmark_identity
from rankadaptor.data.instruction_rows import RecoveryData
from rankadaptor.data.sources import Source
from rankadaptor.models.base_model import BaseModel


@dataclass(frozen=True)
class Inputs:
    """Base model, data, and the limits of a process. Small and picklable, so that workers can receive it."""

    base_model: BaseModel
    benchmarks: Source
    recovery_data: RecoveryData
    search_pool: int  # training rows a task that searches may score; recovery and calibration avoid all of them
    item_seed: int  # decides which items are drawn where a spec limits their number
    threads: int | None  # of a process on a CPU, which the last bits of sums depend on; None: a share of the cores
    stage_limit_s: float | None  # wall time after which a stage has timed out; None: no limit
    needs_accelerator: bool  # whether a stage takes a GPU of its own

    @property
    def protection(self) -> tuple[int, int]:
        """(search pool, item seed): the items that recovery and calibration must keep clear of."""
        return self.search_pool, self.item_seed

    def item_revisions(self) -> dict[str, str]:
        """Pinned identity of the items that a stage keeps clear of, as a part of its key."""
        return self.benchmark_revisions() | {"item_seed": str(self.item_seed)}

    def benchmark_revisions(self) -> dict[str, str]:
        """Pinned identity of the benchmarks, as a part of a stage's key."""
        return {"benchmarks": f"{benchmark_identity(self.benchmarks)}:pool {self.search_pool}"}
