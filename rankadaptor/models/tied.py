"""Whether embeddings and output head are one tensor: by what a checkpoint holds, not by its flag.

`tie_word_embeddings: true` stands in many fine-tuned checkpoints whose two tensors differ. transformers 5 keeps them
apart then, so that the flag alone would count one of them, and pruning would write one over the other.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel

from rankadaptor.models.weight_files import weight_files

_HEAD, _EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
_ROWS = 8192  # of both tensors that are in memory at a time


def tied_by_fact(folder: Path, flag: bool) -> bool:
    """Whether the embeddings and the output head of a checkpoint are one tensor, as transformers 5 loads them.

    Reads headers, and the two tensors only where both are there; they are compared up to the first difference.

    Args:
        folder: Of a checkpoint. Without readable weights, the flag is believed: whoever loads them names the fault.
        flag: `tie_word_embeddings` of its configuration.
    """
    if not flag:
        return False
    try:
        files = _files_by_tensor(folder)
        if _HEAD not in files or _EMBEDDINGS not in files:
            return True
        with safe_open(files[_HEAD], "pt") as first, safe_open(files[_EMBEDDINGS], "pt") as second:
            head, embeddings = first.get_slice(_HEAD), second.get_slice(_EMBEDDINGS)
            if head.get_shape() != embeddings.get_shape():
                return False
            return all(torch.equal(head[row : row + _ROWS].float(), embeddings[row : row + _ROWS].float())
                       for row in range(0, head.get_shape()[0], _ROWS))
    except (OSError, ValueError, SafetensorError):
        return flag


def _files_by_tensor(folder: Path) -> dict[str, Path]:
    """File of every tensor, by its name. Raises as `weight_files` does, and on a damaged header."""
    places: dict[str, Path] = {}
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    return places


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the embeddings and the output head of a model in memory are one tensor."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight
