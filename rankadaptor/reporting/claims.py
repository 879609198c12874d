"""The paper's claims, each with what a folder of reports says of it. Nothing is computed here but counts and ranges.

A claim is one entry at the end of this file, or one call of `register` elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rankadaptor.errors import BadInput
from rankadaptor.escaping import markdown_text
from rankadaptor.experiments.ablations import TABLE_3
from rankadaptor.experiments.methods import ADALORA, LORA, LORA_STAR, NO_RECOVERY, RANKADAPTOR
from rankadaptor.plugins import add_entry
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.reporting import made_with
from rankadaptor.reporting.numbers import interval, span
from rankadaptor.reporting.paper import published_differences
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
    command: str  # the target of make; the table adds the options that the report was made with
    file: str  # CSV in a folder of reports that the finding is read from
    finding: Callable[[pd.DataFrame], Finding]  # of that file
    together: str = ""  # method whose gain on all blocks together stands in front, where its page has one

    @property
    def page(self) -> str:
        """Name of the page that writes the file."""
        return self.file.removesuffix(".csv").partition("-")[0]


CLAIMS: dict[str, Claim] = {}


def register(claim: Claim) -> None:
    """Add a claim after those that are there.

    Raises:
        BadInput: if another claim has its name.
    """
    add_entry(CLAIMS, "claim", claim.name, claim)


def claims_table(folder: Path | str, profile: Profile | None = None) -> pd.DataFrame:
    """One row a claim; one whose file is missing is marked as not run.

    Args:
        folder: A profile's reports.
        profile: That profile; by default the one of the folder's name.

    Returns:
        Columns claim, where, published, measured, verdict, made_with (budget and training seeds), notebook, command
        (that makes the page as it was made), cost (of that command).
    """
    profile = profile or load_profile(Path(folder).name)
    lines = []
    for claim in CLAIMS.values():
        path = Path(folder) / claim.file
        measured, verdict = _finding_of(claim, path) if path.is_file() else ("not run yet", "")
        made = made_with.made_with(folder, claim.page) if path.is_file() else None
        command = made_with.command(claim.command, claim.page, profile, made) if made else claim.command
        lines.append({
            "claim": claim.statement, "where": claim.where, "published": claim.published, "measured": measured,
            "verdict": verdict, "made_with": str(made or ""), "notebook": claim.notebook, "command": command,
            "cost": made_with.cost(command, profile, made) if made else "",
        })
    return pd.DataFrame(lines)


def _finding_of(claim: Claim, path: Path) -> Finding:
    """Raises BadInput where the file is not what its page writes."""
    try:
        measured, verdict = claim.finding(pd.read_csv(path))
        pooled = path.with_name(f"{claim.page}-pooled.csv")
        return _together(claim.together, pooled, measured, verdict) if pooled.is_file() else (measured, verdict)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is not what {claim.command} writes ({type(error).__name__}): remove it, or make it anew"
                       ) from error


def _together(method: str, path: Path, measured: str, verdict: str) -> Finding:
    """A finding with the estimate for all blocks with headroom in front, where there are several."""
    pooled = pd.read_csv(path)
    rows = pooled[(pooled["method"] == method) & (pooled["blocks"] > 1)]
    if rows.empty:
        return measured, verdict
    row = rows.iloc[0]
    gain = interval(row["difference"], row["low"], row["high"], sign=True)
    return (f"{gain} points on the {row['blocks']} blocks with headroom together; one by one {measured}",
            f"{row['verdict']} together; one by one {verdict}")


def claims_markdown(folder: Path | str, profile: Profile | None = None) -> str:
    """The claims as README shows them: a line each, with published and measured numbers, verdict and command."""
    lines = ["| the paper claims | published | measured here | verdict | budget, training seeds | command, cost |",
             "|---|---|---|---|---|---|"]
    for row in claims_table(folder, profile).map(markdown_text).to_dict("records"):
        where = f" ({row['where']})" if row["where"] else ""
        how = f"`{row['command']}`, {row['cost']}" if row["cost"] else f"`{row['command']}`"
        lines.append(f"| {row['claim']}{where} | {row['published']} | {row['measured']} | {row['verdict']} |"
                     f" {row['made_with']} | {how} |")
    return "\n".join(lines)


# -- findings ---------------------------------------------------------------------------------------------------------


def _counted(verdicts: pd.Series) -> str:
    """Such as `not supported (5), undecided (3)`; the number is left out where there is one."""
    counts = verdicts.value_counts()
    return ", ".join(f"{verdict} ({count})" if len(verdicts) > 1 else str(verdict) for verdict, count in counts.items())


def difference(method: str) -> Callable[[pd.DataFrame], Finding]:
    """The finding of TABLE-differences.csv on one method: its differences to LoRA, over blocks."""

    def finding(table: pd.DataFrame) -> Finding:
        """Of the one block with its interval, or the range over blocks."""
        rows = table[table["method"] == method]
        if rows.empty:
            return "not among the rows", ""
        if len(rows) == 1:
            row = rows.iloc[0]
            return (f"{interval(row['difference'], row['low'], row['high'], sign=True)} points",
                    _counted(rows["verdict"]))
        excluded = int(((rows["low"] > 0) | (rows["high"] < 0)).sum())
        measured = f"{span(rows['difference'], sign=True)} points on {len(rows)} blocks"
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
    only_searched = "reaches the top of its own scores; under another training seed no choice has less regret"
    return "; ".join(parts), only_searched if _only_searched(table) else ""


def _only_searched(table: pd.DataFrame) -> bool:
    """Whether searches need fewer recoveries somewhere and never more, and their choices have less regret nowhere."""
    needed, regret = (table[table["of"].str.startswith(name)]["verdict"] for name in ("recoveries", "regret"))
    faster = (needed == "less than").any() and not (needed == "more than").any()
    return bool(faster and not (regret == "less than").any())


def _ablations(table: pd.DataFrame) -> Finding:
    """Of the factors that Table 3 varies, and of all."""
    changes = table[table["change"].notna() & (table["method"] != NO_RECOVERY)]
    counted = [f"{int(((rows['change_low'] > 0) | (rows['change_high'] < 0)).sum())} of {len(rows)}"
               for rows in (changes[changes["ablation"].isin(TABLE_3)], changes)]
    return (f"{counted[0]} changes of its factors have an interval that excludes 0; of all"
            f" {changes['ablation'].nunique()} ablations {counted[1]}, of {span(changes['change'], sign=True)} points",
            "")


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


def _over_lora() -> str:
    """What the paper's averages gain over LoRA, of all of its models and of LLaMA-7B."""
    table = gains()
    rows = table[table["rival"] == LORA]
    seven = rows[rows["model"] == "LLaMA-7B"]
    return f"over LoRA {_points(rows['points'])} ({_points(seven['points'])} on LLaMA-7B)"


def _points(differences: pd.Series) -> str:
    return f"{span(differences, 2, sign=True)} points"


register(Claim(
    name="gain",
    statement="RankAdaptor outperforms the state of the art, \"with improvements ranging from 0.7% to 5.5%\"",
    where="abstract; LoRA in Tables 2, 4, 5",
    published=_over_lora(),
    notebook="03_main_tables",
    command="make reproduce-table2",
    file="table2-differences.csv",
    finding=difference(RANKADAPTOR),
    together=RANKADAPTOR,
))
register(Claim(
    name="recovery",
    statement="Models that had undergone pruning only are far worse: recovery is no optional step",
    where="A.2, Table 6",
    published=f"{_points(published_differences(NO_RECOVERY))} (LLaMA-7B)",
    notebook="03_main_tables",
    command="make reproduce-table2",
    file="table2-differences.csv",
    finding=_unrecovered,
))
register(Claim(
    name="adalora",
    statement="AdaLoRA falls short of LoRA on pruned models",
    where="Section 1, Table 1",
    published=f"{_points(published_differences(ADALORA)['llm-pruner:20':'llm-pruner:20'])} (LLaMA-7B, 20 %)",
    notebook="02_adalora_comparison",
    command="make reproduce-table1",
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
    file="search-differences.csv",
    finding=_searches,
))
register(Claim(
    name="rivals",
    statement="(not in the paper) RankAdaptor against other uses of as many recoveries",
    where="",
    published="",
    notebook="09_rivals",
    command="make reproduce-rivals",
    file="rivals-differences.csv",
    finding=_rivals,
))
