"""Checkpoints by their hub id, pinned to a commit: the files that LLaMA needs, and never a pickle."""

import re
from pathlib import Path

from huggingface_hub import snapshot_download

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
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)@([0-9a-f]{40})", name)
    if match is None:
        raise BadInput(f"no folder {name!r}: name one, or a hub id pinned to a commit, such as organisation/model@"
                       "followed by 40 hex digits")
    try:
        return Path(snapshot_download(
            match[1], revision=match[2], allow_patterns=[*_CONFIGURATION, *(_WEIGHTS if weights else [])]))
    except Exception as error:  # of whatever the hub's client and its network library raise
        raise BadInput(f"cannot fetch {name} ({type(error).__name__}): check the id and the network, or give a folder"
                       ) from None
