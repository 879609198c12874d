"""Nothing that a model is calibrated or recovered on may share 13 words in a row with an item it is scored on.

Source: the 13-gram rule of Brown et al. 2020 (GPT-3), Appendix C. Texts shorter than 13 words have no 13-gram and stay.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from rankadaptor.data.benchmarks import pooled_rows, report_rows, tasks_in
from rankadaptor.data.sources import Source
from rankadaptor.testbed import Row

GRAM_WORDS = 13


def grams(text: str) -> Iterator[str]:
    """Every run of 13 words, lower case, punctuation dropped."""
    words = re.findall(r"\w+", text.lower())
    for start in range(len(words) - GRAM_WORDS + 1):
        yield " ".join(words[start : start + GRAM_WORDS])


def decontaminated(texts: Sequence[str], protected: Iterable[str]) -> list[int]:
    """Indices of the texts that share no 13-gram with any protected text."""
    texts_with: dict[str, list[int]] = {}
    for index, text in enumerate(texts):
        for gram in grams(text):
            texts_with.setdefault(gram, []).append(index)
    dirty = {index for text in protected for gram in grams(text) for index in texts_with.get(gram, ())}
    return [index for index in range(len(texts)) if index not in dirty]


def scored_items(source: Source, pool: int, seed: int) -> Iterator[Row]:
    """Every row that any search or any report may score.

    Args:
        source: Of the benchmarks.
        pool: Size of the search pool a task, all of which is protected.
        seed: Of the order that the pool is taken from.
    """
    for task in tasks_in(source):
        yield from pooled_rows(source, task, seed, pool)
        yield from report_rows(source, task)
