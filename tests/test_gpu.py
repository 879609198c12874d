"""On a GPU, by `make test-gpu`: engines compute what they compute on a CPU, and what transformers and PEFT do."""

import copy
from dataclasses import replace

import pytest
import torch
from helpers.data import ragged_choices, sentence
from helpers.models import llamas, tiny_llama, with_lora

from rankadaptor.allocation import uniform_allocation
from rankadaptor.evaluation import evaluate
from rankadaptor.evaluation.layout import Limits, lay_out
from rankadaptor.evaluation.shared_context import limits_of, score
from rankadaptor.models.base_model import base_model, base_model_folder
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.models.kernels.fused_lora import fused
from rankadaptor.models.kernels.products import product
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.pipeline.ledger import Ledger
from rankadaptor.pipeline.runner import Runner
from rankadaptor.profiles import load_profile
from rankadaptor.recovery import training
from rankadaptor.recovery.adapters import attach_adapter, save_adapter
from rankadaptor.recovery.loaded import LoadedModel
from rankadaptor.recovery.packing import packed, packing, padded
from rankadaptor.recovery.prompts import IGNORED, Example
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.recovery.training import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU, or not asked for: make test-gpu")
GPU = torch.device("cuda")
RECIPE = Recipe(6, 8, 8, 5e-3, 2, 300, 0.0, 0.0, 1.0, "micro_batches")
ROWS = [{"instruction": sentence(i, 5), "input": "", "output": sentence(i + 100, 3 + i % 9)} for i in range(64)]


def examples(*lengths):
    draw = torch.Generator().manual_seed(0)
    drawn = []
    for length in lengths:
        ids = torch.randint(2, 96, (length,), generator=draw).tolist()
        drawn.append(Example(ids, [IGNORED] * (length // 3) + ids[length // 3 :]))
    return drawn


def step(adapted, cut):
    adapted.zero_grad()
    with training._fast_paths(adapted):
        loss = training._accumulate(adapted, cut)
    return loss, {
        name: weight.grad.float().cpu() for name, weight in adapted.named_parameters() if weight.requires_grad}


def apart(gradients, exact):
    """Mean relative distance of gradients."""
    return torch.stack([(gradients[name] - other).norm() / other.norm() for name, other in exact.items()]).mean()


@pytest.mark.parametrize("name", ["grouped", "plain", "width", "depth"])
def test_choices_score_as_on_a_cpu(name):
    pairs = ragged_choices(1)
    expected, _ = score(llamas()[name], lay_out(pairs, 512, Limits(512)), len(pairs))
    for made in (limits_of(GPU), Limits(200), Limits(4096, 64, 0.0)):
        scores, _ = score(llamas()[name].to(GPU), lay_out(pairs, 512, made), len(pairs))
        torch.testing.assert_close(scores, expected, atol=2e-4, rtol=1e-5)


def test_half_precision_scores_are_as_exact_as_a_plain_pass():
    pairs = ragged_choices(2)
    exact, _ = score(tiny_llama(), lay_out(pairs, 512, Limits(512)), len(pairs))
    rounded = tiny_llama().bfloat16().to(GPU)
    ours, _ = score(rounded, lay_out(pairs, 512, limits_of(GPU)), len(pairs))
    plain = []
    with torch.no_grad():
        for _, context, continuation in pairs:
            logits = rounded(torch.tensor([context + continuation], device=GPU)).logits[0].double().log_softmax(-1)
            predicted = logits[len(context) - 1 : -1].gather(1, torch.tensor(continuation, device=GPU)[:, None])
            plain.append(float(predicted.sum()))
    assert (ours - exact).abs().mean() < 1.3 * (torch.tensor(plain) - exact).abs().mean()


@pytest.mark.parametrize("name", ["grouped", "plain", "width", "depth"])
def test_a_step_is_that_of_a_cpu_packed_or_padded(name):
    batch = examples(2, 9, 90, 64, 65, 17)
    expected = step(with_lora(llamas()[name]), [padded(batch, 0)])
    adapted = with_lora(llamas()[name]).to(GPU)
    for cut in ([padded(batch, 0)], [packed(batch)], [packed(batch[:2]), packed(batch[2:])]):
        with packing(adapted.get_base_model(), RECIPE) as packs:
            assert packs
            result = step(adapted, cut) if cut[0].rows else None
        result = result or step(adapted, cut)
        assert result[0] == pytest.approx(expected[0], abs=1e-5)
        for key, gradient in result[1].items():
            torch.testing.assert_close(gradient, expected[1][key], atol=5e-5, rtol=1e-3)


def test_half_precision_steps_are_as_exact_as_pefts():
    batch = examples(40, 7, 90, 33)
    exact = step(with_lora(tiny_llama()), [padded(batch, 0)])
    adapted = with_lora(tiny_llama().bfloat16()).to(GPU)
    plain = training._accumulate(adapted, [padded(batch, 0).to(GPU)]), {
        name: weight.grad.float().cpu() for name, weight in adapted.named_parameters() if weight.requires_grad}
    with packing(adapted.get_base_model(), RECIPE):
        ours = step(adapted, [packed(batch)])
    assert all(weight.dtype == torch.float32 for weight in adapted.parameters() if weight.requires_grad)
    assert abs(ours[0] - exact[0]) <= 2 * abs(plain[0] - exact[0]) + 5e-3
    assert apart(ours[1], exact[1]) < 1.3 * apart(plain[1], exact[1])


def test_losses_are_those_of_a_cpu_and_repeat(tokenizer):
    spec = RecoverySpec("lora", uniform_allocation(3, architecture_of(tiny_llama())), "fixed_alpha", 16, RECIPE, 0)
    on_cpu, *on_gpu = (
        train(attach_adapter(tiny_llama().to(device), spec), tokenizer, ROWS, spec).losses
        for device in ("cpu", GPU, GPU))
    assert on_gpu[0] == pytest.approx(on_cpu, abs=1e-3)
    assert on_gpu[0] == on_gpu[1]


@pytest.mark.parametrize("method", ["adalora", "eva"])
def test_other_methods_train_there(method, tokenizer):
    recipe = replace(RECIPE, steps=12)
    spec = RecoverySpec(method, uniform_allocation(3, architecture_of(tiny_llama())), "fixed_alpha", 16, recipe, 0,
                        adalora_init_rank=4 if method == "adalora" else None)
    here, there = (
        train(attach_adapter(tiny_llama().to(device), spec), tokenizer, ROWS, spec).losses for device in ("cpu", GPU))
    assert there[0] == pytest.approx(here[0], abs=1e-4)  # of the model without the adapter, which begins at nothing
    assert there[-1] < there[0]


def test_dropout_is_of_the_adapters_input_and_keeps_its_mean():
    model = with_lora(tiny_llama(), dropout=0.3).to(GPU)
    torch.manual_seed(0)
    with fused(model) as fused_modules, torch.no_grad():
        assert len(fused_modules)
        module = model.get_base_model().model.layers[0].mlp.up_proj
        x = torch.randn(1, 7, 32, device=GPU)
        drawn = torch.stack([module(x) for _ in range(4000)])
        model.eval()
        exact = module(x)
    error = (drawn.mean(dim=0) - exact).abs() / (drawn.std(dim=0) / 4000**0.5)
    assert error.mean() < 1.2
    assert error.max() < 5


def test_float32_products_stay_float32():
    draw = torch.Generator().manual_seed(0)
    x, weight = torch.randn(64, 512, generator=draw), torch.randn(32, 512, generator=draw)
    off = (product(x.to(GPU), weight.to(GPU)).cpu().double() - x.double() @ weight.double().T).abs().max()
    assert off < 1e-4  # tf32 would be off by 1e-2


def test_a_loaded_model_is_left_as_it_was(tmp_path, tokenizer):
    spec = RecoverySpec("lora", uniform_allocation(3, architecture_of(tiny_llama())), "fixed_alpha", 16, RECIPE, 0)
    loaded = LoadedModel(tiny_llama().bfloat16().to(GPU))
    before = copy.deepcopy(loaded.base.state_dict())
    with loaded.attached(spec) as adapted:
        train(adapted, tokenizer, ROWS, spec)
        save_adapter(adapted, tmp_path / "adapter")
    with loaded.recovered(tmp_path / "adapter") as model:
        assert any(not torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(torch.equal(weight, before[name]) for name, weight in loaded.base.state_dict().items())


def test_the_embedded_model_answers_as_on_a_cpu(tmp_path):
    """Real weights: no prediction of the testbed's items turns, and log-likelihoods are the same to a thousandth."""
    profile = load_profile("tiny")
    spec = profile.evaluation_spec(profile.budget("quick"), "report")
    requests = Runner(profile.inputs(), Ledger(tmp_path)).requests(spec)
    tokenizer, model = load_tokenizer(base_model_folder(profile.base_model)), base_model(profile.base_model)
    there, here = (evaluate(model.to(device), tokenizer, spec, requests) for device in (GPU, "cpu"))
    assert there["acc"].tolist() == here["acc"].tolist()
    assert there["acc_norm"].tolist() == here["acc_norm"].tolist()
    for first, second in zip(there["log_likelihoods"], here["log_likelihoods"], strict=True):
        assert first == pytest.approx(second, abs=1e-3)
