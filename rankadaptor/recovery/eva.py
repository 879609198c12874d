"""EVA: ranks and initial weights from the principal components of what each projection reads.

PEFT's own implementation (Paischer et al. 2024, arXiv 2410.07170): the total rank of LoRA with one rank is shared out
by explained variance, at most twice that rank a projection; scaling is adjusted so that all ranks keep LoRA's.
"""

import re
from collections.abc import Sequence

import torch
from peft import EvaConfig, LoraConfig, PeftModel, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer

from rankadaptor.architecture import PROJECTIONS
from rankadaptor.errors import BadInput
from rankadaptor.recovery.prompts import IGNORED, Example, collate

RHO = 2.0  # PEFT's default: no projection gets more than twice the mean rank


def to_eva_config(rank: int, alpha: int, dropout: float) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        init_lora_weights="eva",
        eva_config=EvaConfig(rho=RHO),
        target_modules=list(PROJECTIONS),
        lora_dropout=dropout,
        bias="none",
        task_type="CAUSAL_LM",
    )


def check_eva(rank: int, narrowest: int) -> None:
    """Raises BadInput if a projection reads fewer numbers than the ranks that EVA may give it."""
    if RHO * rank > narrowest:
        raise BadInput(f"EVA from rank {rank} may give a projection rank {RHO * rank:.0f}, but the narrowest reads"
                       f" {narrowest} numbers: lower the rank")


def initialise_eva(
    adapted: PeftModel,
    batches: Sequence[Sequence[Example]],
    rows: int,
    pad_token_id: int,
    seed: int,
) -> None:
    """Set ranks and down-projections, in place, from the recovery's own batches: supervised tokens only.

    Args:
        rows: Of one forward pass; the output head is not needed for it.

    Raises:
        BadInput: if no pass has as many supervised tokens as a projection may get ranks: PEFT would wait for one.
    """
    needed = RHO * adapted.peft_config["default"].r
    cut = [batch[start : start + rows] for batch in batches for start in range(0, len(batch), rows)]
    most = max(sum(label != IGNORED for example in few for label in example.labels) for few in cut)
    if most < needed:
        raise BadInput(f"EVA needs {needed:.0f} supervised tokens in {rows} rows, and there are at most {most}: raise"
                       " micro_batch_rows, or lower the rank")
    names, device = ("input_ids", "attention_mask", "labels"), adapted.device
    inputs = [dict(zip(names, collate(few, pad_token_id), strict=True)) for few in cut]

    def forward(model: PeftModel, given: dict[str, torch.Tensor]) -> None:
        decoder = model.get_base_model().model
        decoder(input_ids=given["input_ids"], attention_mask=given["attention_mask"], use_cache=False)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # the incremental decomposition draws from the global generator
        initialize_lora_eva_weights(adapted, inputs, forward_fn=forward, show_progress_bar=False)
    _name_modules(adapted)


def _name_modules(adapted: PeftModel) -> None:
    """Write every module's full name, rank and alpha into the configuration.

    PEFT shortens the names to endings, which may match a projection that EVA gave rank 0 once the adapter is loaded.
    """
    config = adapted.peft_config["default"]
    modules = adapted.get_base_model().named_modules()
    layers = {name: module for name, module in modules if isinstance(module, LoraLayer)}
    config.target_modules = set(layers)
    config.rank_pattern = {re.escape(name): module.r["default"] for name, module in layers.items()}
    config.alpha_pattern = {re.escape(name): module.lora_alpha["default"] for name, module in layers.items()}
