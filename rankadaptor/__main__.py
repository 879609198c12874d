"""`python -m rankadaptor plan|reproduce table2|testbed ...`: the shell's door, which `make` uses."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankadaptor import profiles
from rankadaptor.errors import ArgumentParser, BadInput

NOTEBOOKS = {"table2": "03_main_tables", "testbed": "07_testbed"}
_TABLE_ONLY = ("benchmarks", "recovery_data", "allocation")  # options that table2 alone knows


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(prog="rankadaptor", description="RankAdaptor, reproduced. See `make help` for the targets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (("plan", "print what a table needs, what is missing and its cost; computes nothing"),
                       ("reproduce", "compute what a table lacks and render it into reports/")):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("table", choices=sorted(NOTEBOOKS), metavar="TABLE", help=", ".join(NOTEBOOKS))
        command.add_argument("--profile", default="tiny", help=f"{', '.join(profiles.names())}, or a YAML file")
        command.add_argument("--blocks", default="", help="such as 'llm-pruner:20 shortened:50'; default: all")
        command.add_argument("--budget", default="", help="quick, standard or full; default: the page's own")
        command.add_argument("--seeds", default="", help="training seeds, such as '0 1 2'; default: the budget's")
        command.add_argument("--allocation", default="", help="ranks by layer of one more row, such as '8 8 4 12 ...'")
        command.add_argument("--ledger", default="ledger", help="folder of finished results")
        command.add_argument("--reports", default="reports", help="folder of reports")
        command.add_argument("--benchmarks", default="", help="folder of <task>/<split>.jsonl to use instead")
        command.add_argument("--recovery-data", default="", help=".jsonl of instruction rows to use instead")
    return parser


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise BadInput(f"seeds {text!r} are not whole numbers: write them as '0 1 2'") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, 1 when a notebook failed, 2 on bad input."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except BadInput as error:
        print(f"rankadaptor: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    # Heavy imports wait until the arguments are known to be well-formed.
    from rankadaptor.experiments import main_table
    from rankadaptor.instrument import instrument

    parameters: dict[str, Any] = {
        "profile": options.profile,
        "blocks": options.blocks,
        "seeds": _seeds(options.seeds),
        "ledger": options.ledger,
    }
    if options.budget:
        parameters["budget"] = options.budget
    only = {name: getattr(options, name) for name in _TABLE_ONLY}
    if options.table == "table2":
        parameters |= only
    elif given := [name for name, value in only.items() if value]:
        raise BadInput(f"{given[0]} {only[given[0]]!r} was given for {options.table}: it goes with table2 alone")
    work = main_table(**parameters) if options.table == "table2" else instrument(**parameters)  # refuses bad input
    if options.command == "plan":
        print(work.plan())
        return 0
    from papermill import PapermillExecutionError

    from rankadaptor.reporting.notebooks import run_notebook

    folder = Path(options.reports) / work.profile.name
    notebook = NOTEBOOKS[options.table]
    try:
        run_notebook(notebook, folder / f"{notebook}.ipynb", parameters | {"reports": str(folder)})
    except PapermillExecutionError as error:
        if error.ename == BadInput.__name__:  # found out only on the way, such as a wrong hash
            raise BadInput(error.evalue) from None
        print(f"rankadaptor: {notebook} stopped with {error.ename}: {error.evalue}", file=sys.stderr)
        return 1
    print(f"report: {folder / (options.table + '.md')} and {folder / (notebook + '.ipynb')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
