"""The plain counterpart of `training.train`: PEFT's own pass over padded batches, without kernels and packing."""

from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import get_linear_schedule_with_warmup

from rankadaptor.models.tokenizers import Tokenizer
from rankadaptor.recovery.prompts import batches, collate
from rankadaptor.recovery.spec import RecoverySpec
from rankadaptor.testbed import Row


def plain_losses(
    adapted: PeftModel, tokenizer: Tokenizer, rows: Sequence[Row], spec: RecoverySpec
) -> list[float]:
    """Losses by step, in nats, on the batches that `training.train` draws: logits of every token, padding masked."""
    recipe, adapted = spec.recipe, adapted.train()
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = get_linear_schedule_with_warmup(optimizer, recipe.warmup_steps, recipe.steps)
    losses = []
    for batch in batches(rows, tokenizer, recipe, spec.seed):
        ids, mask, labels = (tensor.to(adapted.device) for tensor in collate(batch, tokenizer.pad_token_id))
        loss = adapted(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
