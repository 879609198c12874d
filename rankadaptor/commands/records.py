"""records and reports: what committed reports stand on, and the reports that are drawn from it."""

from pathlib import Path
from typing import Annotated

import typer

from rankadaptor.commands.groups import Command, Ledger, Profile, Reports, group
from rankadaptor.destinations import require_writable

records = group("Committed results. Recorded from a ledger, or compared with one.")


@records.command("write", cls=Command)
def write_records(profile: Profile = "tiny", ledger: Ledger = "ledger") -> None:
    """Record what a ledger holds of a profile, in records/PROFILE, without weights."""
    from rankadaptor.reporting.committed import write_profile_records

    folder = write_profile_records(profile, ledger)
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"{folder}: {megabytes:.1f} MB")


@records.command("compare", cls=Command)
def compare_records(profile: Profile = "tiny", ledger: Ledger = "ledger") -> None:
    """Compare a ledger's results with the committed ones, number by number."""
    from rankadaptor.reporting.committed import compare

    print(compare(profile, ledger) or f"no records of profile {profile} are committed")


def reports(
    profile: Annotated[str, typer.Option(help="One profile; all that have records by default.")] = "",
    reports: Reports = "reports",
    prose: Annotated[bool, typer.Option("--prose", help="README and docs alone, from the reports that are there.")] =
    False,
) -> None:
    """Draw the committed reports from the committed records, and README and docs from the reports. Computes nothing
    (minutes; with --prose seconds)."""
    from rankadaptor.experiments.paths import project_folder
    from rankadaptor.profiles import names
    from rankadaptor.reporting.committed import committed_pages, render
    from rankadaptor.reporting.prose import render_prose

    def print_page(name: str, executed: Path) -> None:
        print(f"{executed.parent.name}: {name}", flush=True)

    if not prose:
        require_writable("reports", reports)
        for name in [profile] if profile else [name for name in names() if committed_pages(name)]:
            print(render(name, reports, print_page))
    if Path(reports).resolve() == (project_folder() / "reports").resolve():  # documents speak of committed reports
        for path in render_prose():
            print(path)
