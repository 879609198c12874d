"""The one skeleton of everything that needs results: an experiment is planned, run, and read back.

    experiment.plan()          # what is there, what will run, at what cost
    experiment.run()           # computes what the ledger lacks, reads the rest
    experiment.is_complete()

An experiment says which steps it needs as *pieces*: generators of batches of steps, each batch computable once the ones
before it are. Running drives them to their ends, here or in other processes; planning follows the same generators on a
runner that computes nothing. Killed anywhere, the next run goes on where the ledger ends.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from rankadaptor.data.benchmarks import tasks_in
from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.experiments.plan import Plan
from rankadaptor.experiments.planning import PlanningRunner, StepCount, base_architecture
from rankadaptor.experiments.preflight import require
from rankadaptor.experiments.progress import ProgressBar, print_rows_left_out
from rankadaptor.machine import computing_with
from rankadaptor.pipeline.cost import Cost
from rankadaptor.pipeline.execution import Batches, Progress, execution_from_environment, follow
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.local_pool import LocalPool
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.profiles import Profile
from rankadaptor.pruning.spec import Block
from rankadaptor.search.loop import drive


class Planned(Protocol):
    """Interface that pages and the command line use: of experiments, and of classes that combine or replay some, as
    `AblationTables` and `SearchPage` do.
    """

    @property
    def profile(self) -> Profile:
        """The profile that gives model and data."""

    def plan(self) -> Plan:
        """The steps that the experiment needs, those that the ledger lacks, and their cost. Computes nothing."""

    def run(self) -> Any:
        """Computes what the ledger lacks and reads the results."""

    def is_complete(self) -> bool:
        """Whether the ledger holds every result."""


@dataclass
class Run:
    """One run of an experiment in this process.

    Attributes:
        keys: Of all steps that were needed, those they are computed from included; in order.
    """

    runner: Runner
    keys: dict[str, None] = field(default_factory=dict)

    def compute(self, steps: Sequence[Step]) -> None:
        """Compute a batch. Steps that another process computes come last, so that several share the work.

        A step that fails is passed over: whoever reads its result is told.
        """
        waiting = list(steps)
        while waiting:
            step = next((step for step in waiting if not self.runner.is_elsewhere(step)), waiting[0])
            waiting.remove(step)
            with contextlib.suppress(StageFailed):
                self.runner.run(step)
        for step in steps:
            self.keys |= dict.fromkeys(map(self.runner.key, step.chain()))

    def drive(self, piece: Batches) -> Any:
        """Compute every batch of a piece; returns what the piece returns, or the StageFailed that ended it."""
        try:
            return drive(piece, self.compute)
        except StageFailed as error:
            return error

    @property
    def computed(self) -> tuple[tuple[str, str], ...]:
        """(stage, key) of every step that was computed by this run, also in other processes."""
        return tuple(self.runner.computed)


@dataclass(frozen=True)
class Experiment(ABC):
    """See the module. A subclass is a frozen dataclass of plain data, so that it can be sent to other processes."""

    ledger: Ledger

    def __post_init__(self) -> None:
        """Raises BadInput where a model or data are not there, before anything runs."""
        Runner(self.inputs, self.ledger)

    @property
    @abstractmethod
    def title(self) -> str:
        """Name of the experiment, such as "Table 2"."""

    @property
    @abstractmethod
    def inputs(self) -> Inputs:
        """Base model, data and limits that the steps are computed from."""

    @property
    @abstractmethod
    def workers(self) -> int:
        """Processes that compute it, where the environment names no number."""

    @property
    def is_sequential(self) -> bool:
        """Whether every step waits for the one before, so that other processes could not help."""
        return False

    @property
    def subject(self) -> str:
        """The model that the title of the plan names."""
        return self.inputs.base_model.label

    @property
    def cost(self) -> Cost | None:
        """Cost of the stages; None where that was never measured."""
        return None

    @abstractmethod
    def pieces(self, runner: Runner) -> list[Batches]:
        """Pieces that do not depend on each other, each a generator of batches of steps."""

    @abstractmethod
    def collect(self, run: Run, outcomes: Sequence[Any]) -> Any:
        """The experiment's results, read from the ledger after all steps have run.

        Args:
            run: The run that computed them.
            outcomes: What each piece returned, or the StageFailed that ended it.
        """

    def details(self) -> tuple[str, ...]:
        """Lines of a plan under its title."""
        return ()

    def planning_runner(self) -> PlanningRunner:
        """A runner that computes nothing, for the base model's shapes."""
        return PlanningRunner(self.inputs, self.ledger, base_architecture(self.inputs.base_model))

    def plan(self) -> Plan:
        """The steps that the experiment needs, those that the ledger lacks, and their cost. Computes nothing."""
        count = StepCount()
        runner = self.planning_runner()
        for piece in self.pieces(runner):
            count.follow(runner, piece)
        return Plan(f"{self.title} · {self.subject}", self.details(), self.inputs, self.cost,
                    count.needed, count.missing)

    def is_complete(self) -> bool:
        """Whether the ledger holds every result."""
        return not self.plan().missing

    def run(self) -> Any:
        """The results, computed where the ledger lacks them. Shows progress with the time that remains.

        Raises:
            BadInput: on what is known to stop the run before it ends; what was finished is kept.
        """
        plan = self.plan()
        self.check(plan)
        bar = ProgressBar(self.cost)
        run = Run(Runner(self.inputs, self.ledger, bar.on_progress))

        def on_progress(step: Step, share: float) -> None:
            if share == 1:
                run.runner.computed.append((step.stage, run.runner.key(step)))
            bar.on_progress(step, share)

        with bar.over(plan.missing_seconds()), computing_with(self.inputs.threads):
            if plan.missing and not self.is_sequential:
                compute_ahead([self], on_progress)
            result = self.collect(run, [run.drive(piece) for piece in self.pieces(run.runner)])
        run.runner.release()
        print_rows_left_out(run.runner)
        return result

    def check(self, plan: Plan) -> None:
        """Raises BadInput on what is known to stop a run before it ends; see `preflight`."""
        require(plan, self.ledger.folder)

    def parts(self) -> list[tuple[Runner, Batches]]:
        """The pieces, each with a runner; see `execution.follow`."""
        runner = Runner(self.inputs, self.ledger)
        return [(runner, piece) for piece in self.pieces(runner)]

    def threads(self) -> int | None:
        """Of a process that follows the work; None for a share of the cores."""
        return self.inputs.threads


@dataclass(frozen=True)
class ProfileExperiment(Experiment):
    """An experiment on the model of a profile."""

    profile: Profile

    def __post_init__(self) -> None:
        """Raises BadInput where a model or data are not there, before anything runs."""
        super().__post_init__()
        there = tasks_in(self.profile.benchmarks)
        if lacking := [task for task in self.profile.tasks if self.scores_tasks and task not in there]:
            raise BadInput(f"evaluation.tasks names {lacking[0]}, which {self.profile.benchmarks.location} does not"
                           f" hold: use some of {', '.join(there)}")

    @property
    def scores_tasks(self) -> bool:
        """Whether models are scored on the profile's tasks, all of which its benchmarks must then hold."""
        return True

    @property
    def inputs(self) -> Inputs:
        """Base model, data and limits that the steps are computed from."""
        return self.profile.inputs()

    @property
    def subject(self) -> str:
        """The profile and its base model."""
        return f"profile {self.profile.name} ({self.profile.base_model.label})"

    @property
    def workers(self) -> int:
        """The profile's number of processes."""
        return self.profile.workers

    @property
    def cost(self) -> Cost:
        """The profile's costs."""
        return self.profile.cost

    def prune(self, block: Block) -> Step:
        """The pruning of a block of the profile."""
        return Step("prune", self.profile.prune_spec(block))

    def planning_runner(self) -> PlanningRunner:
        """A runner that computes nothing, also where the base model is not here yet."""
        specs = [self.profile.prune_spec(block) for block in self.profile.blocks()]
        layers = max(spec.end_layer for spec in specs) + 1
        return PlanningRunner(self.inputs, self.ledger, base_architecture(self.inputs.base_model, layers))


def computes_ahead(workers: int) -> bool:
    """Whether experiments are computed by processes of their own.

    Args:
        workers: Processes where the environment names no number.
    """
    return execution_from_environment(workers) != ("local", 1)


def compute_ahead(experiments: Sequence[Experiment], on_progress: Progress) -> None:
    """Compute what the ledger lacks of several experiments on one ledger, in processes of their own where
    `execution.execution_from_environment` says so; what they leave is read afterwards.

    Raises:
        BadInput: as soon as a process ends with an error; what was finished is kept.
    """
    if not experiments:
        return
    executor, workers = execution_from_environment(experiments[0].workers)
    if executor == "ray":
        from rankadaptor.pipeline.ray_pool import conduct

        ledger = Ledger(experiments[0].ledger.folder.absolute())
        conduct([replace(experiment, ledger=ledger) for experiment in experiments], workers, on_progress)
    elif workers > 1:
        with LocalPool(experiments[0].ledger, workers, experiments[0].threads(), on_progress) as pool:
            follow([work for experiment in experiments for work in experiment.parts()], pool, workers)
