"""The paper's claims, each with what a folder of reports says of it. Nothing is computed here but counts and ranges.

A claim is one entry at the end of this file, or one call of `register` elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rankadaptor.errors import BadInput
from rankadaptor.escaping import markdown_text
from rankadaptor.experiments.methods import ADALORA, LORA, LORA_STAR, NO_RECOVERY, RANKADAPTOR
from rankadaptor.plugins import add_entry
from rankadaptor.reporting.paper.inconsistencies import gains

Finding = tuple[str, str]  # what was measured, and the verdict


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and how a report's file answers it."""

    name: str  # unique
    statement: str  # in the paper's words, or close to them
    where: str  # section, table or figure of the paper
    published: str
    notebook: str
    command: str
    cost: str  # of the default profile on two CPU cores
    file: str  # CSV in a folder of reports that the finding is read from
    finding: Callable[[pd.DataFrame], Finding]  # of that file


CLAIMS: dict[str, Claim] = {}


def register(claim: Claim) -> None:
    """Add a claim after those that are there.

    Raises:
        BadInput: if another claim has its name.
    """
    add_entry(CLAIMS, "claim", claim.name, claim)


def claims_table(folder: Path | str) -> pd.DataFrame:
    """One row a claim; one whose file is missing is marked as not run.

    Args:
        folder: A profile's reports.

    Returns:
        Columns claim, where, published, measured, verdict, notebook, command, cost.
    """
    lines = []
    for claim in CLAIMS.values():
        path = Path(folder) / claim.file
        measured, verdict = _finding_of(claim, path) if path.is_file() else ("not run yet", "")
        lines.append((claim.statement, claim.where, claim.published, measured, verdict, claim.notebook, claim.command,
                      claim.cost))
    columns = ["claim", "where", "published", "measured", "verdict", "notebook", "command", "cost"]
    return pd.DataFrame(lines, columns=columns)


def _finding_of(claim: Claim, path: Path) -> Finding:
    """Raises BadInput where the file is not what its page writes."""
    try:
        return claim.finding(pd.read_csv(path))
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is not what {claim.command} writes ({type(error).__name__}): remove it, or make it anew"
                       ) from error


def claims_markdown(folder: Path | str) -> str:
    """The claims as README shows them: a line each, with published and measured numbers, verdict and command."""
    lines = ["| the paper claims | published | measured here | verdict | command, cost of the default profile |",
             "|---|---|---|---|---|"]
    for row in claims_table(folder).map(markdown_text).to_dict("records"):
        where = f" ({row['where']})" if row["where"] else ""
        lines.append(f"| {row['claim']}{where} | {row['published']} | {row['measured']} | {row['verdict']} |"
                     f" `{row['command']}`, {row['cost']} |")
    return "\n".join(lines)


# -- findings ---------------------------------------------------------------------------------------------------------


def _range(values: pd.Series, layout: str = "{:+.1f}") -> str:
    low, high = layout.format(values.min()), layout.format(values.max())
    return low if low == high else f"{low} to {high}"


def _counted(verdicts: pd.Series) -> str:
    """Such as `not supported (5), undecided (3)`; the number is left out where there is one."""
    counts = verdicts.value_counts()
    return ", ".join(f"{verdict} ({count})" if len(verdicts) > 1 else str(verdict) for verdict, count in counts.items())


def difference(method: str) -> Callable[[pd.DataFrame], Finding]:
    """The finding of TABLE-differences.csv on one method: its differences to LoRA, over blocks."""

    def finding(table: pd.DataFrame) -> Finding:
        """Of the one block with its interval, or the range over blocks."""
        rows = table[table["method"] == method]
        if len(rows) == 1:
            row = rows.iloc[0]
            return f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] points", _counted(rows["verdict"])
        excluded = int(((rows["low"] > 0) | (rows["high"] < 0)).sum())
        measured = f"{_range(rows['difference'])} points on {len(rows)} blocks"
        return (f"{measured}; {excluded} of {len(rows)} intervals exclude 0",
                _counted(rows["verdict"]) if rows["verdict"].notna().all() else "")

    return finding


def _unrecovered(table: pd.DataFrame) -> Finding:
    measured, _ = difference(NO_RECOVERY)(table)
    rows = table[table["method"] == NO_RECOVERY]
    return measured, f"recovery helps on {int((rows['high'] < 0).sum())} of {len(rows)}"


def _searches(table: pd.DataFrame) -> Finding:
    parts = []
    for measure, rows in table.groupby("of", sort=False):
        fewer, more = ((rows["verdict"] == word).sum() for word in ("less than", "more than"))
        parts.append(f"{measure}: less than a rival's in {fewer} of {len(rows)} comparisons, more in {more}")
    only_searched = "finds what it searches; of no use under another training"
    return "; ".join(parts), only_searched if _only_searched(table) else ""


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
    rivals = table[~table["method"].isin([RANKADAPTOR, NO_RECOVERY])]
    better = (rivals["difference"] > ours["difference"].iloc[0]).sum()
    measured, verdict = difference(RANKADAPTOR)(table)
    return f"{measured}; {better} of {len(rivals)} rivals gain more", verdict


# -- the claims, in the order of the report ---------------------------------------------------------------------------


def _published(model: str, rival: str) -> str:
    table = gains()
    rows = table[(table["model"] == model) & (table["rival"] == rival)]
    return f"{_range(rows['points'], '{:+.2f}')} points ({model})"


register(Claim(
    name="gain",
    statement="RankAdaptor outperforms LoRA, \"with improvements ranging from 0.7% to 5.5%\"",
    where="abstract, Table 2",
    published=_published("LLaMA-7B", "LoRA"),
    notebook="03_main_tables",
    command="make reproduce-table2",
    cost="10 minutes",
    file="table2-differences.csv",
    finding=difference(RANKADAPTOR),
))
register(Claim(
    name="recovery",
    statement="Models that had undergone pruning only are far worse: recovery is no optional step",
    where="A.2, Table 6",
    published="-3.48 to -0.80 points (LLaMA-7B)",
    notebook="03_main_tables",
    command="make reproduce-table2",
    cost="with Table 2",
    file="table2-differences.csv",
    finding=_unrecovered,
))
register(Claim(
    name="adalora",
    statement="AdaLoRA falls short of LoRA on pruned models",
    where="Section 1, Table 1",
    published="-0.56 points (LLaMA-7B, 20 %)",
    notebook="02_adalora_comparison",
    command="make reproduce-table1",
    cost="a minute",
    file="table1-differences.csv",
    finding=difference(ADALORA),
))
register(Claim(
    name="lora-star",
    statement="LoRA*, whose ranks rise with depth, is superior \"across most tasks\"",
    where="Section 2, Figure 2",
    published="bars without numbers",
    notebook="01_motivating_example",
    command="make reproduce-figure2",
    cost="2 minutes",
    file="figure2-differences.csv",
    finding=difference(LORA_STAR),
))
register(Claim(
    name="ablations",
    statement="Samples, micro-batch, importance order and the performance model's layers matter",
    where="Section 4.3, Table 3",
    published="one run each",
    notebook="04_ablations",
    command="make reproduce-ablations",
    cost="a quarter of an hour",
    file="ablations.csv",
    finding=_ablations,
))
register(Claim(
    name="coherence",
    statement="What RankAdaptor's models write is more coherent, its steps clearer",
    where="Section 4.2, Figures 5 and 6",
    published="one continuation each",
    notebook="05_generation",
    command="make reproduce-figure5",
    cost="2 minutes",
    file="figure5-samples.csv",
    finding=_samples,
))
register(Claim(
    name="search",
    statement="The performance model finds the optimal rank values",
    where="Section 3, Figure 4",
    published="not compared with any search",
    notebook="06_search",
    command="make search-report",
    cost="3 minutes",
    file="search-differences.csv",
    finding=_searches,
))
register(Claim(
    name="rivals",
    statement="(not in the paper) RankAdaptor against rivals that cost as much",
    where="",
    published="",
    notebook="09_rivals",
    command="make reproduce-rivals",
    cost="20 minutes",
    file="rivals-differences.csv",
    finding=_rivals,
))
