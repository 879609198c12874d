"""What stages cost, as measured once on a machine: estimates of a run before it starts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Measured once on the machine named, to print what a table will cost before it starts."""

    machine: str
    accelerator_gigabytes: int | None  # of memory, of one; null where a CPU will do
    prune_seconds: float
    recovery_seconds_per_row: float
    evaluation_seconds_per_item: float
    perplexity_seconds_per_window: float
    generation_seconds_per_token: float
    download_megabytes: float
    pruned_model_megabytes: float  # on disk, each
    adapter_megabytes: float  # on disk, each
