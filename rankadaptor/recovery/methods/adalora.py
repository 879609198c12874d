"""AdaLoRA: ranks that fall during training, from one rank everywhere to another one on average.

Source: PEFT's implementation of Zhang et al. 2023, arXiv 2303.10512.
"""

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel
from peft.tuners.adalora import SVDLinear

from rankadaptor.architecture import PROJECTIONS, Architecture
from rankadaptor.errors import BadInput
from rankadaptor.recovery.recipe import Recipe
from rankadaptor.recovery.spec import AdapterMethod, RecoverySpec, register

# The schedule as shares of the optimizer steps: full rank first, then pruning, then fixed ranks.
INITIAL_SHARE, FINAL_SHARE = 0.15, 0.35


class AdaLora(AdapterMethod):
    """W x + s P diag(E) Q x, whose least important entries of E are set to 0 (Zhang et al. 2023, Eqs. 3 and 6)."""

    name = "adalora"
    label = "AdaLoRA"

    def check_spec(self, spec: RecoverySpec) -> None:
        """The initial rank must be given."""
        if spec.adalora_init_rank is None:
            raise BadInput("adalora_init_rank goes with method adalora, and only with it")

    def numerics_version(self, recipe: Recipe) -> int:
        """The dropout of AdaLoRA's modules is PEFT's own, so with batches of one length nothing has changed."""
        return 2 if recipe.length_grouping == "batches" else super().numerics_version(recipe)

    def peft_config(self, spec: RecoverySpec, architecture: Architecture) -> LoraConfig:
        """From the initial rank to the allocation's rank on average, scheduled over the steps of the recipe.

        Raises:
            BadInput: if the allocation is not uniform, or there are too few steps.
        """
        target_rank, steps = self.uniform_rank(spec, architecture), spec.recipe.steps
        initial = max(1, round(INITIAL_SHARE * steps))
        final = max(1, round(FINAL_SHARE * steps))
        if initial + final >= steps:
            raise BadInput(f"AdaLoRA needs more than {steps} optimizer steps to reallocate ranks: give at least 4")
        return AdaLoraConfig(
            init_r=spec.adalora_init_rank,
            target_r=target_rank,
            tinit=initial,
            tfinal=final,
            deltaT=1,
            total_step=steps,
            lora_alpha=spec.alpha,
            lora_dropout=spec.recipe.lora_dropout,
            target_modules=list(PROJECTIONS),
            bias="none",
            task_type="CAUSAL_LM",
        )

    def penalty(self, adapted: PeftModel) -> torch.Tensor:
        """Orthogonality of the factors: weight x mean ||P P^T - I||_F (Zhang et al. 2023, Eq. 4).  # ()

        PEFT adds it inside `AdaLoraModel.forward` when labels are given; the training loop does not call that.
        """
        terms = []
        for module in adapted.modules():
            if isinstance(module, SVDLinear):
                for factor in (module.lora_A["default"], module.lora_B["default"].T):
                    gram = factor @ factor.T  # (rank, rank)
                    terms.append(torch.linalg.norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)))
        return adapted.peft_config["default"].orth_reg_weight * torch.stack(terms).mean()

    def after_step(self, adapted: PeftModel, step: int) -> None:
        """Reallocate ranks. Needs the step's gradients: importance is gradient x weight (Eq. 8)."""
        adapted.base_model.update_and_allocate(step)

    def module_rank(self, module: SVDLinear) -> int:
        """The number of singular values that are not set to 0."""
        return int((module.lora_E["default"] != 0).sum())

    def check_trained(self, ranks: dict[str, int], spec: RecoverySpec) -> None:
        """AdaLoRA that is called wrongly stays at its initial ranks without any error.

        Raises:
            RuntimeError: if all ranks are equal, or their mean is more than 5 % off the target.
        """
        target = max(spec.allocation)
        mean = sum(ranks.values()) / len(ranks)
        if len(set(ranks.values())) == 1 or abs(mean - target) > 0.05 * target:
            raise RuntimeError(f"AdaLoRA did not reallocate: ranks {sorted(set(ranks.values()))}, mean {mean:.2f},"
                               f" from {spec.adalora_init_rank} to {target}")


register(AdaLora())
