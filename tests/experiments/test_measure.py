"""A model of one's own is measured from the shell; hub ids are pinned, and read from the hub's cache."""

import json

import huggingface_hub.constants
import pytest
from helpers.data import sentence
from helpers.models import tiny_llama

from rankadaptor.__main__ import main
from rankadaptor.data.hub import checkpoint_folder
from rankadaptor.errors import BadInput

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_measure_prints_sizes_speed_and_perplexity(dense, tmp_path, capsys):
    texts = tmp_path / "texts"
    texts.mkdir()
    for i in range(3):
        (texts / f"{i}.txt").write_text(sentence(i, 200) + "\n")
    assert main(["measure", str(dense), "--text", str(texts), "--max-windows", "4"]) == 0
    said = capsys.readouterr().out
    assert f"{tiny_llama().num_parameters():,} parameters\n" in said
    assert "tokens/s decoding" in said
    assert "perplexity (4 windows of 128 tokens, BOS: none)" in said
    (texts / "whole").write_text("".join((texts / f"{i}.txt").read_text() for i in range(3)))
    assert main(["measure", str(dense), "--text", str(texts / "whole"), "--max-windows", "4"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == said.splitlines()[-1]
    assert main(["measure", str(dense)]) == 0
    assert "perplexity" not in capsys.readouterr().out


@pytest.mark.parametrize(("more", "says"), [
    (["--text", "/no/such/text"], "no text in /no/such/text: name a file, or a folder with .txt files"),
    (["--max-windows", "0", "--text", __file__], "max_windows is 0: give at least 1"),
])
def test_measure_tells_of_bad_input_in_one_line(dense, capsys, more, says):
    assert main(["measure", str(dense), *more]) == 2
    error = capsys.readouterr().err
    assert says in error


@pytest.mark.parametrize("name", ["no-folder", "meta/model", "meta/model@main", f"meta/model@{COMMIT[:12]}"])
def test_a_hub_id_without_its_commit_is_refused(name):
    with pytest.raises(BadInput, match=f"no folder '{name}': name one, or a hub id pinned to a commit"):
        checkpoint_folder(name)


def test_a_pinned_hub_id_is_read_from_the_hubs_cache(dense, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert main(["prune", f"some/model@{COMMIT}", "--ratio", "0.5", "--calibration", "x", "--out", "y"]) == 2
    assert capsys.readouterr().err.startswith(f"rankadaptor: cannot fetch some/model@{COMMIT} (")
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    dense.rename(snapshot)
    assert checkpoint_folder(f"some/model@{COMMIT}") == snapshot
    assert main(["plan", "prune", f"some/model@{COMMIT}", "--ratio", "0.5", "--layers", "1:3"]) == 0
    assert f"of {tiny_llama().num_parameters():,} parameters" in capsys.readouterr().out
    windows = tmp_path / "windows.json"
    windows.write_text(json.dumps([[5, 6, 7, 8]] * 2))
    assert main(["prune", f"some/model@{COMMIT}", "--ratio", "0.5", "--layers", "1:3", "--calibration", str(windows),
                 "--out", str(tmp_path / "pruned")]) == 0
    assert (tmp_path / "pruned" / "kept.json").is_file()
