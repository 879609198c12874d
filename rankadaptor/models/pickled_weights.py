"""Reads checkpoints of pickled tensors and writes what they hold as safetensors, in a process of its own with limits.

    python -m rankadaptor.models.pickled_weights < request.json      # started by `conversion` alone

This is the only place that opens a pickle. PyTorch's restricted unpickler makes tensors and calls nothing that a file
names; an archive is looked at before that, and a tensor after it, so that neither a packed bomb nor a view that repeats
a number can grow. A request is {"files": {path: names of its tensors, or null for any}, "out": folder, "theta": base of
the rotary frequencies, "head_dim": theirs, "tied": whether the head is the embedding}; the answer is one line of JSON,
{"pieces": [names of tensors in each file written], "dropped": [names]}, or {"refused": reason}.
"""

import json
import re
import resource
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rankadaptor.errors import BadInput

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_MOST_PICKLE_BYTES = 2**24  # of an archive's pickle without its tensors; LLaMA-13B's have some 100 KB
_PIECE_BYTES = 2**31  # of tensors in a file that is written: what is copied at a time
_SPARE_BYTES = 3 * _PIECE_BYTES  # of memory beside the mapped archive: a piece, its bytes, and a test of one tensor
_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_ROTARY = re.compile(r"(?:.+\.)?rotary_emb\.inv_freq")


def is_rotary(name: str) -> bool:
    """Whether a tensor holds rotary frequencies, which follow from the configuration."""
    return _ROTARY.fullmatch(name) is not None


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one file of `torch.save`, mapped and not yet in memory.

    Raises:
        BadInput: on anything but a plain state dict: names and dense tensors of floating-point numbers.
    """
    _check_archive(path)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except MemoryError:
        raise BadInput(f"{path.name} takes more memory than its size: do not use this file") from None
    except Exception as error:  # of whatever the unpickler raises on what it does not know
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it calls {called[1]}" if called else type(error).__name__
        raise BadInput(f"{path.name} holds more than tensors ({reason}): do not use this file") from None
    if not isinstance(content, dict) or not content:
        raise BadInput(f"{path.name} holds {_kind(content)}, not tensors by name: save a state dict")
    for name, tensor in content.items():
        _check_tensor(path, name, tensor)
    _check_memory(path, content)
    return content


def _check_archive(path: Path) -> None:
    """Raise BadInput unless a file is an archive as `torch.save` writes it: whole, not packed, without code."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(path, members)
            damaged = archive.testzip()
            order = [archive.read(member) for member in members if member.filename.endswith("/byteorder")]
    except BadInput:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise BadInput(f"{path.name} is no whole archive of torch.save: fetch it again, or save it with torch 1.6 or"
                       " later") from None
    if damaged is not None:
        raise BadInput(f"{path.name} is damaged ({damaged[:80]!r} does not match its checksum): fetch it again")
    if order not in ([], [b"little"]):
        raise BadInput(f"{path.name} has the byte order {order[0][:10]!r}: save it on a little-endian machine")


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise BadInput(f"{path.name} is a TorchScript program: save a state dict")
    pickles = [member for member in members if member.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or len(set(names)) < len(names):
        raise BadInput(f"{path.name} holds {len(pickles)} pickles and {len(names) - len(set(names))} names twice: save"
                       " a state dict with torch.save")
    unpacked = sum(member.file_size for member in members)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or unpacked > path.stat().st_size:
        raise BadInput(f"{path.name} unpacks to {unpacked:,} bytes, and torch.save packs nothing: do not use this file")
    if pickles[0].file_size > _MOST_PICKLE_BYTES:
        raise BadInput(f"{path.name} has a pickle of {pickles[0].file_size:,} bytes beside its tensors: save a state"
                       " dict")


def _check_tensor(path: Path, name: Any, tensor: Any) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInput(f"{path.name} has a tensor of the name {name!r:.60}: save a state dict with LLaMA's names")
    where = f"{name} in {path.name}"
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise BadInput(f"{where} is {_kind(tensor)}: save the model's state dict alone")
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise BadInput(f"{where} is sparse, quantised or without numbers: save a dense model")
    if tensor.dtype not in DTYPES:
        raise BadInput(f"{where} is of {str(tensor.dtype).removeprefix('torch.')}: save it as float16, bfloat16 or"
                       " float32")


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"


def _check_memory(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Raise BadInput where tensors are views of the same numbers: copies would grow. A head may be the embedding."""
    taken: dict[int, int] = {}  # bytes of tensors, by the address of their storage
    embedding = tensors.get(EMBEDDING)
    for name, tensor in tensors.items():
        if is_rotary(name) or (name == HEAD and embedding is not None and _is_same(tensor, embedding)):
            continue
        storage = tensor.untyped_storage()
        taken[storage.data_ptr()] = taken.get(storage.data_ptr(), 0) + tensor.numel() * tensor.element_size()
        # A storage may claim more of the archive than is its own, so that the sum counts as well.
        if taken[storage.data_ptr()] > storage.nbytes() or sum(taken.values()) > path.stat().st_size:
            raise BadInput(f"{name} in {path.name} shares its numbers with others or repeats them: save each tensor by"
                           " itself")


def _is_same(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) == (
        other.data_ptr(), other.shape, other.stride(), other.dtype)


def _selected(
    path: Path, names: Iterable[str] | None, theta: float, head_dim: int, tied: bool
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors of a file that are written, and names of those that the configuration stands for."""
    tensors, dropped = read_tensors(path), []
    for name in list(tensors):
        if is_rotary(name):
            _check_rotary(path, name, tensors[name], theta, head_dim)
        elif name == HEAD and tied:
            if EMBEDDING not in tensors or not torch.equal(tensors[name], tensors[EMBEDDING]):
                raise BadInput(f"{HEAD} in {path.name} is not the embedding, and config.json ties them: set"
                               " tie_word_embeddings to false")
        else:
            continue
        dropped.append(name)
        del tensors[name]
    listed = set(tensors if names is None else names)
    for unlisted, reason in ((sorted(tensors.keys() - listed), "is not where the index has it"),
                             (sorted(listed - tensors.keys() - set(dropped)), "is in the index and not in the file")):
        if unlisted:
            raise BadInput(f"{unlisted[0][:200]!r} of {path.name} {reason}: fetch the files of one commit")
    return tensors, dropped


def _check_rotary(path: Path, name: str, stored: torch.Tensor, theta: float, head_dim: int) -> None:
    """Raise BadInput unless stored frequencies are those that the configuration gives, to half precision."""
    expected = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)  # (head_dim / 2,)
    if stored.shape != expected.shape or not torch.allclose(stored.double(), expected, rtol=0.01, atol=1e-7):
        raise BadInput(f"{name} in {path.name} holds other frequencies than rope_theta {theta:g} gives: correct"
                       " config.json")


def _pieces(tensors: dict[str, torch.Tensor]) -> Iterator[list[str]]:
    """Names in groups that are copied, and written, at a time."""
    group: list[str] = []
    size = 0
    for name in sorted(tensors):
        needed = tensors[name].numel() * tensors[name].element_size()
        if group and size + needed > _PIECE_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += needed
    if group:
        yield group


def convert_files(request: dict[str, Any]) -> dict[str, Any]:
    """Write the tensors of all files into `out`, as 0.safetensors, 1.safetensors, ...; see the module.

    Raises:
        BadInput: on a file that holds anything else, on a number that is not finite, or a name in two files.
    """
    written: list[list[str]] = []
    dropped: list[str] = []
    seen: set[str] = set()
    for place, names in request["files"].items():
        path = Path(place)
        tensors, beside = _selected(path, names, request["theta"], request["head_dim"], request["tied"])
        if twice := sorted(seen & tensors.keys()):
            raise BadInput(f"{twice[0]} is in {path.name} and in a file before it: fetch the files of one commit")
        seen |= tensors.keys()
        dropped += beside
        for group in _pieces(tensors):
            save_file({name: _copied(path, name, tensors[name]) for name in group},
                      Path(request["out"]) / f"{len(written)}.safetensors", metadata={"format": "pt"})
            written.append(group)
    return {"pieces": written, "dropped": dropped}


def _copied(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The numbers by themselves, in order, whatever view of a storage the tensor is."""
    copy = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    if not bool(torch.isfinite(copy).all()):
        raise BadInput(f"{name} in {path.name} has numbers that are not finite: fetch it again, or another copy")
    return copy


def _limit(request: dict[str, Any]) -> None:
    """Limits of this process: memory beside the largest archive, seconds of a core, bytes of a file it writes."""
    largest = max(Path(place).stat().st_size for place in request["files"])
    if sys.platform == "linux":  # elsewhere address space is not counted, or not so
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, held + 2 * largest + min(_SPARE_BYTES, 2**29 + 8 * largest))
    _lower(resource.RLIMIT_FSIZE, largest + 2**26)
    _lower(resource.RLIMIT_CPU, int(request["seconds"]))
    _lower(resource.RLIMIT_CORE, 0)


def _lower(limit: int, most: int) -> None:
    _, hard = resource.getrlimit(limit)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(limit, (most, most))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What `convert_files` returns, or why the files are refused."""
    try:
        return convert_files(request)
    except BadInput as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": "the files take more memory than their size: do not use them"}


def main() -> None:
    """Answer the request on the standard input, within limits."""
    request = json.load(sys.stdin)
    _limit(request)
    print(json.dumps(answer(request)))


if __name__ == "__main__":
    main()
