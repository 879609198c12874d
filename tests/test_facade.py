"""`import rankadaptor` is quick, offers its names lazily, and lets transformers read pruned checkpoints."""

import subprocess
import sys

import pytest
import torch
from helpers.models import tiny_llama

import rankadaptor
from rankadaptor.pruning import prune
from rankadaptor.pruning.spec import PruneSpec


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_imports_no_torch():
    assert run("import sys, rankadaptor; print({'torch', 'transformers', 'pandas'} & set(sys.modules))") == "set()\n"


@pytest.mark.parametrize("name", rankadaptor.__all__)
def test_every_name_of_the_facade_is_there(name):
    assert getattr(rankadaptor, name) is not None
    assert name in dir(rankadaptor)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'main_tabel'"):
        rankadaptor.main_tabel  # noqa: B018


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A width-pruned model, its layers unequal."""
    windows = torch.randint(2, 96, (3, 8), generator=torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("pruned")
    spec = PruneSpec("llm-pruner", 50, "l1", 1, 3, 0.5, None, None, 3, 8, 0)
    prune(tiny_llama(), spec, windows).model.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("imports", [
    "import rankadaptor; from transformers import AutoModelForCausalLM as Auto",
    "from transformers import AutoModelForCausalLM as Auto; import rankadaptor",
    "import rankadaptor; from transformers import MistralForCausalLM, AutoModelForCausalLM as Auto",
    "import rankadaptor; from transformers import LlamaForCausalLM, AutoModelForCausalLM as Auto",
], ids=["before", "after", "another model first", "llama first"])
def test_auto_classes_read_pruned_checkpoints(imports, checkpoint):
    assert run(f"import sys; {imports}; print(type(Auto.from_pretrained(sys.argv[1])).__name__)", str(checkpoint)) == (
        "PrunedLlamaForCausalLM\n")
