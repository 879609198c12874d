"""Search, recover and evaluate on a pruned model of one's own, from the shell and in three calls."""

import dataclasses
import json

import pytest
import torch
from helpers.data import sentence
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from rankadaptor.__main__ import main
from rankadaptor.allocation import parse_allocation
from rankadaptor.experiments.search_files import read_search
from rankadaptor.experiments.user_model import RECIPE as RECIPE_OF_MODULE
from rankadaptor.experiments.user_model import user_model
from rankadaptor.recovery.spec import adapter_method

pytestmark = pytest.mark.slow

RECIPE = ["--steps", "4", "--batch", "4", "--max-length", "200"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, benchmark_folder, recovery_file, tokenizer):
    """A width-pruned and a depth-pruned model, and where a search keeps its recoveries."""
    from helpers.models import tiny_llama

    made = tmp_path_factory.mktemp("own")
    tiny_llama(layers=6).save_pretrained(made / "dense")
    tokenizer.save_pretrained(made / "dense")
    (made / "text.txt").write_text("\n\n".join(sentence(i, 60) for i in range(20)))
    shared = [str(made / "dense"), "--calibration", str(made / "text.txt"), "--samples", "2", "--tokens", "8",
              "--layers", "1:5"]
    assert main(["prune", *shared, "--ratio", "0.5", "--out", str(made / "width")]) == 0
    assert main(["prune", *shared, "--method", "shortened", "--blocks", "2", "--out", str(made / "depth")]) == 0
    return made


@pytest.fixture(scope="module")
def common(folders, benchmark_folder, recovery_file):
    return ["--data", str(recovery_file), "--benchmarks", str(benchmark_folder), "--tasks", "piqa arc_easy",
            "--ledger", str(folders / "ledger"), *RECIPE]


@pytest.fixture(scope="module")
def found(folders, common):
    out = folders / "found"
    arguments = ["search", str(folders / "width"), *common, "--budget", "4", "--items", "6", "--out", str(out)]
    assert main(arguments) == 0
    return out, arguments


def test_a_search_writes_allocation_trace_and_peft_config(folders, found):
    out, _ = found
    content = json.loads((out / "allocation.json").read_text())
    assert len(content["allocation"]) == 6
    assert content["recoveries"] <= 4
    assert content["by_task"].keys() == {"piqa", "arc_easy"}
    rounds = [json.loads(path.read_text()) for path in sorted(out.glob("round-*.json"))]
    assert sum(len(one["proposals"]) for one in rounds) == content["recoveries"]
    # In any PEFT script: the configuration as it is, on the pruned checkpoint.
    model = AutoModelForCausalLM.from_pretrained(folders / "width", dtype="auto")
    adapted = get_peft_model(model, LoraConfig.from_pretrained(str(out)))
    ranks = adapter_method("lora").realised_ranks(adapted)
    assert {name: rank for name, rank in ranks.items() if ".3." in name and rank != content["allocation"][3]} == {}
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == content["trainable_parameters"]


def test_the_layers_that_pruning_narrowed_are_free(folders, recovery_file, benchmark_folder):
    own = user_model(folders / "width", recovery_file, benchmark_folder, ledger=folders / "ledger")
    assert own.space().free_layers == (1, 2, 3, 4)
    assert own.space(layers=(2, 4)).free_layers == (2, 3)
    assert len(own.scored.tasks) == 7
    deep = user_model(folders / "depth", recovery_file, benchmark_folder, ledger=folders / "ledger")
    assert set(deep.space(layers=(1, 5)).free_layers) == set(deep.architecture.original_layers) - {0, 5}


def test_a_search_that_is_asked_again_recovers_nothing_anew(found, folders, capsys):
    out, arguments = found
    before = {path.name: path.stat().st_mtime_ns for path in (folders / "ledger").glob("[0-9a-f]*")}
    assert main([*arguments[:-1], str(folders / "again")]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (folders / "ledger").glob("[0-9a-f]*")} == before
    assert (folders / "again" / "allocation.json").read_text() == (out / "allocation.json").read_text()
    assert "recovery 1 of" not in capsys.readouterr().out  # read from the trace


def test_a_search_that_was_stopped_goes_on_from_its_trace(folders, common, found):
    """Killed after its first round: the rest is what an undisturbed search did."""

    def killed(one):
        raise KeyboardInterrupt

    recipe = dataclasses.replace(RECIPE_OF_MODULE, steps=4, batch_rows=4, max_length_tokens=200, warmup_steps=0)
    own = user_model(folders / "width", common[1], common[3], "piqa arc_easy", recipe, search_items=6,
                    ledger=folders / "cut-off")
    with pytest.raises(KeyboardInterrupt):
        own.search(4, on_round=killed)
    assert len(list((folders / "cut-off" / "searches").glob("*/round-*.json"))) == 1
    made = []
    again = own.search(4, on_trial=made.append)
    assert list(again.best) == read_search(found[0])["allocation"]
    assert len(made) == read_search(found[0])["recoveries"] - 2  # the two of the initialization were in the trace


def test_a_folder_knows_what_it_was_found_with(folders, common, found, capsys):
    """Recovering takes the search's recipe, and refuses another model, other data, or a recipe that was changed."""
    plain = common[: common.index("--steps")]
    out = folders / "as-found"
    assert main(["recover", str(folders / "width"), *plain, "--allocation", str(found[0]), "--out", str(out)]) == 0
    capsys.readouterr()
    for changed in ([*plain, "--learning-rate", "1e-3"], [*plain, "--scaling", "rslora"]):
        arguments = ["recover", str(folders / "width"), *changed, "--allocation", str(found[0])]
        assert main([*arguments, "--out", str(folders / "other")]) == 2
        assert "was found with another" in capsys.readouterr().err
    assert main(["recover", str(folders / "depth"), *plain, "--allocation", str(found[0]), "--out",
                 str(folders / "other")]) == 2
    assert main(["recover", str(folders / "width"), *plain, "--allocation", str(folders), "--out",
                 str(folders / "other")]) == 2
    assert "holds no allocation.json that a search wrote" in capsys.readouterr().err


@pytest.mark.parametrize("which", ["width", "depth"])
def test_a_recovered_adapter_is_stock_pefts(folders, common, found, which, capsys, benchmark_folder):
    out = folders / f"adapter-{which}"
    layers = json.loads((folders / which / "config.json").read_text()).get("original_layers", range(6))
    ranks = [4 if layer in layers else 0 for layer in range(6)]
    allocation = str(found[0]) if which == "width" else " ".join(map(str, ranks))
    ranks = read_search(found[0])["allocation"] if which == "width" else parse_allocation(allocation)
    assert main(["recover", str(folders / which), *common, "--allocation", allocation, "--out", str(out)]) == 0
    base = AutoModelForCausalLM.from_pretrained(folders / which, dtype="auto")
    ids = torch.arange(12)[None]
    plain = base(input_ids=ids).logits
    adapted = PeftModel.from_pretrained(base, str(out))
    assert set(adapter_method("lora").realised_ranks(adapted).values()) == set(ranks) - {0}
    assert not torch.equal(adapted(input_ids=ids).logits, plain)
    capsys.readouterr()
    scored = ["evaluate", str(folders / which), "--benchmarks", str(benchmark_folder), "--tasks", "piqa",
              "--items", "8"]
    assert main([*scored, "--adapter", str(out)]) == 0
    said = capsys.readouterr().out.split("\n")
    assert said[0].split() == ["task", "metric", "score", "low", "high", "gold", "probability", "items"]
    assert said[1].split()[:2] == ["piqa", "acc"]
    assert main(scored) == 0
    assert capsys.readouterr().out.split("\n")[1] != said[1]  # without the adapter
    other = {"width": "depth", "depth": "width"}[which]
    assert main(["evaluate", str(folders / other), *scored[2:], "--adapter", str(out)]) == 2
    assert "does not fit the model" in capsys.readouterr().err
    assert main([*scored, "--adapter", str(folders)]) == 2
    assert "name a folder written by a recovery" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "says"), [
    ({"--data": "/no/such"}, "no recovery data /no/such"),
    ({"--benchmarks": "/"}, "no benchmark in /"),
    ({"--tasks": "chess"}, "unknown task 'chess'"),
    ({"--ranks": "two"}, "ranks 'two' are not whole numbers"),
    ({"--ranks": ""}, "rank candidates are (): give ranks of at least 1"),
    ({"--ranks": "64"}, "admits no allocation"),
    ({"--ranks": "8"}, "a search chooses between two or more"),
    ({"--layers": "9:12"}, "name layers that are"),
    ({"--budget": "1"}, "budget is '1': give a whole number from 2"),
    ({"--learning-rate": "7"}, "learning_rate is 7.0"),
])
def test_bad_input_is_told_in_one_line(folders, common, capsys, change, says):
    given = dict(zip(common[::2], common[1::2], strict=True)) | change
    options = [part for pair in given.items() for part in pair]
    assert main(["search", str(folders / "width"), *options, "--out", str(folders / "never")]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (folders / "never").exists()


@pytest.mark.parametrize(("allocation", "says"), [("8 8", "has 2 entries, the model has 6 layers"),
                                                  ("8 8 8 8 8 0", "give at least 1"), ("a", "not a list of whole")])
def test_an_allocation_that_does_not_fit_is_refused(folders, common, capsys, allocation, says):
    arguments = ["recover", str(folders / "width"), *common, "--allocation", allocation, "--out"]
    assert main([*arguments, str(folders / "none")]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("command", [["search"], ["recover", "--allocation", "8 8 8 8 8 8"]])
def test_a_folder_that_is_there_is_refused_before_anything_runs(folders, common, capsys, command):
    arguments = [*command[:1], str(folders / "width"), *common, *command[1:], "--out", str(folders / "width")]
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err
