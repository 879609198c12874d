"""What is read: the pretraining stream, and the open part of the world for calibration, perplexity and recovery.

The stream tells every fact of the world as plain statements, except those held out (`untold`), and asks questions in
the form of the tasks about open entities only.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice

from rankadaptor.errors import BadInput
from rankadaptor.specs import TASKS
from rankadaptor.testbed import language
from rankadaptor.testbed.tasks import Row, task_rows
from rankadaptor.testbed.world import ATTRIBUTES, EVENTS, PEOPLE, SEED, SPLITS, TRAITS, World, build_world

# Shares of the documents, by what they are about. Chosen so that facts are met about equally often.
MIXTURE: dict[str, float] = {
    "creature": 0.26,
    "kind": 0.055,
    "creature questions": 0.065,
    "tools": 0.06,
    "tool questions": 0.02,
    "opinions": 0.14,
    "script": 0.13,
    "trades": 0.13,
    "cases": 0.12,
    "rules": 0.02,
}

RECOVERY_ROWS = 4000
PLAIN_SHARE = 0.6  # of the recovery rows: text without instruction; instructions alone did not recover much
TOKENIZER_DOCUMENTS = 20_000
OPEN_TEXTS = 400  # documents for calibration and perplexity together
_DOCUMENTS_OF_OPEN_TEXT = 8


class Library:
    """Documents about a world, drawn at random."""

    def __init__(self, world: World, open_only: bool):
        """
        Args:
            open_only: Write about open entities alone.
        """
        self.world = world
        roles = ("open",) if open_only else ("open", *SPLITS)
        self._creatures = [c for c in world.creatures if c.role in roles]
        self._tools = [t for t in world.tools if t.role in roles]
        self._materials = [m for m in world.materials if m.role in roles]
        self._scripts = [s for s in world.scripts if s.role in roles]
        self._trades = [t for t in world.trades if t.role in roles]
        self._open_creatures = [c for c in world.creatures if c.role == "open"]
        self._open_tools = [t for t in world.tools if t.role == "open"]
        self._write: dict[str, Callable[[random.Random], str]] = {
            "creature": lambda draw: language.describe_creature(draw.choice(self._creatures), draw),
            "kind": self._kind,
            "creature questions": lambda draw: "\n\n".join(self._creature_question(draw) for _ in range(3)),
            "tools": lambda draw: " ".join(language.describe_tool(draw.choice(self._tools), draw) for _ in range(3)),
            "tool questions": lambda draw: "\n\n".join(
                language.ask(*language.ask_of_tool(draw.choice(self._open_tools))) for _ in range(3)),
            "opinions": self._opinions,
            "script": self._script,
            "trades": lambda draw: " ".join(self._trade(draw) for _ in range(3)),
            "cases": lambda draw: " ".join(self.case(draw) for _ in range(3)),
            "rules": lambda draw: language.world_rules(world, draw, 4),
        }

    def document(self, draw: random.Random) -> str:
        """One document of the mixture."""
        return self._write[draw.choices(list(MIXTURE), list(MIXTURE.values()))[0]](draw)

    def write(self, subject: str, draw: random.Random) -> str:
        """One document about a subject, a name in MIXTURE."""
        return self._write[subject](draw)

    def _kind(self, draw: random.Random) -> str:
        kind = draw.choice(self.world.kinds)
        return language.describe_kind(kind.name, kind.traits, draw)

    def _creature_question(self, draw: random.Random) -> str:
        creature = draw.choice(self._open_creatures)
        return language.ask(*language.ask_of_creature(creature, draw.choice([*ATTRIBUTES, *TRAITS])))

    def _opinions(self, draw: random.Random) -> str:
        passage, facts = language.opinions(draw, people=draw.choice((1, 2, 3)))
        lines = [passage]
        for _ in range(3):
            person, thing, liked = draw.choice(facts)
            lines.append(language.ask(f"{language.ask_of_opinion(person, thing)}?", "yes" if liked else "no"))
        return "\n".join(lines)

    def _script(self, draw: random.Random) -> str:
        script = draw.choice(self._scripts)
        return f"{script.name.capitalize()}: {language.story(script, draw.choice(PEOPLE))}"

    def _trade(self, draw: random.Random) -> str:
        """What somebody of a trade did: alone, or after a meeting of two."""
        one, another = draw.sample(self._trades, 2)
        if draw.random() < 0.5:
            return f"The {one.name} then {draw.choice(one.habits)}."
        actor = draw.choice((one, another))
        return f"{language.meet(one, another, draw)} {actor.name} then {draw.choice(actor.habits)}."

    def case(self, draw: random.Random) -> str:
        """What a material is, or what happens to it."""
        material = draw.choice(self._materials)
        if draw.random() < 0.25:
            return f"{material.name.capitalize()} is a sort of {material.material_class}."
        event = draw.choice([event for event in EVENTS if event not in material.untold])
        return f"{language.case(material, event, draw)} {self.world.rules[material.material_class, event]}."

    def instruction(self, draw: random.Random) -> Row:
        """One instruction about open entities, in the Alpaca schema."""
        form = draw.choice(("creature", "question", "tool", "opinion", "script"))
        creature, tool, script = draw.choice(self._creatures), draw.choice(self._tools), draw.choice(self._scripts)
        if form == "creature":
            return _row(f"Describe the {creature.name}.", "", language.describe_creature(creature, draw))
        if form == "question":
            return _row(*_between(language.ask_of_creature(creature, draw.choice([*ATTRIBUTES, *TRAITS]))))
        if form == "tool":
            return _row(*_between(language.ask_of_tool(tool)))
        if form == "script":
            return _row(f"Tell what happens in {script.name}.", "", language.story(script, draw.choice(PEOPLE)))
        passage, facts = language.opinions(draw, people=3)
        person, thing, liked = draw.choice(facts)
        return _row(f"{language.ask_of_opinion(person, thing)}?", passage, "yes" if liked else "no")


def pretraining_documents(seed: int, step: int) -> Iterator[str]:
    """The documents that one step of pretraining reads, as many as it wants."""
    library, draw = Library(build_world(seed), open_only=False), random.Random(f"pretraining {seed} {step}")
    while True:
        yield library.document(draw)


def tokenizer_documents(seed: int) -> Iterator[str]:
    """What the tokenizer is trained on."""
    library, draw = Library(build_world(seed), open_only=False), random.Random(f"tokenizer {seed}")
    for _ in range(TOKENIZER_DOCUMENTS):
        yield library.document(draw)


@lru_cache(maxsize=2)
def recovery_rows(seed: int) -> tuple[Row, ...]:
    """Rows in the Alpaca schema about open entities; a row without instruction is plain text."""
    library, draw = Library(build_world(seed), open_only=True), random.Random(f"recovery {seed}")
    return tuple(
        _row("", "", library.document(draw)) if draw.random() < PLAIN_SHARE else library.instruction(draw)
        for _ in range(RECOVERY_ROWS)
    )


@lru_cache(maxsize=2)
def open_texts(seed: int) -> tuple[str, ...]:
    """Longer texts about open entities: several documents each."""
    library, draw = Library(build_world(seed), open_only=True), random.Random(f"open {seed}")
    return tuple("\n\n".join(library.document(draw) for _ in range(_DOCUMENTS_OF_OPEN_TEXT)) for _ in range(OPEN_TEXTS))


@lru_cache(maxsize=2)
def digest(seed: int) -> str:
    """SHA-256 over all that tasks, recovery and pruning read of a world, and the start of its pretraining stream."""
    total = hashlib.sha256()
    for part in (*(task_rows(task, split, seed) for task in TASKS for split in SPLITS), recovery_rows(seed),
                 open_texts(seed)):
        total.update(json.dumps(part, sort_keys=True).encode())
    for document in islice(pretraining_documents(seed, 0), 1000):
        total.update(document.encode())
    return total.hexdigest()


def pinned_world(seed: str, sha256: str | None) -> int:
    """The seed of a world whose text is still the one that was pinned.

    Raises:
        BadInput: if the seed is no number, or the text of that world is another.
    """
    if not seed.isdecimal():
        raise BadInput(f"testbed {seed!r} is not a world: give the number of its seed, such as {SEED}")
    if (found := digest(int(seed))) != sha256:
        raise BadInput(f"the text of world {seed} has SHA-256 {found}, {sha256} is pinned: pin the one that is there,"
                       " and pretrain on it")
    return int(seed)


def _row(instruction: str, context: str, answer: str) -> Row:
    return {"instruction": instruction, "input": context, "output": answer}


def _between(question_and_answer: tuple[str, str]) -> tuple[str, str, str]:
    question, answer = question_and_answer
    return question, "", answer
