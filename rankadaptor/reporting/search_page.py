"""What notebook 06 asks for, each part computed once."""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import kendalltau

from rankadaptor.errors import BadInput
from rankadaptor.experiments.options import DEFAULT_LEDGER
from rankadaptor.files import sha256_file
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.ranktable.cross_validation import Variant, rank_statistics
from rankadaptor.ranktable.meta_records import COMMITTED, read_table
from rankadaptor.ranktable.reliability import reliability
from rankadaptor.ranktable.replay import Replay
from rankadaptor.ranktable.replay_cache import ReplayCache
from rankadaptor.ranktable.replayed_searches import TOPS, recoveries_needed
from rankadaptor.recovery.spec import SCALINGS
from rankadaptor.reporting import search as drawn
from rankadaptor.search.rivals import RIVALS
from rankadaptor.search.rounds import mean_score
from rankadaptor.search.settings import SearchSettings
from rankadaptor.statistics import holm, two_sided_p

INITIAL, BATCH = 8, 4
ABLATED = 12  # searches of every ablation, the first of the method's
THRESHOLD, PATIENCE = 0.25, 2  # of the search that stops
SIZES = (8, 16, 32, 64, 128, 1000)
_NEEDED, _REGRET = "recoveries to the top 1 %", "regret (points)"
_LEVEL = 0.05  # of a family of comparisons, adjusted for their number (Holm)


def search_page(
    profile: str,
    table: str = "",
    blocks: str = "llm-pruner:50 shortened:30 llm-pruner:30",
    scaling: str = "fixed_alpha",
    searches: int = 20,
    recoveries: int = 40,
    workers: int = 2,
    ledger: Path | str = DEFAULT_LEDGER,
) -> "SearchPage":
    """
    Args:
        table: Path of a rank table; empty for the committed one.
        blocks: Of the table; the first is the development block.
        searches: Seeds of every method.
        recoveries: Of a search, at most what the smallest pool holds.

    Raises:
        BadInput: on anything unknown, or that the table does not hold.
    """
    if scaling not in SCALINGS:
        raise BadInput(f"unknown scaling {scaling!r}: use one of {', '.join(SCALINGS)}")
    if searches < 2 or recoveries < INITIAL + BATCH or workers < 1:
        raise BadInput(f"{searches} searches of {recoveries} recoveries by {workers} workers were asked for: give at"
                       f" least 2 of {INITIAL + BATCH} by 1")
    chosen, path = load_profile(profile), Path(table or COMMITTED)
    rows = read_table(path)
    replays = {name: Replay.of(rows, chosen, name, scaling) for name in blocks.replace(",", " ").split()}  # type: ignore[arg-type]
    if not replays:
        raise BadInput("no blocks were given: name some that the table holds")
    return SearchPage(chosen, path, rows, replays, scaling, searches, recoveries, workers, Ledger(ledger))


class SearchPage:
    """See `search_page`."""

    def __init__(
        self,
        profile: Profile,
        path: Path,
        table: pd.DataFrame,
        replays: dict[str, Replay],
        scaling: str,
        searches: int,
        recoveries: int,
        workers: int,
        ledger: Ledger,
    ):
        self.profile, self.path, self.table, self.replays = profile, path, table, replays
        self.scaling, self.seeds = scaling, range(searches)
        self._kept = ReplayCache(ledger, profile, sha256_file(path), replays, scaling, workers)  # type: ignore[arg-type]
        smallest = min(len(replay.pool.allocations) for replay in replays.values())
        rounds = (min(recoveries, smallest) - INITIAL) // BATCH
        if rounds < 1:
            raise BadInput(f"the smallest pool has {smallest} allocations: a search needs {INITIAL + BATCH}")
        self.recoveries = INITIAL + BATCH * rounds
        shared = SearchSettings(
            initial=INITIAL, rounds=rounds, batch=BATCH, candidates_per_round=100_000, threshold=0.0,
            patience=rounds + 1, seed=0,
        )
        self.settings = dataclasses.replace(shared, **dataclasses.asdict(profile.search.method))
        self.paper = dataclasses.replace(shared, selection="predicted")
        self.stopping = dataclasses.replace(self.settings, threshold=THRESHOLD, patience=PATIENCE)
        self._development = next(iter(replays))

    def plan(self) -> str:
        """What there is to replay. Nothing is recovered; replaying takes two to three minutes on two cores, once."""
        lines = [f"{self.path.name}: {len(self.table):,} recoveries, SHA-256 {sha256_file(self.path)[:12]}"]
        lines += [f"{name}: a pool of {len(replay.pool.allocations)} allocations within the budget of"
                  f" {replay.pool.space.budget_params:,} parameters, {replay.pool.space.size:,} there are"
                  for name, replay in self.replays.items()]
        lines.append(f"{len(self.seeds)} searches a method, {self.recoveries} recoveries each, {INITIAL} of them before"
                     f" the first prediction, {BATCH} a round, none stopped early")
        return "\n".join(lines)

    def is_complete(self) -> bool:
        """Always: nothing is recovered or evaluated here, searches are replayed."""
        return True

    def reliability(self) -> pd.DataFrame:
        return self._by_block(self._agreement)

    @cached_property
    def _agreement(self) -> dict[str, pd.DataFrame]:
        return {name: reliability(replay) for name, replay in self.replays.items()}

    @staticmethod
    def _by_block(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """One table, with a column that names the block first."""
        return pd.concat(tables, names=["block"]).reset_index("block").reset_index(drop=True)

    def seed_transfer(self) -> pd.DataFrame:
        """What a regression that learned one training seed's scores on the search split says of both seeds' reports."""
        lines = []
        for name, replay in self.replays.items():
            regression = {"ridge": (dataclasses.replace(self.settings, predictor="ridge"), ())}
            found = self._kept.predictions(name, regression, [len(replay.pool.allocations)])
            for seed in replay.seeds:
                rows, own = found[found["seed"] == seed], replay.scores[seed, "report", "gold_probability"]
                members = [replay.pool.allocations[place] for place in rows["allocation"]]
                reported = [mean_score(own[allocation]) for allocation in members]
                taus = [kendalltau(rows["predicted"], other).statistic
                        for other in (rows["same"], reported, rows["other"])]
                lines.append({"block": name, "learned from": f"training seed {seed}, search split",
                              "tau, the same scores": taus[0], "tau, same training, report split": taus[1],
                              "tau, other training, report split": taus[2]})
        return pd.DataFrame(lines)

    def rules(self) -> pd.DataFrame:
        return drawn.uniform_table(self.table, self._development, self.scaling)

    def trace(self) -> Figure:
        return drawn.trace_figure(self.replays[self._development], self._jobs[0])

    @cached_property
    def _predictions(self) -> pd.DataFrame:
        """Of the development block."""
        ours, paper = self.settings, self.paper
        others = self.replays[self._development].other_blocks
        variants: dict[str, Variant] = {
            "paper": (paper, ()), "paper, meta-learned": (paper, others),
            ours.predictor: (ours, ()), f"{ours.predictor}, meta-learned": (ours, others),
        }
        for name in ("ridge", "gaussian process", "forest", "constant"):
            variants[name] = (dataclasses.replace(ours, predictor=name), ())
        return self._kept.predictions(self._development, variants, SIZES)

    @cached_property
    def _statistics(self) -> pd.DataFrame:
        return rank_statistics(self._predictions)

    def predictors(self) -> pd.DataFrame:
        """Rank statistics of every predictor that learned from 32 recoveries, and from all."""
        sizes = self._statistics["size"]
        return self._statistics[(sizes == 32) | (sizes == sizes.max())]

    def learning(self) -> Figure:
        agreement = self._agreement[self._development]
        both = (agreement["signal"] == "gold_probability") & (agreement["what differs"] == "both")
        return drawn.learning_figure(self._statistics, agreement.loc[both, "Kendall tau"].item())

    def transfer(self) -> pd.DataFrame:
        """What records of other blocks are worth, by which of them were given: another rate, another pruner, all."""
        tables = {}
        for name, replay in self.replays.items():
            given = {"nothing": (), **{one: (one,) for one in replay.other_blocks}}
            if len(replay.other_blocks) > 1:
                given["all of these"] = tuple(replay.other_blocks)
            variants: dict[str, Variant] = {label: (self.settings, blocks) for label, blocks in given.items()}
            found = rank_statistics(self._kept.predictions(name, variants, (8, 32)))
            tables[name] = drawn.predictor_table(found).rename(columns={"predictor": "meta-learned on"})
        return self._by_block(tables)

    def scatter(self) -> Figure:
        return drawn.prediction_figure(self._predictions, self.settings.predictor)

    @cached_property
    def _jobs(self) -> list[drawn.Job]:
        return drawn.method_jobs(self.settings, self.paper)

    @cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """Searches by block."""
        return {name: self._kept.searches(name, self._jobs, self.seeds) for name in self.replays}

    def found(self) -> dict[str, pd.DataFrame]:
        return {name: self._with_differences(curves, "random search") for name, curves in self.curves.items()}

    def _with_differences(self, curves: pd.DataFrame, base: str) -> pd.DataFrame:
        differences = drawn.compared(curves, base, self.recoveries)
        return drawn.found_table(curves, self.recoveries).merge(differences, on="method", how="left").fillna("")

    def regret(self) -> Figure:
        marks = {name: self._unsearched(replay) for name, replay in self.replays.items()}
        return drawn.regret_figure(self.curves, marks)

    def unsearched(self) -> pd.DataFrame:
        """Regrets of choices without a search, and of the whole pool searched, in points of gold probability."""
        return pd.DataFrame({name: self._unsearched(replay) for name, replay in self.replays.items()}
                            ).T.rename_axis("block").reset_index()

    @staticmethod
    def _unsearched(replay: Replay) -> dict[str, float]:
        """Means over both directions."""
        space = replay.pool.space
        lora = space.fill([space.fixed_rank] * len(space.free_layers))
        marks: dict[str, list[float]] = {}
        for seed in replay.seeds:
            truth, known = replay.truth(seed), replay.searched(seed, "gold_probability")
            best = max(truth.values())
            luckiest = max(truth, key=lambda allocation: mean_score(known[allocation]))
            marks.setdefault("a random allocation", []).append(best - float(np.mean(list(truth.values()))))
            if lora in truth:
                marks.setdefault(f"LoRA r={space.fixed_rank}", []).append(best - truth[lora])
            marks.setdefault("the whole pool searched", []).append(best - truth[luckiest])
        return {label: 100 * float(np.mean(regrets)) for label, regrets in marks.items()}

    def top(self) -> Figure:
        return drawn.top_figure(self.curves)

    @cached_property
    def _ablated(self) -> pd.DataFrame:
        jobs = drawn.ablation_jobs(self.settings, self.paper, self.stopping)[1:]
        seeds = self.seeds[:ABLATED]
        one = self._kept.searches(self._development, jobs, seeds)
        whole = self.curves[self._development]
        return pd.concat([whole[whole["seed"].isin(seeds)], one], ignore_index=True)

    def ablations(self) -> pd.DataFrame:
        return self._with_differences(self._ablated, "RankAdaptor")

    def verdict(self) -> str:
        """By rule, of two things: recoveries until one of the top 1 % of what is searched is measured, and regret of
        the choice. Less or more where the p value of the mean difference, adjusted for the number of comparisons
        (Holm), is at most 0.05 and both directions agree; else undecided."""
        top = f"recoveries until it has measured one of the top {100 * TOPS[-1]:.0f} % of the scores that it searches"
        found = self.differences
        return "\n".join([
            f"What is searched: {top}.", "", *self._lines(found[found["of"] == _NEEDED], "{:+.0f}"), "",
            "What it is worth: regret of the choice, in points of gold probability, under another training.", "",
            *self._lines(found[found["of"] == _REGRET], "{:+.2f}"), "",
            f"P values are adjusted for {len(found) // 2} comparisons each. They speak of searches on the two trainings"
            " that the table holds, not of other trainings.",
        ])

    @cached_property
    def differences(self) -> pd.DataFrame:
        """RankAdaptor less its rivals.

        Returns:
            Columns of (recoveries to the top 1 %, or regret in points), block, rival, difference (mean over searches),
            low, high (95 %), p_holm, verdict.
        """
        of = {_NEEDED: {name: recoveries_needed(curves, TOPS[-1]) for name, curves in self.curves.items()},
              _REGRET: {name: drawn.regrets_at(curves, self.recoveries) for name, curves in self.curves.items()}}
        lines = []
        for label, tables in of.items():
            pairs = {(name, rival): drawn.paired(table, drawn.OURS, rival)
                     for name, table in tables.items() for rival in (drawn.PAPER, *RIVALS)}
            draws = [drawn.paired_draws(one) for one in pairs.values()]
            adjusted = holm([two_sided_p(one) for one in draws])
            for (key, one), drawn_means, p in zip(pairs.items(), draws, adjusted, strict=True):
                decided = p <= _LEVEL and np.ptp(np.sign(one.mean(axis=1))) == 0
                word = ("less than" if one.mean() < 0 else "more than") if decided else "undecided against"
                low, high = np.quantile(drawn_means, [0.025, 0.975])
                lines.append((label, *key, one.mean(), low, high, p, word))
        columns = ["of", "block", "rival", "difference", "low", "high", "p_holm", "verdict"]
        return pd.DataFrame(lines, columns=columns)

    @staticmethod
    def _lines(found: pd.DataFrame, layout: str) -> list[str]:
        """A line a block."""
        lines = []
        for block, rows in found.groupby("block", sort=False):
            says = [f"{row.verdict} {row.rival} ({layout.format(row.difference)}, p {row.p_holm:.2f})"
                    for row in rows.itertuples()]
            lines.append(f"- **{block}**, RankAdaptor: {', '.join(says)}.")
        return lines

    def write(self, folder: Path | str) -> Path:
        parts = {"What one measurement is worth": self.reliability(), "What a seed teaches": self.seed_transfer(),
                 "Rules of thumb": self.rules(), "Predictors": drawn.predictor_table(self.predictors())}
        parts["What other blocks teach"] = self.transfer()
        parts |= {f"Searches, {name}": one for name, one in self.found().items()}
        parts["Regret without a search (points)"] = self.unsearched()
        parts["What helps"] = self.ablations()
        digest, keys = sha256_file(self.path), self._kept.keys
        path = drawn.write_page(self.profile, self.table, digest, parts, self.verdict(), keys, folder)
        self.differences.to_csv(path.with_name("search-differences.csv"), index=False, float_format="%.4f")
        return path
