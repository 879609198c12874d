"""Perplexity of text in short windows, as both pruning papers report it.

LLM-Pruner: the documents joined by blank lines, tokenised once, one BOS at the very start, cut into windows of 128
tokens that do not overlap, the remainder dropped (`bos="first"`). Shortened LLaMA reports that and a second reading in
which every window begins with a BOS of its own, 1 + 128 tokens (`bos="every"`). Numbers of 128-token windows are far
above those of 2,048-token ones: compare within one convention only.
Source: LLM-Pruner `datasets/ppl_dataset.py`, `evaluator/ppl.py`; Shortened LLaMA `src/dataset.py`.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from rankadaptor.errors import BadInput
from rankadaptor.evaluation.spec import PerplexitySpec
from rankadaptor.models.kernels.products import quick_products
from rankadaptor.models.tokenizers import Tokenizer, check_ids, vocabulary_of, with_bos


def perplexity(
    model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str], spec: PerplexitySpec
) -> dict[str, float]:
    """exp of the mean next-token loss over all windows of some texts.

    Args:
        model: In evaluation mode.
        tokenizer: The model's.
        texts: Documents, or lines of one.
        spec: Length of the windows, BOS and batch size.

    Returns:
        `perplexity`; `windows`, how many; `tokens`, how many were predicted.

    Raises:
        BadInput: if the texts do not fill one window, the spec wants a BOS that the tokenizer lacks, or a token has no
            embedding in the model.
    """
    windows = text_windows(tokenizer, texts, spec)
    check_ids(windows.flatten().tolist(), tokenizer, vocabulary_of(model), "perplexity text")
    total = 0.0
    with torch.inference_mode(), quick_products(model):
        for batch in windows.split(spec.batch_windows):
            batch = batch.to(model.device)
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()  # (windows, tokens - 1, vocabulary)
            total += functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    predicted = windows[:, 1:].numel()
    return {
        "perplexity": float(torch.tensor(total / predicted, dtype=torch.float64).exp()),
        "windows": len(windows),
        "tokens": predicted,
    }


def text_windows(tokenizer: Tokenizer, texts: Sequence[str], spec: PerplexitySpec) -> torch.Tensor:
    """Token ids of all windows.  # (windows, tokens)

    Raises:
        BadInput: on too little text, or a BOS that is missing.
    """
    bos = tokenizer.bos_token_id
    if spec.bos != "none" and bos is None:
        raise BadInput(f"perplexity with bos {spec.bos!r} was asked for, the tokenizer has no BOS: use bos none")
    ids = tokenizer("\n\n".join(texts), add_special_tokens=False, verbose=False).input_ids
    if spec.bos == "first":
        ids = with_bos(ids, tokenizer)
    count = len(ids) // spec.window_tokens
    if spec.max_windows is not None:
        count = min(count, spec.max_windows)
    if not count:
        raise BadInput(f"perplexity text holds {len(ids)} tokens, a window has {spec.window_tokens}: give more text")
    windows = torch.tensor(ids[: count * spec.window_tokens]).view(count, spec.window_tokens)
    if spec.bos == "every":
        windows = torch.cat([torch.full((count, 1), bos), windows], dim=1)
    return windows
