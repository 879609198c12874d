"""What templates say of searches, of the replays on the search page and of the testbed: public methods are functions
of templates."""

from dataclasses import dataclass

import pandas as pd

from rankadaptor.reporting.numbers import interval, plain, span
from rankadaptor.reporting.prose.reports import Reports

_DIRECTIONS = {"fewer": "less than", "less": "less than", "more": "more than"}


@dataclass(frozen=True)
class TableSearches:
    """How long the searches of a table were, a row a block."""

    rows: pd.DataFrame

    @property
    def count(self) -> int:
        """How many searches there are."""
        return len(self.rows)

    @property
    def ended_early(self) -> int:
        """How many were ended by the stopping rule, before the last round."""
        return int((self.rows["rounds"] < self.rows["most_rounds"]).sum())

    @property
    def most_rounds(self) -> int:
        """Rounds of a search at most."""
        return int(self.rows["most_rounds"].max())

    @property
    def recoveries(self) -> str:
        """Recoveries of a search, from the shortest to the longest."""
        return span(self.rows["recoveries"], 0)


@dataclass(frozen=True)
class Outdone:
    """Searches and variants with less regret than a choice without a search."""

    searches: int  # methods and blocks, together
    fewer: int  # of these with less regret
    equal: int  # of these with as much, as printed
    variants: dict[str, float]  # variants of RankAdaptor with less, and their regrets
    equal_variants: int  # with as much
    variant_count: int


class Searches:
    """The vocabulary of searches."""

    def __init__(self, reports: Reports):
        self._reports = reports

    def searches(self, page: str) -> TableSearches:
        """The searches of a table."""
        return TableSearches(self._reports.table(f"{page}-searches"))

    def search_blocks(self, profile: str) -> list[str]:
        """The blocks of the replays; the first is the one that the search was developed on."""
        return [str(block) for block in self._reports.table(f"{profile}/search-unsearched")["block"]]

    def compared(self, profile: str, measure: str, verdict: str, *rivals: str) -> int:
        """In how many comparisons RankAdaptor is decided to have `fewer`, `less` or `more` than a rival.

        Args:
            measure: `recoveries` or `regret`.
            rivals: All by default.
        """
        rows = self._comparisons(profile, measure, *rivals)
        return int((rows["verdict"] == _DIRECTIONS[verdict]).sum())

    def comparisons(self, profile: str, measure: str, *rivals: str) -> int:
        """How many comparisons there are."""
        return len(self._comparisons(profile, measure, *rivals))

    def _comparisons(self, profile: str, measure: str, *rivals: str) -> pd.DataFrame:
        table = self._reports.table(f"{profile}/search-differences")
        rows = table[table["of"].str.startswith(measure)]
        return rows[rows["rival"].isin(rivals)] if rivals else rows

    def ended(self, profile: str, predictor: str) -> str:
        """How many replayed searches of a predictor the stopping rule ended: `4 of 30`."""
        row = self._convergence(profile, predictor)
        return f"{row['ended']} of {row['searches']}"

    def ended_verdict(self, profile: str) -> str:
        """RankAdaptor's searches against those of random numbers: `not told from random numbers`."""
        return str(self._convergence(profile, "RankAdaptor")["verdict"])

    def _convergence(self, profile: str, predictor: str) -> pd.Series:
        return self._reports.row(f"{profile}/search-convergence", block="all blocks", predictor=predictor)

    def replayed_recoveries(self, profile: str) -> int:
        """Recoveries of a replayed search."""
        return int(self._reports.table(f"{profile}/search-searches")["spent"].max())

    def recoveries_to_top(self, profile: str, method: str) -> list[str]:
        """Median recoveries to the top 1 % of the searched scores by block; `over 40` where most searches never do."""
        most = self.replayed_recoveries(profile)
        rows = self._reports.rows(f"{profile}/search-searches", method=method)
        return [f"over {most}" if count > most else f"{count:.0f}" for count in rows["top_1"]]

    def measured_recoveries(self, profile: str) -> int:
        """Recoveries that the rank table holds."""
        return int(sum(self._reports.record(f"{profile}/search-provenance")["recoveries"].values()))

    def agreement(self, profile: str, differs: str, signal: str = "gold_probability") -> str:
        """Kendall's tau of two measurements over blocks, by what differs between them."""
        rows = self._reports.rows(f"{profile}/search-agreement", signal=signal)
        return span(rows.loc[rows["what differs"] == differs, "Kendall tau"], 2)

    def learned(self, profile: str, target: str) -> str:
        """Kendall's tau of a regression that learned one training seed's scores, by what it is held against."""
        return span(self._reports.table(f"{profile}/search-seeds")[f"tau, {target}"], 2)

    def unsearched_regret(self, profile: str, choice: str) -> list[str]:
        """Regret of a choice without a search by block, in points."""
        return [plain(regret, 2) for regret in self._reports.table(f"{profile}/search-unsearched")[choice]]

    def search_regret(self, profile: str) -> str:
        """Median regrets of all methods on all blocks, from the least to the largest, in points."""
        return span(self._reports.table(f"{profile}/search-searches")["regret"], 1)

    def less_regret(self, profile: str, choice: str) -> Outdone:
        """The searches on all blocks, and the variants on the first, whose median regret lies below that of a choice
        without a search; compared as printed, with two decimals."""
        unsearched = self._reports.table(f"{profile}/search-unsearched").set_index("block")[choice].round(2)
        searches = self._reports.table(f"{profile}/search-searches")
        reference = searches["block"].map(unsearched)
        variants = self._reports.table(f"{profile}/search-variants")
        below = variants["regret"].round(2) < unsearched.iloc[0]
        return Outdone(len(searches), int((searches["regret"].round(2) < reference).sum()),
                       int((searches["regret"].round(2) == reference).sum()),
                       dict(zip(variants["method"][below], variants["regret"][below], strict=True)),
                       int((variants["regret"].round(2) == unsearched.iloc[0]).sum()), len(variants))

    def rule_of_thumb(self, profile: str, name: str) -> str:
        """Gold probability of a rule of thumb in percent, mean over trainings."""
        return plain(self._reports.rows(f"{profile}/search-rules", allocation=name)["gold_probability"].mean())

    def between_trainings(self, profile: str) -> str:
        """How far apart two trainings of one rule of thumb lie, in points of gold probability."""
        by_rule = self._reports.table(f"{profile}/search-rules").groupby("allocation")["gold_probability"]
        return span(by_rule.max() - by_rule.min(), 1)

    def predictor_tau(self, profile: str, predictor: str, size: int) -> str:
        """Kendall's tau of a predictor out of sample, after so many recoveries."""
        row = self._reports.row(f"{profile}/search-predictors", predictor=predictor, size=size)
        return interval(row["tau, same"], row["tau, same, low"], row["tau, same, high"], 2)

    def taught_tau(self, profile: str, block: str, source: str, size: int) -> str:
        """Kendall's tau after so many recoveries of a block, meta-learned on a source: `nothing`, a block, or all."""
        rows = self._reports.rows(f"{profile}/search-transfer", block=block, size=size)
        row = rows[rows["meta-learned on"] == source].iloc[0]
        return interval(row["tau, same"], row["tau, same, low"], row["tau, same, high"], 2)


class Testbed:
    """The vocabulary of the testbed's quality."""

    def __init__(self, reports: Reports):
        self._reports = reports

    def margin(self, block: str, share: str) -> str:
        """Percent of the dense model's margin that pruning `lost` on a block, or of that loss which LoRA `won back`."""
        rows = self._reports.rows("tiny/testbed-margins", block=block)
        return plain(100 * rows[share].dropna().iloc[0], 0)

    def spread(self, block: str, scaling: str, signal: str = "gold probability") -> str:
        """Ratio of the spread between allocations over training noise."""
        row = self._reports.row("tiny/testbed-spread", block=block, scaling=scaling, signal=signal)
        return interval(row["ratio"], row["ratio_low"], row["ratio_high"])

    def spread_points(self, column: str, signal: str = "gold probability") -> list[float]:
        """Standard deviations over blocks and scalings (`between` allocations, or `noise` of training), in points."""
        return [100 * value for value in self._reports.rows("tiny/testbed-spread", signal=signal)[column]]

    def three_deviations(self) -> list[float]:
        """What an allocation three standard deviations above the others would gain, by block and scaling, in points."""
        return [3 * points for points in self.spread_points("between")]

    def decided_spreads(self, signal: str = "gold probability") -> int:
        """In how many blocks and scalings the interval of the ratio lies above 1."""
        return int((self._reports.rows("tiny/testbed-spread", signal=signal)["ratio_low"] > 1).sum())

    def spread_count(self, column: str) -> int:
        """Allocations or seeds that spreads were measured with; with signal's rows, `rows`."""
        rows = self._reports.rows("tiny/testbed-spread", signal="gold probability")
        return len(rows) if column == "rows" else int(rows[column].max())
