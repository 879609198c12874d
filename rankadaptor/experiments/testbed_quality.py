"""How good a testbed a profile is: what pruning costs, what recovery wins back, and whether allocations of equal size
differ by more than the noise of training. No method is compared with another here.

    testbed = measure_testbed(profile="tiny").run()    # runs what the ledger lacks
    testbed.regime()     # margins over chance, by block
    testbed.signal()     # spread between allocations over noise, by block, scaling and signal
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.allocation import RankAllocation, SolutionSpace, trainable_parameters, uniform_allocation
from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.errors import BadInput
from rankadaptor.escaping import Markup, bold_markdown, markdown_text
from rankadaptor.evaluation.spec import EvaluationSpec, Split
from rankadaptor.experiments.parameters import (
    DEFAULT_LEDGER,
    Words,
    named_ledger,
    named_profile,
    parse_blocks,
    report_seeds,
    text,
    whole_number,
)
from rankadaptor.experiments.skeleton import ProfileExperiment, Run
from rankadaptor.experiments.table_rows import final_loss
from rankadaptor.pipeline.execution import Batches
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Budget
from rankadaptor.pruning.spec import Block, PruneSpec
from rankadaptor.recovery.recipe import Scaling
from rankadaptor.statistics import variance_components

SCALINGS_COMPARED: tuple[Scaling, ...] = ("fixed_alpha", "constant")
_LEAST_LOST = 0.05  # share of the margin; of less, a share won back says nothing
_ALLOCATION_SEED = 7  # of the random allocations whose spread is measured


def measure_testbed(
    profile: str,
    blocks: Words = "",
    signal_blocks: Words = "llm-pruner:50 shortened:50",
    budget: str = "standard",
    seeds: Words = (),
    allocations: Words = 20,
    split: Split = "report",
    ledger: Path | str = DEFAULT_LEDGER,
) -> "TestbedQuality":
    """Measurements of a profile.

    Args:
        profile: Name of a profile, or path of a YAML file.
        blocks: Whose margins are measured, such as "llm-pruner:20 shortened:50"; empty for all of the profile.
        signal_blocks: On which the spread between allocations is measured.
        budget: Whose recipe, first learning rate and report items are used.
        seeds: Training seeds, paired over allocations; empty for the budget's.
        allocations: Random ones of equal trainable parameters a block.
        split: "report", "search", or "tuning" where the profile has it.
        ledger: Folder of finished results.

    Raises:
        BadInput: on anything unknown, or too few seeds or allocations to tell spread from noise.
    """
    source, budget = named_profile(profile), text("budget", budget, "standard")
    training_seeds, count = report_seeds(source, budget, seeds), whole_number("allocations", allocations, 0, 10_000)
    if len(training_seeds) < 2 or count < 2:
        raise BadInput(f"{len(training_seeds)} training seeds and {count} allocations tell no spread from noise:"
                       " give two or more of both, such as seeds '0 1 2' or budget standard")
    return TestbedQuality(
        named_ledger(ledger), source, parse_blocks(blocks, source), parse_blocks(signal_blocks, source), budget,
        training_seeds, count, split,
    )


@dataclass(frozen=True)
class TestbedQuality(ProfileExperiment):
    """See `measure_testbed`."""

    blocks: tuple[Block, ...]
    signal_blocks: tuple[Block, ...]
    budget_name: str
    seeds: tuple[int, ...]
    allocations: int
    split: Split

    @property
    def budget(self) -> Budget:
        """The budget whose recipe and items are used."""
        return self.profile.budget(self.budget_name)

    @property
    def title(self) -> str:
        """Title of the plan."""
        return "Quality of the testbed"

    def details(self) -> tuple[str, ...]:
        """Blocks, budget and seeds."""
        return (f"margins of {', '.join(map(str, self.blocks))}; {self.allocations} allocations of"
                f" {', '.join(map(str, self.signal_blocks))}",
                f"budget {self.budget_name} · training seeds {', '.join(map(str, self.seeds))}")

    def pieces(self, runner: Runner) -> list[Batches]:
        """The unpruned model, and every block."""
        blocks = dict.fromkeys((*self.blocks, *self.signal_blocks))
        return [self._unpruned(), *(self._block(runner, block) for block in blocks)]

    def _unpruned(self) -> Batches:
        yield [self.evaluate(None)]

    def _block(self, runner: Runner, block: Block) -> Batches:
        pruned = self.prune(block)
        yield [pruned]
        if block in self.blocks:
            yield [self.evaluate(pruned), *self.uniform_trials(runner, block)]
        if block in self.signal_blocks:
            yield [trial for trials in self.signal_trials(runner, block).values() for trial in trials]

    def evaluate(self, parent: Step | None) -> Step:
        """The evaluation of the base model (None), a pruned or a recovered one."""
        return Step("evaluate", self.evaluation, parent)

    @property
    def evaluation(self) -> EvaluationSpec:
        """All tasks on the items of the split."""
        return self.profile.evaluation_spec(self.budget, self.split)

    def trials(self, block: Block, allocation: RankAllocation, scaling: Scaling) -> list[Step]:
        """Evaluations of recoveries with an allocation, one per seed."""
        rate, pruned = self.budget.learning_rates[0], self.prune(block)
        specs = [self.profile.lora_spec(self.budget, allocation, rate, seed, scaling) for seed in self.seeds]
        return [self.evaluate(Step("recover", spec, pruned)) for spec in specs]

    def uniform_trials(self, runner: Runner, block: Block) -> list[Step]:
        """Trials of LoRA with one rank."""
        adapters, architecture = self.profile.adapters, runner.results.architecture(self.prune(block))
        return self.trials(block, uniform_allocation(adapters.lora_rank, architecture), adapters.scaling)

    def signal_trials(self, runner: Runner, block: Block) -> dict[tuple[Scaling, RankAllocation], list[Step]]:
        """(scaling, random allocation) -> trials, one per seed."""
        drawn = self.random_allocations(runner, block)
        return {(scaling, allocation): self.trials(block, allocation, scaling)
                for scaling in SCALINGS_COMPARED for allocation in drawn}

    def random_allocations(self, runner: Runner, block: Block) -> list[RankAllocation]:
        """Distinct random allocations with the trainable parameters of uniform LoRA, within the tolerance."""
        space = self.profile.solution_space(block, runner.results.architecture(self.prune(block)))
        return equal_allocations(space, self.allocations, np.random.default_rng(_ALLOCATION_SEED))

    def collect(self, run: Run, outcomes: Sequence[Any]) -> "TestbedMeasurements":
        """The results that the ledger holds, as tables."""
        return TestbedMeasurements(self, run.runner, run.computed, tuple(run.keys))


class TestbedMeasurements:
    """The results of a `TestbedQuality` that the ledger holds, as tables.

    Attributes:
        computed: (stage, key) of every step that the run computed.
        stages: Keys of all that the page stands on, the pruned and recovered models included.
    """

    def __init__(
        self, testbed: TestbedQuality, runner: Runner, computed: tuple[tuple[str, str], ...], stages: tuple[str, ...]
    ):
        self.testbed, self.runner, self.computed, self.stages = testbed, runner, computed, stages
        self.profile, self.budget_name = testbed.profile, testbed.budget_name
        self.seeds, self.split = testbed.seeds, testbed.split

    def keys(self) -> dict[str, list[str]]:
        """Keys of the evaluations behind the page, by block."""
        steps = [self.testbed.evaluate(None)]
        for block in self.testbed.blocks:
            steps += [self.testbed.evaluate(self.testbed.prune(block)),
                      *self.testbed.uniform_trials(self.runner, block)]
        for block in self.testbed.signal_blocks:
            steps += [trial for row in self.testbed.signal_trials(self.runner, block).values() for trial in row]
        keys: dict[str, list[str]] = {}
        for step in steps:
            pruned = next((link.spec for link in step.chain() if isinstance(link.spec, PruneSpec)), None)
            label = f"{pruned.method}:{pruned.rate_percent}" if pruned else "Dense"
            keys.setdefault(label, []).append(self.runner.key(step))
        return {label: list(dict.fromkeys(several)) for label, several in keys.items()}

    def regime(self) -> pd.DataFrame:
        """Accuracy by task and the margin over chance: dense, and each block before and after LoRA.

        Returns:
            One row a model, proportions, means over seeds: block, model, the tasks, mean, margin, gold probability,
            `lost` (share of the dense margin that pruning took) and `won back` (share of that which LoRA returned; not
            a number where less than a twentieth was lost).

        Raises:
            RecoveryDiverged: if a recovery has no score.
        """
        dense = self._scores([self.testbed.evaluate(None)])
        rows = [{"block": "", "model": "Dense"} | dense]
        for block in self.testbed.blocks:
            pruned = self._scores([self.testbed.evaluate(self.testbed.prune(block))])
            recovered = self._scores(self.testbed.uniform_trials(self.runner, block))
            lost, won = dense["margin"] - pruned["margin"], recovered["margin"] - pruned["margin"]
            rows.append({"block": str(block), "model": "No recovery"} | pruned | {"lost": lost / dense["margin"]})
            share = won / lost if lost >= _LEAST_LOST * dense["margin"] else np.nan
            rows.append({"block": str(block), "model": "LoRA"} | recovered | {"won back": share})
        return pd.DataFrame(rows)

    def _scores(self, steps: Sequence[Step]) -> dict[str, Any]:
        metrics = [self.runner.results.metrics(step) for step in steps]
        tasks = self.testbed.evaluation.tasks
        accuracy = {task: float(np.mean([scores[task][BENCHMARKS[task].metric] for scores in metrics]))
                    for task in tasks}
        gold = float(np.mean([[scores[task]["gold_probability"] for task in tasks] for scores in metrics]))
        margin = float(np.mean([accuracy[task] - BENCHMARKS[task].chance for task in tasks]))
        return accuracy | {"mean": float(np.mean(list(accuracy.values()))), "margin": margin, "gold probability": gold}

    def signal(self) -> pd.DataFrame:
        """Spread between random allocations of equal size, and noise of training, under paired seeds.

        Returns:
            One row per block, scaling and signal: `between` and `noise` (standard deviations; proportions, of the loss
            nats), `ratio` with its 95 % interval. The training loss is the mean of the last quarter of steps; under one
            seed all allocations see equal batches.

        Raises:
            RecoveryDiverged: if a recovery has no score.
        """
        rows = []
        for block in self.testbed.signal_blocks:
            for scaling in SCALINGS_COMPARED:
                trials = [row for (other, _), row in self.testbed.signal_trials(self.runner, block).items()
                          if other == scaling]
                scored = [[self._scores([trial]) for trial in row] for row in trials]
                measured = {
                    "gold probability": [[scores["gold probability"] for scores in row] for row in scored],
                    "accuracy": [[scores["mean"] for scores in row] for row in scored],
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
        lines = []
        for block in self.testbed.signal_blocks:
            by_scaling = self.testbed.signal_trials(self.runner, block)
            trials = [trial for (scaling, _), row in by_scaling.items() if scaling == "fixed_alpha" for trial in row]
            times = np.array([[self._seconds(trial.parent), self._seconds(trial)] for trial in trials])
            recover, evaluate = np.median(times, axis=0)
            lines.append({"block": str(block), "recover (s)": recover, "evaluate (s)": evaluate,
                         "trial (s)": float(np.median(times.sum(axis=1))), "trials": len(times)})
        return pd.DataFrame(lines)

    def _seconds(self, step: Step | None) -> float:
        assert step is not None
        return float(self.runner.run(step).result["provenance"]["seconds"])

    def models(self, block: Block) -> dict[str, Step]:
        """Evaluations of the dense model, of one block, and of the block recovered with LoRA (first seed)."""
        return {
            "Dense": self.testbed.evaluate(None),
            "No recovery": self.testbed.evaluate(self.testbed.prune(block)),
            "LoRA": self.testbed.uniform_trials(self.runner, block)[0],
        }

    def answers(self, per_task: int = 3) -> pd.DataFrame:
        """The first items of each task: the question, its choices (the right one marked) and what each model chose:
        the dense one, and the block of the highest rate before and after LoRA (first seed)."""
        block = max(self.testbed.blocks, key=lambda block: block.rate_percent)
        questions = self.runner.models.requests(self.testbed.evaluation).questions
        tables = {name: self.runner.results.items(step) for name, step in self.models(block).items()}
        rows = []
        for position, question in enumerate(questions):  # tables are in their order
            if question.item >= per_task:
                continue
            contexts, continuations = zip(*question.choices, strict=True)
            texts = [choice.strip() for choice in (contexts if question.contexts_differ else continuations)]
            text = f"... {continuations[0].strip()}" if question.contexts_differ else contexts[0]
            row = {"task": question.task, "question": " ".join(text.split()), "choices": Markup(" / ".join(
                bold_markdown(choice) if i == question.gold else markdown_text(choice)
                for i, choice in enumerate(texts)))}
            for name, table in tables.items():
                scores = np.array(table["log_likelihoods"].iloc[position])
                if BENCHMARKS[question.task].metric == "acc_norm":
                    scores = scores / np.array(question.choice_characters)
                row[name] = texts[int(np.argmax(scores))]
            rows.append(row)
        return pd.DataFrame(rows, dtype=object)


def equal_allocations(space: SolutionSpace, count: int, generator: np.random.Generator) -> list[RankAllocation]:
    """Distinct allocations of a space whose trainable parameters are the budget's within its tolerance."""
    assert space.budget_params is not None
    equal: dict[RankAllocation, None] = {}
    while len(equal) < count:
        for allocation in space.sample(256, generator):
            size = trainable_parameters(allocation, space.architecture)
            if abs(size / space.budget_params - 1) <= space.tolerance:
                equal[allocation] = None
    return list(equal)[:count]
