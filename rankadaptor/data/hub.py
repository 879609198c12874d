"""Checkpoints and data files from the model hub, pinned to a commit. Weights are safetensors, never a pickle.

A checkpoint that ships pickles alone is read once it has been converted (`python -m rankadaptor convert`), from this
package's cache. The hub's own variables apply: `HF_HOME` moves its cache, and with `HF_HUB_OFFLINE=1` nothing but the
cache is used.
"""

import re
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub.constants
from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache

from rankadaptor.errors import BadInput
from rankadaptor.files import cache_folder

CONVERSION = "conversion.json"  # in a converted folder: digests of what was read and written, and what was mended
ONLY_PICKLES = "it has pickled weights alone"  # an answer of `is_reachable`
_CONFIGURATION = ["*.json", "*.jinja", "tokenizer.model"]
_WEIGHTS = ["*.safetensors"]
_PICKLES = ["pytorch_model*.bin"]


def checkpoint_folder(name: str, weights: bool = True) -> Path:
    """The folder of a checkpoint: a folder as it is, or `organisation/model@commit`, converted or in the hub's cache.

    Args:
        name: Path of a folder, or hub id and commit (40 hex digits).
        weights: Whether to fetch the safetensors files, too, beside configuration and tokenizer.

    Raises:
        BadInput: if the name is neither, or the checkpoint cannot be fetched.
    """
    if Path(name).is_dir():
        return Path(name)
    if (converted := converted_folder(name)).is_dir():
        return converted
    return _snapshot(name, [*_CONFIGURATION, *(_WEIGHTS if weights else [])])


def pickled_folder(name: str) -> Path:
    """The folder of a checkpoint with its pickled weights, for a conversion alone; as `checkpoint_folder` otherwise.

    Raises:
        BadInput: as `checkpoint_folder` does, and where the checkpoint has safetensors.
    """
    if Path(name).is_dir():
        folder = Path(name)
    else:
        pinned(name)
        if not _is_offline() and is_reachable(name) == "":
            raise BadInput(f"{name} has safetensors files: nothing is to be converted, use it as it is")
        folder = _snapshot(name, [*_CONFIGURATION, *_PICKLES])
    if any(folder.glob("*.safetensors")):
        raise BadInput(f"{name} has safetensors files: nothing is to be converted, use it as it is")
    return folder


def converted_folder(name: str) -> Path:
    """Where the conversion of `organisation/model@commit` is, or would be.

    Raises:
        BadInput: on a name that is not pinned to a commit.
    """
    repository, commit = pinned(name)
    return cache_folder() / "models" / f"converted-{repository.replace('/', '--')}-{commit}"


def _snapshot(name: str, patterns: list[str], only_cached: bool = False) -> Path:
    repository, commit = pinned(name)
    try:
        return Path(snapshot_download(
            repository, revision=commit, allow_patterns=patterns, local_files_only=only_cached))
    except Exception as error:  # of whatever the hub's client and its network library raise
        raise BadInput(f"cannot fetch {name} ({type(error).__name__}): check the id and the network, or give a folder"
                       ) from None


def _is_offline() -> bool:
    return bool(huggingface_hub.constants.HF_HUB_OFFLINE)


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
        return converted_folder(name).is_dir() or any(
            _snapshot(name, [*_CONFIGURATION, *_WEIGHTS], only_cached=True).glob("*.safetensors"))
    except BadInput:  # where something is missing
        return False


def has_only_pickles(name: str) -> bool:
    """Whether the hub's cache holds a checkpoint's pickled weights and no others."""
    try:
        folder = _snapshot(name, [*_CONFIGURATION, *_PICKLES], only_cached=True)
    except BadInput:
        return False
    return any(folder.glob(_PICKLES[0])) and not any(folder.glob("*.safetensors"))


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
    names = [file.rfilename for file in files]
    if any(name.endswith(".safetensors") for name in names):
        return ""
    return ONLY_PICKLES if any(fnmatch(name, _PICKLES[0]) for name in names) else "it has no safetensors files"


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
