"""What templates say of measured tables: public methods are functions of templates."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.experiments.ablations import TABLE_3
from rankadaptor.experiments.methods import DENSE, NO_RECOVERY
from rankadaptor.reporting.labels import MEAN
from rankadaptor.reporting.numbers import interval, plain, signed, span
from rankadaptor.reporting.prose.reports import Reports
from rankadaptor.reporting.prose.words import excludes_zero, listed, word


@dataclass(frozen=True)
class Gains:
    """Differences to LoRA of one method, a row a block, or of several methods on one."""

    rows: pd.DataFrame

    @property
    def count(self) -> int:
        """How many differences there are."""
        return len(self.rows)

    @property
    def above(self) -> int:
        """How many intervals lie above 0."""
        return int((self.rows["low"] > 0).sum())

    @property
    def below(self) -> int:
        """How many intervals lie below 0."""
        return int((self.rows["high"] < 0).sum())

    @property
    def holding(self) -> int:
        """How many intervals hold 0."""
        return self.count - self.above - self.below

    @property
    def span(self) -> str:
        """The least and the largest difference, in points."""
        return span(self.rows["difference"], sign=True)

    def verdicts(self, verdict: str) -> int:
        """How many have a verdict."""
        return int((self.rows["verdict"] == verdict).sum())

    def excluding(self) -> list[str]:
        """The methods whose interval excludes 0."""
        real = [excludes_zero(low, high) for low, high in zip(self.rows["low"], self.rows["high"], strict=True)]
        return list(self.rows["method"][real])


@dataclass(frozen=True)
class Pooled:
    """A method's gain over LoRA on all blocks together that have headroom."""

    row: pd.Series

    @property
    def blocks(self) -> int:
        """How many blocks are pooled."""
        return int(self.row["blocks"])

    @property
    def left_out(self) -> int:
        """How many blocks have no headroom."""
        return int(self.row["left_out"])

    @property
    def gain(self) -> str:
        """Accuracy less LoRA's, in points: `-0.1 [-0.8, +0.6]`."""
        return interval(self.row["difference"], self.row["low"], self.row["high"], sign=True)

    @property
    def gold(self) -> str:
        """Gold probability less LoRA's, in points."""
        return interval(self.row["gold_probability"], self.row["gold_low"], self.row["gold_high"], 2, sign=True)

    @property
    def smallest_gain(self) -> str:
        """The smallest gain that it tells from 0 with 80 % power, in points."""
        return plain(self.row["smallest_gain"])

    @property
    def verdict(self) -> str:
        """The verdict on the claimed least gain."""
        return str(self.row["verdict"])


class Differences:
    """The vocabulary of differences to LoRA. A page is named with its profile: `tiny/table2`."""

    def __init__(self, reports: Reports):
        self._reports = reports

    def has(self, *names: str) -> bool:
        """Whether these tables are among the reports: `has("smollm2/headroom")`."""
        return self._reports.has(*names)

    def difference(self, page: str, block: str, method: str) -> str:
        """A method's accuracy less LoRA's, in points: `-0.1 [-0.9, +0.7]`."""
        row = self._difference(page, block, method)
        return interval(row["difference"], row["low"], row["high"], sign=True)

    def verdict(self, page: str, block: str, method: str) -> str:
        """The verdict on a method's difference to LoRA."""
        return str(self._difference(page, block, method)["verdict"])

    def gold_difference(self, page: str, block: str, method: str) -> str:
        """A method's gold probability less LoRA's, in points: `+0.73`."""
        return signed(self._difference(page, block, method)["gold_probability"], 2)

    def _difference(self, page: str, block: str, method: str) -> pd.Series:
        return self._reports.row(f"{page}-differences", block=block, method=method)

    def gains(self, page: str, method: str) -> Gains:
        """The differences of one method on all blocks of a page: counts of intervals and verdicts."""
        return Gains(self._reports.rows(f"{page}-differences", method=method))

    def gains_on(self, page: str, block: str, but: Sequence[str] = (NO_RECOVERY,)) -> Gains:
        """The differences of all methods on one block, but for some."""
        rows = self._reports.rows(f"{page}-differences", block=block)
        return Gains(rows[~rows["method"].isin(but)])

    def pooled(self, page: str, method: str) -> Pooled:
        """A method's gain over LoRA on all blocks together that have headroom."""
        return Pooled(self._reports.row(f"{page}-pooled", method=method))

    def smallest_gains(self, page: str, method: str) -> str:
        """The smallest gains that single blocks tell from 0 with 80 % power, by adjusted intervals, in points."""
        return span(self._reports.rows(f"{page}-power", method=method)["smallest_gain_adjusted"])

    def verdict_counts(self, gains: Gains) -> str:
        """The verdicts of some differences with their numbers: `four not supported, four undecided`."""
        return listed(f"{word(count)} {verdict}" for verdict, count in gains.rows["verdict"].value_counts().items())

    def smallest_p(self, page: str) -> str:
        """The least p value of a table's verdicts, adjusted for their number."""
        return plain(self._reports.table(f"{page}-differences")["p_adjusted"].min(), 2)

    def tested(self, page: str) -> int:
        """How many verdicts a table has."""
        return int(self._reports.table(f"{page}-differences")["p_adjusted"].notna().sum())


class Accuracies:
    """The vocabulary of accuracies, of the blocks and methods of a table, and of what pruning left."""

    def __init__(self, reports: Reports):
        self._reports = reports

    def accuracy(self, page: str, block: str, method: str, column: str = MEAN) -> str:
        """Percent with its interval: `44.0 [39, 49]`."""
        row = self._reports.row(page, block=block, method=method, column=column)
        return f"{100 * row['value']:.1f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"

    def percent(self, page: str, block: str, method: str, column: str = MEAN, places: int = 0) -> str:
        """Percent without its interval."""
        return plain(100 * self.share(page, block, method, column), places)

    def percents(self, page: str, method: str, column: str = MEAN) -> list[float]:
        """A method's percent on every block."""
        return [100 * share for share in self._reports.rows(page, method=method, column=column)["value"]]

    def share(self, page: str, block: str, method: str, column: str = MEAN) -> float:
        """A proportion as a number, for comparisons."""
        return float(self._reports.row(page, block=block, method=method, column=column)["value"])

    def blocks_of(self, page: str) -> list[str]:
        """The blocks of a table, in its order; the dense model left out."""
        return [str(block) for block in self._reports.table(page)["block"].unique() if block != DENSE]

    def methods_of(self, page: str, block: str) -> list[str]:
        """The methods of a block, in the table's order."""
        return list(self._reports.rows(page, block=block)["method"].unique())

    def without_headroom(self, page: str) -> list[str]:
        """The blocks on which the dense model scores no more than the pruned one, before recovery."""
        dense = self.share(page, DENSE, DENSE)
        return [block for block in self.blocks_of(page) if self.share(page, block, NO_RECOVERY) >= dense]

    def chance(self) -> float:
        """Mean accuracy of guesses over the seven tasks, in percent."""
        return 100 * sum(BENCHMARKS[task].chance for task in TASKS) / len(TASKS)

    def drawn(self, figure: str) -> bool:
        """Whether a figure is among the reports: `drawn("smollm2/table2-means")`."""
        return (self._reports.folder / f"{figure}.png").is_file()

    def adalora_spread(self, page: str) -> dict[str, str]:
        """Where AdaLoRA's ranks differ: shares of their variance between `projections` and between `layers` in percent,
        mean ranks of layers `inside` the pruner's range and `outside` it."""
        row = self._reports.table(f"{page}-spread").iloc[0]
        return {"projections": plain(row["variance between projections (%)"], 0),
                "layers": plain(row["variance between layers (%)"], 0),
                "inside": plain(row["layers in the pruner's range"]), "outside": plain(row["other layers"])}

    def millions(self, profile: str) -> str:
        """Parameters of a profile's dense model, in millions."""
        return plain(self._reports.row(f"{profile}/pruning", block="Dense")["parameters"] / 1e6)


@dataclass(frozen=True)
class Changes:
    """What variants of ablations change of LoRA and RankAdaptor, a row each."""

    rows: pd.DataFrame

    @property
    def count(self) -> int:
        """How many changes there are."""
        return len(self.rows)

    @property
    def all_zero(self) -> bool:
        """Whether every answer is the same, so that all changes and their intervals are 0."""
        return bool((self.rows[["change", "change_low", "change_high"]] == 0).all().all())

    @property
    def excluding(self) -> list[str]:
        """Method, variant and change of those whose interval excludes 0."""
        columns = (self.rows[name] for name in ("method", "variant", "change", "change_low", "change_high"))
        return [f"{method} with {variant} {interval(change, low, high, sign=True)}"
                for method, variant, change, low, high in zip(*columns, strict=True) if excludes_zero(low, high)]


class Ablations:
    """The vocabulary of ablations."""

    def __init__(self, reports: Reports):
        self._reports = reports

    def changes_of(self, page: str, *names: str) -> Changes:
        """Changes of LoRA and RankAdaptor against the first variant of each of these ablations; of all by default."""
        table = self._reports.table(page)
        rows = table[table["change"].notna() & (table["method"] != NO_RECOVERY)]
        return Changes(rows[rows["ablation"].isin(names)] if names else rows)

    def table3_changes(self, page: str) -> Changes:
        """Changes of the factors that the paper's Table 3 varies."""
        return self.changes_of(page, *TABLE_3)

    def gain_in(self, page: str, ablation: str, variant: str, method: str) -> str:
        """A method's accuracy less LoRA's within one variant, in points."""
        row = self._reports.row(page, ablation=ablation, variant=variant, method=method)
        return interval(row["difference"], row["difference_low"], row["difference_high"], sign=True)

    def gain_value(self, page: str, ablation: str, variant: str, method: str) -> float:
        """The same as a number, for comparisons."""
        return float(self._reports.row(page, ablation=ablation, variant=variant, method=method)["difference"])
