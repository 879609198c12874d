"""RankAdaptor among its rivals, all at the cost of its search: as many real recoveries, at most as many parameters.

Three train as many parameters as they happen to: LoRA* and its mirror image, whose ranks the paper fixes, and EVA,
which shares out ranks and not parameters. The curve of uniform ranks is there to show what parameters are worth.

    table = rival_table(profile="tiny", blocks="llm-pruner:50")
    result = table.run()

Whatever a rival chooses, it chooses on the search split under the search's seed; what it chose is retrained with seeds
that no search used. One rival is a choice among seeds: its row is that one training.
"""

import dataclasses
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rankadaptor.allocation import RankAllocation, uniform_allocation
from rankadaptor.errors import BadInput
from rankadaptor.experiments.block_table import BlockTable, BlockWork
from rankadaptor.experiments.methods import (
    BEST_SEED,
    DAMAGE,
    EVA,
    LORA,
    LORA_STAR,
    MIRROR,
    RANKADAPTOR,
    TUNED,
    uniform_label,
)
from rankadaptor.experiments.parameters import (
    DEFAULT_LEDGER,
    Words,
    named_ledger,
    named_profile,
    parse_blocks,
    report_seeds,
    text,
)
from rankadaptor.experiments.results import FinishedSearch
from rankadaptor.experiments.tables import CLAIMED, Contents
from rankadaptor.experiments.trials import Trials
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pruning.spec import Block
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.damage import damage_allocation
from rankadaptor.search.rivals import RIVALS
from rankadaptor.search.rounds import Round

_CONTENTS = Contents("rivals", "Rivals at equal budget", (LORA, RANKADAPTOR), CLAIMED)
UNIFORM_RANKS = (2, 4, 6, 10, 12, 16)
_RATES = (1 / 4, 4.0)  # factors on the first learning rate: the span in which LoRA's is tuned


def rival_table(
    profile: str,
    blocks: Words = "llm-pruner:50",
    budget: str = "standard",
    seeds: Words = (),
    ledger: Path | str = DEFAULT_LEDGER,
) -> "RivalTable":
    """Every rival on some blocks of a profile. Arguments as of `main_table.main_table`.

    Raises:
        BadInput: as there, and on training seeds that *LoRA, best of its seeds* may choose among.
    """
    source, budget = named_profile(profile), text("budget", budget, "standard")
    reported = report_seeds(source, budget, seeds)
    search = source.budget(budget).search
    first = source.search.training_seed
    if taken := [seed for seed in reported if first <= seed <= first + search.initial + search.rounds * search.batch]:
        raise BadInput(f"seed {taken[0]} is one that LoRA's best is chosen among: report with other seeds")
    return RivalTable(named_ledger(ledger), source, _CONTENTS, parse_blocks(blocks, source), budget, reported)


@dataclass(frozen=True)
class RivalTable(BlockTable):
    """See `rival_table`."""

    def block_work(self, runner: Runner, block: Block) -> Generator[list[Step], None, BlockWork]:
        """RankAdaptor's search; then every rival with as many recoveries; then all that they chose, retrained."""
        pruned = self.prune(block)
        yield [pruned]
        architecture = runner.results.architecture(pruned)
        rows, trials = self.rows(runner), Trials(runner, self.profile, self.budget)
        yield rows.unrecovered_steps(pruned)
        rate = yield from trials.learning_rate(LORA, pruned, architecture)
        result, key = yield from trials.search(block, pruned, architecture, rate)
        recoveries = _recoveries(result.rounds)

        best_seed, tuned = yield from self._choices_of_lora(runner, trials, pruned, rate, recoveries)
        specs = {name: [self.method_spec(name, runner, pruned, rate, seed) for seed in self.seeds]
                 for name in (LORA, LORA_STAR, MIRROR)}
        files = (runner.results.read_json(pruned, name) for name in ("importance.json", "kept.json"))
        space = self.profile.solution_space(block, architecture)
        allocations: dict[str, RankAllocation] = {DAMAGE: damage_allocation(space, *files)}
        searches: dict[str, tuple[int, str]] = {}
        for name in RIVALS:
            rival, rival_key = yield from trials.search(block, pruned, architecture, rate, name, recoveries)
            allocations[name] = rival.best
            searches[name] = _recoveries(rival.rounds), rival_key
        allocations |= {uniform_label(rank): uniform_allocation(rank, architecture) for rank in UNIFORM_RANKS}
        allocations[RANKADAPTOR] = result.best
        specs |= {name: self.lora_specs(ranks, rate) for name, ranks in allocations.items()}
        specs[EVA] = [self.method_spec(EVA, runner, pruned, rate, seed) for seed in self.seeds]
        specs[TUNED] = [dataclasses.replace(tuned, seed=seed) for seed in self.seeds]
        specs[BEST_SEED] = [best_seed]
        for recovered in specs.values():
            yield rows.report_steps(pruned, recovered)
        return BlockWork(pruned, specs, searches={RANKADAPTOR: [FinishedSearch(result, key)]}, rivals=searches)

    def _choices_of_lora(
        self, runner: Runner, trials: Trials, pruned: Step, rate: float, recoveries: int
    ) -> Generator[list[Step], None, tuple[RecoverySpec, RecoverySpec]]:
        """The best of so many training seeds of LoRA, and of so many learning rates."""
        first = self.profile.search.training_seed
        seeds = [first + 1 + number for number in range(recoveries)]
        best_seed = yield from trials.best_of(
            pruned, [self.method_spec(LORA, runner, pruned, rate, seed) for seed in seeds])
        tuned = yield from trials.best_of(
            pruned, [self.method_spec(LORA, runner, pruned, tried, first)
                     for tried in tried_rates(self.budget.learning_rates[0], recoveries)])
        return best_seed, tuned


def tried_rates(rate: float, count: int) -> list[float]:
    """`count` learning rates, evenly spaced on a logarithmic scale around one, of four digits each.

    Powers differ in their last bit between processors, and a rate is part of a recovery's key.
    """
    return [float(f"{tried:.4g}") for tried in np.geomspace(*_RATES, count) * rate]


def _recoveries(rounds: Sequence[Round]) -> int:
    """Number of recoveries that a search made."""
    return sum(len(entry.proposals) for entry in rounds)
