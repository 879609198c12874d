"""RankAdaptor among its rivals, all at the cost of its search: as many real recoveries, at most as many parameters.

Three train as many as they happen to: LoRA* and its mirror image, whose ranks the paper fixes, and EVA, which shares
out ranks and not parameters. The curve of uniform ranks is there to show what parameters are worth.

    table = rival_table(profile="tiny", blocks="llm-pruner:50")
    rows = table.run()

Whatever a rival chooses, it chooses on the search split under the search's seed; what it chose is retrained with seeds
that no search used. One rival is a choice among seeds: its row is that one training.
"""

import dataclasses
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from rankadaptor.allocation import RankAllocation, quarters_allocation, uniform_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.errors import BadInput
from rankadaptor.experiments.main_table import BlockWork, MainTable
from rankadaptor.experiments.methods import BEST_SEED, DAMAGE, EVA, LORA, LORA_STAR, MIRROR, RANKADAPTOR, TUNED
from rankadaptor.experiments.parameters import DEFAULT_LEDGER, Words, parse_blocks, report_seeds
from rankadaptor.experiments.plan import StageKind
from rankadaptor.experiments.tables import CLAIMED, Contents
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import load_profile
from rankadaptor.pruning.spec import Block
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.loop import mean_score
from rankadaptor.search.rivals import SEARCHES, damage_allocation

_CONTENTS = Contents("rivals", "Rivals at equal budget", (LORA, RANKADAPTOR), CLAIMED)
UNIFORM_RANKS = (2, 4, 6, 10, 12, 16)
_RATES = (1 / 4, 4.0)  # of the first learning rate: the span in which LoRA's is tuned


def rival_table(
    profile: str,
    blocks: Words = "llm-pruner:50",
    budget: str = "standard",
    seeds: Words = (),
    ledger: Path | str = DEFAULT_LEDGER,
) -> "RivalTable":
    """Every rival on some blocks of a profile. Arguments as of `experiments.main_table`.

    Raises:
        BadInput: as there, and on training seeds that *LoRA, best of its seeds* may choose among.
    """
    chosen = load_profile(profile)
    reported = report_seeds(chosen, budget, seeds)
    search = chosen.budget(budget).search
    first = chosen.search.training_seed
    if taken := [seed for seed in reported if first <= seed <= first + search.initial + search.rounds * search.batch]:
        raise BadInput(f"seed {taken[0]} is one that LoRA's best is chosen among: report with other seeds")
    return RivalTable(_CONTENTS, chosen, parse_blocks(blocks, chosen), budget, reported, Ledger(ledger))


class RivalTable(MainTable):
    """See `rival_table`."""

    def _block(self, block: Block) -> Generator[list[Step], None, BlockWork]:
        pruned = Step("prune", self.profile.prune_spec(block))
        yield [pruned]
        architecture = self._runner.results.architecture(pruned)
        yield self._rows.unrecovered_steps(pruned)
        rate = yield from self._learning_rate(LORA, pruned, architecture)
        found, key = yield from self._search(block, pruned, architecture, rate)
        recoveries = sum(len(one.proposals) for one in found.rounds)

        seeds = [self.profile.search.training_seed + 1 + number for number in range(recoveries)]
        lucky = yield from self._best([self._baseline(LORA, architecture, rate, seed) for seed in seeds], pruned)
        rates = np.geomspace(*_RATES, recoveries) * self.budget.learning_rates[0]
        seed = self.profile.search.training_seed
        tuned = yield from self._best([self._baseline(LORA, architecture, float(r), seed) for r in rates], pruned)

        chosen: dict[str, RankAllocation] = {LORA: uniform_allocation(self.profile.adapters.lora_rank, architecture)}
        chosen |= self._by_rule(block, pruned, architecture)
        searches: dict[str, tuple[int, str]] = {}
        for name in SEARCHES:
            rival, rival_key = yield from self._search(block, pruned, architecture, rate, name, recoveries)
            chosen[name] = rival.best
            searches[name] = (sum(len(one.proposals) for one in rival.rounds), rival_key)
        chosen |= {f"LoRA r={rank}": uniform_allocation(rank, architecture) for rank in UNIFORM_RANKS}
        chosen[RANKADAPTOR] = found.best

        specs = {name: [self._lora(one, rate, s) for s in self.seeds] for name, one in chosen.items()}
        specs[EVA] = [dataclasses.replace(spec, method="eva", scaling="fixed_alpha") for spec in specs[LORA]]
        specs[TUNED] = [dataclasses.replace(tuned, seed=s) for s in self.seeds]
        specs[BEST_SEED] = [lucky]
        for several in specs.values():
            yield self._rows.report_steps(pruned, several)
        return BlockWork(pruned, specs, search=found, search_key=key, rivals=searches)

    def _best(
        self, specs: Sequence[RecoverySpec], pruned: Step
    ) -> Generator[list[Step], None, RecoverySpec]:
        """The recovery with the best score on the search split."""
        trials = [self._trial(pruned, spec) for spec in specs]
        yield trials
        return specs[int(np.argmax([mean_score(self._scores(trial)) for trial in trials]))]

    def _by_rule(self, block: Block, pruned: Step, architecture: Architecture) -> dict[str, RankAllocation]:
        """Allocations that need no search."""
        files = (self._runner.results.read_json(pruned, name) for name in ("importance.json", "kept.json"))
        ranks = self.profile.adapters.lora_star_ranks
        return {
            LORA_STAR: quarters_allocation(architecture, ranks),
            MIRROR: quarters_allocation(architecture, ranks[::-1]),
            DAMAGE: damage_allocation(self._space(block, architecture), *files),
        }

    def _most_stages(self) -> "Counter[StageKind]":
        search, rates = self.budget.search, self.budget.learning_rates
        recoveries = search.initial + search.rounds * search.batch
        trials = recoveries * (3 + len(SEARCHES)) + (len(rates) if len(rates) > 1 else 0)
        finals = len(self.seeds) * (7 + len(SEARCHES) + len(UNIFORM_RANKS)) + 1
        unrecovered = Counter([StageKind("prune", None), StageKind("evaluate", self.budget.report_items)])
        return self._stages(trials, finals) + unrecovered
