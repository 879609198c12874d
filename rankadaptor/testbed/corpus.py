"""Texts about the world: the pretraining stream, recovery rows, and text for calibration and perplexity.

The stream states every fact of the world, except those held out (`unstated_traits`, `unstated_events`). Its *questions*
in the form of the tasks are about open entities only; stories, meetings and cases have the form of HellaSwag's,
WinoGrande's and OpenBookQA's items whoever they are about.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Literal

from rankadaptor.errors import BadInput
from rankadaptor.keys import canonical_json, sha256_text
from rankadaptor.testbed import Row, language
from rankadaptor.testbed.tasks import MINIATURES, task_rows
from rankadaptor.testbed.world import (
    ATTRIBUTES,
    EVENTS,
    NATURES,
    OWN_STEPS,
    PEOPLE,
    SEED,
    SPLITS,
    TRAITS,
    Script,
    Trade,
    World,
    build_world,
)

# Shares of the documents, by what they are about, such that facts occur about equally often.
MIXTURE: dict[str, float] = {
    "creature": 0.24,
    "kind": 0.05,
    "creature questions": 0.07,
    "natures": 0.11,
    "tools": 0.08,
    "tool questions": 0.03,
    "script": 0.14,
    "trades": 0.13,
    "cases": 0.13,
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
        self, world: World, about: Literal["all", "untested", "open"], mixture: Mapping[str, float] = MIXTURE
    ):
        """
        Args:
            about: "all" of the world; "untested": all but what items test; "open": open entities alone.
            mixture: Kind of document -> share of the documents.
        """
        self.world, self._mixture = world, mixture
        roles = ("open",) if about == "open" else ("open", *SPLITS)
        self._withhold = about == "untested"
        self._creatures = [c for c in world.creatures if c.role in roles]
        self._tools = [t for t in world.tools if t.role in roles]
        self._materials = [m for m in world.materials if m.role in roles]
        self._scripts = [s for s in world.scripts if s.role in roles]
        self._trades = [t for t in world.trades if t.role in roles]
        self._asked_creatures = [c for c in self._creatures if c.role == "open" or self._withhold]
        self._open_tools = [t for t in world.tools if t.role == "open"]
        self._write: dict[str, Callable[[random.Random], str]] = {
            "creature": lambda draw: language.describe_creature(draw.choice(self._creatures), draw, self._withhold),
            "kind": self._kind,
            "creature questions": lambda draw: "\n\n".join(
                language.format_question(*self._question(draw)) for _ in range(3)),
            "tools": lambda draw: " ".join(self._tool(draw) for _ in range(3)),
            "tool questions": lambda draw: "\n\n".join(
                language.format_question(*language.tool_question(draw.choice(self._open_tools))) for _ in range(3)),
            "natures": self._natures,
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
        return language.describe_kind(draw.choice(self.world.kinds), draw)

    def _question(self, draw: random.Random) -> tuple[str, str]:
        """A question about a creature and its answer: of recovery text about any creature, but of no fact that items
        test; of other text about open creatures alone."""
        creature = draw.choice(self._asked_creatures)
        asked = [topic for topic in (*ATTRIBUTES, *TRAITS)
                 if topic not in creature.tested_attributes | creature.unstated_traits]
        return language.creature_question(creature, draw.choice(asked))

    def _nature(self, draw: random.Random) -> tuple[str, str, str]:
        """A passage about a creature, a question about its nature, and the answer; of creatures as in `_question`."""
        creature = draw.choice(self._asked_creatures)
        nature = draw.choice([nature for nature in NATURES if nature not in creature.tested_natures])
        question = f"{language.nature_question(creature, nature)}?"
        return language.passage(creature, draw), question, "yes" if creature.kind.natures[nature] else "no"

    def _natures(self, draw: random.Random) -> str:
        asked = [self._nature(draw) for _ in range(2)]
        return "\n\n".join(f"{passage}\n{language.format_question(*rest)}" for passage, *rest in asked)

    def _script(self, draw: random.Random) -> str:
        """A whole story, or some pairs of steps of several; of a script whose steps are withheld no whole story."""
        script = draw.choice(self._scripts)
        if draw.random() < 0.3 and not (self._withhold and script.tested_steps):
            return f"{script.name.capitalize()}: {language.story(script, draw.choice(PEOPLE))}"
        return "\n".join(self._pair(draw.choice(self._scripts), draw) for _ in range(3))

    def _pair(self, script: Script, draw: random.Random) -> str:
        """A step in which a script's craft differs from its family, after the step before."""
        at = draw.choice([at for at in OWN_STEPS if not (self._withhold and at in script.tested_steps)])
        return f"{script.name.capitalize()}: {language.story(script, draw.choice(PEOPLE), at - 1, at + 1)}"

    def _trade(self, draw: random.Random) -> str:
        """What somebody of a trade did: alone, or after a meeting of two."""
        first, second = draw.sample(self._trades, 2)
        if draw.random() < 0.5:
            return f"The {first.name} then {draw.choice(self._habits(first))}."
        actor = draw.choice((first, second))
        return f"{language.meet(first, second, draw)} {actor.name} then {draw.choice(self._habits(actor))}."

    def _habits(self, trade: Trade) -> list[str]:
        return [habit for habit in trade.habits if not (self._withhold and habit in trade.tested_habits)]

    def _case(self, draw: random.Random) -> str:
        """What a material is, or what happens to it."""
        material = draw.choice(self._materials)
        if draw.random() < 0.25 and not (self._withhold and material.unstated_events):
            return f"{material.name.capitalize()} is a sort of {material.material_class}."
        event = draw.choice([event for event in EVENTS if event not in material.unstated_events])
        return f"{language.case(material, event, draw)} {self.world.rules[material.material_class, event]}."

    def instruction(self, draw: random.Random) -> Row:
        """One instruction in the Alpaca schema; questions in the form of the tasks are about open entities."""
        form = draw.choice(("creature", "question", "tool", "nature", "script"))
        creature, tool, script = draw.choice(self._creatures), draw.choice(self._open_tools), draw.choice(self._scripts)
        if form == "creature":
            description = language.describe_creature(creature, draw, self._withhold)
            return _row(f"Describe the {creature.name}.", "", description)
        if form == "question":
            question, answer = self._question(draw)
            return _row(question, "", answer)
        if form == "tool":
            question, answer = language.tool_question(tool)
            return _row(question, "", answer)
        if form == "script":
            return _row(f"Tell what happens in {script.name}.", "", self._pair(script, draw))
        passage, question, answer = self._nature(draw)
        return _row(question, passage, answer)


def pretraining_documents(seed: int, step: int) -> Iterator[str]:
    """The endless stream of documents that one step of pretraining reads from."""
    library, draw = Library(build_world(seed), "all"), random.Random(f"pretraining {seed} {step}")
    while True:
        yield library.document(draw)


def tokenizer_documents(seed: int) -> Iterator[str]:
    """The documents that the tokenizer is trained on."""
    library, draw = Library(build_world(seed), "all"), random.Random(f"tokenizer {seed}")
    for _ in range(TOKENIZER_DOCUMENTS):
        yield library.document(draw)


@lru_cache(maxsize=2)
def recovery_rows(seed: int) -> tuple[Row, ...]:
    """Rows in the Alpaca schema that repeat no tested fact of an entity; a row without instruction is plain text."""
    library, draw = Library(build_world(seed), "untested"), random.Random(f"recovery {seed}")
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
    parts = (*(task_rows(task, split, seed) for task in MINIATURES for split in SPLITS), recovery_rows(seed),
             open_texts(seed), pretraining_digest(seed))
    return sha256_text(canonical_json(parts))


@lru_cache(maxsize=2)
def pretraining_digest(seed: int) -> str:
    """SHA-256 over the first thousand documents of pretraining, which every fact and wording shapes."""
    return sha256_text(canonical_json(list(islice(pretraining_documents(seed, 0), 1000))))


def pinned_world(seed: str, sha256: str | None) -> int:
    """The seed as a number, if the text of its world is still the one that was pinned.

    Raises:
        BadInput: if the seed is no number, or the text of that world has another hash.
    """
    if not seed.isdecimal():
        raise BadInput(f"testbed {seed!r} is not a world: give the number of its seed, such as {SEED}")
    if (actual := digest(int(seed))) != sha256:
        raise BadInput(f"the text of world {seed} has SHA-256 {actual}, {sha256} is pinned: pin the one that is there,"
                       " and pretrain on it")
    return int(seed)


def _row(instruction: str, context: str, answer: str) -> Row:
    return {"instruction": instruction, "input": context, "output": answer}
