"""Rank allocations as PEFT configurations, and the ranks a model really has.

PEFT matches `rank_pattern` keys softly and ignores those that match nothing, so keys here are the escaped full names of
modules that exist, and the ranks of the built model are compared with those asked for.
"""

import contextlib
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.adalora import SVDLinear
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import PreTrainedModel

from rankadaptor.allocation import validate_allocation
from rankadaptor.architecture import PROJECTIONS, Architecture, module_name
from rankadaptor.errors import BadInput
from rankadaptor.keys import sha256_text
from rankadaptor.models.checkpoints import architecture_of
from rankadaptor.recovery.eva import check_eva, to_eva_config
from rankadaptor.recovery.spec import RecoverySpec, Scaling

# The constant scaling of LLM-Pruner's recipe: alpha 16 at rank 8.
CONSTANT_SCALE = 2
# AdaLoRA's schedule as shares of the optimizer steps: full rank first, then pruning, then fixed ranks.
ADALORA_INITIAL_SHARE, ADALORA_FINAL_SHARE = 0.15, 0.35


def to_lora_config(
    allocation: Sequence[int], architecture: Architecture, scaling: Scaling, alpha: int, dropout: float = 0.0
) -> LoraConfig:
    """The PEFT configuration of a rank allocation, for this model and no other.

    Args:
        allocation: One rank per layer of the unpruned model, shared by the layer's seven projections.
        architecture: Of the pruned model that the adapter is for.
        scaling: `fixed_alpha`: alpha / r, so a low rank takes larger steps; `constant`: 2 whatever the rank;
            `rslora`: alpha / sqrt(r).
        alpha: LoRA's alpha under `fixed_alpha` and `rslora`.

    Raises:
        BadInput: if the allocation does not fit the model.
    """
    ranks = validate_allocation(allocation, architecture)
    by_module = {
        module_name(position, projection): ranks[original]
        for position, original in enumerate(architecture.original_layers)
        for projection in PROJECTIONS
    }
    default = max(by_module.values())
    return LoraConfig(
        r=default,
        lora_alpha=CONSTANT_SCALE * default if scaling == "constant" else alpha,
        rank_pattern={re.escape(name): rank for name, rank in by_module.items()},
        alpha_pattern=(
            {re.escape(name): CONSTANT_SCALE * rank for name, rank in by_module.items()}
            if scaling == "constant"
            else {}
        ),
        use_rslora=scaling == "rslora",
        target_modules=list(PROJECTIONS),
        lora_dropout=dropout,
        bias="none",
        task_type="CAUSAL_LM",
    )


def to_adalora_config(target_rank: int, init_rank: int, alpha: int, steps: int, dropout: float) -> AdaLoraConfig:
    """AdaLoRA from `init_rank` to `target_rank` on average (Zhang et al. 2023), scheduled over `steps`."""
    initial = max(1, round(ADALORA_INITIAL_SHARE * steps))
    final = max(1, round(ADALORA_FINAL_SHARE * steps))
    if initial + final >= steps:
        raise BadInput(f"AdaLoRA needs more than {steps} optimizer steps to reallocate ranks: give at least 4")
    return AdaLoraConfig(
        init_r=init_rank,
        target_r=target_rank,
        tinit=initial,
        tfinal=final,
        deltaT=1,
        total_step=steps,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(PROJECTIONS),
        bias="none",
        task_type="CAUSAL_LM",
    )


def attach_adapter(model: PreTrainedModel, spec: RecoverySpec) -> PeftModel:
    """Add a fresh adapter; the base weights are frozen. Initialisation is a function of `spec.seed` alone.

    LoRA begins nested: under one seed, rank 4 of a module is the first four rows of its rank 8, whatever ranks the
    other layers have. So two allocations that share a seed differ by their ranks and not by their draws.

    Raises:
        BadInput: if the allocation does not fit the model.
    """
    architecture = architecture_of(model)
    allocation = validate_allocation(spec.allocation, architecture)
    dropout = spec.recipe.lora_dropout
    if spec.method != "lora":
        present = {allocation[layer] for layer in architecture.original_layers}
        if len(present) != 1:
            name = {"adalora": "AdaLoRA", "eva": "EVA"}[spec.method]
            raise BadInput(f"{name} starts from a uniform allocation, got ranks {sorted(present)}: give one rank")
    config: LoraConfig
    if spec.method == "adalora":
        assert spec.adalora_init_rank is not None
        config = to_adalora_config(present.pop(), spec.adalora_init_rank, spec.alpha, spec.recipe.steps, dropout)
    elif spec.method == "eva":
        rank = present.pop()
        check_eva(rank, min(min(shape.heads * architecture.head_dim, shape.mlp_width) for shape in architecture.layers))
        config = to_eva_config(rank, spec.alpha, dropout)
    else:
        config = to_lora_config(allocation, architecture, spec.scaling, spec.alpha, dropout)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(spec.seed)  # PEFT initialises from the global generator
        with _quiet_peft():
            adapted = get_peft_model(model, config)
    if spec.method == "lora":
        _assert_ranks(adapted, allocation)
        _initialise_nested(adapted, architecture, spec.seed)
    return adapted


def _initialise_nested(adapted: PeftModel, architecture: Architecture, seed: int) -> None:
    """A from PEFT's own distribution, uniform within 1 / sqrt(inputs), a generator a module, row by row; B is 0."""
    modules = dict(adapted.get_base_model().named_modules())
    for position, original in enumerate(architecture.original_layers):
        for projection in PROJECTIONS:
            weight = modules[module_name(position, projection)].lora_A["default"].weight  # (rank, in)
            draw = torch.Generator().manual_seed(int(sha256_text(f"{seed} {original} {projection}")[:15], 16))
            with torch.no_grad():
                weight.copy_((2 * torch.rand(weight.shape, generator=draw) - 1) / math.sqrt(weight.shape[1]))


def realised_ranks(adapted: PeftModel) -> dict[str, int]:
    """Rank of every adapted module, by its name in the base model. AdaLoRA: singular values that are not masked."""
    ranks = {}
    for name, module in adapted.get_base_model().named_modules():
        if isinstance(module, SVDLinear):
            ranks[name] = int((module.lora_E["default"] != 0).sum())
        elif isinstance(module, LoraLayer):
            ranks[name] = module.lora_A["default"].weight.shape[0]
    return ranks


def _assert_ranks(adapted: PeftModel, allocation: Sequence[int]) -> None:
    architecture = architecture_of(adapted.get_base_model())
    ranks = realised_ranks(adapted)
    for position, original in enumerate(architecture.original_layers):
        for projection in PROJECTIONS:
            name = module_name(position, projection)
            if ranks.pop(name, None) != allocation[original]:
                raise RuntimeError(f"{name} did not get rank {allocation[original]} of layer {original}")
    if ranks:
        raise RuntimeError(f"adapter on modules that no layer owns: {sorted(ranks)[:3]}")


def save_adapter(adapted: PeftModel, folder: Path) -> None:
    """Write an adapter as safetensors and its configuration, free of paths of this machine, and always alike."""
    with _quiet_peft():
        adapted.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = None  # PEFT puts in the folder that the model was loaded from
    config["target_modules"] = sorted(config["target_modules"])  # a set, whose order is another in every process
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def _quiet_peft() -> Iterator[None]:
    """Silence four warnings that PEFT sets off whatever its caller does.

    Ranks of 0 are AdaLoRA's own doing, not unsaved shards; its `rank_pattern` names parameters, not modules; PEFT asks
    transformers for an attribute by its old name; and it would have EVA begin on a device without memory.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*is_gradient_checkpointing.*")
        warnings.filterwarnings("ignore", message=r".*lora with eva initialization used with low_cpu_mem_usage.*")
        warnings.filterwarnings("ignore", message=r"(?s).*LoRA tensor\(s\) have invalid shape.*")
        warnings.filterwarnings("ignore", message=r"(?s).*rank_pattern keys did not match.*lora_E.*")
        yield


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """A trained adapter on its pruned model.

    Raises:
        BadInput: if the folder holds no safetensors adapter (PEFT would go on to load a pickle).
        BadInput: as well if the adapter is of another model: what was loaded is not, tensor by tensor, what the file
            holds.
    """
    path = folder / "adapter_model.safetensors"
    if not path.is_file() or not (folder / "adapter_config.json").is_file():
        raise BadInput(f"no adapter_model.safetensors and adapter_config.json in {folder}: name a folder written by a"
                       " recovery")
    try:
        with _quiet_peft():
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"the adapter in {folder} does not fit the model ({' '.join(str(error).split())[:100]}): name"
                       " the model that it was recovered on") from None
    stored = load_file(path)
    for name, parameter in adapted.named_parameters():
        # PEFT reads AdaLoRA's in the dtype of its base: what half precision rounded is put right.
        kept = stored.get(name.replace(".default", ""))
        if kept is not None and kept.shape == parameter.shape and torch.equal(
            kept.to(model.dtype), parameter.data.cpu().to(model.dtype)
        ):
            parameter.data = kept.to(parameter.device)
    present = get_peft_model_state_dict(adapted)
    if stored.keys() != present.keys() or any(
        not torch.equal(tensor, present[name].cpu()) for name, tensor in stored.items()
    ):
        raise BadInput(f"the adapter in {folder} does not fit the model, {len(stored)} tensors stored, {len(present)}"
                       " in the model: name the model that it was recovered on")
    return adapted.eval()


def merged(adapted: PeftModel) -> PreTrainedModel:
    """The base model with the adapter added to its weights."""
    return adapted.merge_and_unload()
