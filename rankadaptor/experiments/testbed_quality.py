"""How good an instrument a profile is: what pruning costs, what recovery wins back, and whether allocations of equal
size differ by more than the noise of training. No method is compared with another here.

    testbed = instrument(profile="tiny")
    testbed.compute()    # runs what the ledger lacks
    testbed.regime()     # margins over chance, by block
    testbed.signal()     # spread between allocations over noise, by block, scaling and signal
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation, SolutionSpace, trainable_parameters, uniform_allocation
from rankadaptor.data.tasks import TASKS
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.items import METRIC
from rankadaptor.evaluation.spec import Split
from rankadaptor.experiments.parameters import DEFAULT_LEDGER, Words, parse_blocks, report_seeds, whole_number
from rankadaptor.experiments.plan import StageKind, missing_steps, stage_seconds, steps_cost
from rankadaptor.experiments.progress import ProgressBar, run_missing
from rankadaptor.experiments.table_rows import final_loss
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.pruning.spec import Block, PruneSpec
from rankadaptor.recovery.spec import Scaling
from rankadaptor.statistics import variance_components

# Accuracy of a guess: one over the number of choices.
CHANCE = {"boolq": 1 / 2, "piqa": 1 / 2, "hellaswag": 1 / 4, "winogrande": 1 / 2, "arc_easy": 1 / 4,
          "arc_challenge": 1 / 4, "openbookqa": 1 / 4}
SCALINGS_COMPARED: tuple[Scaling, ...] = ("fixed_alpha", "constant")
_LEAST_LOST = 0.05  # share of the margin; of less, a share won back says nothing
_ALLOCATION_SEED = 7  # of the random allocations whose spread is measured


def instrument(
    profile: str,
    blocks: Words = "",
    signal_blocks: Words = "llm-pruner:50 shortened:50",
    budget: str = "standard",
    seeds: Words = (),
    allocations: Words = 20,
    split: Split = "report",
    ledger: Path | str = DEFAULT_LEDGER,
) -> "Instrument":
    """Measurements of a profile.

    Args:
        profile: Name of a profile, or path of a YAML file.
        blocks: Whose margins are measured, such as "llm-pruner:20 shortened:50"; empty for all of the profile.
        signal_blocks: On which the spread between allocations is measured.
        budget: Whose recipe, first learning rate and report items are used.
        seeds: Training seeds, paired over allocations; empty for the budget's.
        allocations: Random ones of equal trainable parameters a block.
        split: "report", "search", or "tuning" where the profile has it.

    Raises:
        BadInput: on anything unknown, or too few seeds or allocations to tell spread from noise.
    """
    chosen = load_profile(profile)
    allocations = whole_number("allocations", allocations, 0)
    training_seeds = report_seeds(chosen, budget, seeds)
    if len(training_seeds) < 2 or allocations < 2:
        raise BadInput(f"{len(training_seeds)} training seeds and {allocations} allocations tell no spread from noise:"
                       " give two or more of both, such as seeds '0 1 2' or budget standard")
    return Instrument(
        chosen,
        parse_blocks(blocks, chosen),
        parse_blocks(signal_blocks, chosen),
        budget,
        training_seeds,
        allocations,
        split,
        Ledger(ledger),
    )


class Instrument:
    """See `instrument`."""

    def __init__(
        self,
        profile: Profile,
        blocks: tuple[Block, ...],
        signal_blocks: tuple[Block, ...],
        budget_name: str,
        seeds: tuple[int, ...],
        allocations: int,
        split: Split,
        ledger: Ledger,
    ):
        self.profile, self.blocks, self.signal_blocks, self.seeds = profile, blocks, signal_blocks, seeds
        self.budget_name, self.budget, self.split = budget_name, profile.budget(budget_name), split
        self.allocations = allocations
        self._bar = ProgressBar(profile.cost)
        self.runner = Runner(profile.inputs(), ledger, self._bar.on_progress)
        self._evaluation = profile.evaluation_spec(self.budget, split)
        self._drawn: dict[Block, list[RankAllocation]] = {}

    def is_complete(self) -> bool:
        """Whether the ledger holds every stage."""
        return self._is_pruned() and not missing_steps(self.runner, self._steps())

    def _is_pruned(self) -> bool:
        return all(self.runner.find(self._prune(block)) for block in (*self.blocks, *self.signal_blocks))

    def plan(self) -> str:
        """What would run, and for how long. Which trials a block that is not pruned yet needs is counted at most."""
        if self._is_pruned():
            return steps_cost(missing_steps(self.runner, self._steps()), self.profile.cost)
        trials = len(self.blocks) + len(self.signal_blocks) * len(SCALINGS_COMPARED) * self.allocations
        trials *= len(self.seeds)
        rows = self.budget.training.steps * self.budget.training.batch_rows
        each = sum(stage_seconds(kind, self.profile.cost) for kind in (
            StageKind("recover", rows), StageKind("evaluate", self._evaluation.items_per_task)))
        minutes = trials * each / 60
        return f"to run: at most {trials} trials, about {minutes:,.0f} minutes on {self.profile.cost.machine}"

    def compute(self) -> int:
        """Run what the ledger lacks, and show progress; returns how many stages that was."""
        self.runner.computed.clear()
        for block in dict.fromkeys((*self.blocks, *self.signal_blocks)):
            self.runner.run(self._prune(block))
        run_missing(self.runner, self._bar, self._steps(), self.profile.cost)
        return len(self.runner.computed)

    def _steps(self) -> list[Step]:
        """Every evaluation; known once every block is pruned."""
        return [self._evaluate(None), *self._regime_steps(), *self._signal_steps()]

    def _regime_steps(self) -> Iterator[Step]:
        for block in self.blocks:
            yield self._evaluate(self._prune(block))
            yield from self._uniform_trials(block)

    def _signal_steps(self) -> Iterator[Step]:
        for block in self.signal_blocks:
            for scaling in SCALINGS_COMPARED:
                for allocation in self.random_allocations(block):
                    yield from self._trials(block, allocation, scaling)

    def _prune(self, block: Block) -> Step:
        return Step("prune", self.profile.prune_spec(block))

    def _evaluate(self, parent: Step | None) -> Step:
        return Step("evaluate", self._evaluation, parent)

    def _trials(self, block: Block, allocation: RankAllocation, scaling: Scaling) -> list[Step]:
        """A recovery with an allocation and its evaluation, one a seed."""
        rate, pruned = self.budget.learning_rates[0], self._prune(block)
        specs = [self.profile.lora_spec(self.budget, allocation, rate, seed, scaling) for seed in self.seeds]
        return [self._evaluate(Step("recover", spec, pruned)) for spec in specs]

    def _uniform_trials(self, block: Block) -> list[Step]:
        """LoRA with one rank."""
        adapters, architecture = self.profile.adapters, self.runner.results.architecture(self._prune(block))
        return self._trials(block, uniform_allocation(adapters.lora_rank, architecture), adapters.scaling)

    def random_allocations(self, block: Block) -> list[RankAllocation]:
        """Distinct random allocations with the trainable parameters of uniform LoRA, within the tolerance."""
        if block not in self._drawn:
            space = self.profile.solution_space(block, self.runner.results.architecture(self._prune(block)))
            generator = np.random.default_rng(_ALLOCATION_SEED)
            self._drawn[block] = equal_allocations(space, self.allocations, generator)
        return self._drawn[block]

    def keys(self) -> dict[str, list[str]]:
        """Of every evaluation behind the page, in the ledger, by block."""
        found: dict[str, list[str]] = {}
        for step in self._steps():
            pruned = next((link.spec for link in step.chain() if isinstance(link.spec, PruneSpec)), None)
            label = f"{pruned.method}:{pruned.rate_percent}" if pruned else "Dense"
            found.setdefault(label, []).append(self.runner.key(step))
        return {label: list(dict.fromkeys(several)) for label, several in found.items()}

    # -- what came out ------------------------------------------------------------------------------------------------

    def regime(self) -> pd.DataFrame:
        """Accuracy by task and the margin over chance: dense, and each block before and after LoRA.

        Returns:
            One row a model, proportions, means over seeds: block, model, the tasks, mean, margin, gold probability,
            `lost` (share of the dense margin that pruning took) and `won back` (share of that which LoRA returned; not
            a number where less than a twentieth was lost).

        Raises:
            RecoveryDiverged: if a recovery has no score.
        """
        dense = self._scores([self._evaluate(None)])
        rows = [{"block": "", "model": "Dense"} | dense]
        for block in self.blocks:
            pruned = self._scores([self._evaluate(self._prune(block))])
            recovered = self._scores(self._uniform_trials(block))
            lost, won = dense["margin"] - pruned["margin"], recovered["margin"] - pruned["margin"]
            rows.append({"block": str(block), "model": "No recovery"} | pruned | {"lost": lost / dense["margin"]})
            share = won / lost if lost >= _LEAST_LOST * dense["margin"] else np.nan
            rows.append({"block": str(block), "model": "LoRA"} | recovered | {"won back": share})
        return pd.DataFrame(rows)

    def _scores(self, steps: Sequence[Step]) -> dict[str, Any]:
        metrics = [self.runner.results.metrics(step) for step in steps]
        accuracy = {task: float(np.mean([one[task][METRIC[task]] for one in metrics])) for task in TASKS}
        gold = float(np.mean([[one[task]["gold_probability"] for task in TASKS] for one in metrics]))
        margin = float(np.mean([accuracy[task] - CHANCE[task] for task in TASKS]))
        return accuracy | {"mean": float(np.mean(list(accuracy.values()))), "margin": margin, "gold probability": gold}

    def signal(self) -> pd.DataFrame:
        """Spread between random allocations of equal size, and noise of training, under paired seeds.

        Returns:
            One row a block, scaling and signal: `between` and `noise` (standard deviations; proportions, of the loss
            nats), `ratio` with its 95 % interval. The training loss is the mean of the last quarter of steps; under one
            seed all allocations see equal batches.

        Raises:
            RecoveryDiverged: if a recovery has no score.
        """
        rows = []
        for block in self.signal_blocks:
            for scaling in SCALINGS_COMPARED:
                trials = [self._trials(block, allocation, scaling) for allocation in self.random_allocations(block)]
                scored = [[self._scores([trial]) for trial in row] for row in trials]
                measured = {
                    "gold probability": [[one["gold probability"] for one in row] for row in scored],
                    "accuracy": [[one["mean"] for one in row] for row in scored],
                    "training loss": [[self._final_loss(trial) for trial in row] for row in trials],
                }
                for name, table in measured.items():
                    values = np.array(table)  # (allocations, seeds)
                    components = variance_components(values)
                    rows.append({"block": str(block), "scaling": scaling, "signal": name, **components._asdict(),
                                 "allocations": values.shape[0], "seeds": values.shape[1]})
        return pd.DataFrame(rows)

    def _final_loss(self, trial: Step) -> float:
        assert trial.parent is not None
        return final_loss([self.runner.run(trial.parent).result["result"]["losses"]])

    def trial_seconds(self) -> pd.DataFrame:
        """Median seconds of recovering and of evaluating, by block, as the ledger's provenance has them."""
        rows = []
        for block in self.signal_blocks:
            trials = [trial for allocation in self.random_allocations(block)
                      for trial in self._trials(block, allocation, "fixed_alpha")]
            times = np.array([[self._seconds(trial.parent), self._seconds(trial)] for trial in trials])
            recover, evaluate = np.median(times, axis=0)
            rows.append({"block": str(block), "recover (s)": recover, "evaluate (s)": evaluate,
                         "trial (s)": float(np.median(times.sum(axis=1))), "trials": len(times)})
        return pd.DataFrame(rows)

    def _seconds(self, step: Step | None) -> float:
        assert step is not None
        return float(self.runner.run(step).result["provenance"]["seconds"])

    def models(self, block: Block) -> dict[str, Step]:
        """Evaluations of the dense model, of one block, and of the block recovered with LoRA (first seed)."""
        return {
            "Dense": self._evaluate(None),
            "No recovery": self._evaluate(self._prune(block)),
            "LoRA": self._uniform_trials(block)[0],
        }

    def answers(self, per_task: int = 3) -> pd.DataFrame:
        """The first items of each task: the question, its choices (the right one marked) and what each model chose:
        dense, and the block of the highest rate before and after LoRA (first seed)."""
        block = max(self.blocks, key=lambda one: one.rate_percent)
        questions = self.runner.models.requests(self._evaluation).questions
        tables = {name: self.runner.results.items(step) for name, step in self.models(block).items()}
        rows = []
        for position, question in enumerate(questions):  # tables are in their order
            if question.item >= per_task:
                continue
            contexts, continuations = zip(*question.choices, strict=True)
            texts = [text.strip() for text in (contexts if question.task == "winogrande" else continuations)]
            asked = f"... {continuations[0].strip()}" if question.task == "winogrande" else contexts[0]
            row = {"task": question.task, "question": " ".join(asked.split()), "choices": " / ".join(
                f"**{text}**" if i == question.gold else text for i, text in enumerate(texts))}
            for name, table in tables.items():
                scores = np.array(table["log_likelihoods"].iloc[position])
                if METRIC[question.task] == "acc_norm":
                    scores = scores / np.array(question.choice_characters)
                row[name] = texts[int(np.argmax(scores))]
            rows.append(row)
        return pd.DataFrame(rows)


def equal_allocations(space: SolutionSpace, count: int, generator: np.random.Generator) -> list[RankAllocation]:
    """Distinct allocations of a space whose trainable parameters are the budget's within its tolerance."""
    assert space.budget_params is not None
    found: dict[RankAllocation, None] = {}
    while len(found) < count:
        for allocation in space.sample(256, generator):
            size = trainable_parameters(allocation, space.architecture)
            if abs(size / space.budget_params - 1) <= space.tolerance:
                found[allocation] = None
    return list(found)[:count]
