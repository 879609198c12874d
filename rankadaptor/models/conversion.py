"""The one-time conversion of a checkpoint that ships pickled weights alone, as LLaMA's and Vicuna's copies do.

    convert("organisation/model@commit")    # into the cache, where `checkpoint_folder` finds it from then on
    convert("/models/llama-7b")             # into the cache as well: name the folder that is returned

The pickles are opened by a process of its own (`pickled_weights`), with limits, the hub switched off, and none of this
process's environment but paths. `conversion.json` in the result has digests of what was read and of what was written,
and what was mended of the configuration (`mending`); it says nothing of the machine or the time, so that two
conversions of the same files are the same, byte for byte.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankadaptor.architecture import Architecture
from rankadaptor.data.hub import CONVERSION, converted_folder, pickled_folder
from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput
from rankadaptor.files import cache_folder, file_digest, scratch_beside, settle, sha256_file
from rankadaptor.keys import sha256_text
from rankadaptor.models import pickled_weights
from rankadaptor.models.gate import check_checkpoint, check_llama, read_config
from rankadaptor.models.mending import COPIED, mend

_INDEX, _SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
_SHARD = re.compile(r"pytorch_model[\w.-]*\.bin")
_MODULE = ("-m", pickled_weights.__name__)
_SECONDS, _BYTES_PER_SECOND = 300, 5e6  # a conversion may take so long, and longer by its bytes
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR", "LANG", "LC_ALL")
_ROPE_THETA = 10_000.0  # where a configuration names none


@dataclass(frozen=True)
class Conversion:
    """A converted checkpoint, and what `conversion.json` says of it."""

    folder: Path
    record: dict[str, Any]

    def __str__(self) -> str:
        files, weights, dropped = (self.record[name] for name in ("files", "weights", "dropped"))
        return "\n".join([
            f"{len(files)} files of pickled weights are {len(weights)} of safetensors in {self.folder}",
            *([f"dropped: {len(dropped)} tensors that config.json implies, such as {dropped[0]}"] if dropped else []),
            *(f"mended: {line}" for line in self.record["mends"]),
            f"read from now on as MODEL={self.record['source'] or self.folder}",
        ])

    @property
    def note(self) -> str:
        """What a report says of it beside the model's name."""
        mends = len(self.record["mends"])
        return "converted from pickled weights" + (f", {mends} entries of its configuration mended" if mends else "")


def conversion_of(source: Source) -> Conversion | None:
    """What a model was converted from, if a model of the hub or a folder was. Reads all but the weights.

    Raises:
        BadInput: if that is damaged.
    """
    try:
        folder = converted_folder(source.location) if source.kind == "hub" else Path(source.location)
    except BadInput:  # not pinned, which is told where a model is read
        return None
    if source.kind not in ("hub", "dir") or not (folder / CONVERSION).is_file():
        return None
    try:
        return _read_conversion(folder)
    except BadInput:
        if source.kind == "hub":
            raise
        return None  # a file of that name in a user's folder


def convert(name: str) -> Conversion:
    """Write the safetensors of a checkpoint of pickles into the cache; one that is there is checked, and returned.

    Args:
        name: `organisation/model@commit`, fetched where the hub's cache lacks it, or a folder.

    Raises:
        BadInput: on anything but tensors in the files, on names and shapes other than those of `config.json`, and on
            files that lie elsewhere; nothing is written then.
    """
    source = pickled_folder(name)
    architecture = check_llama(source)
    files = _weight_files(source)
    _check_links(source, [*files, *(source / name for name in COPIED)])
    digests = {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in files}
    is_hub = not Path(name).is_dir()
    target = converted_folder(name) if is_hub else _folder_of(source, digests)
    if target.is_dir():
        return _checked(target)
    _check_disk(target, sum(path.stat().st_size for path in files))
    with scratch_beside(target) as scratch:
        draft = scratch / "model"
        draft.mkdir()
        mends = mend(source, draft)
        weights, dropped = _write_weights(source, files, architecture, draft)
        for path in files:
            if file_digest(path) != digests[path.name]["sha256"]:
                raise BadInput(f"{path} was changed while it was read: convert it once nothing writes there")
        with _named(draft, source):
            check_checkpoint(draft)
        beside = {path.name: sha256_file(path) for path in sorted(draft.iterdir()) if path.name not in weights}
        record = {"source": name if is_hub else None, "files": digests, "weights": weights, "beside": beside,
                  "dropped": dropped, "mends": mends}
        (draft / CONVERSION).write_text(json.dumps(record, indent=1) + "\n")
        settle(draft, target)
    return Conversion(target, record)


def _weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, each once, in the order of their names.

    Raises:
        BadInput: on an index that names a file that is missing or elsewhere.
    """
    names = sorted(set(_weight_map(folder).values())) or [_SINGLE]
    for name in names:
        if not _SHARD.fullmatch(name):
            raise BadInput(f"{folder / _INDEX} names the file {name!r:.80}: give pytorch_model*.bin in that folder")
        if not (folder / name).is_file():
            raise BadInput(f"{folder} lacks {name}: fetch the file, or give a folder with pytorch_model*.bin")
    return [folder / name for name in names]


def _check_links(folder: Path, files: Iterable[Path]) -> None:
    """Raise BadInput on a link that leads out of a folder, but for those of a hub's cache into the folder beside."""
    allowed = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        allowed.append(folder.resolve().parents[1] / "blobs")
    for path in files:
        real = path.resolve()
        if not any(real.is_relative_to(place) for place in allowed):
            raise BadInput(f"{path} is a link to {real}: put the file itself there")


def _weight_map(folder: Path) -> dict[str, str]:
    """Name of the file by name of the tensor, as the index has it; empty where there is none."""
    path = folder / _INDEX
    if not path.is_file():
        if not (folder / _SINGLE).is_file() and any(folder.glob("pytorch_model-*.bin")):
            raise BadInput(f"{folder} lacks {_INDEX}, which says what is in which file: fetch it")
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not (isinstance(weight_map, dict) and weight_map and all(isinstance(name, str) for name in weight_map.values())):
        raise BadInput(f"{path} has no weight_map from names to files: fetch it again")
    return weight_map


def _folder_of(source: Path, digests: dict[str, Any]) -> Path:
    """Where the conversion of a folder goes: by the content of its weights and of its configuration."""
    beside = {path.name: file_digest(path) for pattern in ("*.json", "*.jinja", "tokenizer.model")
              for path in source.glob(pattern)}
    content = json.dumps([digests, beside], sort_keys=True)
    return cache_folder() / "models" / f"converted-{sha256_text(content)[:16]}"


def _checked(folder: Path) -> Conversion:
    """A conversion that is there, if its files are those that were written."""
    conversion = _read_conversion(folder)
    for name, about in conversion.record["weights"].items():
        if sha256_file(folder / name) != about["sha256"]:
            raise _damaged(folder, name)
    return conversion


def _read_conversion(folder: Path) -> Conversion:
    """A conversion whose weights have the sizes, and whose other files the content, that were written."""
    try:
        conversion = Conversion(folder, json.loads((folder / CONVERSION).read_text(encoding="utf-8")))
        record = conversion.record
        others = [name for name, digest in record["beside"].items()
                  if not (folder / name).is_file() or sha256_file(folder / name) != digest]
        others += [name for name, about in record["weights"].items()
                   if not (folder / name).is_file() or (folder / name).stat().st_size != about["bytes"]]
        if not str(conversion) or not conversion.note or not record["weights"]:  # reads every entry
            others = [CONVERSION]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(folder, CONVERSION) from None
    if others:
        raise _damaged(folder, others[0])
    return conversion


def _damaged(folder: Path, name: str) -> BadInput:
    return BadInput(f"{name} in {folder} is not as it was written: remove that folder, and convert again")


def _check_disk(target: Path, needed: int) -> None:
    existing = next(folder for folder in target.absolute().parents if folder.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise BadInput(f"{existing} has {free / 1e6:,.0f} MB free, and the conversion takes {needed / 1e6:,.0f}: free"
                       " some, or set RANKADAPTOR_CACHE")


@contextlib.contextmanager
def _named(draft: Path, source: Path) -> Iterator[None]:
    """Errors about the draft name what it was made from: the draft is gone when they are read."""
    try:
        yield
    except BadInput as error:
        raise BadInput(str(error).replace(str(draft), str(source))) from None


# -- the process ------------------------------------------------------------------------------------------------------


def _write_weights(
    source: Path, files: list[Path], architecture: Architecture, out: Path
) -> tuple[dict[str, Any], list[str]]:
    """Write model*.safetensors and their index; returns size and SHA-256 by file, and names of dropped buffers."""
    names: dict[str, list[str] | None] = {path.name: None for path in files}
    if weight_map := _weight_map(source):
        listed = [(name, file) for name, file in weight_map.items() if not pickled_weights.is_rotary(name)]
        names = {path.name: [name for name, file in listed if file == path.name] for path in files}
    config = read_config(source)
    rope = config.get("rope_parameters")  # where newer configurations have the base
    theta = config.get("rope_theta") or (rope.get("rope_theta") if isinstance(rope, dict) else None) or _ROPE_THETA
    request = {"files": {str(path.absolute()): names[path.name] for path in files}, "out": str(out.absolute()),
               "theta": float(theta), "head_dim": architecture.head_dim,
               "tied": architecture.tied_embeddings,
               "seconds": _SECONDS + sum(path.stat().st_size for path in files) / _BYTES_PER_SECOND}
    answer = _answer_of_process(request)
    if reason := answer.get("refused"):
        raise BadInput(reason)
    pieces: list[list[str]] = answer["pieces"]
    weights: dict[str, dict[str, Any]] = {}
    written: dict[str, str] = {}
    for number, tensors in enumerate(pieces):
        name = "model.safetensors"
        if len(pieces) > 1:
            name = f"model-{number + 1:05d}-of-{len(pieces):05d}.safetensors"
        (out / f"{number}.safetensors").rename(out / name)
        (out / name).chmod(0o644)  # safetensors leaves it to its owner alone, and a cache may be shared
        weights[name] = {"bytes": (out / name).stat().st_size, "sha256": sha256_file(out / name)}
        written |= dict.fromkeys(tensors, name)
    if len(pieces) > 1:
        index = {"metadata": {"total_size": sum(about["bytes"] for about in weights.values())}, "weight_map": written}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")
    return weights, answer["dropped"]


def _answer_of_process(request: dict[str, Any]) -> dict[str, Any]:
    """The answer of `pickled_weights` to a request.

    Raises:
        BadInput: if the process ends without one, or takes longer than the request allows.
    """
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1"}  # stacks of threads would count as memory
    command = [sys.executable, "-P", *_MODULE]
    try:
        done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, env=environment,
                              cwd=request["out"], timeout=request["seconds"])
    except subprocess.TimeoutExpired:
        raise BadInput(f"reading the pickled weights took more than {request['seconds']:,.0f} seconds: do not use these"
                       " files, or use a faster disk") from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        code = done.returncode
        ended = signal.Signals(-code).name if code < 0 else f"status {code}, {last[:200]!r}"
        raise BadInput(f"reading the pickled weights ended with {ended}: do not use these files, or free some memory"
                       ) from None
    return answer
