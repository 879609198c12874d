"""What can be known to stop a long run before it starts: memory, disk, a model that is not there or not pinned."""

import os
import shutil
from pathlib import Path

import huggingface_hub.constants
import torch

from rankadaptor.corpora.downloads import cache_folder
from rankadaptor.corpora.hub import is_here, is_reachable, pinned
from rankadaptor.costs import Plan
from rankadaptor.errors import BadInput
from rankadaptor.profiles import BaseModel, Cost

_RESERVED = 0.05  # of a GPU's memory, which its driver and the framework take


def check(plan: Plan, ledger: Path) -> list[str]:
    """What stands in the way of a plan, a line each with its remedy. Takes seconds; empty where nothing does."""
    if not plan.missing:
        return []
    profile = plan.profile
    elsewhere = os.environ.get("RANKADAPTOR_EXECUTOR") == "ray"  # whose nodes have the accelerators
    accelerator = "" if elsewhere else _accelerator(profile.cost)
    found = [_model(profile.base_model), accelerator, _disk(plan, ledger)]
    return [one for one in found if one]


def require(plan: Plan, ledger: Path) -> None:
    """Raises BadInput with the first of `check`."""
    if found := check(plan, ledger):
        raise BadInput(found[0])


def _model(base: BaseModel) -> str:
    if base.source.kind != "hub" or is_here(base.source.location):
        return ""
    name = base.source.location
    try:
        pinned(name)
    except BadInput:
        return (f"base model {name} is not pinned to a commit: choose one on its page, and give MODEL={name}@COMMIT,"
                " or MODEL=FOLDER with its files")
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return f"base model {name} is not in the hub's cache, and HF_HUB_OFFLINE is set: fetch it, or give MODEL=FOLDER"
    if reason := is_reachable(name):
        return f"base model {name} cannot be reached ({reason}): check id, commit and network, or give MODEL=FOLDER"
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


def _disk(plan: Plan, ledger: Path) -> str:
    needed = {ledger: plan.missing_disk_megabytes()}
    if plan.downloads:
        hub = plan.profile.base_model.source.kind == "hub"
        needed[Path(huggingface_hub.constants.HF_HUB_CACHE) if hub else cache_folder()] = (
            plan.profile.cost.download_megabytes)
    for folder, megabytes in needed.items():
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e6
        if free < megabytes:
            return (f"{os.fspath(folder)} has {free:,.0f} MB free, and {megabytes:,.0f} are needed: free some, or name"
                    " another folder")
    return ""
