"""A world small enough for tests: a tiny random LLaMA, a tokenizer trained on the spot, seven tiny benchmarks."""

import os

if not os.environ.get("GPU_TESTS"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: the same tests of the same numbers on every machine

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import papermill
import pytest
import torch
import yaml
from helpers.data import benchmark_row, sentence
from helpers.models import tiny_llama
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

os.environ["HF_HUB_OFFLINE"] = "1"  # of the kernels that tests start; this process has read it already
huggingface_hub.constants.HF_HUB_OFFLINE = True
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["OMP_NUM_THREADS"] = "1"  # of the kernels that tests start
torch.set_num_threads(1)  # tiny models: a second thread only waits


@pytest.fixture
def llama() -> LlamaForCausalLM:
    return tiny_llama()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=96, special_tokens=["<end>", "<unk>"], show_progress=False)
    core.train_from_iterator([sentence(i) for i in range(50)] + ["Question: Answer: yes no"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<end>", eos_token="<end>", unk_token="<unk>")


@pytest.fixture
def dense(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A checkpoint of somebody's own: a folder with a tiny LLaMA and its tokenizer."""
    folder = tmp_path / "dense"
    tiny_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from rankadaptor.data.tasks import TASKS

    folder = tmp_path_factory.mktemp("benchmarks")
    for task in TASKS:
        (folder / task).mkdir()
        for split, start in (("train", 0), ("validation", 1000), ("test", 2000)):
            rows = [benchmark_row(task, start + i) for i in range(40)]
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def recovery_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recovery") / "rows.jsonl"
    rows = [{"instruction": sentence(5000 + i, 6), "input": sentence(i, 4) if i % 2 else "", "output": sentence(i, 4)}
            for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def kernel() -> Iterator[AsyncKernelManager]:
    """One for many notebooks: to start one and import everything takes longer than what most of them do."""
    manager = AsyncKernelManager(kernel_name="python3")
    yield manager
    if manager.has_kernel:
        run_sync(manager.shutdown_kernel)(now=True)


@pytest.fixture
def warm_kernel(kernel: AsyncKernelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notebooks run in it, with no name of another one's."""
    if kernel.has_kernel:
        client = kernel.client()
        client.start_channels()
        run_sync(client.execute_interactive)("%reset -f\nget_ipython().execution_count = 1", silent=True)
        client.stop_channels()
    monkeypatch.setattr(papermill, "execute_notebook", functools.partial(papermill.execute_notebook, km=kernel))


@pytest.fixture(scope="session")
def tiny_profile(
    tmp_path_factory: pytest.TempPathFactory,
    benchmark_folder: Path,
    recovery_file: Path,
    tokenizer: PreTrainedTokenizerFast,
) -> Path:
    """A profile as YAML, over a tiny random LLaMA of 6 layers: the code path of the real ones, in seconds."""
    folder = tmp_path_factory.mktemp("profile")
    tiny_llama(layers=6).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    shipped = Path(__file__).parents[1] / "rankadaptor" / "profiles" / "smollm2.yaml"
    profile = yaml.safe_load(shipped.read_text())
    profile |= {"name": "test", "threads": 1}
    profile["base_model"] = {"label": "tiny random LLaMA", "gguf": None, "dtype": "saved",
                             "source": {"kind": "dir", "location": str(folder / "base"), "sha256": None}}
    profile["benchmarks"] = {"kind": "dir", "location": str(benchmark_folder), "sha256": None}
    profile["recovery_data"] = {"label": "test rows", "rows_per_set": None,
                                "source": {"kind": "dir", "location": str(recovery_file), "sha256": None}}
    profile["evaluation"]["search_pool"] = 12
    profile["evaluation"]["perplexity"]["window_tokens"] = 8
    for pruner, tokens in (("llm-pruner", 8), ("shortened", 8)):
        profile["pruning"][pruner] |= {"first_layer": 1, "end_layer": 5}
        profile["pruning"][pruner]["calibration"] = {"samples": 3, "tokens": tokens, "seed": 1}
    profile["pruning"]["shortened"]["blocks"] = {20: 1, 50: 3}
    quick = profile["budgets"]["quick"]
    profile["evaluation"]["generation"] |= {"max_new_tokens": 6, "samples": 2}
    quick["training"] |= {"steps": 5, "batch_rows": 4, "micro_batch_rows": 3, "max_length_tokens": 300}
    quick |= {"search_items": 4, "report_items": 6}
    quick["search"] |= {"initial": 2, "rounds": 2, "candidates_per_round": 50, "threshold": 0.0}
    full = dict(quick, per_task=True, training_seeds=[0, 1], learning_rates=[1e-3, 1e-2],
                adalora_learning_rates=[1e-2, 3e-2], decided=True)
    profile["budgets"] = {"quick": quick, "two-seeds": full}
    path = folder / "test.yaml"
    path.write_text(yaml.safe_dump(profile))
    return path


@pytest.fixture
def offline_pip(tmp_path, monkeypatch):
    """pip that sees one folder and no index."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("RANKADAPTOR_CACHE", str(tmp_path / "cache"))
    return tmp_path
