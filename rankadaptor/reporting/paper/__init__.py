"""The published numbers: every table of the paper as a CSV, in percent, as printed in its HTML version.

| file | table of the paper |
|---|---|
| table1.csv | Table 1: AdaLoRA and LoRA (LLaMA-7B, LLM-Pruner, 20 %) |
| table2.csv | Table 2: recovered LLaMA-7B |
| table3.csv | Table 3: ablations (LLaMA-7B, LLM-Pruner, 20 %) |
| table4.csv | Table 4: recovered Vicuna-7B |
| table5.csv | Table 5: recovered LLaMA-13B |
| table6.csv | Table 6: LLaMA-7B, pruned and not recovered |
| table7.csv | Table 7: the allocations that the paper's searches found |
| models.csv | none: shapes of the models that the papers prune, in the names of `config.json`, from their model cards |

Source: Zhou et al. 2025, RankAdaptor: Hierarchical Rank Allocation for Efficient Fine-Tuning Pruned LLMs via
Performance Model, Findings of NAACL.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.allocation import RankAllocation, parse_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput

FOLDER = Path(__file__).parent
RECOVERED = {"LLaMA-7B": 2, "Vicuna-7B": 4, "LLaMA-13B": 5}  # model -> number of the table with its recoveries


def published_rows(model: str = "LLaMA-7B") -> pd.DataFrame:
    """The printed accuracies of a model, recovered and (LLaMA-7B alone) not recovered.

    Returns:
        Columns block, method, the seven tasks and average, all in percent.

    Raises:
        BadInput: on a model that the paper has no table of.

    Source: Tables 2, 4, 5 and 6.
    """
    if model not in RECOVERED:
        raise BadInput(f"the paper has no table of {model!r}: use one of {', '.join(RECOVERED)}")
    numbers = [*([6] if model == "LLaMA-7B" else []), RECOVERED[model]]
    rows = pd.concat([published_table(number) for number in numbers], ignore_index=True)
    return rows[["block", "method", *TASKS, "average"]]


def published_differences(method: str, model: str = "LLaMA-7B") -> pd.Series:
    """The printed average of a method less that of LoRA, in points, by block.

    Args:
        method: As the paper names it.
        model: A key of `RECOVERED`.
    """
    wide = published_rows(model).pivot(index="block", columns="method", values="average")
    return (wide[method] - wide["LoRA"]).dropna()


def published_table(number: int) -> pd.DataFrame:
    """One table of the paper.

    Args:
        number: 1 to 7.

    Returns:
        The columns of its CSV; accuracies in percent.
    """
    return pd.read_csv(FOLDER / f"table{number}.csv")


def published_allocations() -> dict[tuple[str, str], RankAllocation]:
    """The allocations that the paper's searches found: (block, task) -> one rank per layer of LLaMA-7B.

    Source: Table 7.
    """
    table = published_table(7)
    return {(block, task): parse_allocation(ranks)
            for block, task, ranks in zip(table["block"], table["task"], table["allocation"], strict=True)}


def published_config(model: str) -> dict[str, Any]:
    """The shape of a model, as the entries of a `config.json`.

    Args:
        model: A name in `models.csv`.

    Raises:
        BadInput: on another name.

    Source: the models' cards on the hub.
    """
    models = pd.read_csv(FOLDER / "models.csv", index_col="model")
    if model not in models.index:
        raise BadInput(f"no shapes of {model!r}: name a folder with config.json, or one of {', '.join(models.index)}")
    return {str(name): value.item() for name, value in models.loc[model].items()}


def published_architecture(model: str) -> Architecture:
    """Shapes of a model of `models.csv`.

    Raises:
        BadInput: on another name.
    """
    return Architecture.from_config(published_config(model))
