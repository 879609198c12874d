"""check-gpu: whether a machine computes what it should, as fast as plans count with."""

from pathlib import Path
from typing import Annotated

import typer


def check_gpu(
    profile: Annotated[str, typer.Option(
        envvar="RANKADAPTOR_PROFILE", help="Of a published model, such as llama-7b, vicuna-7b or llama-13b.",
    )] = "llama-7b",
    out: Annotated[Path, typer.Option(help="Of the rehearsal's model, ledger and reports.")] = Path("build/gpu-check"),
    stages: Annotated[bool, typer.Option(
        "--stages/--no-stages", help="Run every stage of the pipeline as well, the longest part.")] = True,
) -> None:
    """Check a new GPU machine: exactness, speed, memory. Prints one table; status 1 if a check fails (ten minutes)."""
    from rankadaptor.reporting.gpu_check import check_gpu as run_checks
    from rankadaptor.reporting.gpu_check import check_table

    checks = run_checks(profile, out, stages)
    print(check_table(checks))
    if not all(check.passed for check in checks):
        raise typer.Exit(1)
