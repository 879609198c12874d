"""Costs of stages, measured once on a machine: estimates of a run before it starts."""

from dataclasses import dataclass

from rankadaptor.bounds import check_amount, check_line, check_positive, check_whole

_MOST_GIGABYTES, _MOST_SECONDS, _MOST_MEGABYTES = 10_000, 10**9, 10**12


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

    def __post_init__(self) -> None:
        check_line("cost.machine", self.machine)
        if self.accelerator_gigabytes is not None:
            check_whole("cost.accelerator_gigabytes", self.accelerator_gigabytes, 1, _MOST_GIGABYTES)
        for name in ("prune_seconds", "recovery_seconds_per_row", "evaluation_seconds_per_item",
                     "perplexity_seconds_per_window", "generation_seconds_per_token"):
            check_positive(f"cost.{name}", getattr(self, name), _MOST_SECONDS)
        for name in ("download_megabytes", "pruned_model_megabytes", "adapter_megabytes"):
            check_amount(f"cost.{name}", getattr(self, name), 0, _MOST_MEGABYTES)
