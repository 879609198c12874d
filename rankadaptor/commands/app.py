"""The command line as a whole, and how it ends: one line an error, exit status 2 on bad input, 1 on a failure."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.main import get_command

from rankadaptor import __version__
from rankadaptor.commands import pages, pruning, runs, user_model
from rankadaptor.commands.check_gpu import check_gpu
from rankadaptor.commands.convert import convert
from rankadaptor.commands.groups import Command, group, takes
from rankadaptor.commands.ledger import ledger
from rankadaptor.commands.testbed import testbed
from rankadaptor.errors import BadInput, StageFailed
from rankadaptor.plugins import load_plugins

_PROGRAM = "python -m rankadaptor"

app = group("RankAdaptor, reproduced. `make help` lists the targets that use these commands.")
app.add_typer(pages.plan, name="plan")
app.add_typer(pages.reproduce, name="reproduce")
app.command("report", cls=Command)(pages.report)
app.command("rank-table", cls=Command)(runs.rank_table)
app.command("convert", cls=Command)(convert)
app.command("check-gpu", cls=Command)(check_gpu)
app.command("prune", cls=Command)(takes(pruning.PruningOptions, pruning.prune))
pages.plan.command("prune", cls=Command)(takes(pruning.PruningOptions, pruning.plan_prune))
app.command("measure", cls=Command)(pruning.measure)
app.command("search", cls=Command)(takes(user_model.RecoveryOptions, user_model.search))
app.command("recover", cls=Command)(takes(user_model.RecoveryOptions, user_model.recover))
app.command("evaluate", cls=Command)(user_model.evaluate)
app.add_typer(ledger, name="ledger")
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
    """Run one command.

    Args:
        arguments: Those of the command line; None for the process's own.

    Returns:
        The exit status: 0, 1 where a notebook or a stage failed, 2 on bad input.
    """
    command = get_command(app)
    try:
        load_plugins()  # they may register pages, ablations and pruners that commands name
        status: int | None = command.main(args=arguments, prog_name=_PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else _PROGRAM
        message = " ".join(error.format_message().split()).rstrip(".")
        print(f"rankadaptor: {message}: see {path} --help", file=sys.stderr)
        return error.exit_code
    except (BadInput, StageFailed) as error:
        print(f"rankadaptor: {error}", file=sys.stderr)
        return 2 if isinstance(error, BadInput) else 1
    return status or 0
