"""A world small enough for tests: a tiny random LLaMA, a tokenizer trained on the spot, seven tiny benchmarks."""

import os

if not os.environ.get("GPU_TESTS"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks: the same tests of the same numbers on every machine

import functools
import hashlib
import json
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import papermill
import pytest
import torch
import yaml
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rankadaptor.architecture import PROJECTIONS
from rankadaptor.pruning import prune
from rankadaptor.pruning.spec import PruneSpec

os.environ["HF_HUB_OFFLINE"] = "1"  # of the kernels that tests start; this process has read it already
huggingface_hub.constants.HF_HUB_OFFLINE = True
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"
os.environ["OMP_NUM_THREADS"] = "1"  # of the kernels that tests start
torch.set_num_threads(1)  # tiny models: a second thread only waits

WORDS = "the a cat dog tree house river stone bird fish red blue old new runs eats sees finds under over near".split()


def sentence(seed: int, length: int = 8) -> str:
    """Random words: different seeds, different sentences."""
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def tiny_llama(
    layers: int = 4, heads: int = 4, kv_heads: int = 2, seed: int = 0, vocabulary: int = 96, activation: str = "silu"
) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=8,
        intermediate_size=48, vocab_size=vocabulary, max_position_embeddings=512, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, tie_word_embeddings=True, initializer_range=0.2, hidden_act=activation,
    )
    return LlamaForCausalLM(config).eval()


def llamas() -> dict[str, LlamaForCausalLM]:
    """Dense, GQA or not, and pruned in width and in depth."""
    windows = torch.randint(2, 96, (3, 8), generator=torch.Generator().manual_seed(0))
    width = PruneSpec("llm-pruner", 50, "l1", 1, 3, 0.5, None, None, 3, 8, 0)
    depth = PruneSpec("shortened", 50, "magnitude", 1, 3, None, None, 1, 3, 8, 0)
    return {"grouped": tiny_llama(), "plain": tiny_llama(kv_heads=4, seed=1),
            "width": prune(tiny_llama(kv_heads=4), width, windows).model,
            "depth": prune(tiny_llama(), depth, windows).model}


def ragged_choices(seed: int, questions: int = 40) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """Tokenised choices of every shape.

    One token or several after one context; contexts that differ at their end or at once; equal choices; one the
    beginning of another; and questions that begin as others do.
    """
    draw = random.Random(seed)

    def some(low: int, high: int) -> list[int]:
        return [draw.randrange(2, 96) for _ in range(draw.randint(low, high))]

    preambles = [some(5, 40) for _ in range(3)]
    pairs: list[tuple[tuple[str, str], list[int], list[int]]] = []
    for _ in range(questions):
        context, ending = draw.choice([[], *preambles]) + some(1, 30), some(1, 4)
        kind = draw.choice(["one token", "several", "partial context", "unlike", "alike", "longer and longer"])
        for count in range(1, draw.randint(2, 6)):
            pairs.append({
                "one token": (("", ""), context, some(1, 1)),
                "several": (("", ""), context, some(1, 9)),
                "partial context": (("", ""), context + some(1, 2), ending),
                "unlike": (("", ""), some(1, 20), some(1, 3)),
                "alike": (("", ""), context, ending),
                "longer and longer": (("", ""), context * count, ending),
            }[kind])
    return pairs


def loss_and_gradients(model, tokens) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean next-token loss, and its gradients by the names of parameters that are trained."""
    model.zero_grad()
    loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    found = {name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad}
    model.zero_grad()
    return loss.item(), found


def gradients(model, tokens) -> dict[str, torch.Tensor]:
    return loss_and_gradients(model, tokens)[1]


def assert_same_loss_and_gradients(found, plain) -> None:
    """Of two ways of computing one step: equal but for rounding."""
    assert found[0] == pytest.approx(plain[0], abs=2e-6)
    assert found[1].keys() == plain[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(gradient, plain[1][name], atol=2e-6, rtol=1e-4)


def with_lora(model, dropout: float = 0.0, **settings) -> PeftModel:
    """A trained-looking adapter of rank 3 in every projection: B is not 0."""
    config = LoraConfig(r=3, lora_alpha=5, target_modules=list(PROJECTIONS), lora_dropout=dropout,
                        task_type="CAUSAL_LM", **settings)
    adapted = get_peft_model(model, config)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=draw)
    return adapted.train()


def masked(model: LlamaForCausalLM, kept: dict) -> LlamaForCausalLM:
    """The dense model itself, with what is not kept set to zero, or without the blocks that are gone."""
    if "blocks" in kept:
        model.model.layers = torch.nn.ModuleList([model.model.layers[i] for i in kept["blocks"]])
        for position, layer in enumerate(model.model.layers):
            layer.self_attn.layer_idx = position
        model.config.num_hidden_layers = len(kept["blocks"])
        return model
    config = model.config
    for layer, units in zip(model.model.layers, kept["layers"], strict=True):
        heads = torch.zeros(config.num_key_value_heads)
        heads[units["kv_heads"]] = 1
        per_head = config.num_attention_heads // config.num_key_value_heads * config.head_dim
        layer.self_attn.o_proj.weight.data *= heads.repeat_interleave(per_head)
        channels = torch.zeros(config.intermediate_size)
        channels[units["channels"]] = 1
        layer.mlp.down_proj.weight.data *= channels
    return model


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def assert_executed(path: Path) -> None:
    """Top to bottom, every cell once."""
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), path


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


def benchmark_row(task: str, seed: int) -> dict:
    """One row in the hub's schema, its gold choice spread over the choices."""
    choices = [sentence(seed * 11 + i, 3) + f" {i}" for i in range(4)]
    text = sentence(seed, 16)
    if task == "boolq":
        return {"question": sentence(seed + 3, 5), "passage": f"{text} {seed}", "idx": seed, "label": seed % 2}
    if task == "piqa":
        return {"goal": text, "sol1": choices[0], "sol2": choices[1], "label": seed % 2}
    if task == "hellaswag":
        return {"ind": seed, "activity_label": "Act", "ctx_a": text, "ctx_b": "", "ctx": text, "endings": choices,
                "source_id": "", "split": "x", "split_type": "", "label": str(seed % 4)}
    if task == "winogrande":
        return {"sentence": f"{sentence(seed, 5)} _ runs over the house {seed}", "option1": "cat", "option2": "dog",
                "answer": str(seed % 2 + 1)}
    labelled = {"text": choices, "label": list("ABCD")}
    stem = {"question_stem": text} if task == "openbookqa" else {"question": text}
    return {"id": f"id-{seed}", **stem, "choices": labelled, "answerKey": "ABCD"[seed % 4]}


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


def wheel_index(folder: Path, members: dict[str, str]) -> str:
    """A folder with one wheel that pip can find without a network; returns its SHA-256."""
    path = folder / "pinned_data-1.0-py3-none-any.whl"
    metadata = {"pinned_data-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: pinned-data\nVersion: 1.0\n",
                "pinned_data-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
                "pinned_data-1.0.dist-info/RECORD": ""}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (members | metadata).items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
