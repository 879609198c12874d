"""The command line as a whole. How it ends: `boundary`."""

import itertools
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from rankadaptor import __version__
from rankadaptor.commands import boundary, pages, pruning, runs, user_model
from rankadaptor.commands.check_gpu import check_gpu
from rankadaptor.commands.convert import convert
from rankadaptor.commands.groups import Command, group, takes
from rankadaptor.commands.ledger import ledger
from rankadaptor.commands.records import records, reports
from rankadaptor.commands.testbed import testbed
from rankadaptor.errors import BadInput
from rankadaptor.plugins import load_plugins

_PROGRAM = "python -m rankadaptor"

app = group("RankAdaptor, reproduced. `make help` lists the targets that use these commands.")
app.add_typer(pages.plan, name="plan")
app.add_typer(pages.reproduce, name="reproduce")
app.command("report", cls=Command)(pages.report)
app.command("rank-table", cls=Command)(runs.rank_table)
app.command("campaign", cls=Command)(runs.campaign)
app.command("convert", cls=Command)(convert)
app.command("check-gpu", cls=Command)(check_gpu)
app.command("prune", cls=Command)(takes(pruning.PruningOptions, pruning.prune))
pages.plan.command("prune", cls=Command)(takes(pruning.PruningOptions, pruning.plan_prune))
app.command("measure", cls=Command)(pruning.measure)
app.command("search", cls=Command)(takes(user_model.RecoveryOptions, user_model.search))
app.command("recover", cls=Command)(takes(user_model.RecoveryOptions, user_model.recover))
app.command("evaluate", cls=Command)(user_model.evaluate)
app.add_typer(ledger, name="ledger")
app.add_typer(records, name="records")
app.command("reports", cls=Command)(reports)
app.command("rehearse", cls=Command)(runs.rehearse)
app.add_typer(testbed, name="testbed")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rankadaptor {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option(
        "--version", is_eager=True, callback=_print_version, help="Print the version.")] = False,
) -> None:
    """Options of the command line itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. The only place that turns errors into lines; see `boundary` for the exit status.

    Args:
        arguments: Those of the command line; None for the process's own.

    Returns:
        The exit status.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    boundary.show_all_characters()
    try:
        status = _run(arguments)
    except typer.TyperException as error:
        status = boundary.status_of(BadInput(_usage_line(error, arguments)))
    except (Exception, KeyboardInterrupt) as error:
        status = boundary.status_of(error)
    return boundary.flushed(status)


def _run(arguments: list[str]) -> int:
    """Not by typer's own main, which swallows a closed pipe and an interrupt."""
    boundary.check_arguments(arguments)
    load_plugins()  # they may register pages, ablations and pruners that commands name
    command = get_command(app)
    try:
        with command.make_context(_PROGRAM, arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


def _usage_line(error: typer.TyperException, arguments: Sequence[str]) -> str:
    """What is wrong with the command line, with the value as it was typed, and where its help is."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    path = context.command_path if context else _PROGRAM
    message = " ".join(error.format_message().split()).rstrip(".")
    if isinstance(error, typer.BadParameter) and parameter is not None:
        given = [value for option, value in itertools.pairwise(arguments) if option in parameter.opts]
        given += [argument.partition("=")[2] for argument in arguments if argument.partition("=")[0] in parameter.opts
                  and "=" in argument]
        message += f" (got {given[-1]!r})" if given else ""
    return f"{message}: see {path} --help"
