"""What is read: the pretraining stream, recovery rows, and text for calibration and perplexity.

The stream tells every fact of the world as plain statements, except those held out (`untold`). It asks *questions* in
the form of the tasks about open entities only; stories, meetings and cases have the form of HellaSwag's, WinoGrande's
and OpenBookQA's items whoever they are about.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Literal

from rankadaptor.errors import BadInput
from rankadaptor.keys import canonical_json, sha256_text
from rankadaptor.testbed import language
from rankadaptor.testbed.tasks import TASK_NAMES, Row, task_rows
from rankadaptor.testbed.world import ATTRIBUTES, EVENTS, PEOPLE, SEED, SPLITS, TRAITS, Trade, World, build_world

# Shares of the documents, by what they are about. Chosen so that facts are met about equally often.
MIXTURE: dict[str, float] = {
    "creature": 0.28,
    "kind": 0.05,
    "creature questions": 0.09,
    "tools": 0.12,
    "tool questions": 0.03,
    "opinions": 0.135,
    "script": 0.11,
    "trades": 0.055,
    "cases": 0.11,
    "rules": 0.02,
}

RECOVERY_ROWS = 4000
PLAIN_SHARE = 0.9  # of the recovery rows: text without instruction; instructions alone did not recover much
TOKENIZER_DOCUMENTS = 20_000
OPEN_TEXTS = 400  # documents for calibration and perplexity together
_DOCUMENTS_OF_OPEN_TEXT = 8


class Library:
    """Documents about a world, drawn at random."""

    def __init__(
        self, world: World, about: Literal["all", "unasked", "open"], mixture: Mapping[str, float] = MIXTURE
    ):
        """
        Args:
            about: "all" of the world; "unasked": all but what items ask for; "open": open entities alone.
        """
        self.world, self._mixture = world, mixture
        roles = ("open",) if about == "open" else ("open", *SPLITS)
        self._withhold = about == "unasked"
        self._creatures = [c for c in world.creatures if c.role in roles]
        self._tools = [t for t in world.tools if t.role in roles]
        self._materials = [m for m in world.materials if m.role in roles]
        # A story is told to its end or not at all: cut short, it would teach that it ends there.
        self._scripts = [s for s in world.scripts if s.role in roles and not (self._withhold and s.role != "open")]
        self._trades = [t for t in world.trades if t.role in roles]
        self._open_creatures = [c for c in world.creatures if c.role == "open"]
        self._open_tools = [t for t in world.tools if t.role == "open"]
        self._write: dict[str, Callable[[random.Random], str]] = {
            "creature": lambda draw: language.describe_creature(draw.choice(self._creatures), draw, self._withhold),
            "kind": self._kind,
            "creature questions": lambda draw: "\n\n".join(
                language.ask(*self._open_question(draw)) for _ in range(3)),
            "tools": lambda draw: " ".join(self._tool(draw) for _ in range(3)),
            "tool questions": lambda draw: "\n\n".join(
                language.ask(*language.ask_of_tool(draw.choice(self._open_tools))) for _ in range(3)),
            "opinions": self._opinions,
            "script": self._script,
            "trades": lambda draw: " ".join(self._trade(draw) for _ in range(3)),
            "cases": lambda draw: " ".join(self._case(draw) for _ in range(3)),
            "rules": lambda draw: language.world_rules(world, draw, 4),
        }

    def document(self, draw: random.Random) -> str:
        """One document of the mixture."""
        return self._write[draw.choices(list(self._mixture), list(self._mixture.values()))[0]](draw)

    def _tool(self, draw: random.Random) -> str:
        tool = draw.choice(self._tools)
        return language.describe_tool(tool, draw, self._withhold and tool.role != "open")

    def _kind(self, draw: random.Random) -> str:
        kind = draw.choice(self.world.kinds)
        return language.describe_kind(kind.name, kind.attributes | kind.traits, draw)

    def _open_question(self, draw: random.Random) -> tuple[str, str]:
        return language.ask_of_creature(draw.choice(self._open_creatures), draw.choice([*ATTRIBUTES, *TRAITS]))

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
            return f"The {one.name} then {draw.choice(self._habits(one))}."
        actor = draw.choice((one, another))
        return f"{language.meet(one, another, draw)} {actor.name} then {draw.choice(self._habits(actor))}."

    def _habits(self, trade: Trade) -> list[str]:
        return [habit for habit in trade.habits if not (self._withhold and habit in trade.asked)]

    def _case(self, draw: random.Random) -> str:
        """What a material is, or what happens to it."""
        material = draw.choice(self._materials)
        if draw.random() < 0.25 and not (self._withhold and material.untold):
            return f"{material.name.capitalize()} is a sort of {material.material_class}."
        event = draw.choice([event for event in EVENTS if event not in material.untold])
        return f"{language.case(material, event, draw)} {self.world.rules[material.material_class, event]}."

    def instruction(self, draw: random.Random) -> Row:
        """One instruction in the Alpaca schema; questions in the form of the tasks are about open entities."""
        form = draw.choice(("creature", "question", "tool", "opinion", "script"))
        creature, tool, script = draw.choice(self._creatures), draw.choice(self._open_tools), draw.choice(self._scripts)
        if form == "creature":
            told = language.describe_creature(creature, draw, self._withhold)
            return _row(f"Describe the {creature.name}.", "", told)
        if form == "question":
            question, answer = self._open_question(draw)
            return _row(question, "", answer)
        if form == "tool":
            question, answer = language.ask_of_tool(tool)
            return _row(question, "", answer)
        if form == "script":
            return _row(f"Tell what happens in {script.name}.", "", language.story(script, draw.choice(PEOPLE)))
        passage, facts = language.opinions(draw, people=3)
        person, thing, liked = draw.choice(facts)
        return _row(f"{language.ask_of_opinion(person, thing)}?", passage, "yes" if liked else "no")


def pretraining_documents(seed: int, step: int) -> Iterator[str]:
    """The documents that one step of pretraining reads, as many as it wants."""
    library, draw = Library(build_world(seed), "all"), random.Random(f"pretraining {seed} {step}")
    while True:
        yield library.document(draw)


def tokenizer_documents(seed: int) -> Iterator[str]:
    """What the tokenizer is trained on."""
    library, draw = Library(build_world(seed), "all"), random.Random(f"tokenizer {seed}")
    for _ in range(TOKENIZER_DOCUMENTS):
        yield library.document(draw)


@lru_cache(maxsize=2)
def recovery_rows(seed: int) -> tuple[Row, ...]:
    """Rows in the Alpaca schema that repeat no asked fact of an entity; a row without instruction is plain text."""
    library, draw = Library(build_world(seed), "unasked"), random.Random(f"recovery {seed}")
    return tuple(
        _row("", "", library.document(draw)) if draw.random() < PLAIN_SHARE else library.instruction(draw)
        for _ in range(RECOVERY_ROWS)
    )


@lru_cache(maxsize=2)
def open_texts(seed: int) -> tuple[str, ...]:
    """Longer texts about open entities: several documents each."""
    library, draw = Library(build_world(seed), "open"), random.Random(f"open {seed}")
    return tuple("\n\n".join(library.document(draw) for _ in range(_DOCUMENTS_OF_OPEN_TEXT)) for _ in range(OPEN_TEXTS))


@lru_cache(maxsize=2)
def digest(seed: int) -> str:
    """SHA-256 over all that tasks, recovery and pruning read of a world, and over `pretraining_digest`."""
    parts = (*(task_rows(task, split, seed) for task in TASK_NAMES for split in SPLITS), recovery_rows(seed),
             open_texts(seed), pretraining_digest(seed))
    return sha256_text(canonical_json(parts))


@lru_cache(maxsize=2)
def pretraining_digest(seed: int) -> str:
    """SHA-256 over the first thousand documents of pretraining, which every fact and wording shapes."""
    return sha256_text(canonical_json(list(islice(pretraining_documents(seed, 0), 1000))))


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
