"""EVA: ranks and initial weights from the principal components of what each projection reads.

PEFT's own implementation (Paischer et al. 2024, arXiv 2410.07170): the total rank of LoRA with one rank is shared out
by explained variance, at most twice that rank a projection; scaling is adjusted so that all ranks keep LoRA's.
"""

from collections.abc import Sequence

import torch
from peft import EvaConfig, LoraConfig, PeftModel, initialize_lora_eva_weights

from rankadaptor.architecture import PROJECTIONS
from rankadaptor.recovery.prompts import Example, collate

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


def initialise_eva(adapted: PeftModel, batches: Sequence[Sequence[Example]], pad_token_id: int, seed: int) -> None:
    """Set ranks and down-projections, in place, from the recovery's own batches: supervised tokens only."""
    device = adapted.device
    names = ("input_ids", "attention_mask", "labels")
    inputs = [
        dict(zip(names, (tensor.to(device) for tensor in collate(batch, pad_token_id)), strict=True))
        for batch in batches
    ]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)  # the incremental decomposition draws from the global generator
        initialize_lora_eva_weights(adapted, inputs, show_progress_bar=False)
