"""Calibration text as token ids that a model has embeddings for."""

from collections.abc import Sequence
from itertools import chain

import torch

from rankadaptor.data.text import calibration_windows
from rankadaptor.models.tokenizers import Tokenizer, check_ids
from rankadaptor.pruning.spec import PruneSpec


def tokenised_windows(texts: Sequence[str], tokenizer: Tokenizer, spec: PruneSpec, vocabulary: int) -> torch.Tensor:
    """The windows that a pruning is calibrated on, without special tokens, as LLM-Pruner samples them.

    Args:
        texts: To draw from.
        vocabulary: Number of the model's embeddings.

    Returns:
        int64.  # (samples, tokens)

    Raises:
        BadInput: on too few texts that are long enough, or on a token without an embedding.
    """
    windows = calibration_windows(
        texts,
        lambda text: tokenizer(text, add_special_tokens=False, verbose=False).input_ids,
        spec.calibration_samples,
        spec.calibration_tokens,
        spec.seed,
    )
    check_ids(chain.from_iterable(windows), tokenizer, vocabulary, "calibration text")
    return torch.tensor(windows)
