"""One thing changed at a time: the four ablations of Table 3, and choices that the paper leaves open.

    work = ablation_tables(profile="tiny", ablation="scaling")
    print(work.plan())
    results = work.run()     # ablation -> variant -> TableResult, LoRA and RankAdaptor in each

Every variant is a table of its own over the same ledger: what two variants share is computed once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from rankadaptor.errors import BadInput, did_you_mean
from rankadaptor.experiments.main_table import MainTable
from rankadaptor.experiments.methods import LORA, RANKADAPTOR
from rankadaptor.experiments.parameters import (
    DEFAULT_LEDGER,
    Words,
    named_ledger,
    named_profile,
    parse_blocks,
    report_seeds,
    split_words,
    text,
)
from rankadaptor.experiments.plan import Plan, stage_seconds
from rankadaptor.experiments.planning import StepCount
from rankadaptor.experiments.progress import ProgressBar
from rankadaptor.experiments.results import TableResult
from rankadaptor.experiments.skeleton import compute_ahead, computes_ahead
from rankadaptor.experiments.tables import CLAIMED, Contents
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.plugins import add_entry
from rankadaptor.profiles import Profile
from rankadaptor.ranktable.meta_records import SIGNALS
from rankadaptor.recovery.recipe import Scaling

CANDIDATES = {"the paper's": [2, 4, 6, 8, 10, 12], "few": [4, 8, 12], "wide": [1, 2, 4, 6, 8, 12, 16, 24]}
HONEST, NAIVE = "fresh seeds, unseen questions", "as searched"
Part = TypeVar("Part")


@dataclass(frozen=True)
class Ablation:
    """One thing that is changed."""

    title: str
    question: str
    variants: Callable[[Profile, str], dict[str, Profile]]  # of a profile and a budget's name; the first is the base
    published: str = ""  # factor of Table 3


ABLATIONS: dict[str, Ablation] = {}


def register(name: str, ablation: Ablation) -> None:
    """Make an ablation known by its name.

    Raises:
        BadInput: if another ablation has that name.
    """
    add_entry(ABLATIONS, "ablation", name, ablation)


def ablation_tables(
    profile: str,
    ablation: Words = "",
    blocks: Words = "llm-pruner:20",
    budget: str = "quick",
    seeds: Words = (),
    ledger: Path | str = DEFAULT_LEDGER,
) -> "AblationTables":
    """Tables of LoRA and RankAdaptor, one a variant of each ablation.

    Args:
        profile: Name of a profile, or path of a YAML file.
        ablation: Names of `ABLATIONS`, such as "scaling signal"; "table3" for the paper's four, empty for all.
        blocks: One block; the paper's is llm-pruner:20.
        budget: One of the profile's.
        seeds: Training seeds of reported recoveries; empty for the budget's.
        ledger: Folder of finished results.

    Raises:
        BadInput: on anything unknown.
    """
    source, budget, opened = named_profile(profile), text("budget", budget, "quick"), named_ledger(ledger)
    parsed = parse_blocks(blocks, source)
    if len(parsed) != 1:
        raise BadInput(f"ablations are of one block, and {blocks!r} names {len(parsed)}: name one")
    names = _named(ablation)
    if parsed[0].pruner != "llm-pruner" and (several := {"samples", "importance"} & set(names)):
        raise BadInput(f"ablation {min(several)} is of LLM-Pruner, and {blocks} is not: leave it away")
    reported = report_seeds(source, budget, seeds)
    tables: dict[str, dict[str, MainTable]] = {}
    for name in names:
        contents = Contents(f"ablation-{name}", ABLATIONS[name].title, (LORA, RANKADAPTOR), CLAIMED)
        tables[name] = {label: MainTable(opened, variant, contents, parsed, budget, reported)
                        for label, variant in ABLATIONS[name].variants(source, budget).items()}
        if NAIVE in tables[name]:
            # The protocol that the paper's text leaves open, at its worst: recoveries are chosen by the very questions
            # that are reported, and the very recovery that was chosen is reported, under the search's own seed.
            tables[name][NAIVE] = dataclasses.replace(
                tables[name][NAIVE], seeds=(source.search.training_seed,), search_split="report")
    return AblationTables(source, tables, opened)


def _named(ablation: Words) -> list[str]:
    """Names of ablations, each once; all of them where the text is empty."""
    words = split_words(ablation) or list(ABLATIONS)
    names = [name for word in words for name in (TABLE_3 if word == "table3" else [word])]
    if unknown := [name for name in names if name not in ABLATIONS]:
        raise BadInput(f"unknown ablation {unknown[0]!r}: use table3, or some of {', '.join(ABLATIONS)}"
                       f"{did_you_mean(unknown[0], ABLATIONS)}")
    return list(dict.fromkeys(names))


class AblationTables:
    """Tables of several ablations over one ledger: what two variants share is computed once. See `ablation_tables`."""

    def __init__(self, profile: Profile, tables: dict[str, dict[str, MainTable]], ledger: Ledger):
        self.profile, self.tables, self.ledger = profile, tables, ledger

    def plan(self) -> Plan:
        """The steps that would run; a step that two variants share is counted once, with the first of them."""
        count, notes = StepCount(), [f"{'ablation':<20}{'variant':<32}{'to run at most':>15}{'minutes':>9}"]
        for name, variants in self.tables.items():
            for label, table in variants.items():
                before = count.missing.copy()
                runner = table.planning_runner()
                for piece in table.pieces(runner):
                    count.follow(runner, piece)
                added = count.missing - before
                minutes = sum(many * stage_seconds(kind, table.cost) for kind, many in added.items()) / 60
                notes.append(f"{name:<20}{label:<32}{added.total():>15}{minutes:>9,.0f}")
        first, profile = self._all()[0], self.profile
        return Plan(f"Ablations · {first.subject}", first.details(), profile.inputs(), profile.cost, count.needed,
                    count.missing, ("", *notes, ""))

    def is_complete(self) -> bool:
        """Whether the ledger holds every result of every variant."""
        return not self.plan().missing

    def run(self) -> dict[str, dict[str, TableResult]]:
        """Ablation -> variant -> rows of no recovery, LoRA and RankAdaptor."""
        tables = self._all()
        tables[0].run()  # what the others have in common with it is in the ledger then
        plans = [(table, table.plan()) for table in tables[1:]]
        bar = ProgressBar(self.profile.cost)
        with bar.over(sum(plan.missing_seconds() for _, plan in plans) if computes_ahead(self.profile.workers) else 0):
            compute_ahead([table for table, plan in plans if plan.missing], bar.on_progress)
        return {name: {label: table.run() for label, table in variants.items()}
                for name, variants in self.tables.items()}

    def _all(self) -> list[MainTable]:
        return [table for variants in self.tables.values() for table in variants.values()]


def _changed(whole: Part, path: str, value: Any) -> Part:
    """A profile with one field replaced, such as adapters.scaling or budgets.quick.training.steps."""
    name, _, rest = path.partition(".")
    if isinstance(whole, Mapping):
        return {**whole, name: _changed(whole[name], rest, value)}  # type: ignore[return-value]
    new = _changed(getattr(whole, name), rest, value) if rest else value
    return dataclasses.replace(whole, **{name: new})  # type: ignore[type-var]


def values_of(path: str, values: Mapping[str, Any]) -> Callable[[Profile, str], dict[str, Profile]]:
    """Variants of an ablation that differ in one field of the profile; {budget} in its path is the budget's name."""
    return lambda profile, budget: {
        label: _changed(profile, path.format(budget=budget), value) for label, value in values.items()}


def _micro_batches(profile: Profile, budget: str) -> dict[str, Profile]:
    """The whole batch at once, half of it and a quarter: the effective batch is the same."""
    rows = profile.budget(budget).training.batch_rows
    sizes = dict.fromkeys(max(1, rows // parts) for parts in (1, 2, 4))
    return {f"{size} of {rows} rows": _changed(profile, f"budgets.{budget}.training.micro_batch_rows", size)
            for size in sizes}


def _lengths(profile: Profile, budget: str) -> dict[str, Profile]:
    """Half as long, twice, and four times where a budget may decide something."""
    steps = profile.budget(budget).training.steps
    longer = (2 * steps, 4 * steps) if profile.budget(budget).decided else (2 * steps,)
    return {f"{many} steps": _changed(profile, f"budgets.{budget}.training.steps", many)
            for many in (steps, max(4, steps // 2), *longer)}


def _candidates(profile: Profile, budget: str) -> dict[str, Profile]:
    own = profile.search.candidates
    alternatives = {label: values for label, values in CANDIDATES.items() if values != own}
    return {f"{label}: {' '.join(map(str, values))}": _changed(profile, "search.candidates", values)
            for label, values in {"the profile's": own, **alternatives}.items()}


def _protocols(profile: Profile, budget: str) -> dict[str, Profile]:
    naive = _changed(_changed(profile, "search.signal", "accuracy"), f"budgets.{budget}.per_task", True)
    return {HONEST: profile, NAIVE: naive}


register("samples", Ablation(
    "Calibration samples of the pruner", "Does pruning by the gradients of 50 samples leave more than by 10?",
    values_of("pruning.llm-pruner.calibration.samples", {"10 samples": 10, "50 samples": 50}), "samples"))
register("micro_batch", Ablation(
    "Micro-batch size", "With the effective batch kept, rows are only added up in another order. Does that matter?",
    _micro_batches, "micro_batch"))
register("importance", Ablation(
    "Order of the importance", "Is the first-order Taylor term a better guide than the second-order one?",
    values_of("pruning.llm-pruner.importance", {"element1": "element1", "element2": "element2"}), "importance"))
register("performance_model", Ablation(
    "Setting of the performance model", "Do the widths of its hidden layers matter for what the search finds?",
    values_of("search.method.predictor", {"setting 1": "paper", "setting 2": "setting 2", "setting 3": "setting 3"}),
    "performance_model"))
register("scaling", Ablation(
    "Scaling rule", "alpha / r gives low ranks larger steps. Does another rule change what ranks are worth?",
    values_of("adapters.scaling", {rule: rule for rule in get_args(Scaling)})))
register("signal", Ablation(
    "Signal of the search", "What should a recovery be scored by on the search split?",
    values_of("search.signal", {signal: signal for signal in SIGNALS})))
register("protocol", Ablation(
    "Protocol", "How much of a gain does choosing by the reported questions make up?", _protocols))
register("candidates", Ablation(
    "Rank candidates", "Which ranks may a layer have? The budget stays that of LoRA.", _candidates))
register("length", Ablation("Length of the recovery", "Do ranks matter more, or less, after more steps?", _lengths))
TABLE_3 = [name for name, ablation in ABLATIONS.items() if ablation.published]
