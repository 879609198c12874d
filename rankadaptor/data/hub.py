"""Checkpoints and data files from the model hub, pinned to a commit. Weights are safetensors, never a pickle.

The hub's own variables apply: `HF_HOME` moves its cache, and with `HF_HUB_OFFLINE=1` nothing but the cache is used.
"""

import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache

from rankadaptor.errors import BadInput

_CONFIGURATION = ["*.json", "*.jinja", "tokenizer.model"]
_WEIGHTS = ["*.safetensors"]


def checkpoint_folder(name: str, weights: bool = True) -> Path:
    """The folder of a checkpoint: a folder as it is, or `organisation/model@commit`, fetched into the hub's cache.

    Args:
        name: Path of a folder, or hub id and commit (40 hex digits).
        weights: Whether to fetch the safetensors files, too, beside configuration and tokenizer.

    Raises:
        BadInput: if the name is neither, or the checkpoint cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    repository, commit = pinned(name)
    try:
        return Path(snapshot_download(
            repository, revision=commit, allow_patterns=[*_CONFIGURATION, *(_WEIGHTS if weights else [])]))
    except Exception as error:  # of whatever the hub's client and its network library raise
        raise BadInput(f"cannot fetch {name} ({type(error).__name__}): check the id and the network, or give a folder"
                       ) from None


def pinned(name: str) -> tuple[str, str]:
    """Hub id and commit of `organisation/model@commit`.

    Raises:
        BadInput: on a name that is not pinned to a commit.
    """
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", name)
    if match is None:
        raise BadInput(f"no folder {name!r}: name one, or a hub id pinned to a commit, such as organisation/model@"
                       "followed by 40 hex digits")
    return match[1], match[2]


def is_here(name: str) -> bool:
    """Whether `checkpoint_folder` would fetch nothing."""
    if Path(name).is_dir():
        return True
    try:
        repository, commit = pinned(name)
        snapshot_download(repository, revision=commit, allow_patterns=[*_CONFIGURATION, *_WEIGHTS],
                          local_files_only=True)
    except Exception:  # of whatever the hub's client raises where something is missing
        return False
    return True


def is_reachable(name: str, seconds: float = 10.0) -> str:
    """Ask the hub whether it has safetensors files of that name and commit.

    Args:
        name: Hub id and commit.
        seconds: To wait at most.

    Returns:
        What is wrong; empty if nothing is.

    Raises:
        BadInput: on a name that is not pinned to a commit.
    """
    repository, commit = pinned(name)
    try:
        files = HfApi().model_info(repository, revision=commit, timeout=seconds).siblings or []
    except Exception as error:  # of whatever the hub's client and its network library raise
        return type(error).__name__
    return "" if any(file.rfilename.endswith(".safetensors") for file in files) else "it has no safetensors files"


def data_is_here(location: str) -> bool:
    """Whether `data_file` would fetch nothing."""
    name, _, file = location.rpartition("/")
    try:
        repository, commit = pinned(name)
    except BadInput:
        return False
    return isinstance(try_to_load_from_cache(repository, file, revision=commit, repo_type="dataset"), str)


def data_file(location: str) -> Path:
    """Path of `organisation/dataset@commit/file` in the hub's cache, fetched if it is not there yet.

    Raises:
        BadInput: if the name is not of that form, or the file cannot be fetched.
    """
    name, _, file = location.rpartition("/")
    repository, commit = pinned(name)
    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=commit))
    except Exception as error:  # of whatever the hub's client and its network library raise
        raise BadInput(f"cannot fetch {location} ({type(error).__name__}): check the id and the network, or give a file"
                       " of the same rows") from None
