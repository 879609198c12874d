"""The paper's claims, each with what a folder of reports says of it. Nothing is computed here but counts and ranges."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rankadaptor.experiments.methods import ADALORA, LORA, LORA_STAR, NO_RECOVERY, RANKADAPTOR
from rankadaptor.reporting.paper.inconsistencies import gains

Finding = tuple[str, str]  # what was measured, and the verdict


@dataclass(frozen=True)
class Claim:
    says: str  # in the paper's words, or close to them
    where: str
    published: str
    notebook: str
    command: str
    cost: str  # of the default profile on two CPU cores
    file: str  # that the finding is read from
    find: Callable[[pd.DataFrame], Finding]


def claims_table(folder: Path | str) -> pd.DataFrame:
    """One row a claim; what was not run yet says so.

    Returns:
        Columns claim, where, published, measured, verdict, notebook, command, cost.
    """
    lines = []
    for one in CLAIMS:
        path = Path(folder) / one.file
        measured, verdict = one.find(pd.read_csv(path)) if path.is_file() else ("not run yet", "")
        lines.append((one.says, one.where, one.published, measured, verdict, one.notebook, one.command, one.cost))
    columns = ["claim", "where", "published", "measured", "verdict", "notebook", "command", "cost"]
    return pd.DataFrame(lines, columns=columns)


def claims_markdown(folder: Path | str) -> str:
    """The claims as README shows them: a line each, what is said, published, measured here, the verdict and how."""
    lines = ["| the paper claims | published | measured here | verdict | command, cost of the default profile |",
             "|---|---|---|---|---|"]
    for one in claims_table(folder).to_dict("records"):
        where = f" ({one['where']})" if one["where"] else ""
        lines.append(f"| {one['claim']}{where} | {one['published']} | {one['measured']} | {one['verdict']} |"
                     f" `{one['command']}`, {one['cost']} |")
    return "\n".join(lines)


def _range(values: pd.Series, layout: str = "{:+.1f}") -> str:
    low, high = layout.format(values.min()), layout.format(values.max())
    return low if low == high else f"{low} to {high}"


def _counted(verdicts: pd.Series) -> str:
    """Such as `not supported (5), undecided (3)`; the number is left out where there is one."""
    counts = verdicts.value_counts()
    return ", ".join(f"{verdict} ({count})" if len(verdicts) > 1 else str(verdict) for verdict, count in counts.items())


def _difference(method: str) -> Callable[[pd.DataFrame], Finding]:
    """Differences of one method to LoRA, over blocks."""

    def find(table: pd.DataFrame) -> Finding:
        rows = table[table["method"] == method]
        if len(rows) == 1:
            row = rows.iloc[0]
            return f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] points", _counted(rows["verdict"])
        excluded = int(((rows["low"] > 0) | (rows["high"] < 0)).sum())
        measured = f"{_range(rows['difference'])} points on {len(rows)} blocks"
        return (f"{measured}; {excluded} of {len(rows)} intervals exclude 0",
                _counted(rows["verdict"]) if rows["verdict"].notna().all() else "")

    return find


def _unrecovered(table: pd.DataFrame) -> Finding:
    measured, _ = _difference(NO_RECOVERY)(table)
    rows = table[table["method"] == NO_RECOVERY]
    return measured, f"recovery helps on {int((rows['high'] < 0).sum())} of {len(rows)}"


def _searches(table: pd.DataFrame) -> Finding:
    parts = []
    for of, rows in table.groupby("of", sort=False):
        less, more = ((rows["verdict"] == word).sum() for word in ("less than", "more than"))
        parts.append(f"{of}: less than a rival's in {less} of {len(rows)} comparisons, more in {more}")
    return "; ".join(parts), "finds what it searches; of no use under another training" if _only_searched(table) else ""


def _only_searched(table: pd.DataFrame) -> bool:
    """Whether searches need fewer recoveries somewhere and never more, and their choices have less regret nowhere."""
    needed, regret = (table[table["of"].str.startswith(name)]["verdict"] for name in ("recoveries", "regret"))
    faster = (needed == "less than").any() and not (needed == "more than").any()
    return bool(faster and not (regret == "less than").any())


def _ablations(table: pd.DataFrame) -> Finding:
    changes = table[table["change"].notna() & (table["method"] != NO_RECOVERY)]
    real = (changes["change_low"] > 0) | (changes["change_high"] < 0)
    return (f"{int(real.sum())} of {len(changes)} changes have an interval that excludes 0; they are"
            f" {_range(changes['change'])} points", "")


def _samples(table: pd.DataFrame) -> Finding:
    parts = []
    for label, column in (("repeated 4-grams", "repetition"), ("distinct pairs", "distinct_2")):
        ours, lora = (100 * table.loc[table["method"] == method, column].mean() for method in (RANKADAPTOR, LORA))
        parts.append(f"{label} {ours:.0f} % against LoRA's {lora:.0f} %")
    return "; ".join(parts), "none is drawn: coherence has no agreed measure"


def _rivals(table: pd.DataFrame) -> Finding:
    ours = table[table["method"] == RANKADAPTOR]
    others = table[~table["method"].isin([RANKADAPTOR, NO_RECOVERY])]
    better = (others["difference"] > ours["difference"].iloc[0]).sum()
    measured, verdict = _difference(RANKADAPTOR)(table)
    return f"{measured}; {better} of {len(others)} rivals gain more", verdict


def _published(model: str, rival: str) -> str:
    table = gains()
    rows = table[(table["model"] == model) & (table["rival"] == rival)]
    return f"{_range(rows['points'], '{:+.2f}')} points ({model})"


CLAIMS = (
    Claim("RankAdaptor outperforms LoRA, \"with improvements ranging from 0.7% to 5.5%\"", "abstract, Table 2",
          _published("LLaMA-7B", "LoRA"), "03_main_tables", "make reproduce-table2", "10 minutes",
          "table2-differences.csv", _difference(RANKADAPTOR)),
    Claim("Models that had undergone pruning only are far worse: recovery is no optional step", "A.2, Table 6",
          "-3.48 to -0.80 points (LLaMA-7B)", "03_main_tables", "make reproduce-table2", "with Table 2",
          "table2-differences.csv", _unrecovered),
    Claim("AdaLoRA falls short of LoRA on pruned models", "Section 1, Table 1", "-0.56 points (LLaMA-7B, 20 %)",
          "02_adalora_comparison", "make reproduce-table1", "a minute", "table1-differences.csv", _difference(ADALORA)),
    Claim("LoRA*, whose ranks rise with depth, is superior \"across most tasks\"", "Section 2, Figure 2",
          "bars without numbers", "01_motivating_example", "make reproduce-figure2", "2 minutes",
          "figure2-differences.csv", _difference(LORA_STAR)),
    Claim("Samples, micro-batch, importance order and the performance model's layers matter", "Section 4.3, Table 3",
          "one run each", "04_ablations", "make reproduce-ablations", "a quarter of an hour", "ablations.csv",
          _ablations),
    Claim("What RankAdaptor's models write is more coherent, its steps clearer", "Section 4.2, Figures 5 and 6",
          "one continuation each", "05_generation", "make reproduce-figure5", "2 minutes", "figure5-samples.csv",
          _samples),
    Claim("The performance model finds the optimal rank values", "Section 3, Figure 4", "not compared with any search",
          "06_search", "make search-report", "3 minutes", "search-differences.csv", _searches),
    Claim("(not in the paper) RankAdaptor against rivals that cost as much", "", "", "09_rivals",
          "make reproduce-rivals", "20 minutes", "rivals-differences.csv", _rivals),
)
