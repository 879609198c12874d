"""Pickled checkpoints that hold anything but one LLaMA's tensors: a conversion refuses them, and leaves nothing."""

import builtins
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.pickled import CONFIG, INDEX, weights, write_llama_of_2023, write_shards
from helpers.shared import made_once
from safetensors.torch import load_file, save_file

from rankadaptor.__main__ import main
from rankadaptor.models import conversion, pickled_weights

Change = Callable[[Path], object]
WEIGHT = "model.layers.1.mlp.up_proj.weight"
ROTARY = "model.layers.0.self_attn.rotary_emb.inv_freq"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return made_once(tmp_path_factory, "llama-of-2023", lambda folder: write_llama_of_2023(folder / "model", shards=1))


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    """A copy to break, beside an empty cache; pickles are read in this process, which the tests below do not hold."""
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(conversion, "_answer_of_process", pickled_weights.answer)
    return shutil.copytree(original / "model", tmp_path / "model")


@pytest.fixture
def in_a_process(folder, monkeypatch):
    """The folder, read as a user's is."""
    monkeypatch.undo()
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(folder.parent / "cache"))
    return folder


def assert_refused(folder: Path, says: str, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["convert", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("rankadaptor: ")
    assert error.count("\n") == 1
    assert says in error
    assert "/.prune-" not in error  # a draft, which is gone
    assert not (folder.parent / "mark").exists()
    assert not list((folder.parent / "cache").glob("models/*"))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


# -- ways to break a checkpoint ---------------------------------------------------------------------------------------


def state(change: Callable[[dict], object]) -> Change:
    """Saves what a function makes of the state dict."""
    return lambda folder: torch.save(change(weights()), folder / "pytorch_model.bin")


def plus(change: Callable[[dict], dict]) -> Change:
    return state(lambda content: content | change(content))


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    return plus(lambda content: {name: change(content[name])})


def without(content: dict, name: str) -> dict:
    return {other: value for other, value in content.items() if other != name}


def calling(function: Callable, *arguments: object) -> Change:
    """Plants a call into the pickle of the weights; `mark` stands for a file beside the folder."""

    def apply(folder: Path) -> None:
        filled = [str(argument).replace("mark", str(folder.parent / "mark")) for argument in arguments]

        class Call:
            def __reduce__(self):
                return function, tuple(filled)

        torch.save(weights() | {"planted": Call()}, folder / "pytorch_model.bin")

    return apply


def repacked(change: Callable[[zipfile.ZipInfo, bytes], tuple[zipfile.ZipInfo, bytes]], twice: bool = False) -> Change:
    """Writes the archive anew, member by member."""

    def apply(folder: Path) -> None:
        path = folder / "pytorch_model.bin"
        with zipfile.ZipFile(path) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
        with zipfile.ZipFile(path, "w") as archive:
            for info, content in members:
                archive.writestr(*change(info, content))
            if twice:
                archive.writestr(*members[-1])

    return apply


def bomb(info: zipfile.ZipInfo, content: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    if info.filename.endswith("/data/0"):
        info.compress_type, content = zipfile.ZIP_DEFLATED, bytes(2**24)
    return info, content


def renamed_member(old: str, new: str) -> Change:
    def change(info: zipfile.ZipInfo, content: bytes) -> tuple[zipfile.ZipInfo, bytes]:
        info.filename = info.filename.replace(old, new)
        return info, content

    return repacked(change)


def big_endian(info: zipfile.ZipInfo, content: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    return info, b"big" if info.filename.endswith("byteorder") else content


def raw(change: Callable[[bytes], bytes]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "pytorch_model.bin"
        path.write_bytes(change(path.read_bytes()))

    return apply


def flipped(content: bytes) -> bytes:
    middle = content.index(weights()[WEIGHT].numpy().tobytes()[:64])
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def legacy(folder: Path) -> None:
    torch.save(weights(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def tar(folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    path.unlink()
    with tarfile.open(path, "w") as archive:
        archive.add(folder / "config.json", "storages")


def script(folder: Path) -> None:
    (folder / "pytorch_model.bin").unlink()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), folder / "pytorch_model.bin")


def sharded(change: Change) -> Change:
    """Two shards in place of the one file, changed."""

    def apply(folder: Path) -> None:
        (folder / "pytorch_model.bin").unlink()
        write_shards(folder, weights())
        change(folder)

    return apply


def index(change: Callable[[dict], object]) -> Change:
    """Changes the weight_map of two shards."""

    def apply(folder: Path) -> None:
        content = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps(content | {"weight_map": change(content["weight_map"])}))

    return sharded(apply)


def doubled(folder: Path) -> None:
    """The first shard holds what the second does as well."""
    torch.save(weights(), folder / "pytorch_model-00001-of-00002.bin")


def configured(**entries: object) -> Change:
    return lambda folder: (folder / "config.json").write_text(json.dumps(CONFIG | entries))


def linked(name: str) -> Change:
    """A file is a link to one elsewhere."""

    def apply(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return apply


INPUTS = {
    "calls os.system": (calling(os.system, "touch mark"), "holds more than tensors (it calls posix.system)"),
    "calls eval": (calling(builtins.eval, "open('mark', 'w')"), "it calls eval"),
    "writes a file": (calling(Path.touch, "mark"), "holds more than tensors (it calls "),
    "takes memory": (state(lambda _: Grows(2**50)), "takes more memory than its size"),
    "a module in place of weights": (state(lambda _: torch.nn.Linear(2, 2)), "it calls torch.nn.modules.linear.Linear"),
    "a plain pickle": (raw(lambda _: pickle.dumps({"a": 1})), "is no whole archive of torch.save"),
    "torch before 1.6": (legacy, "is no whole archive of torch.save"),
    "a tar": (tar, "is no whole archive of torch.save"),
    "an empty file": (raw(lambda _: b""), "is no whole archive of torch.save"),
    "TorchScript": (script, "is a TorchScript program"),
    "truncated": (raw(lambda content: content[: len(content) // 2]), "is no whole archive of torch.save"),
    "a flipped bit": (raw(flipped), "is damaged ('pytorch_model/data/"),
    "a zip bomb": (repacked(bomb), "torch.save packs nothing"),
    "a member twice": (repacked(lambda *member: member, twice=True), "1 names twice"),
    "no pickle": (renamed_member("data.pkl", "other.pkl"), "holds 0 pickles"),
    "another byte order": (repacked(big_endian), "has the byte order b'big'"),
    "a list": (state(lambda content: list(content.values())), "holds of type list, not tensors by name"),
    "nothing": (state(lambda _: {}), "not tensors by name"),
    "a checkpoint of a trainer": (state(lambda content: {"state_dict": content}), "state_dict in pytorch_model.bin is"),
    "a number as a name": (plus(lambda content: {7: content[WEIGHT]}), "a tensor of the name 7"),
    "a path as a name": (plus(lambda content: {"../x": content[WEIGHT]}), "of the name '../x'"),
    "sparse": (tensor(WEIGHT, torch.Tensor.to_sparse), "is sparse, quantised or without numbers"),
    "quantised": (tensor(WEIGHT, lambda weight: torch.quantize_per_tensor(weight.float(), 0.1, 0, torch.qint8)),
                  "is sparse, quantised or without numbers"),
    "on no device": (tensor(WEIGHT, lambda weight: weight.to("meta")), "is sparse, quantised or without numbers"),
    "one number repeated": (tensor(WEIGHT, lambda weight: weight[:1, :1].clone().expand(48, 32)), "or repeats them"),
    "views of one weight": (plus(lambda content: {WEIGHT: content[WEIGHT.replace("up", "gate")]}),
                            "shares its numbers with others"),
    "integers": (tensor(WEIGHT, torch.Tensor.long), f"{WEIGHT} in pytorch_model.bin is of int64"),
    "float64": (tensor(WEIGHT, torch.Tensor.double), f"{WEIGHT} in pytorch_model.bin is of float64"),
    "complex": (tensor(WEIGHT, lambda weight: weight.to(torch.complex64)), "is of complex64"),
    "NaN": (tensor(WEIGHT, lambda weight: weight.index_fill(0, torch.tensor([3]), torch.nan)), "are not finite"),
    "infinite": (tensor("model.norm.weight", lambda weight: weight / 0), "are not finite"),
    "other frequencies": (tensor(ROTARY, lambda stored: stored / 2), "other frequencies than rope_theta 10000 gives"),
    "frequencies of another base": (configured(rope_theta=1e6), "other frequencies than rope_theta 1e+06 gives"),
    "an extra tensor": (plus(lambda _: {"value_head.weight": torch.ones(2)}), "value_head"),
    "a missing tensor": (state(lambda content: without(content, WEIGHT)), WEIGHT),
    "another shape": (tensor(WEIGHT, lambda weight: weight[:40].clone()), "shape [48, 32], its tensor has [40, 32]"),
    "another model's configuration": (configured(num_hidden_layers=3), "model.layers.3."),
    "a head that is not the tied embedding": (configured(tie_word_embeddings=True), "is not the embedding"),
    "a model that is no LLaMA": (configured(model_type="gpt2"), "of type 'gpt2'"),
    "code of its own": (configured(auto_map={"AutoModel": "x.y"}), "auto_map"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "no model in"),
    "safetensors beside": (lambda folder: save_file({"a": torch.ones(1)}, folder / "model.safetensors"),
                           "nothing is to be converted"),
    "no weights": (lambda folder: (folder / "pytorch_model.bin").unlink(), "lacks pytorch_model.bin"),
    "a folder as weights": (lambda folder: ((folder / "pytorch_model.bin").unlink(),
                                            (folder / "pytorch_model.bin").mkdir()), "lacks pytorch_model.bin"),
    "a pipe as weights": (lambda folder: ((folder / "pytorch_model.bin").unlink(),
                                          os.mkfifo(folder / "pytorch_model.bin")), "lacks pytorch_model.bin"),
    "a cache that cannot be written": (lambda folder: (folder.parent / "cache").touch(), "cannot write beside"),
    "a link to elsewhere": (linked("pytorch_model.bin"), "pytorch_model.bin is a link to"),
    "a tokenizer that is a link to elsewhere": (linked("tokenizer.model"), "tokenizer.model is a link to"),
    "no tokenizer": (lambda folder: [path.unlink() for path in folder.glob("tokenizer*")], "no tokenizer in"),
    "a tokenizer that is none": (lambda folder: (folder / "tokenizer.model").write_bytes(b"no model"),
                                 "is no sentencepiece model"),
    "a tokenizer of another model": (configured(vocab_size=200), "and vocab_size in config.json is 200"),
    "JSON that is none": (lambda folder: (folder / "tokenizer_config.json").write_text("{"), "is not a JSON object"),
    "shards without index": (sharded(lambda folder: (folder / INDEX).unlink()), f"lacks {INDEX}"),
    "a missing shard": (sharded(lambda folder: (folder / "pytorch_model-00002-of-00002.bin").unlink()),
                        "lacks pytorch_model-00002-of-00002.bin"),
    "an index that leaves the folder": (index(lambda names: names | {WEIGHT: "../x.bin"}),
                                        "names the file '../x.bin'"),
    "an index of absolute paths": (index(lambda names: names | {WEIGHT: "/etc/passwd"}), "'/etc/passwd'"),
    "an index of numbers": (index(lambda names: dict.fromkeys(names, 3)), "has no weight_map"),
    "an index of a number": (index(lambda names: names | {WEIGHT: 3}), "has no weight_map"),
    "a tensor in two shards": (sharded(doubled), "is not where the index has it"),
    "an index that lacks a tensor": (index(lambda names: without(names, WEIGHT)), "is not where the index has it"),
    "an index with one too many": (index(lambda names: names | {"x\n\x1b[31m": min(names.values())}),
                                   "'x\\n\\x1b[31m' of pytorch_model-00001-of-00002.bin is in the index"),
}


class Grows:
    """A call that the restricted unpickler knows: zeros."""

    def __init__(self, size: int):
        self.size = size

    def __reduce__(self):
        return bytearray, (self.size,)


@pytest.mark.parametrize("name", INPUTS)
def test_a_pickled_checkpoint_is_refused(name, folder, capsys):
    change, says = INPUTS[name]
    change(folder)
    assert_refused(folder, says, capsys)


@pytest.mark.parametrize(("change", "says"), [
    (INPUTS["calls os.system"][0], "it calls posix.system"),
    (state(lambda _: Grows(2**33)), "takes more memory than its size"),  # which this machine may well have
], ids=["calls os.system", "takes memory"])
def test_a_process_of_its_own_reads_the_pickles(change, says, in_a_process, capsys):
    change(in_a_process)
    assert_refused(in_a_process, says, capsys)


@pytest.mark.parametrize(("seconds", "code", "says"), [
    (0.05, "", "took more than 0 seconds"),
    (300, "import os; os.kill(os.getpid(), 9)", "ended with SIGKILL"),
    (300, "raise SystemExit('no torch here')", "ended with status 1, 'no torch here'"),
])
def test_a_process_that_ends_without_an_answer_is_told(seconds, code, says, in_a_process, capsys, monkeypatch):
    monkeypatch.setattr(conversion, "_SECONDS", seconds)
    if code:
        monkeypatch.setattr(conversion, "_MODULE", ("-c", code))
    assert_refused(in_a_process, says, capsys)


# -- inputs that are no usual ones, and right -------------------------------------------------------------------------


def tied(folder: Path) -> None:
    configured(tie_word_embeddings=True)(folder)
    plus(lambda content: {"lm_head.weight": content["model.embed_tokens.weight"]})(folder)


def fused(content: dict) -> dict:
    """Gate and up as halves of one tensor."""
    both = torch.cat([content[WEIGHT.replace("up", "gate")], content[WEIGHT]])
    return {WEIGHT.replace("up", "gate"): both[:48], WEIGHT: both[48:]}


ACCEPTED = {
    "a transposed view": (tensor(WEIGHT, lambda weight: weight.T.contiguous().T), {}),
    "parameters": (tensor(WEIGHT, torch.nn.Parameter), {}),
    "halves of one tensor": (plus(fused), {}),
    "a head that is the embedding": (plus(lambda content: {"lm_head.weight": content["model.embed_tokens.weight"]}), {
        "lm_head.weight": "model.embed_tokens.weight"}),
    "a tied head": (tied, {"lm_head.weight": ""}),
    "other precisions": (tensor(WEIGHT, torch.Tensor.float), {}),
    "frequencies in half precision": (tensor(ROTARY, torch.Tensor.half), {}),
    "two shards": (sharded(lambda _: None), {}),
    "pickles beside": (lambda folder: (folder / "training_args.bin").write_bytes(pickle.dumps(print)), {}),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_is_accepted_has_the_right_values(name, folder, capsys):
    """As `weights` has them; the second entry of an input names tensors that equal another, or are not there."""
    change, others = ACCEPTED[name]
    change(folder)
    assert main(["convert", str(folder)]) == 0
    converted = Path(capsys.readouterr().out.split("MODEL=")[1].strip())
    stored = {}
    for path in converted.glob("*.safetensors"):
        stored |= load_file(path)
    expected = {key: tensor for key, tensor in weights().items() if "rotary" not in key}
    expected = {key: expected.get(others.get(key, key)) for key in expected}
    assert stored.keys() == {key for key, value in expected.items() if value is not None}
    for key, value in stored.items():
        assert torch.equal(value.half(), expected[key])
    assert sum(path.stat().st_size for path in converted.glob("*.safetensors")) < 2 * sum(
        path.stat().st_size for path in folder.glob("pytorch_model*.bin"))
