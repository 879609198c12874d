"""A merged adapter is the adapter: in float32 whatever the dtypes, or refused."""

import copy

import pytest
import torch
from helpers.models import tiny_llama
from peft import AdaLoraConfig, IA3Config, LoHaConfig, LoraConfig, PeftModel, VeraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from rankadaptor.architecture import PROJECTIONS
from rankadaptor.errors import BadInput
from rankadaptor.recovery.adapters import load_adapter
from rankadaptor.recovery.merging import merged

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT's, of adapters on tied embeddings

IDS = torch.tensor([[3, 8, 20, 33, 7, 3, 9]])
WEIGHTS = "adapter_model.safetensors"


def lora(*more, **settings):
    settings = {"r": 3, "lora_alpha": 5, "task_type": "CAUSAL_LM"} | settings
    return LoraConfig(target_modules=[*settings.pop("on", PROJECTIONS), *more], **settings)


MERGED = {
    "LoRA": lora(),
    "rsLoRA": lora(use_rslora=True),
    "DoRA": lora(use_dora=True),
    "AdaLoRA": AdaLoraConfig(init_r=4, target_r=2, tinit=1, tfinal=1, deltaT=1, total_step=10, lora_alpha=8,
                             target_modules=list(PROJECTIONS), task_type="CAUSAL_LM"),
    "ranks and alphas by pattern": lora(rank_pattern={"q_proj": 7, r"layers\.1\.mlp\.up_proj": 1},
                                        alpha_pattern={"k_proj": 11, r"layers\.2\.mlp\.up_proj": 1}),
    "some layers": lora(layers_to_transform=[1, 2]),
    "weights the other way round": lora(fan_in_fan_out=True),
    "biases that a LLaMA lacks": lora(bias="all"),
    "orthogonal start": lora(r=4, init_lora_weights="orthogonal"),
    "orthonormal start": lora(init_lora_weights="OLoRA"),
    "principal components": lora(init_lora_weights="pissa"),
    "single parameters": LoraConfig(r=3, lora_alpha=5, target_modules=[], target_parameters=["q_proj.weight"]),
    "a norm trained whole": lora(modules_to_save=["norm"]),
    "the head trained whole": lora(modules_to_save=["lm_head"]),
    "the embeddings trained whole": lora(modules_to_save=["embed_tokens"]),
    "head and embeddings trained whole": lora(modules_to_save=["lm_head", "embed_tokens"]),
    "some tokens": lora(trainable_token_indices=[3, 8]),
    "the head": lora("lm_head"),
    "the embeddings": lora("embed_tokens"),
    "head and embeddings": lora("lm_head", "embed_tokens"),
    "head and embeddings as one": lora("embed_tokens", ensure_weight_tying=True),
    "DoRA on embeddings": lora(on=["embed_tokens"], use_dora=True),
}
ON_EMBEDDINGS = [name for name in MERGED if "head" in name or "embeddings" in name or "tokens" in name]
COMPUTED_FROM_WEIGHTS = ("orthonormal start", "principal components")  # anew at loading, and rounded with the base
REFUSED = {
    "replicated layers": (lora(layer_replication=[[0, 3], [1, 4]]), "repeats layers of the model"),
    "biases of its own": (lora(lora_bias=True), "has biases of its own"),
    "after certain tokens": (lora(alora_invocation_tokens=[3]), "does more than add a product"),
    "a random start": (lora(init_lora_weights="pissa_niter_4"), "began with init_lora_weights 'pissa_niter_4'"),
    "IA3": (IA3Config(target_modules=[*PROJECTIONS], feedforward_modules=["down_proj"]), "type IA3"),
    "LoHa": (LoHaConfig(r=3, target_modules=[*PROJECTIONS]), "type LOHA"),
    "VeRA": (VeraConfig(r=3, target_modules=["q_proj", "o_proj"]), "type VERA"),
}


def base(dtype=torch.float32, tied=True):
    model = tiny_llama().to(dtype)
    if not tied:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return model


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


def trained(model, config, folder, dtype=None):
    """An adapter with weights as of a training, saved by PEFT itself; its file in another dtype if one is given."""
    adapted = get_peft_model(model, copy.deepcopy(config))
    draw = torch.Generator().manual_seed(1)
    for parameter in adapted.parameters():
        if parameter.requires_grad:  # in place: head and embeddings may share memory
            parameter.data += (0.1 * torch.randn(parameter.shape, generator=draw)).to(parameter.dtype)
    adapted.save_pretrained(folder)
    if dtype:
        tensors = load_file(folder / WEIGHTS)
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    return adapted.eval()


@pytest.mark.parametrize(("kind", "tied"), [
    *((kind, True) for kind in MERGED), *((kind, False) for kind in ON_EMBEDDINGS)])
def test_merged_and_unmerged_agree(kind, tied, tmp_path):
    adapted = trained(base(tied=tied), MERGED[kind], tmp_path)
    expected, before = logits(adapted), logits(base(tied=tied))
    assert (expected - before).abs().max() > 0.1
    loaded = load_adapter(base(tied=tied), tmp_path)
    torch.testing.assert_close(logits(loaded), expected)
    model = merged(loaded)
    assert not any(isinstance(module, LoraLayer) for module in model.modules())
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-4)
    one = model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.tie_word_embeddings == one == (tied and (kind not in ON_EMBEDDINGS or kind == "some tokens"))
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(logits(again), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "file"), [(torch.bfloat16, torch.float16), (torch.float16, torch.float32)])
@pytest.mark.parametrize("kind", [kind for kind in MERGED if kind not in COMPUTED_FROM_WEIGHTS])
def test_half_precision_merges_as_float32_does(kind, dtype, file, tmp_path):
    """To the last bit what the same weights give as float32, rounded once."""
    trained(base(), MERGED[kind], tmp_path, file)
    tensors = load_file(tmp_path / WEIGHTS)  # PEFT saves embeddings with their adapter, or leaves them to the model
    save_file({name: tensor for name, tensor in tensors.items() if "base_layer" not in name}, tmp_path / WEIGHTS)
    exact = base(dtype).float()  # the same numbers
    expected = merged(load_adapter(exact, tmp_path)).state_dict()
    model = merged(load_adapter(base(dtype), tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        assert torch.equal(weight, expected[name].to(dtype)), name


@pytest.mark.parametrize("file", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_is_the_formula(dtype, file, tmp_path):
    trained(base(), lora(), tmp_path, file)
    stored = load_file(tmp_path / WEIGHTS)
    before = base(dtype).state_dict()
    found = merged(load_adapter(base(dtype), tmp_path)).state_dict()
    for name, weight in before.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{prefix}.lora_A.weight" in stored:
            up, down = stored[f"{prefix}.lora_B.weight"].float(), stored[f"{prefix}.lora_A.weight"].float()
            weight = (weight.float() + up @ down * (5 / 3)).to(dtype)
        assert torch.equal(found[name], weight), name


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_weights_hold_is_refused(kind, tmp_path):
    config, says = REFUSED[kind]
    trained(base(), config, tmp_path)
    with pytest.raises(BadInput, match=says) as raised:
        merged(load_adapter(base(), tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["replicated layers", "biases of its own", "after certain tokens", "IA3"])
def test_such_models_in_memory_are_refused_as_well(kind, tmp_path):
    adapted = trained(base(), REFUSED[kind][0], tmp_path)
    assert isinstance(adapted, PeftModel)
    with pytest.raises(BadInput, match="adapter"):
        merged(adapted)


def test_weights_beyond_their_dtype_are_refused(tmp_path):
    trained(base(), lora(), tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    name = "base_model.model.model.layers.2.mlp.up_proj.lora_B.weight"
    save_file(tensors | {name: 1e6 * tensors[name]}, tmp_path / WEIGHTS, {"format": "pt"})
    assert logits(merged(load_adapter(base(), tmp_path))).isfinite().all()
    with pytest.raises(BadInput, match=r"makes model\.layers\.2\.mlp\.up_proj exceed what torch\.float16 holds"):
        merged(load_adapter(base(torch.float16), tmp_path))


def test_a_tied_base_keeps_its_embeddings(tmp_path):
    """An adapter of the head alone used to change the embeddings, which are the same tensor."""
    trained(base(), lora("lm_head"), tmp_path)
    model = merged(load_adapter(base(), tmp_path))
    assert torch.equal(model.model.embed_tokens.weight, base().model.embed_tokens.weight)
    assert not torch.equal(model.lm_head.weight, base().lm_head.weight)
