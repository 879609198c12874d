"""Conversion of pickled checkpoints: what is written, what is mended, and who finds it afterwards."""

import json
import shutil

import huggingface_hub.constants
import pytest
import sentencepiece
import torch
from helpers.pickled import COMMIT, CONFIG, into_hub_cache, sentencepiece_model, weights, write_llama_of_2023
from safetensors.torch import save_file

from rankadaptor.__main__ import main
from rankadaptor.data.hub import checkpoint_folder, is_here
from rankadaptor.data.sources import Source
from rankadaptor.errors import BadInput
from rankadaptor.experiments import preflight
from rankadaptor.experiments.main_table import main_table
from rankadaptor.models import conversion, pickled_weights
from rankadaptor.models.base_model import BaseModel, base_model_folder, base_model_identity, base_model_is_cached
from rankadaptor.models.checkpoints import load_model
from rankadaptor.models.conversion import convert
from rankadaptor.models.mending import mend
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.profiles import load_profile

NAME = f"some/llama@{COMMIT}"
BASE = BaseModel("LLaMA", Source("hub", NAME, None), None, "bfloat16")
MENDS = [
    'config.json: architectures ["LLaMAForCausalLM"] -> ["LlamaForCausalLM"]',
    "config.json: max_position_embeddings null -> 512",
    "config.json: bos_token_id 0 -> 1", "config.json: eos_token_id 1 -> 2", "config.json: pad_token_id -1 -> null",
    "generation_config.json: bos_token_id 0 -> 1", "generation_config.json: eos_token_id 1 -> 2",
    'tokenizer_config.json: tokenizer_class "LLaMATokenizer" -> "LlamaTokenizer"',
    'tokenizer_config.json: bos_token "" -> "<s>"', 'tokenizer_config.json: eos_token "" -> "</s>"',
    'tokenizer_config.json: unk_token "" -> "<unk>"',
]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's cache with a copy of 2023, and an empty cache of this package; pickles are read in this process."""
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(conversion, "_answer_of_process", pickled_weights.answer)
    write_llama_of_2023(tmp_path / "model")
    into_hub_cache(tmp_path / "model", tmp_path / "hub", "some/llama")
    return tmp_path


def test_a_converted_hub_id_is_read_under_its_key(hub):
    before = base_model_identity(BASE)
    assert not base_model_is_cached(BASE)
    with pytest.raises(BadInput, match="no safetensors files"):
        base_model_folder(BASE)
    converted = convert(NAME)
    assert converted.record["mends"] == MENDS
    assert base_model_is_cached(BASE)
    assert base_model_folder(BASE) == checkpoint_folder(NAME) == converted.folder
    assert base_model_identity(BASE) == before
    model = load_model(converted.folder, torch.device("cpu"))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, weights()[name])
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (1, 2, None)


def test_the_mended_tokenizer_is_the_sentencepiece_models(hub):
    tokenizer = load_tokenizer(convert(NAME).folder)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (1, 2, 0)
    reference = sentencepiece.SentencePieceProcessor()
    reference.LoadFromSerializedProto(sentencepiece_model())
    for text in ("the cat runs", "the  cat   runs ", "\nthe cat\n\nruns", "émile 日本 the", "### Response:\n", ""):
        assert tokenizer(text, add_special_tokens=False).input_ids == reference.Encode(text)
    assert tokenizer.decode(reference.Encode("the cat runs over the house")) == "the cat runs over the house"


def test_digests_say_what_was_read_and_written(hub):
    converted = convert(NAME)
    snapshot = hub / "hub" / "models--some--llama" / "snapshots" / COMMIT
    assert {name: about["sha256"] for name, about in converted.record["files"].items()} == {
        path.name: conversion.sha256_file(path) for path in snapshot.glob("*.bin")}
    assert {name: about["sha256"] for name, about in converted.record["weights"].items()} == {
        path.name: conversion.sha256_file(path) for path in converted.folder.glob("*.safetensors")}
    assert converted.record["source"] == NAME
    assert converted.record["beside"] == {
        path.name: conversion.sha256_file(path) for path in converted.folder.iterdir()
        if path.suffix != ".safetensors" and path.name != "conversion.json"}
    assert len(converted.record["dropped"]) == CONFIG["num_hidden_layers"]


def test_two_conversions_are_the_same_byte_for_byte(hub, monkeypatch):
    """So that the key of a folder's model does not depend on the machine that converted it."""
    copy = shutil.copytree(hub / "hub" / "models--some--llama" / "snapshots" / COMMIT, hub / "folder")
    first = convert(str(copy)).folder
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(hub / "elsewhere"))
    moved = hub / "moved"
    copy.rename(moved)
    second = convert(str(moved)).folder
    assert first.name == second.name
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        path.name: path.read_bytes() for path in second.iterdir()}
    identities = {base_model_identity(BaseModel("x", Source("dir", str(folder), None), None, "bfloat16"))
                  for folder in (first, second)}
    assert len(identities) == 1


def test_a_second_conversion_checks_the_first(hub, capsys):
    folder = convert(NAME).folder
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(["convert", NAME]) == 0
    assert f"read from now on as MODEL={NAME}" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    damaged = folder / "model-00002-of-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    assert main(["convert", NAME]) == 2
    assert f"{damaged.name} in {folder} is not as it was written: remove that folder" in capsys.readouterr().err
    tokens = folder / "tokenizer_config.json"
    tokens.write_text(tokens.read_text().replace("</s>", "<s>"))
    with pytest.raises(BadInput, match=r"tokenizer_config\.json in .* is not as it was written"):  # at any use
        conversion.conversion_of(BASE.source)
    (folder / "conversion.json").write_text("{}")
    assert main(["convert", NAME]) == 2
    assert "conversion.json in" in capsys.readouterr().err


def test_errors_name_files_as_the_hub_does(hub):
    blob = (hub / "hub" / "models--some--llama" / "snapshots" / COMMIT / "pytorch_model-00002-of-00002.bin").resolve()
    blob.write_bytes(blob.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"^pytorch_model-00002-of-00002\.bin is no whole archive"):
        convert(NAME)


def test_other_files_named_so_are_no_conversion(tmp_path):
    source = Source("dir", str(tmp_path), None)
    for text in ("{}", "[", '{"weights": {}}'):
        (tmp_path / "conversion.json").write_text(text)
        assert conversion.conversion_of(source) is None
    assert conversion.conversion_of(Source("testbed", "0", None)) is None
    assert conversion.conversion_of(Source("hub", "some/llama", None)) is None


def test_a_checkpoint_with_safetensors_is_not_converted(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rankadaptor.data.hub.is_reachable", lambda _: "")
    with pytest.raises(BadInput, match="nothing is to be converted, use it as it is"):
        convert(NAME)
    assert not (hub / "cache").exists()


def test_a_disk_without_space_is_told_before_anything_is_read(hub, monkeypatch):
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(BadInput, match="0 MB free, and the conversion takes 0: free some, or set RANKADAPTOR_CACHE"):
        convert(NAME)


def test_weights_that_change_while_they_are_read_are_told(hub, monkeypatch):
    copy = shutil.copytree(hub / "hub" / "models--some--llama" / "snapshots" / COMMIT, hub / "folder")

    def changed(request):
        answer = pickled_weights.answer(request)
        with (copy / "pytorch_model-00001-of-00002.bin").open("ab") as file:
            file.write(b"x")
        return answer

    monkeypatch.setattr(conversion, "_answer_of_process", changed)
    with pytest.raises(BadInput, match="was changed while it was read"):
        convert(str(copy))
    assert not list((hub / "cache" / "models").iterdir())


def test_pieces_have_an_index_and_bounded_size(hub, monkeypatch):
    monkeypatch.setattr(pickled_weights, "_PIECE_BYTES", 30_000)
    folder = convert(NAME).folder
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == [f"model-{number + 1:05d}-of-{len(files):05d}.safetensors" for number in range(len(files))]
    assert len(files) > 2
    model = load_model(folder, torch.device("cpu"))
    assert all(torch.equal(weight, weights()[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize(("entries", "mends"), [
    ({"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}, []),
    ({"eos_token_id": 310, "bos_token_id": 1, "pad_token_id": None}, []),  # an added token, meant so
    ({"eos_token_id": [2, 310], "bos_token_id": 1, "pad_token_id": 0}, []),
    ({"eos_token_id": 0, "bos_token_id": 1, "pad_token_id": -1}, ["eos_token_id 0 -> 2", "pad_token_id -1 -> null"]),
])
def test_only_ids_of_other_special_tokens_are_mended(entries, mends, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 320, "max_position_embeddings": 512} | entries))
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    assert mend(tmp_path, tmp_path / "out") == [f"config.json: {line}" for line in mends]


def test_without_a_sentencepiece_model_no_id_is_mended(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 1, "bos_token_id": 0}))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert mend(tmp_path, tmp_path / "out") == []
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"eos_token_id": 1, "bos_token_id": 0}
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_plan_offers_the_conversion_and_ends_with_commands(hub, monkeypatch, capsys):
    monkeypatch.setenv("RANKADAPTOR_MODEL", NAME)
    arguments = ["plan", "table2", "--profile", "llama-7b", "--seeds", "0 1", "--ledger", str(hub / "ledger")]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"base model {NAME} has pickled weights alone: convert them once, make convert MODEL={NAME}" in text
    run = f"  make reproduce-table2 PROFILE=llama-7b SEEDS='0 1' LEDGER={hub / 'ledger'} MODEL={NAME}\n"
    assert text.endswith(f"on a machine with a GPU:\n  make convert MODEL={NAME}    # once\n{run}")
    assert not is_here(NAME)
    convert(NAME)
    label = f"{load_profile('llama-7b').base_model.label}"
    assert label.endswith(f", converted from pickled weights, {len(MENDS)} entries of its configuration mended")
    plan = main_table("llama-7b", "llm-pruner:20", ledger=hub / "ledger").plan
    with pytest.raises(BadInput):  # of four layers, which LLaMA-7B's pruning does not fit
        plan()


def test_online_the_hub_says_what_a_commit_has(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(preflight, "is_reachable", lambda _: "it has pickled weights alone")
    plan = main_table("vicuna-7b", "llm-pruner:20", ledger=hub / "ledger").plan()
    name = load_profile("vicuna-7b").base_model.source.location
    assert preflight.check(plan, hub / "ledger")[0].endswith(f"make convert MODEL={name}")
    assert preflight.commands(plan, "table2", {})[1:] == [
        f"  make convert MODEL={name}    # once", f"  make reproduce-table2 MODEL={name}"]
    monkeypatch.setattr(preflight, "is_reachable", lambda _: "")
    assert preflight.commands(plan, "table2", {})[1:] == [f"  make reproduce-table2 MODEL={name}"]


def test_the_hub_is_asked_for_files_of_a_commit(monkeypatch):
    from rankadaptor.data import hub as module

    for names, answer in ((["model.safetensors"], ""), (["pytorch_model.bin", "x.bin"], "it has pickled weights alone"),
                          (["model.gguf"], "it has no safetensors files")):
        files = [type("File", (), {"rfilename": name}) for name in names]
        monkeypatch.setattr(module, "HfApi", lambda files=files: type("Api", (), {
            "model_info": lambda *_, **__: type("Info", (), {"siblings": files})})())
        assert module.is_reachable(NAME) == answer


def test_a_folder_of_pickles_names_the_command(hub, tmp_path, capsys):
    copy = shutil.copytree(hub / "hub" / "models--some--llama" / "snapshots" / COMMIT, tmp_path / "folder")
    assert main(["measure", str(copy)]) == 2
    assert "python -m rankadaptor convert" in capsys.readouterr().err
    save_file({"a": torch.ones(1)}, copy / "model.safetensors")
    assert main(["convert", str(copy)]) == 2
    assert "nothing is to be converted" in capsys.readouterr().err
    assert main(["convert", "--profile", "tiny"]) == 2
    assert "profile tiny needs no conversion" in capsys.readouterr().err
    assert main(["convert", "--profile", "llama-7b"]) == 2
    assert "or a hub id pinned to a commit" in capsys.readouterr().err
