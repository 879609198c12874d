"""A folder with tokenizer.model alone, as LLaMA's and Vicuna's own, goes through every command; and with BOS."""

import dataclasses
import json

import pytest
from helpers.data import sentence
from helpers.tokenizers import write_llama_with
from sentencepiece import SentencePieceProcessor

from rankadaptor.__main__ import main
from rankadaptor.commands.user_model import RecoveryOptions
from rankadaptor.experiments.user_model import RECIPE, user_model
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.pipeline.ledger import Ledger

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pruned(tmp_path_factory, sentencepiece_file):
    """A pruned model beside its calibration text, through `plan prune` and `prune`."""
    folder = tmp_path_factory.mktemp("sentencepiece-only")
    write_llama_with(folder / "dense", sentencepiece_file, tokenizer_class="LlamaTokenizer", add_bos_token=True)
    (folder / "text.txt").write_text("\n\n".join(sentence(i, 200) for i in range(9)))
    options = ["--ratio", "0.5", "--layers", "1:3", "--samples", "2", "--tokens", "8"]
    assert main(["plan", "prune", str(folder / "dense"), *options]) == 0
    assert main(["prune", str(folder / "dense"), *options, "--calibration", str(folder / "text.txt"), "--out",
                 str(folder / "pruned")]) == 0
    return folder / "pruned"


def test_the_pruned_folder_tokenises_as_sentencepiece(pruned, sentencepiece_file):
    assert (pruned / "tokenizer.model").read_bytes() == sentencepiece_file.read_bytes()
    own, text = SentencePieceProcessor(model_file=str(sentencepiece_file)), "the cat runs over 🙂 house"
    assert load_tokenizer(pruned)(text, add_special_tokens=False).input_ids == own.encode(text)


def test_measure_and_evaluate_read_it(pruned, benchmark_folder, capsys):
    assert main(["measure", str(pruned), "--text", str(pruned.parent / "text.txt"), "--max-windows", "4"]) == 0
    assert "BOS: every" in capsys.readouterr().out
    outputs = []
    for more in ([], ["--bos"]):
        assert main(["evaluate", str(pruned), "--benchmarks", str(benchmark_folder), "--tasks", "piqa", "--items", "8",
                     *more]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] != outputs[1]


def test_search_and_recover_train_on_it_with_one_bos(pruned, benchmark_folder, recovery_file, tmp_path):
    common = [str(pruned), "--data", str(recovery_file), "--benchmarks", str(benchmark_folder), "--tasks", "piqa",
              "--ledger", str(tmp_path / "ledger")]
    search = ["--steps", "2", "--batch", "2", "--max-length", "300", "--budget", "2", "--items", "4", "--bos"]
    assert main(["search", *common, *search, "--out", str(tmp_path / "searched")]) == 0
    assert json.loads((tmp_path / "searched" / "allocation.json").read_text())["recipe"]["bos"] is True
    specs = {entry.spec["stage"]: entry.spec["spec"] for entry in Ledger(tmp_path / "ledger").entries()}
    assert specs["recover"]["recipe"]["bos"] is True
    assert specs["evaluate"]["bos"] is True
    recover = ["recover", *common, "--allocation", str(tmp_path / "searched"), "--out"]
    assert main([*recover, str(tmp_path / "adapter")]) == 0  # with the search's own recipe
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert main([*recover, str(tmp_path / "other"), "--no-bos"]) == 2  # found for another recipe


def test_bos_alone_changes_nothing_else_of_a_recipe(pruned, benchmark_folder, recovery_file, tmp_path):
    base = dataclasses.replace(RECIPE, warmup_steps=3, micro_batch_rows=2)
    for given, expected in ((None, False), (True, True), (False, False)):
        options = RecoveryOptions(str(pruned), str(recovery_file), bos=given)
        assert options.recipe(base) == dataclasses.replace(base, bos=expected)
    loud = user_model(pruned, recovery_file, benchmark_folder, recipe=dataclasses.replace(base, bos=True),
                      ledger=tmp_path)
    assert loud.scored.bos
    assert not user_model(pruned, recovery_file, benchmark_folder, recipe=base, ledger=tmp_path).scored.bos
