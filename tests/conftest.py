"""Fixtures of a world small enough for tests. What they build is written in `helpers`."""

import os

if not os.environ.get("GPU_TESTS"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: the same tests of the same numbers on every machine

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import papermill
import pytest
import torch
from helpers.finished import FinishedTable, compute_table, keys_of, read_table
from helpers.models import tiny_llama
from helpers.profile import (
    tiny_tokenizer,
    write_benchmarks,
    write_checkpoint,
    write_instruction_rows,
    write_profile,
)
from helpers.shared import made_once
from helpers.tokenizers import write_sentencepiece
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

for name in [name for name in os.environ if name.startswith("RANKADAPTOR_")]:
    if name not in ("RANKADAPTOR_CACHE", "RANKADAPTOR_PLUGINS"):
        del os.environ[name]  # options of a shell's targets, such as a ledger
os.environ["HF_HUB_OFFLINE"] = "1"  # of the kernels that tests start; this process has read it already
huggingface_hub.constants.HF_HUB_OFFLINE = True
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["OMP_NUM_THREADS"] = "1"  # of the kernels that tests start
torch.set_num_threads(1)  # tiny models: a second thread only waits


@pytest.hookimpl(tryfirst=True)  # before pytest deselects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their fixtures: the finished table takes ten seconds to compute, a kernel six to start."""
    for item in items:
        for fixture, marker in (("finished", "slow"), ("kernel", "notebook")):
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tiny_tokenizer()


@pytest.fixture
def dense(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A checkpoint of a user's own: a folder with a tiny LLaMA and its tokenizer."""
    write_checkpoint(tmp_path / "dense", tokenizer)
    return tmp_path / "dense"


@pytest.fixture(scope="session")
def sentencepiece_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of LLaMA's kind."""
    folder = made_once(tmp_path_factory, "sentencepiece",
                       lambda folder: write_sentencepiece(folder / "tokenizer.model"))
    return folder / "tokenizer.model"


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "benchmarks", write_benchmarks)


@pytest.fixture(scope="session")
def recovery_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_once(tmp_path_factory, "recovery", lambda folder: write_instruction_rows(folder / "rows.jsonl"))
    return folder / "rows.jsonl"


@pytest.fixture(scope="session")
def tiny_profile(
    tmp_path_factory: pytest.TempPathFactory,
    benchmark_folder: Path,
    recovery_file: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A profile as YAML, over a tiny random LLaMA of 6 layers: the code path of the real ones, in seconds."""

    def make(folder: Path) -> None:
        write_checkpoint(folder / "base", tokenizer, layers=6)
        write_profile(folder / "test.yaml", folder / "base", benchmark_folder, recovery_file)

    return made_once(tmp_path_factory, "profile", make) / "test.yaml"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_profile: Path) -> Iterator[FinishedTable]:
    """The tiny profile's default table on `FINISHED_BLOCKS`, for tests that read it."""
    folder = made_once(tmp_path_factory, "finished", functools.partial(compute_table, tiny_profile))
    table = read_table(tiny_profile, folder)
    before = keys_of(table.ledger)
    yield table
    assert keys_of(table.ledger) == before, "a test wrote into the shared ledger: let it use `finished_copy`"


@pytest.fixture
def finished_copy(finished: FinishedTable, tmp_path: Path) -> Path:
    """A ledger of that table, to extend or to break."""
    return shutil.copytree(finished.ledger, tmp_path / "ledger")


@pytest.fixture(scope="session")
def kernel() -> Iterator[AsyncKernelManager]:
    """A kernel for many notebooks: starting one and importing everything takes longer than most notebooks do."""
    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    if manager.has_kernel:
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.fixture
def warm_kernel(kernel: AsyncKernelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs notebooks in the session's kernel, cleared of the names of earlier notebooks."""
    if kernel.has_kernel:
        client = kernel.client()
        client.start_channels()
        run_sync(client.execute_interactive)("%reset -f\nget_ipython().execution_count = 1", silent=True)
        client.stop_channels()
    monkeypatch.setattr(papermill, "execute_notebook", functools.partial(papermill.execute_notebook, km=kernel))


@pytest.fixture
def offline_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which pip finds packages, and no index."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(tmp_path / "cache"))
    return tmp_path
