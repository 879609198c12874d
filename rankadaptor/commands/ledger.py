"""ledger: look into the folder of finished results, and keep it in order."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from rankadaptor.commands.groups import Command, Ledger, group
from rankadaptor.errors import BadInput
from rankadaptor.sealed import plain

ledger = group("Look into finished results. And keep their folder in order.")


@ledger.command("list", cls=Command)
def list_entries(
    stage: Annotated[str, typer.Option(help="prune, recover, evaluate, ...; all by default.")] = "",
    ledger: Ledger = "ledger",
) -> None:
    """Print one line an entry, oldest first, and a summary by stage."""
    from rankadaptor.pipeline import ledger_tools

    print(ledger_tools.listing(ledger, stage))
    print(f"\n{ledger_tools.summary(ledger)}")


@ledger.command("show", cls=Command)
def show_entry(
    key: Annotated[str, typer.Argument(help="The first digits are enough.")], ledger: Ledger = "ledger"
) -> None:
    """Print one entry as JSON."""
    from rankadaptor.pipeline import ledger_tools

    print(ledger_tools.shown(ledger_tools.find_by_prefix(ledger, key)))


@ledger.command("verify", cls=Command)
def verify_entries(ledger: Ledger = "ledger") -> None:
    """Hold entries, searches and failures against checksums, seals and keys. Damaged ones are set aside: status 1."""
    from rankadaptor.pipeline import ledger_tools
    from rankadaptor.ranktable import replay_cache  # noqa: F401 - declares the fields of replays

    damaged = ledger_tools.verify(ledger)
    print("\n".join(damaged) or f"{ledger}: every entry is as it was written")
    for name in ledger_tools.passed_over(ledger):
        print(f"ledger: {name} is nothing of a ledger, and is passed over", file=sys.stderr)
    if damaged:
        raise typer.Exit(1)


@ledger.command("gc", cls=Command)
def collect_garbage(
    damaged: Annotated[bool, typer.Option("--damaged", help="And what was set aside as damaged.")] = False,
    outdated: Annotated[bool, typer.Option(
        "--outdated", help="And results that this version does not read any more.")] = False,
    failures: Annotated[bool, typer.Option(
        "--failures", help="And notes of failures: what was given up is tried again.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go, and remove nothing.")] = False,
    ledger: Ledger = "ledger",
) -> None:
    """Remove what processes that died left half-written."""
    from rankadaptor.pipeline import ledger_tools
    from rankadaptor.ranktable.replay_cache import REPLAY, ReplaySpec

    versions = {REPLAY: ReplaySpec.numerics_version}
    pieces = ledger_tools.rubbish(ledger, damaged, outdated, failures, versions)
    for piece in pieces:
        print(f"{plain(str(piece.path))}: {piece.why}, {piece.bytes / 1e6:.2f} MB")
    left = [] if dry_run else ledger_tools.remove(pieces)
    removed = [piece for piece in pieces if piece not in left]
    print(f"{'would remove' if dry_run else 'removed'} {len(removed)} things,"
          f" {sum(piece.bytes for piece in removed) / 1e6:.2f} MB")
    if left:
        raise BadInput(f"cannot remove {plain(str(left[0].path))}: mend its rights, or remove it by hand")


@ledger.command("export", cls=Command)
def export_entries(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="That ends in .csv or .parquet.")],
    ledger: Ledger = "ledger",
) -> None:
    """Write one row an entry, as a table."""
    from rankadaptor.pipeline import ledger_tools

    print(f"{out}: {ledger_tools.export(ledger, out)} entries")
