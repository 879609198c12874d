"""What a model of one's own costs to run, and its perplexity, as lines to read."""

from pathlib import Path

from rankadaptor.data.hub import checkpoint_folder
from rankadaptor.data.text import read_text, text_rows
from rankadaptor.errors import BadInput
from rankadaptor.evaluation.footprint import footprint
from rankadaptor.evaluation.perplexity import perplexity
from rankadaptor.evaluation.spec import Bos, PerplexitySpec
from rankadaptor.models.gate import check_checkpoint, check_llama
from rankadaptor.models.tokenizers import load_tokenizer
from rankadaptor.pruning.checkpoints import load_pruned


def measure_folder(model: Path | str, text: Path | str | None = None, max_windows: int | None = None) -> str:
    """Parameters, multiply-accumulates, memory and latency of a model, and the perplexity of a text, as lines.

    Args:
        model: Folder of a LLaMA, dense or pruned, or a pinned hub id.
        text: A file, or a folder whose .txt files are read in the order of their names. Every line is a row, as in the
            hub's WikiText, and rows are joined by blank lines. Perplexity is taken with every way of placing BOS.
        max_windows: Windows of 128 tokens at most; None for all of the text.

    Returns:
        Lines with units: parameters, multiply-accumulates, MiB, ms, tokens/s, perplexity.

    Raises:
        BadInput: on a folder that is no LLaMA, or too little text.
    """
    texts = _read_texts(Path(text)) if text else ()
    check_llama(checkpoint_folder(str(model), weights=False), pruned=True)
    folder = checkpoint_folder(str(model))
    check_checkpoint(folder, pruned=True)
    tokenizer = load_tokenizer(folder)
    loaded = load_pruned(folder)
    cost = footprint(loaded)
    lines = [
        f"{cost.parameters:,} parameters",
        f"{cost.macs:,} multiply-accumulates for {cost.tokens} tokens",
        f"{cost.weight_bytes / 2**20:,.1f} MiB of weights in {loaded.dtype}",
        *([f"{cost.peak_bytes / 2**20:,.1f} MiB at the peak of a forward pass"] if cost.peak_bytes else []),
        f"{1000 * cost.forward_seconds:,.1f} ms for {cost.tokens} tokens on {loaded.device}",
        f"{cost.decode_tokens_per_second:,.1f} tokens/s decoding",
    ]
    conventions: list[Bos] = ["none"] if tokenizer.bos_token_id is None else ["first", "every"]
    for bos in conventions if texts else ():
        spec = PerplexitySpec(bos=bos, max_windows=max_windows)
        score = perplexity(loaded, tokenizer, texts, spec)
        lines.append(f"{score['perplexity']:,.3f} perplexity ({score['windows']:,.0f} windows of {spec.window_tokens}"
                     f" tokens, BOS: {bos})")
    return "\n".join(lines)


def _read_texts(path: Path) -> tuple[str, ...]:
    files = sorted(path.glob("*.txt")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise BadInput(f"no text in {path}: name a file, or a folder with .txt files")
    return tuple(row for file in files for row in text_rows(read_text(file)))
