"""rank-table and rehearse: runs that measure what searches are replayed on, or that a profile works on a machine."""

import os
from pathlib import Path
from typing import Annotated

import typer

from rankadaptor.commands.groups import Ledger, Profile
from rankadaptor.destinations import require_file, require_writable


def rehearse(
    profile: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_PROFILE", help="Of a published model, such as llama-7b, vicuna-7b or llama-13b.",
    )] = "llama-7b",
    blocks: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_BLOCKS", help="PRUNER:RATE; the first of each pruner by default.")] = "",
    full_size: Annotated[bool, typer.Option(
        "--full-size", envvar="RANKADAPTOR_FULL_SIZE", help="The very shape, on one GPU; narrow by default.")] = False,
    out: Annotated[Path, typer.Option(help="Of the model, the ledger and the reports.")] = Path("build/rehearsal"),
) -> None:
    """Try a profile on random weights. Runs every stage of a profile of the paper's scale (minutes)."""
    from rankadaptor.reporting.rehearsal import rehearse as rehearse_profile

    require_writable("out", out)
    print(rehearse_profile(profile, out, full_size, blocks).read_text())


def rank_table(
    out: Annotated[Path, typer.Option(help="The table, .parquet.")],
    profile: Profile = "tiny",
    budget: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_BUDGET", help="Whose recipe and items are used.")] = "standard",
    ledger: Ledger = "ledger",
    workers: Annotated[int | None, typer.Option(help="Processes; the profile's by default.")] = None,
) -> None:
    """Measure a table for replays. Recovers and scores many allocations of some blocks (hours; resumes)."""
    from rankadaptor.experiments.parameters import whole_number
    from rankadaptor.experiments.rank_table import rank_table as measured_table
    from rankadaptor.experiments.rank_table import write_rank_table
    from rankadaptor.pipeline.execution import MOST_WORKERS

    require_file("the table", out)
    if workers is not None:
        os.environ["RANKADAPTOR_WORKERS"] = str(whole_number("workers", workers, 1, MOST_WORKERS))
    table = measured_table(profile, budget, ledger=ledger)
    print(table.plan(), flush=True)
    print(write_rank_table(table.run(), out))


def campaign(
    profile: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_PROFILE", help="Whose records/PROFILE/campaign.yaml is worked off.")] = "smollm2",
    hours: Annotated[float, typer.Option(
        envvar="RANKADAPTOR_HOURS", help="After which no stage ends.", min=0.0, max=1000.0)] = 2.0,
    ledger: Annotated[Path | None, typer.Option(
        help="Of models and results on this machine; build/campaign/PROFILE by default.")] = None,
) -> None:
    """Work off a campaign. What a profile is wanted for, in order; records what it finds (resumes)."""
    from rankadaptor.experiments.paths import build_folder
    from rankadaptor.profiles import load_profile
    from rankadaptor.reporting.campaign import work_off

    os.nice(10)  # beside other work it takes the cores that are free
    folder = ledger or build_folder() / "campaign" / load_profile(profile).name
    require_writable("the ledger", folder)
    work_off(profile, hours, folder, lambda line: print(line, flush=True))
