"""The safetensors files of a checkpoint folder: one, or the shards that an index names."""

from pathlib import Path

from rankadaptor.errors import BadInput
from rankadaptor.sealed import given_object

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_INDEX_BYTES = 2**26  # most that is read of an index; real ones have 100 KiB


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a folder's model: `model.safetensors`, or the shards of its index.

    Raises:
        BadInput: if there is neither or both, or a shard is missing or is no plain file of the folder.
    """
    single, index = folder / SINGLE, folder / INDEX
    if single.exists() and index.exists():
        raise BadInput(f"{folder} holds both {SINGLE} and {INDEX}: remove the one that is not the model")
    if not index.exists():
        if not single.exists() and not single.is_symlink():
            raise BadInput(f"no safetensors files in {folder} ({SINGLE}, or shards with {INDEX}): other weights are"
                           " never read, convert them (python -m rankadaptor convert)")
        return [_plain(single, folder)]
    return [_plain(folder / name, folder) for name in sorted(set(weight_map(folder).values()))]


def weight_map(folder: Path) -> dict[str, str]:
    """File by name of a tensor, as the index gives it.

    Raises:
        BadInput: if the index is damaged, or names anything but safetensors files of the folder.
    """
    path = folder / INDEX
    content = given_object(_plain(path, folder), _INDEX_BYTES).get("weight_map")
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content.values()):
        raise BadInput(f"{path} has no weight_map from names to files: restore it")
    for name in content.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BadInput(f"{path} names the file {name!r:.80}: only safetensors files of the folder itself are read")
    return content


def _plain(path: Path, folder: Path) -> Path:
    """The path, if it is a regular file of the folder, or a link within the folder or into its hub cache."""
    if path.is_symlink():
        home, target = folder.resolve(), path.resolve()
        if not any(target.is_relative_to(root) for root in (home, home.parent.parent / "blobs")):
            raise BadInput(f"{path} is a link to {target}, outside the folder: copy the file into the folder")
    if not path.is_file():
        raise BadInput(f"{path} is missing or is no regular file: restore it, the model is not whole without it")
    return path
