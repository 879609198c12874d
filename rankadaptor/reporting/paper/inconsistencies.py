"""Where the paper's numbers contradict one another, or its text. Every finding is computed from the published CSVs."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from rankadaptor.data.tasks import TASKS
from rankadaptor.reporting.paper import RECOVERED, published_allocations, published_rows, published_table

Finding = tuple[str, str]  # where, and what is inconsistent there

CANDIDATES = (2, 4, 6, 8, 10, 12)  # Section 4.1
LORA_RANK, LAYERS, MICRO_BATCH = 8, 32, 16  # Section 4.1
_ROUNDING = 0.011  # of a printed mean of printed numbers, in points
_RATES = {"LLaMA-7B": (20, 25, 30, 50), "Vicuna-7B": (20, 25, 30, 50), "LLaMA-13B": (20, 25, 30, 50)}  # Section 4.2


def inconsistencies() -> pd.DataFrame:
    """Every check of this module.

    Returns:
        Columns where (a table, or the text) and finding; one finding a row.
    """
    checks = (_averages, _gains, _lost_cells, _shifted_rows, _ablation_columns, _ablation_text, _allocations,
              _shared_allocations, _rank_sums, _text)
    findings = [finding for check in checks for finding in check()]
    return pd.DataFrame(findings, columns=["where", "finding"])


def gains() -> pd.DataFrame:
    """The printed average of RankAdaptor less that of LoRA and AdaLoRA, in points and in percent of theirs.

    Returns:
        Columns model, block, rival, points, percent.

    Source: Tables 2, 4 and 5.
    """
    lines = []
    for model in RECOVERED:
        wide = published_rows(model).pivot(index="block", columns="method", values="average")
        for rival in ("LoRA", "AdaLoRA"):
            for block, ours, theirs in zip(wide.index, wide["RankAdaptor"], wide[rival], strict=True):
                lines.append((model, block, rival, ours - theirs, 100 * (ours - theirs) / theirs))
    return pd.DataFrame(lines, columns=["model", "block", "rival", "points", "percent"])


def _task_scores(model: str, method: str) -> pd.DataFrame:
    """A method's printed accuracies, one row per block, one column per task."""
    rows = published_rows(model)
    return rows[rows["method"] == method].set_index("block")[list(TASKS)]


def _averages() -> Iterator[Finding]:
    """Printed averages that are not the mean of the printed task scores; a line saying so where a model has none."""
    for model, number in RECOVERED.items():
        rows = published_rows(model)
        rows = rows.assign(mean=rows[list(TASKS)].mean(axis=1))
        wrong = rows[(rows["mean"] - rows["average"]).abs() > _ROUNDING]
        for _, row in wrong.iterrows():
            yield (f"Table {number if row['method'] != 'No recovery' else 6}",
                   f"average of {row['method']} on {row['block']} is printed as {row['average']:.2f}; its seven tasks"
                   f" have the mean {row['mean']:.2f}")
        if wrong.empty:
            tables = "Tables 2 and 6" if model == "LLaMA-7B" else f"Table {number}"
            yield tables, f"all {len(rows)} printed averages are the means of their seven tasks"


def _gains() -> Iterator[Finding]:
    """The abstract's range of improvements against the printed averages."""
    table = gains()
    lora = table[table["rival"] == "LoRA"]
    parts = [f"over {rival} {rows['points'].min():.2f} to {rows['points'].max():.2f} points, or"
             f" {rows['percent'].min():.1f} to {rows['percent'].max():.1f} % of its average"
             for rival, rows in table.groupby("rival", sort=False)]
    yield "abstract", f"improvements are said to range from 0.7 % to 5.5 %; printed averages gain {'; '.join(parts)}"
    below = lora[lora["points"] < 0.7]
    yield ("abstract", f"{len(below)} of {len(lora)} printed gains over LoRA are under 0.7 points:"
           f" {', '.join(f'{row.model} {row.block} {row.points:+.2f}' for row in below.itertuples())}")


def _lost_cells() -> Iterator[Finding]:
    """Tasks on which the printed LoRA is above RankAdaptor."""
    for model, number in RECOVERED.items():
        lost = _task_scores(model, "RankAdaptor") < _task_scores(model, "LoRA")
        cells = [f"{task} on {block}" for block in lost.index for task in TASKS if lost.loc[block, task]]
        yield (f"Table {number}", f"LoRA is above RankAdaptor in {len(cells)} of {lost.size} cells"
               f"{': ' if cells else ''}{', '.join(cells)}")


def _shifted_rows() -> Iterator[Finding]:
    """Differences of two methods that are the same number for most rates of a pruner."""
    for model, number in RECOVERED.items():
        shift = (_task_scores(model, "LoRA") - _task_scores(model, "AdaLoRA")).round(2)
        for pruner, rows in shift.groupby(lambda block: str(block).split(":")[0]):
            counts = {task: rows[task].value_counts() for task in TASKS}
            same = [f"{task} {counts[task].index[0]:.2f} ({counts[task].iloc[0]} of {len(rows)})" for task in TASKS
                    if len(rows) > 2 and counts[task].iloc[0] > len(rows) / 2]
            if same:
                yield (f"Table {number}",
                       f"LoRA less AdaLoRA is one number for most rates of {pruner}: {', '.join(same)}")


def _table3() -> pd.DataFrame:
    """Table 3: one row per column of the paper's, indexed `factor setting`, one column per task."""
    table = published_table(3)
    table.index = pd.Index(table["factor"] + " " + table["setting"])
    return table[list(TASKS)]


def _ablation_columns() -> Iterator[Finding]:
    """Columns of Table 3 that are equal, or equal but for one task."""
    values = _table3()
    for number, label in enumerate(values.index):
        for other in values.index[number + 1 :]:
            unlike = [task for task in TASKS if values.loc[label, task] != values.loc[other, task]]
            if not unlike:
                yield "Table 3", f"columns {label} and {other} are equal: one run, printed twice"
            elif len(unlike) == 1:
                first, second = values.loc[[label, other], unlike[0]]
                yield ("Table 3", f"columns {label} and {other} are equal but for {unlike[0]}: {first:.2f} and"
                       f" {second:.2f}")


def _ablation_text() -> Iterator[Finding]:
    """Table 3 against Section 4.1, Table 2 and Section 4.3."""
    values = _table3()
    equal = (values == values.loc["importance element1"]).all(axis=1)
    micro = [str(label) for label in values.index[equal] if str(label).startswith("micro_batch")]
    if micro and f"micro_batch {MICRO_BATCH}" not in micro:
        yield ("Table 3", f"the other ablations start from column {micro[0]}; Section 4.1 says micro-batch"
               f" {MICRO_BATCH}")
    main = _task_scores("LLaMA-7B", "RankAdaptor").loc["llm-pruner:20"]
    if not (values == main).all(axis=1).any():
        mean = values.mean(axis=1)
        yield ("Table 3", f"no column is the row of Table 2 that it is said to vary (llm-pruner:20, mean"
               f" {main.mean():.2f}); its columns have means from {mean.min():.2f} to {mean.max():.2f}")
    settings = values[values.index.str.startswith("performance_model ")]
    settings = settings.rename(index=lambda label: label.removeprefix("performance_model "))
    for task in ("arc_easy", "boolq"):
        best = str(settings[task].idxmax())
        highest, first = settings[task][[best, "setting 1"]]
        if highest > first:
            yield ("Table 3", f"Setting 1 is said to be the highest on {task}; the table has {best} there,"
                   f" {highest:.2f} against {first:.2f}")


def _allocations() -> Iterator[Finding]:
    """Allocations of Table 7 with too few ranks, or with ranks that are no candidates."""
    for (block, task), ranks in published_allocations().items():
        if len(ranks) != LAYERS:
            yield "Table 7", f"{block} {task} has {len(ranks)} ranks for {LAYERS} layers"
        if strange := sorted(set(ranks) - set(CANDIDATES)):
            layers = [layer for layer, rank in enumerate(ranks, 1) if rank in strange]
            yield ("Table 7", f"{block} {task} has rank {', '.join(map(str, strange))} in layer"
                   f" {', '.join(map(str, layers))}: no candidate of {', '.join(map(str, CANDIDATES))}")


def _shared_allocations() -> Iterator[Finding]:
    """How many allocations of Table 7 differ by task, and which are equal at different rates."""
    published = published_allocations()
    for block in dict.fromkeys(block for block, _ in published):
        by_task = {task: ranks for (name, task), ranks in published.items() if name == block}
        groups = [[task for task in by_task if by_task[task] == ranks] for ranks in dict.fromkeys(by_task.values())]
        shared = [f"{' = '.join(group)}" for group in groups if len(group) > 1]
        yield ("Table 7", f"{block}: {len(groups)} different allocation{'s' if len(groups) > 1 else ''} for"
               f" {len(by_task)} tasks{' (' if shared else ''}{'; '.join(shared)}{')' if shared else ''}"
               + (f", so that RankAdaptor's row of Table 2 is of {len(groups)} models" if len(groups) > 1 else ""))
    by_ranks: dict[tuple[int, ...], list[str]] = {}
    for (block, task), ranks in published.items():
        by_ranks.setdefault(ranks, []).append(f"{block} {task}")
    for labels in by_ranks.values():
        if len({label.split()[0] for label in labels}) > 1:
            yield "Table 7", f"one allocation at different pruning rates: {', '.join(labels)}"


def _rank_sums() -> Iterator[Finding]:
    """Sums of the ranks of Table 7 against LoRA's."""
    sums = np.array([sum(ranks) for ranks in published_allocations().values()])
    more = int((sums > LORA_RANK * LAYERS).sum())
    yield ("Table 7", f"sums of ranks go from {sums.min()} to {sums.max()}; LoRA with rank {LORA_RANK} has"
           f" {LORA_RANK * LAYERS}; {more} of {len(sums)} allocations have more")


def _text() -> Iterator[Finding]:
    """Rates that the text speaks of and no table has, and the layers of the performance model."""
    for model, rates in _RATES.items():
        printed = {int(block.split(":")[1]) for block in published_rows(model)["block"]}
        if absent := [rate for rate in rates if rate not in printed]:
            yield ("Section 4.2", f"results of {model} at {', '.join(map(str, absent))} % are spoken of; Table"
                   f" {RECOVERED[model]} holds {', '.join(map(str, sorted(printed)))} % alone")
    yield ("Section 3.2", "the performance model is said to have five fully connected layers; 32-32-32-1 of Section 4.1"
           " are four")
