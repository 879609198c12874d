"""Checkpoints and files of data by their hub id, pinned to a commit: what LLaMA needs, and never a pickle.

`HF_HUB_OFFLINE=1` and `HF_HOME` are the hub's own: with the first, only what its cache holds is used.
"""

import re
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache

from rankadaptor.errors import BadInput

_CONFIGURATION = ["*.json", "*.jinja", "tokenizer.model"]
_WEIGHTS = ["*.safetensors"]


def checkpoint_folder(name: str, weights: bool = True) -> Path:
    """A folder as it is, or `organisation/model@commit` from the hub's cache, fetched if it is not there yet.

    Args:
        name: Path of a folder, or hub id and commit (40 hex digits).
        weights: Fetch the safetensors files too, not the configuration and tokenizer alone.

    Raises:
        BadInput: if it is neither, or cannot be fetched.
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
    """Hub id and commit.

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
    """Asks the hub, for some seconds at most: empty if it has safetensors files of that name and commit, or what is
    wrong."""
    repository, commit = pinned(name)
    try:
        files = HfApi().model_info(repository, revision=commit, timeout=seconds).siblings or []
    except Exception as error:  # of whatever the hub's client and its network library raise
        return type(error).__name__
    return "" if any(one.rfilename.endswith(".safetensors") for one in files) else "it has no safetensors files"


def data_is_here(location: str) -> bool:
    """Whether `data_file` would fetch nothing."""
    name, _, file = location.rpartition("/")
    try:
        repository, commit = pinned(name)
    except BadInput:
        return False
    return isinstance(try_to_load_from_cache(repository, file, revision=commit, repo_type="dataset"), str)


def data_file(location: str) -> Path:
    """`organisation/dataset@commit/file` from the hub's cache, fetched if it is not there yet.

    Raises:
        BadInput: if it is not such a name, or cannot be fetched.
    """
    name, _, file = location.rpartition("/")
    repository, commit = pinned(name)
    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=commit))
    except Exception as error:  # of whatever the hub's client and its network library raise
        raise BadInput(f"cannot fetch {location} ({type(error).__name__}): check the id and the network, or give a file"
                       " of the same rows") from None
