"""EVA: ranks and initial weights from the principal components of the inputs of each projection.

Source: PEFT's implementation of Paischer et al. 2024, arXiv 2410.07170. The total rank of LoRA with one rank is
distributed by explained variance, at most twice that rank a projection; alpha is adjusted so that every rank has LoRA's
scaling.
"""

from collections.abc import Sequence

import torch
from peft import EvaConfig, LoraConfig, PeftModel, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer

from rankadaptor.architecture import PROJECTIONS, Architecture
from rankadaptor.errors import BadInput
from rankadaptor.recovery.portable import pattern_key
from rankadaptor.recovery.prompts import IGNORED, Example, collate
from rankadaptor.recovery.spec import AdapterMethod, RecoverySpec, register

RHO = 2.0  # PEFT's default: no projection gets more than twice the mean rank


class Eva(AdapterMethod):
    """LoRA whose A holds the leading right singular vectors of a projection's inputs; B is 0."""

    name = "eva"
    label = "EVA"

    def peft_config(self, spec: RecoverySpec, architecture: Architecture) -> LoraConfig:
        """The allocation's rank everywhere; `prepare` distributes it.

        Raises:
            BadInput: if the allocation is not uniform, or a projection has fewer inputs than it may get ranks.
        """
        rank = self.uniform_rank(spec, architecture)
        narrowest = min(min(shape.heads * architecture.head_dim, shape.mlp_width) for shape in architecture.layers)
        if RHO * rank > narrowest:
            raise BadInput(f"EVA from rank {rank} may give a projection rank {RHO * rank:.0f}, but the narrowest reads"
                           f" {narrowest} numbers: lower the rank")
        return LoraConfig(
            r=rank,
            lora_alpha=spec.alpha,
            init_lora_weights="eva",
            eva_config=EvaConfig(rho=RHO),
            target_modules=list(PROJECTIONS),
            lora_dropout=spec.recipe.lora_dropout,
            bias="none",
            task_type="CAUSAL_LM",
        )

    def prepare(
        self, adapted: PeftModel, batches: Sequence[Sequence[Example]], spec: RecoverySpec, pad_token_id: int
    ) -> None:
        """Set ranks and A from the recovery's own batches.

        Raises:
            BadInput: if micro-batches have fewer supervised tokens than a projection may get ranks.
        """
        initialise_eva(adapted, batches, spec.recipe.micro_batch_rows, pad_token_id, spec.seed)


def initialise_eva(
    adapted: PeftModel,
    batches: Sequence[Sequence[Example]],
    rows: int,
    pad_token_id: int,
    seed: int,
) -> None:
    """Set ranks and down-projections, in place, from the inputs of supervised tokens.

    Args:
        rows: Of one forward pass; the output head is not needed for it.

    Raises:
        BadInput: if no pass has as many supervised tokens as a projection may get ranks: PEFT would wait for one
            without end.
    """
    needed = RHO * adapted.peft_config["default"].r
    pieces = [batch[start : start + rows] for batch in batches for start in range(0, len(batch), rows)]
    most = max(sum(label != IGNORED for example in piece for label in example.labels) for piece in pieces)
    if most < needed:
        raise BadInput(f"EVA needs {needed:.0f} supervised tokens in {rows} rows, and there are at most {most}: raise"
                       " micro_batch_rows, or lower the rank")
    names, device = ("input_ids", "attention_mask", "labels"), adapted.device
    inputs = [dict(zip(names, collate(piece, pad_token_id), strict=True)) for piece in pieces]

    def forward(model: PeftModel, batch: dict[str, torch.Tensor]) -> None:
        decoder = model.get_base_model().model
        decoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)

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
    config.rank_pattern = {pattern_key(name): module.r["default"] for name, module in layers.items()}
    config.alpha_pattern = {pattern_key(name): module.lora_alpha["default"] for name, module in layers.items()}


register(Eva())
