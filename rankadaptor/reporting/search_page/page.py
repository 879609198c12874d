"""The page of notebook 06: its parts, each replayed once and read from the ledger afterwards."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from rankadaptor.errors import BadInput
from rankadaptor.experiments.parameters import (
    DEFAULT_LEDGER,
    Words,
    named_ledger,
    named_profile,
    split_words,
    text,
    whole_number,
)
from rankadaptor.experiments.plan import Plan
from rankadaptor.files import sha256_file
from rankadaptor.pipeline.execution import MOST_WORKERS
from rankadaptor.profiles import Profile
from rankadaptor.ranktable.cross_validation import rank_statistics
from rankadaptor.ranktable.meta_records import COMMITTED, read_table
from rankadaptor.ranktable.reliability import reliability
from rankadaptor.ranktable.replay import Replay
from rankadaptor.ranktable.replay_cache import ReplayCache
from rankadaptor.recovery.recipe import SCALINGS
from rankadaptor.reporting.search_page.comparisons import rival_differences, unsearched_regrets, verdict_text
from rankadaptor.reporting.search_page.convergence import convergence_frame, convergence_table, convergence_text
from rankadaptor.reporting.search_page.figures import (
    learning_figure,
    prediction_figure,
    regret_figure,
    top_figure,
    trace_figure,
)
from rankadaptor.reporting.search_page.jobs import (
    BATCH,
    INITIAL,
    OURS,
    PageSettings,
    ablation_jobs,
    convergence_jobs,
    method_jobs,
    page_settings,
)
from rankadaptor.reporting.search_page.predictions import predictor_variants, records_transfer, seed_transfer
from rankadaptor.reporting.search_page.tables import (
    by_block,
    predictor_table,
    rules_frame,
    rules_table,
    searches_frame,
    searches_table,
)
from rankadaptor.reporting.search_page.writing import write_page

BASE = "random search"  # whose regret stands beside every search's
ABLATED = 12  # searches of every ablation, the first of the method's
STOPPED = 10  # searches a block that may end early
SIZES = (8, 16, 32, 64, 128, 1000)  # numbers of recoveries that predictors learn from


def search_page(
    profile: str,
    table: str = "",
    blocks: Words = "llm-pruner:50 shortened:30 llm-pruner:30",
    scaling: str = "fixed_alpha",
    searches: Words = 20,
    recoveries: Words = 40,
    workers: Words = 2,
    ledger: Path | str = DEFAULT_LEDGER,
) -> "SearchPage":
    """Searches replayed on a table of measured allocations. Nothing is recovered.

    Args:
        profile: Name of a profile, or path of a YAML file.
        table: Path of a rank table; empty for the committed one.
        blocks: Of the table; the first is the development block.
        scaling: "fixed_alpha" or "constant".
        searches: Seeds of every method.
        recoveries: Of a search, at most what the smallest pool holds.
        workers: Processes.
        ledger: Folder of finished results.

    Raises:
        BadInput: on anything unknown, or that the table does not hold.
    """
    scaling = text("scaling", scaling, "fixed_alpha")
    if scaling not in SCALINGS:
        raise BadInput(f"unknown scaling {scaling!r}: use one of {', '.join(SCALINGS)}")
    searches, recoveries = whole_number("searches", searches, 0, 10_000), whole_number("recoveries", recoveries, 0)
    workers = whole_number("workers", workers, 0, MOST_WORKERS)
    if searches < 2 or recoveries < INITIAL + BATCH or workers < 1:
        raise BadInput(f"{searches} searches of {recoveries} recoveries by {workers} workers were asked for: give at"
                       f" least 2 of {INITIAL + BATCH} by 1")
    loaded, path = named_profile(profile), Path(text("table", table) or COMMITTED)
    rows = read_table(path)
    replays = {name: Replay.of(rows, loaded, name, scaling) for name in split_words(blocks)}  # type: ignore[arg-type]
    if not replays:
        raise BadInput("no blocks were given: name some that the table holds")
    smallest = min(len(replay.pool.allocations) for replay in replays.values())
    rounds = (min(recoveries, smallest) - INITIAL) // BATCH
    if rounds < 1:
        raise BadInput(f"the smallest pool has {smallest} allocations: a search needs {INITIAL + BATCH}")
    digest = sha256_file(path)
    cache = ReplayCache(named_ledger(ledger), loaded, digest, replays, scaling, workers)  # type: ignore[arg-type]
    settings = page_settings(loaded, rounds)
    return SearchPage(loaded, path.name, digest, rows, replays, scaling, range(searches), settings, cache)


@dataclass(eq=False)
class SearchPage:
    """See `search_page`. The first block is the development block: predictors and ablations are of it alone."""

    profile: Profile
    table_name: str
    table_sha256: str
    table: pd.DataFrame
    replays: dict[str, Replay]  # by block
    scaling: str
    seeds: range  # of the searches
    settings: PageSettings
    cache: ReplayCache

    @property
    def recoveries(self) -> int:
        """Recoveries of a search; whole rounds."""
        return INITIAL + BATCH * self.settings.ours.rounds

    @property
    def development(self) -> str:
        """Name of the development block."""
        return next(iter(self.replays))

    def plan(self) -> Plan:
        """What there is to replay. Nothing is recovered; replaying takes two to three minutes on two cores, once."""
        return Plan("The search, replayed", _plan_lines(self), self.profile.inputs(), self.profile.cost, Counter(),
                    Counter())

    def is_complete(self) -> bool:
        """Always: nothing is recovered or evaluated here, searches are replayed."""
        return not self.plan().missing

    def run(self) -> dict[str, pd.DataFrame]:
        """Replay what the ledger lacks; returns every table of the page by its heading."""
        parts = {"What one measurement is worth": self.reliability(), "What a seed teaches": self.seed_transfer(),
                 "Rules of thumb": self.rules(), "Predictors": predictor_table(self.predictors()),
                 "What other blocks teach": self.transfer()}
        parts |= {f"Searches, {name}": table for name, table in self.searches().items()}
        parts["When the stopping rule fires"] = convergence_table(self.convergence)
        return parts | {"Regret without a search (points)": self.unsearched(), "What helps": self.ablations()}

    def write(self, folder: Path | str) -> Path:
        """Write search.md, which it returns, search-provenance.json and every part as search-PART.csv."""
        parts, verdict = self.run(), self.verdict()
        path = write_page(self.profile, self.table, self.table_sha256, parts, verdict, self.cache.keys, folder)
        for name, frame in _frames(self).items():
            frame.to_csv(path.with_name(f"search-{name}.csv"), index=False, float_format="%.4f")
        return path

    # -- what a measurement is worth ----------------------------------------------------------------------------------

    @cached_property
    def _agreement(self) -> Mapping[str, pd.DataFrame]:
        return {name: reliability(replay) for name, replay in self.replays.items()}

    def reliability(self) -> pd.DataFrame:
        """How far two measurements of one allocation agree, by block, signal and what differs between them."""
        return by_block(self._agreement)

    def seed_transfer(self) -> pd.DataFrame:
        """See `predictions.seed_transfer`."""
        return seed_transfer(self.replays, self.cache, self.settings)

    def rules(self) -> pd.DataFrame:
        """Rules of thumb on the development block; see `tables.rules_table`."""
        return rules_table(rules_frame(self.table, self.development, self.scaling))

    # -- what predictors predict --------------------------------------------------------------------------------------

    @cached_property
    def _predictions(self) -> pd.DataFrame:
        variants = predictor_variants(self.settings, self.replays[self.development].other_blocks)
        return self.cache.predictions(self.development, variants, SIZES)

    @cached_property
    def _statistics(self) -> pd.DataFrame:
        return rank_statistics(self._predictions)

    def predictors(self) -> pd.DataFrame:
        """Rank statistics of every predictor that learned from 32 recoveries, and from all."""
        sizes = self._statistics["size"]
        return self._statistics[(sizes == 32) | (sizes == sizes.max())]

    def learning(self) -> Figure:
        """Rank correlation of every predictor by the recoveries that it learned from."""
        agreement = self._agreement[self.development]
        both = (agreement["signal"] == "gold_probability") & (agreement["what differs"] == "both")
        return learning_figure(self._statistics, agreement.loc[both, "Kendall tau"].item())

    def scatter(self) -> Figure:
        """Predictions of the profile's predictor against measurements."""
        return prediction_figure(self._predictions, self.settings.ours.predictor)

    def transfer(self) -> pd.DataFrame:
        """See `predictions.records_transfer`."""
        return predictor_table(self._transfer)

    @cached_property
    def _transfer(self) -> pd.DataFrame:
        return records_transfer(self.replays, self.cache, self.settings)

    # -- what searches find -------------------------------------------------------------------------------------------

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Block -> every search of every method, as `ranktable.replayed_searches.run_replays` returns them."""
        jobs = method_jobs(self.settings)
        return {name: self.cache.searches(name, jobs, self.seeds) for name in self.replays}

    def trace(self) -> Figure:
        """Predictions and measurements of RankAdaptor's first searches, round by round."""
        return trace_figure(self.replays[self.development], method_jobs(self.settings)[0])

    def searches(self) -> dict[str, pd.DataFrame]:
        """Block -> what each method's searches reach."""
        return {name: searches_table(frame, BASE, self.recoveries) for name, frame in self._searches.items()}

    @cached_property
    def _searches(self) -> dict[str, pd.DataFrame]:
        return {name: searches_frame(curves, BASE, self.recoveries) for name, curves in self.curves.items()}

    def regret(self) -> Figure:
        """Regret of every method by recoveries, and of choices without a search."""
        return regret_figure(self.curves, {name: unsearched_regrets(replay) for name, replay in self.replays.items()})

    def unsearched(self) -> pd.DataFrame:
        """Regrets of choices without a search, and of the whole pool searched, in points of gold probability."""
        regrets = {name: unsearched_regrets(replay) for name, replay in self.replays.items()}
        return pd.DataFrame(regrets).T.rename_axis("block").reset_index()

    def top(self) -> Figure:
        """Recoveries until a search has measured one of the top allocations."""
        return top_figure(self.curves)

    def ablations(self) -> pd.DataFrame:
        """RankAdaptor with one thing changed at a time, on the development block."""
        return searches_table(self._variants, OURS, self.recoveries)

    @cached_property
    def _variants(self) -> pd.DataFrame:
        seeds, methods = self.seeds[:ABLATED], self.curves[self.development]
        changed = self.cache.searches(self.development, ablation_jobs(self.settings)[1:], seeds)
        curves = pd.concat([methods[methods["seed"].isin(seeds)], changed], ignore_index=True)
        return searches_frame(curves, OURS, self.recoveries)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """RankAdaptor less its rivals; see `comparisons.rival_differences`."""
        return rival_differences(self.curves, self.recoveries)

    @cached_property
    def convergence(self) -> pd.DataFrame:
        """How often the stopping rule ends a search; see `convergence.convergence_frame`."""
        jobs, seeds = convergence_jobs(self.settings), self.seeds[:STOPPED]
        return convergence_frame({name: self.cache.searches(name, jobs, seeds) for name in self.replays})

    def verdict(self) -> str:
        """RankAdaptor against its rivals, by rule, and what the stopping rule says; see `comparisons`."""
        return f"{verdict_text(self.differences)}\n\n{convergence_text(self.convergence)}"


def _plan_lines(page: "SearchPage") -> tuple[str, ...]:
    """What there is to replay."""
    lines = [f"{page.table_name}: {len(page.table):,} recoveries, SHA-256 {page.table_sha256[:12]}"]
    lines += [f"{name}: a pool of {len(replay.pool.allocations)} allocations within the budget of"
              f" {replay.pool.space.budget_params:,} parameters, {replay.pool.space.size:,} there are"
              for name, replay in page.replays.items()]
    lines.append(f"{len(page.seeds)} searches a method, {page.recoveries} recoveries each, {INITIAL} of them before"
                 f" the first prediction, {BATCH} a round, none stopped early")
    lines.append("nothing is recovered; replaying takes two to three minutes on two cores, once")
    return tuple(lines)


def _frames(page: "SearchPage") -> dict[str, pd.DataFrame]:
    """What is written as search-NAME.csv, by name."""
    return {
        "agreement": page.reliability(), "seeds": page.seed_transfer(),
        "rules": rules_frame(page.table, page.development, page.scaling), "predictors": page.predictors(),
        "transfer": page._transfer, "differences": page.differences, "searches": by_block(page._searches),
        "unsearched": page.unsearched(), "variants": page._variants, "convergence": page.convergence}
