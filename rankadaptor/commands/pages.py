"""plan, reproduce and report: the paper's tables and figures, and our own pages."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from rankadaptor.commands.boundary import FAILED, print_line
from rankadaptor.commands.groups import Command, Ledger, Profile, Reports, group, takes
from rankadaptor.destinations import require_apart, require_writable
from rankadaptor.experiments.parameters import text
from rankadaptor.experiments.paths import run_folder
from rankadaptor.reporting import pages

plan = group("Print what a page would compute. And what that costs; nothing is computed.")
reproduce = group("Compute and render a page. Only what the ledger lacks is computed.")


@dataclass(frozen=True)
class PageOptions:
    """What every page's commands take; a page refuses those that it has no use for."""

    profile: Profile = "tiny"
    blocks: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_BLOCKS", help="Such as 'llm-pruner:20 shortened:50'; the page's own by default.",
    )] = ""
    budget: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_BUDGET", help="Of the profile: quick, standard or full; the page's own by default.")] = ""
    seeds: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_SEEDS", help="Training seeds, such as '0 1 2'; the budget's by default.")] = ""
    allocation: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_ALLOCATION", help="Ranks by layer of one more row, such as '8 8 4 12 ...'.")] = ""
    ledger: Ledger = "ledger"
    reports: Reports = "reports"
    benchmarks: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_BENCHMARKS", help="Folder of TASK/SPLIT.jsonl to use instead of the profile's.")] = ""
    recovery_data: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_RECOVERY_DATA", help=".jsonl of instruction rows to use instead of the profile's.")] = ""
    ablation: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_ABLATION", help="Of ablations: table3, or some of {ablations}; all by default.")] = ""
    rank_table: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_TABLE", help="Of search: a table that rank-table made; the committed one by default.",
    )] = ""
    workers: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_WORKERS", help="Processes that compute; the profile's, or one a GPU, by default.")] = ""
    executor: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_EXECUTOR",
        help="{executors}: this machine, or the cluster of RAY_ADDRESS (one started here where that is empty).")] = ""

    def given(self) -> dict[str, str]:
        """Those that are not the default."""
        return {field.name: getattr(self, field.name) for field in fields(self)
                if getattr(self, field.name) != field.default}

    def parameters(self) -> dict[str, Any]:
        """Those that a page reads, by name.

        Raises:
            BadInput: on what no notebook would start with: workers, executor, seeds.
        """
        from rankadaptor.experiments.parameters import whole_numbers
        from rankadaptor.pipeline.execution import execution_from_environment
        from rankadaptor.profiles import load_profile

        given = {name: value if value.strip() else "" for name, value in asdict(self).items()}
        execution = {f"RANKADAPTOR_{name.upper()}": given[name] for name in ("workers", "executor") if given[name]}
        execution_from_environment(load_profile(self.profile).workers, os.environ | execution)
        os.environ.update(execution)  # notebooks run in processes of their own, and read it
        parameters: dict[str, Any] = given | {"seeds": list(whole_numbers("seeds", self.seeds))}
        return {name: value for name, value in parameters.items() if name not in ("reports", "workers", "executor")}


def _plan(page: str) -> Callable[[PageOptions], None]:
    def command(options: PageOptions) -> None:
        from rankadaptor.experiments.preflight import check, commands

        planned = pages.plan(page, options.parameters())
        problems = [f"before it can run: {problem}" for problem in check(planned, Path(options.ledger))]
        print("\n".join([str(planned), *problems, *commands(planned, page, options.given())]))

    return command


def _reproduce(page: str) -> Callable[[PageOptions], None]:
    def command(options: PageOptions) -> None:
        from papermill import PapermillExecutionError

        from rankadaptor.reporting.report import write_report

        parameters = options.parameters()
        folder = pages.run_folder_of(page, parameters, options.reports)
        for place in (Path(options.reports), folder.parent, folder):
            require_apart(options.ledger, place)
        require_writable("reports", folder)
        try:
            if page == "all":
                executed: dict[str, Path] = {}

                def on_page(name: str, copy: Path) -> None:
                    executed[name] = copy
                    _print_page(name, copy)

                pages.reproduce_all(parameters, folder, on_page)
                _print_conclusions(executed)
                print(write_report(options.profile, folder))
            else:
                _print_page(page, pages.reproduce(page, parameters, folder))
        except PapermillExecutionError as error:
            reason = " ".join(str(error.evalue).split())
            line = f"{page} stopped with {error.ename}: {reason}: see .failed.ipynb in {folder}"
            raise typer.Exit(print_line(line, FAILED)) from None

    return command


def _print_page(page: str, executed: Path) -> None:
    print(f"report: {executed.with_name(page + '.md')} and {executed}", flush=True)


def _print_conclusions(executed: Mapping[str, Path]) -> None:
    """The conclusions of all pages, together: those of quiet ones were not shown, others lie far above."""
    from rankadaptor.reporting.notebooks import conclusion_of

    for page, copy in executed.items():
        print(f"\n{page}\n{conclusion_of(copy)}", end="", flush=True)
    print()


def report(
    profile: Profile = "tiny",
    budget: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_BUDGET", help="Whose runs it is over; the profile's default.")] = "",
    reports: Reports = "reports",
) -> None:
    """Write one page over all that runs of a profile wrote under a budget."""
    from rankadaptor.profiles import load_profile
    from rankadaptor.reporting.report import write_report

    print(write_report(profile, run_folder(reports, load_profile(profile), text("budget", budget))))


for _name, _page in pages.PAGES.items():
    _help = f"{_page.title} (notebooks/{_page.notebook}.ipynb)."
    plan.command(_name, cls=Command, help=_help)(takes(PageOptions, _plan(_name)))
    reproduce.command(_name, cls=Command, help=_help)(takes(PageOptions, _reproduce(_name)))
reproduce.command("all", cls=Command, help="Every table and figure, and the report page.")(
    takes(PageOptions, _reproduce("all")))
