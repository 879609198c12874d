"""Costs of stages, measured once on a machine: estimates of a run before it starts."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Costs on the machine named, from which plans estimate a run."""

    machine: str
    accelerator_gigabytes: int | None  # memory of one accelerator; null where a CPU is enough
    prune_seconds: float
    recovery_seconds_per_row: float
    evaluation_seconds_per_item: float
    perplexity_seconds_per_window: float
    generation_seconds_per_token: float
    download_megabytes: float
    pruned_model_megabytes: float  # on disk, each
    adapter_megabytes: float  # on disk, each
