"""The ranks that adapters really got, by layer and by projection."""

import numpy as np
import pandas as pd

from rankadaptor.experiments.methods import RANKADAPTOR_PER_TASK
from rankadaptor.experiments.results import TableResult
from rankadaptor.pruning.spec import Block


def realised_allocations(result: TableResult) -> dict[str, tuple[float, ...]]:
    """`BLOCK METHOD` -> realised ranks by layer, means over projections; of a method with several independent searches
    the ranks that each of them found. Rows with an allocation a task are left out."""
    shown: dict[str, tuple[float, ...]] = {}
    for name, block in result.blocks.items():
        for row in block.rows:
            if len(row.allocations) == 1:
                shown[f"{name} {row.method}"] = tuple(np.mean(list(row.realised_ranks.values()), axis=0).tolist())
            elif row.method != RANKADAPTOR_PER_TASK:
                shown |= {f"{name} {row.method} ({number})": tuple(map(float, allocation))
                          for number, allocation in enumerate(row.allocations, start=1)}
    return shown


def rank_spread_table(result: TableResult, method: str) -> pd.DataFrame:
    """How one method's realised ranks differ: by projection, by layer, or by whether pruning touched the layer.

    Returns:
        One row per block: mean rank of layers in the pruner's range and outside it; shares of the variance of all ranks
        that lies between projections and between layers (in percent; the rest is of single matrices).
    """
    lines = []
    for name, block in result.blocks.items():
        spec = result.profile.prune_spec(Block.parse(name))
        for row in block.rows:
            if row.method != method:
                continue
            present = list(block.architecture.original_layers)
            ranks = np.array(list(row.realised_ranks.values()), dtype=float)[:, present]  # (projections, layers)
            inside = np.array([spec.first_layer <= layer < spec.end_layer for layer in present])  # (layers,)
            variance = ranks.var() or np.nan
            lines.append({
                "block": name,
                "mean rank": ranks.mean(),
                "layers in the pruner's range": ranks[:, inside].mean(),
                "other layers": ranks[:, ~inside].mean(),
                "variance between projections (%)": 100 * ranks.mean(axis=1).var() / variance,
                "variance between layers (%)": 100 * ranks.mean(axis=0).var() / variance,
            })
    return pd.DataFrame(lines)
