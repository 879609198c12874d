"""The paper's own numbers, as CSV, in percent.

table2.csv: Table 2 (LLaMA-7B, recovered). table6.csv: Table 6 (LLaMA-7B, no recovery). models.csv: shapes of models
that the papers prune, in the names of `config.json`, from their model cards.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput
from rankadaptor.specs import TASKS

FOLDER = Path(__file__).parent


def published_rows() -> pd.DataFrame:
    """Tables 2 and 6 as one: columns block, method, the seven tasks and average, all in percent as printed."""
    tables = [pd.read_csv(FOLDER / name) for name in ("table6.csv", "table2.csv")]
    rows = pd.concat(tables, ignore_index=True)
    return rows[["block", "method", *TASKS, "average"]]


def published_config(model: str) -> dict[str, Any]:
    """The line of `models.csv`, as the entries of a `config.json`.

    Raises:
        BadInput: if it is not there.
    """
    models = pd.read_csv(FOLDER / "models.csv", index_col="model")
    if model not in models.index:
        raise BadInput(f"no shapes of {model!r}: name a folder with config.json, or one of {', '.join(models.index)}")
    return {str(name): value.item() for name, value in models.loc[model].items()}


def published_architecture(model: str) -> Architecture:
    """Shapes of a model of `models.csv`. Raises as `published_config`."""
    return Architecture.from_config(published_config(model))
