"""How a run ends: what it found beside what is committed, and whether its results equal the committed records.

Each function `of_*` gives the text of a notebook's last cell, which `make reproduce-*` shows in the terminal. What is
committed is read from the project's `reports/PROFILE/` and `records/PROFILE/`; where that is missing or damaged a line
says so, since a run whose results are there has not failed. No line names a path.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from rankadaptor.errors import Damaged
from rankadaptor.escaping import one_line
from rankadaptor.experiments.ablations import AblationTables
from rankadaptor.experiments.methods import NO_RECOVERY, RANKADAPTOR
from rankadaptor.experiments.paper_protocol import PLAYERS, ProtocolResult
from rankadaptor.experiments.paths import committed_folder, records_folder
from rankadaptor.experiments.pruned_models import PrunedModelsResult
from rankadaptor.experiments.results import TableResult
from rankadaptor.experiments.testbed_quality import TestbedMeasurements
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.record_comparison import compare_with_records
from rankadaptor.pipeline.records import RESULTS, is_unpacked
from rankadaptor.reporting.headroom import headroom_frame
from rankadaptor.reporting.labels import MEAN, count_word, result_tasks
from rankadaptor.reporting.search_page import SearchPage
from rankadaptor.reporting.tables.accuracy import cells
from rankadaptor.reporting.tables.differences import differences_to_lora
from rankadaptor.reporting.tables.pooled import pooled_frame
from rankadaptor.reporting.tables.protocol import protocol_frame, protocol_text

_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, OSError, Damaged)  # what damaged files lead to
_INTERVAL = {name: name for name in ("difference", "low", "high")}
_FROM_RECORDS = "drawn from the committed records: nothing was computed"


@dataclass(frozen=True)
class Committed:
    """A committed table.

    Attributes:
        table: None where there is none to compare with.
        origin: What it was computed with, in brackets; empty where that is not known.
        note: Why there is no table.
    """

    table: pd.DataFrame | None
    origin: str = ""
    note: str = ""

    def rows(self, **values: str) -> pd.DataFrame:
        """The rows with these values of columns; none where there is no table."""
        rows = pd.DataFrame(columns=list(values)) if self.table is None else self.table
        for column, value in values.items():
            rows = rows[rows[column] == value]
        return rows

    def row(self, **values: str) -> pd.Series | None:
        """The first of `rows`; None where there is none."""
        rows = self.rows(**values)
        return None if rows.empty else rows.iloc[0]


def read_committed(
    profile: str, name: str, file: str, texts: Sequence[str], numbers: Mapping[str, str]
) -> Committed:
    """A committed table of a profile.

    Args:
        profile: Its name.
        name: Of the page, whose provenance says what the table was computed with.
        file: The CSV.
        texts: Columns of text; empty cells are empty texts.
        numbers: Name of a column of numbers here -> in the file.

    Returns:
        The named columns, or why there are none.
    """
    folder = committed_folder(profile)
    try:
        table = pd.read_csv(folder / file)
        table = pd.DataFrame({column: table[column].fillna("").astype(str) for column in texts}
                             | {name: table[column].astype(float) for name, column in numbers.items()})
    except FileNotFoundError:
        return Committed(None, note=f"nothing to compare with: no {file} of profile {profile} is committed")
    except _UNREADABLE:
        return Committed(None, note=f"nothing to compare with: the committed {file} of profile {profile} is damaged")
    try:
        content = json.loads((folder / f"{name}-provenance.json").read_text(encoding="utf-8"))
        return Committed(table, _origin(content["budget"], content["training_seeds"]))
    except (*_UNREADABLE, RecursionError):
        return Committed(table)


def of_table(result: TableResult, ledger: Ledger) -> str:
    """The conclusion of a table: what each claimed method gains over LoRA, or the accuracy where nothing is recovered.

    Args:
        ledger: That holds the results.
    """
    lines = _gains(result, ledger) if result.recovered else _accuracies(result, ledger)
    lines += [f"no result of {one_line(failure)}" for failure in result.failures()]
    if result.recovered:
        lines += _undecided(result)
    return _text(lines, ledger, result.profile.name, result.stages, bool(result.computed))


def of_headroom(result: TableResult, ledger: Ledger) -> str:
    """The conclusion of the headroom page: what pruning took and LoRA won back; of other uniform ranks their gain.

    Args:
        ledger: That holds the results.
    """
    name = result.contents.name
    numbers = [f"{value}{end}" for value in ("lost", "won") for end in ("", "_low", "_high")]
    committed = _of_ledger(ledger, result.profile.name, name, f"{name}-headroom.csv", ("block", "column", "verdict"),
                           {number: number for number in numbers})
    rows = []
    for _, line in headroom_frame(result).iterrows():
        if line["column"] == MEAN:
            row = committed.row(block=line["block"], column=MEAN)
            rows.append((line["block"], f"{_won(line)} {_origin(result.budget_name, result.seeds)}",
                         _beside(committed, None if row is None else _won(row))))
    lines = ["LoRA - pruned of dense - pruned in accuracy, with 95 % intervals", *_aligned(rows),
             *([committed.note] if committed.note else [])]
    if len(result.contents.methods) > 1:
        lines += _gains(result, ledger)
    lines += [f"no result of {one_line(failure)}" for failure in result.failures()]
    return _text(lines, ledger, result.profile.name, result.stages, bool(result.computed))


def of_protocol(result: ProtocolResult, ledger: Ledger) -> str:
    """The conclusion of the paper's protocol: what it prints for each player, and what is left of that.

    Args:
        ledger: That holds the results.
    """
    name, profile, seeds = result.reported.contents.name, result.unseen.profile.name, result.unseen.seeds
    numbers = [f"{view}{end}" for view in ("reported", "unseen") for end in ("", "_low", "_high")]
    committed = _of_ledger(ledger, profile, name, f"{name}-gains.csv", ("block", "method"),
                           {number: number for number in numbers})
    rows = []
    for _, line in protocol_frame(result).iterrows():
        if line["method"] in PLAYERS:
            row = committed.row(block=line["block"], method=line["method"])
            rows.append((line["block"], line["method"], f"{_left(line)} {_origin(result.unseen.budget_name, seeds)}",
                         _beside(committed, None if row is None else _left(row))))
    lines = ["Gain over LoRA as the paper's protocol prints it, and with fresh seeds on unseen questions",
             *_aligned(rows), *([committed.note] if committed.note else []), protocol_text(result)]
    lines += [f"no result of {one_line(failure)}" for failure in result.reported.failures()]
    keys = dict.fromkeys((*result.reported.stages, *result.unseen.stages, *result.ceiling.stages))
    return _text(lines, ledger, profile, keys, bool(result.computed))


def _left(row: pd.Series) -> str:
    return f"{_points(row, 'reported')}, then {_points(row, 'unseen')} points"


def _won(row: pd.Series) -> str:
    return f"{_points(row, 'won')} of {_points(row, 'lost')} points: {row['verdict']}"


def _points(row: pd.Series, name: str) -> str:
    """A column and the two of its interval's ends."""
    return f"{row[name]:+.1f} [{row[f'{name}_low']:+.1f}, {row[f'{name}_high']:+.1f}]"


def of_ablations(work: AblationTables, results: Mapping[str, Mapping[str, TableResult]], name: str) -> str:
    """The conclusion of ablations: what RankAdaptor gains over LoRA in each variant.

    Args:
        results: Of `work.run`: ablation -> variant -> result.
        name: Of the page's files.
    """
    committed = _of_ledger(work.ledger, work.profile.name, "ablations", "ablations.csv",
                           ("ablation", "variant", "method", "verdict"),
                           {"difference": "difference", "low": "difference_low", "high": "difference_high"})
    rows = []
    for ablation, variants in results.items():
        for variant, result in variants.items():
            gains = differences_to_lora(result)
            for _, gain in gains[gains["method"] == RANKADAPTOR].iterrows():
                row = committed.row(ablation=ablation, variant=variant, method=RANKADAPTOR)
                rows.append((ablation, variant, f"{_gain(gain)} {_origin(result.budget_name, result.seeds)}",
                             _beside(committed, None if row is None else _gain(row))))
    every = [result for variants in results.values() for result in variants.values()]
    lines = [f"{name}: RankAdaptor - LoRA in each variant, accuracy with its 95 % interval", *_aligned(rows)]
    lines += [f"no result of {one_line(failure)}" for result in every for failure in result.failures()]
    lines += [committed.note] if committed.note else []
    return _text([*lines, *_undecided(every[0])], work.ledger, work.profile.name,
                 [key for result in every for key in result.stages], any(result.computed for result in every))


def of_testbed(testbed: TestbedMeasurements) -> str:
    """The conclusion of the testbed's page: margins over chance before and after recovery, in points."""
    ledger, name = testbed.runner.ledger, testbed.profile.name
    committed = _of_ledger(ledger, name, "testbed", "testbed-margins.csv", ("block", "model"), {"margin": "margin"})
    rows = []
    for _, line in testbed.regime().iterrows():
        row = committed.row(block=line["block"], model=line["model"])
        rows.append((line["block"], line["model"], f"{100 * line['margin']:.1f}",
                     _beside(committed, None if row is None else f"{100 * row['margin']:.1f}")))
    lines = [f"margin over chance in points {_origin(testbed.budget_name, testbed.seeds)}", *_aligned(rows)]
    return _text(lines + ([committed.note] if committed.note else []), ledger, name, testbed.stages,
                 bool(testbed.computed))


def of_pruning(models: PrunedModelsResult, losses: pd.DataFrame) -> str:
    """The conclusion of the pruning page: perplexity of every model.

    Args:
        losses: Of `PrunedModelsResult.losses`.
    """
    committed = _of_ledger(models.ledger, models.profile.name, "pruning", "pruning.csv", ("block",),
                           {"perplexity": "perplexity"})
    rows = []
    for _, line in losses.iterrows():
        row = committed.row(block=line["block"])
        rows.append((line["block"], f"{line['perplexity']:,.3f}",
                     _beside(committed, None if row is None else f"{row['perplexity']:,.3f}")))
    lines = ["perplexity", *_aligned(rows), *([committed.note] if committed.note else [])]
    return _text(lines, models.ledger, models.profile.name, models.stages, bool(models.computed))


def of_search(page: SearchPage) -> str:
    """The conclusion of the search's page: in how many comparisons with a rival the search needs or loses less."""
    name, ledger = page.profile.name, page.cache.ledger
    committed = _of_ledger(ledger, name, "search", "search-differences.csv", ("of", "block", "verdict"), {})
    rows = []
    for (measure, block), verdicts in page.differences.groupby(["of", "block"], sort=False)["verdict"]:
        others = committed.rows(of=str(measure), block=str(block))
        beside = None if others.empty else _counted(others["verdict"])
        rows.append((str(measure), str(block), _counted(verdicts), _beside(committed, beside)))
    lines = [f"RankAdaptor's search and its rivals, {len(page.seeds)} searches of {page.recoveries} recoveries each,"
             " replayed", *_aligned(rows)]
    return _text(lines + ([committed.note] if committed.note else []), ledger, name, page.cache.keys, False)


# -- lines ------------------------------------------------------------------------------------------------------------


def _gains(result: TableResult, ledger: Ledger) -> list[str]:
    """A line a block and claimed method."""
    name = result.contents.name
    committed = _of_ledger(ledger, result.profile.name, name, f"{name}-differences.csv",
                           ("block", "method", "verdict"), _INTERVAL)
    rows = []
    for _, gain in _claimed(result).iterrows():
        row = committed.row(block=gain["block"], method=gain["method"])
        rows.append((gain["block"], gain["method"], f"{_gain(gain)} {_origin(result.budget_name, result.seeds)}",
                     _beside(committed, None if row is None else _gain(row))))
    title = (f"{result.contents.title}: difference to LoRA in accuracy, mean of"
             f" {count_word(len(result_tasks(result)))} tasks, with its 95 % interval")
    return [title, *_aligned(rows + _together(result, ledger)), *([committed.note] if committed.note else [])]


def _together(result: TableResult, ledger: Ledger) -> list[tuple[str, str, str, str]]:
    """A line a claimed method: all blocks with headroom as one estimate; none where there are fewer than two."""
    name = result.contents.name
    if not result.contents.claims:
        return []
    committed = _of_ledger(ledger, result.profile.name, name, f"{name}-pooled.csv", ("method", "verdict"), _INTERVAL)
    rows = []
    pooled = pooled_frame(result)
    for _, gain in pooled[pooled["blocks"] > 1].iterrows():
        row = committed.row(method=gain["method"])
        rows.append(("together", gain["method"], f"{_gain(gain)} {_origin(result.budget_name, result.seeds)}",
                     _beside(committed, None if row is None else _gain(row))))
    return rows


def _claimed(result: TableResult) -> pd.DataFrame:
    """`differences_to_lora` of the methods that a claim is about; of a table without claims, of all that recover."""
    frame = differences_to_lora(result)
    return frame[frame["method"].isin(result.contents.claims) if result.contents.claims
                 else frame["method"] != NO_RECOVERY]


def _accuracies(result: TableResult, ledger: Ledger) -> list[str]:
    """A line a block whose models are not recovered."""
    page = result.contents.name
    committed = _of_ledger(ledger, result.profile.name, page, f"{page}.csv", ("block", "method", "column"),
                           {name: name for name in ("value", "low", "high")})
    means = cells(result)
    rows = []
    for _, mean in means[(means["column"] == MEAN) & (means["method"] == NO_RECOVERY)].iterrows():
        row = committed.row(block=mean["block"], method=mean["method"], column=MEAN)
        rows.append((mean["block"], mean["method"], f"{_percent(mean)} (budget {result.budget_name})",
                     _beside(committed, None if row is None else _percent(row))))
    title = f"{result.contents.title}: accuracy, mean of {count_word(len(result_tasks(result)))} tasks, in percent"
    return [title, *_aligned(rows), *([committed.note] if committed.note else [])]


def _undecided(result: TableResult) -> list[str]:
    """Which command decides, where this run could not."""
    if result.decided:
        return []
    if result.budget.decided:
        return ["one training seed decides nothing: the same command without SEEDS, or with several, does"]
    deciding = [name for name, budget in result.profile.budgets.items()
                if budget.decided and len(budget.training_seeds) > 1]
    return [f"budget {result.budget_name} decides nothing: "
            + (f"the same command with BUDGET={deciding[0]} does" if deciding else "nor does any other of the profile")]


def _gain(row: pd.Series) -> str:
    verdict = f": {row['verdict']}" if row["verdict"] else ""
    return f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}] points{verdict}"


def _percent(row: pd.Series) -> str:
    return f"{100 * row['value']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def _counted(verdicts: pd.Series) -> str:
    return (f"less than {(verdicts == 'less than').sum()} of {len(verdicts)} rivals, more than"
            f" {(verdicts == 'more than').sum()}")


def _origin(budget: str, seeds: Sequence[int]) -> str:
    return f"(budget {budget}, {'seed' if len(seeds) == 1 else 'seeds'} {' '.join(map(str, seeds))})"


def _beside(committed: Committed, text: str | None) -> str:
    """The committed part of a line; empty where no table is."""
    if committed.table is None:
        return ""
    return " committed: nothing" if text is None else f" committed: {text} {committed.origin}".rstrip()


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of equal length as lines, two spaces between columns."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# -- what is committed ------------------------------------------------------------------------------------------------


def _of_ledger(
    ledger: Ledger, profile: str, name: str, file: str, texts: Sequence[str], numbers: Mapping[str, str]
) -> Committed:
    """`read_committed`; nothing where the page itself is drawn from what is committed."""
    return Committed(None) if is_unpacked(ledger) else read_committed(profile, name, file, texts, numbers)


def _text(lines: Iterable[str], ledger: Ledger, profile: str, keys: Iterable[str], computed: bool) -> str:
    return "\n".join([*lines, _comparison(ledger, profile, keys, computed)])


def _comparison(ledger: Ledger, profile: str, keys: Iterable[str], computed: bool) -> str:
    """Results of a run beside the committed records of the same keys."""
    if is_unpacked(ledger) and not computed:
        return _FROM_RECORDS
    folder = records_folder(profile)
    if not (folder / RESULTS).is_file():
        return f"no records of profile {profile} are committed: no result was compared"
    try:
        comparison = compare_with_records(ledger, keys, folder)
    except _UNREADABLE:
        return f"the committed records of profile {profile} are damaged: no result was compared"
    remark = "; numerics of other machines may differ" if comparison.equal < comparison.compared else ""
    return f"{comparison}{remark}"
