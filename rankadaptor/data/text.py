"""Plain text for calibration (importance) and for perplexity: two disjoint halves of BoolQ's training passages.

The testbed has texts of its own, about the open part of its world. Neither half holds a passage that shares 13 words
in a row with a scored item. Where a folder of benchmarks holds `wikitext2/test.txt`, perplexity is of WikiText-2.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from rankadaptor.data.benchmarks import benchmark_rows
from rankadaptor.data.decontamination import decontaminated, scored_items
from rankadaptor.data.hub_schema import row_text
from rankadaptor.data.sources import Source, source_folder, source_version
from rankadaptor.errors import BadInput
from rankadaptor.files import sha256_file
from rankadaptor.testbed.corpus import open_texts, pinned_world


@lru_cache(maxsize=2)
def _passages(benchmarks: Source, version: object, pool: int, seed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Passages for calibration and those for perplexity, clear of every scored item."""
    if benchmarks.kind == "testbed":
        passages = list(open_texts(pinned_world(benchmarks.location, benchmarks.sha256)))
    else:
        passages = sorted({row["passage"] for row in benchmark_rows(benchmarks, "boolq", "train")})
    clean = [passages[i] for i in decontaminated(passages, map(row_text, scored_items(benchmarks, pool, seed)))]
    # The half is a property of the passage alone, so neither half depends on what else is in the set.
    halves: tuple[list[str], list[str]] = ([], [])
    for passage in clean:
        halves[hashlib.sha256(passage.encode()).digest()[0] % 2].append(passage)
    return tuple(halves[0]), tuple(halves[1])


def calibration_texts(benchmarks: Source, pool: int, seed: int) -> tuple[str, ...]:
    """Texts that importance is estimated on.

    Args:
        benchmarks: Source of the passages, and of the items that they keep clear of.
        pool: Size of the search pool a task.
        seed: Of the items' order.
    """
    return _passages(benchmarks, source_version(benchmarks), pool, seed)[0]


def perplexity_texts(benchmarks: Source, pool: int, seed: int) -> tuple[str, ...]:
    """Texts that perplexity is measured on, none of calibration's; of WikiText-2 its rows, as the hub has them.

    Args: as of `calibration_texts`.
    """
    if (path := _wikitext(benchmarks)) is not None:
        return text_rows(read_text(path))
    return _passages(benchmarks, source_version(benchmarks), pool, seed)[1]


def read_text(path: Path) -> str:
    """Text of a file. Raises BadInput if it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}): convert it") from None


def text_rows(text: str) -> tuple[str, ...]:
    """Lines as the hub's WikiText has them: each with its end, and an empty row for a blank line."""
    lines = text.split("\n")
    return tuple(f"{line}\n" if line.strip() else "" for line in (lines if lines[-1] else lines[:-1]))


def perplexity_identity(benchmarks: Source) -> str:
    """What stands for the texts of perplexity in a key, beside the items that they keep clear of."""
    path = _wikitext(benchmarks)
    return "second half" if path is None else f"wikitext2 {sha256_file(path)}"


def perplexity_label(benchmarks: Source) -> str:
    """Name of the texts of perplexity, for tables."""
    if _wikitext(benchmarks) is not None:
        return "WikiText-2 (test)"
    if benchmarks.kind == "testbed":
        return "texts about the open part of the testbed's world"
    return "BoolQ's training passages (the half that calibration does not draw from)"


def _wikitext(benchmarks: Source) -> Path | None:
    if benchmarks.kind != "dir":
        return None
    path = source_folder(benchmarks, lambda _: True) / "wikitext2" / "test.txt"
    return path if path.is_file() else None


def calibration_windows(
    texts: Sequence[str], tokenise: Callable[[str], list[int]], samples: int, tokens: int, seed: int
) -> list[list[int]]:
    """LLM-Pruner's sampler: draw a text not drawn before, reject it if short, take one random window of it.

    Args:
        texts: To draw from.
        tokenise: Text -> token ids, without special tokens.
        samples: How many windows (N).
        tokens: Length of each.

    Returns:
        `samples` lists of `tokens` ids.

    Raises:
        BadInput: if there are not enough texts of that length.

    Source: LLM-Pruner, `LLMPruner/datasets/example_samples.py`.
    """
    generator = random.Random(seed)
    windows: list[list[int]] = []
    for index in generator.sample(range(len(texts)), len(texts)):
        ids = tokenise(texts[index])
        if len(ids) >= tokens:
            start = generator.randint(0, len(ids) - tokens)
            windows.append(ids[start : start + tokens])
            if len(windows) == samples:
                return windows
    raise BadInput(f"calibration text holds {len(windows)} texts of at least {tokens} tokens, {samples} are needed:"
                   " give more text or fewer samples")
