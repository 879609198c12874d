"""The paper's own numbers, as CSV, as printed in its HTML version, in percent.

table1.csv: AdaLoRA and LoRA (LLaMA-7B, 20 %). table2.csv, table4.csv, table5.csv: recovered LLaMA-7B, Vicuna-7B and
LLaMA-13B. table3.csv: ablations. table6.csv: LLaMA-7B, no recovery. table7.csv: the allocations found. models.csv:
shapes of models that the papers prune, in the names of `config.json`, from their model cards.

Source: Zhou et al. 2025, RankAdaptor, Findings of NAACL.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.allocation import RankAllocation, parse_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput

FOLDER = Path(__file__).parent
RECOVERED = {"LLaMA-7B": 2, "Vicuna-7B": 4, "LLaMA-13B": 5}  # model -> number of its table


def published_rows(model: str = "LLaMA-7B") -> pd.DataFrame:
    """What the paper prints of a model, recovered and (LLaMA-7B alone) not: Tables 2, 4, 5 and 6.

    Returns:
        Columns block, method, the seven tasks and average, all in percent.

    Raises:
        BadInput: on another model.
    """
    if model not in RECOVERED:
        raise BadInput(f"the paper has no table of {model!r}: use one of {', '.join(RECOVERED)}")
    numbers = [*([6] if model == "LLaMA-7B" else []), RECOVERED[model]]
    rows = pd.concat([published_table(number) for number in numbers], ignore_index=True)
    return rows[["block", "method", *TASKS, "average"]]


def published_table(number: int) -> pd.DataFrame:
    """One table of the paper, 1 to 7, as its CSV has it."""
    return pd.read_csv(FOLDER / f"table{number}.csv")


def published_allocations() -> dict[tuple[str, str], RankAllocation]:
    """Table 7: (block, task) -> ranks by layer."""
    table = published_table(7)
    return {(block, task): parse_allocation(ranks)
            for block, task, ranks in zip(table["block"], table["task"], table["allocation"], strict=True)}


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
