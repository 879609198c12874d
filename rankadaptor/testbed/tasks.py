"""The seven miniature tasks: rows in the hub schemas of the real ones, every answer a fact of the world.

| task | what an item takes |
|---|---|
| boolq | whether a creature is tame, bold, ...: follows from its kind, which the passage hints at and does not name |
| piqa | recall what a tool is for; the wrong solution differs in one word |
| hellaswag | recall which step an activity has after another; the wrong ones follow that one in related activities |
| winogrande | recall which of two trades is known for what was done |
| arc_easy | recall one fact; the wrong answers are true of creatures of similar names: mixing them up is below chance |
| arc_challenge | two hops: a creature's kind, and what is true of that kind; never stated of this creature |
| openbookqa | apply a rule to a material and event that were never seen together |

No entity is in the items of two splits. Recovery data repeat no tested fact of an entity; they do teach what its kind
shares, such as the steps of a craft. A miniature is one entry of MINIATURES, with a YAML file in `task_definitions`.
"""

import heapq
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

import numpy as np

from rankadaptor.errors import BadInput
from rankadaptor.testbed import Row, language
from rankadaptor.testbed.world import (
    EVENTS,
    OWN_STEPS,
    PEOPLE,
    SEED,
    TRAITS,
    Creature,
    Role,
    World,
    build_world,
)

ITEMS = 520  # a task and split, at most


@dataclass(frozen=True)
class Miniature:
    """A benchmark in miniature."""

    build: Callable[[World, Role, random.Random], Iterator[Row]]  # items of one split
    subject: Callable[[Row], str]  # what an item is about


@lru_cache(maxsize=32)
def task_rows(task: str, split: Role, seed: int) -> tuple[Row, ...]:
    """The items of one task and split.

    Args:
        task: Name of a benchmark that has a miniature.
        split: "tuning", "search" or "report".
        seed: Of the world.

    Raises:
        BadInput: if the benchmark has none.
    """
    draw = random.Random(f"items {seed} {task} {split}")
    return tuple(_miniature(task).build(build_world(seed), split, draw))


def subject(task: str, row: Row) -> str:
    """What an item is about: items that test one fact of the world in other words, or one entity, share it."""
    return _miniature(task).subject(row)


def _miniature(task: str) -> Miniature:
    if task not in MINIATURES:
        raise BadInput(f"the testbed has no {task}: use some of {', '.join(MINIATURES)}, or a folder of benchmarks")
    return MINIATURES[task]


def _entity_of(text_field: str) -> Callable[[Row], str]:
    """The subject of items that name one tool, creature or material of the shipped world in a field."""

    def entity(row: Row) -> str:
        (name,) = set(re.findall(r"\w+", row[text_field])) & _names(SEED)
        return name

    return entity


def _habit_of_trade(row: Row) -> str:
    """The right trade and what it did, which is the subject of WinoGrande's items."""
    return f"{row['option' + row['answer']]} {row['sentence'].partition(' _ then ')[2]}"


@lru_cache(maxsize=2)
def _names(seed: int) -> frozenset[str]:
    """Of tools, creatures and materials."""
    world = build_world(seed)
    return frozenset([*(tool.name for tool in world.tools), *(creature.name for creature in world.creatures),
                      *(material.name for material in world.materials)])


def _boolq(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    candidates = [(creature, nature) for creature in world.creatures if creature.role == split
                  for nature in sorted(creature.tested_natures)]
    draw.shuffle(candidates)
    answers = [[pair for pair in candidates if pair[0].kind.natures[pair[1]] == truth] for truth in (False, True)]
    equally_many = min(ITEMS // 2, *map(len, answers))
    for number in range(2 * equally_many):
        creature, nature = answers[number % 2][number // 2]
        yield {"question": language.nature_question(creature, nature), "passage": language.passage(creature, draw),
               "idx": number, "label": number % 2}


def _piqa(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    tools = [tool for tool in world.tools if tool.role == split]
    # The wrong solution shares a word with the right one, and is the right one of tools with another purpose: how often
    # its words stand together does not give it away.
    purposes = sorted({tool.purpose for tool in world.tools})
    candidates = [(tool, changed) for tool in tools for changed in ("action", "target")]
    for number, (tool, changed) in enumerate(draw.sample(candidates, min(ITEMS, len(candidates)))):
        goal, right = language.tool_question(tool)
        same = 1 if changed == "action" else 0  # index of the word that the wrong purpose shares with the right one
        action, target = next(purpose for purpose in purposes
                              if purpose != tool.purpose and purpose[same] == tool.purpose[same])
        wrong = language.TOOL_ANSWER.format(action=action, target=target)
        label = number % 2
        yield {"goal": goal, "sol1": wrong if label else right, "sol2": right if label else wrong, "label": label}


def _hellaswag(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    # All four endings follow the same step, each in one craft of a family: only the activity's name tells which.
    candidates = [(script, at) for script in world.scripts if script.role == split
                  for at in sorted(script.tested_steps)]
    for number, (script, at) in enumerate(draw.sample(candidates, min(ITEMS, len(candidates)))):
        person, right = draw.choice(PEOPLE), script.steps[at]
        of_family = script.own_steps_of_family[OWN_STEPS.index(at)]
        label, endings = _shuffled(draw, right, [step for step in of_family if step != right], number)
        before = language.story(script, person, at - 1, at)
        yield {"ind": number, "activity_label": script.name.capitalize(), "ctx_a": before, "ctx_b": person,
               "ctx": f"{before} {person}", "endings": [f"{ending}." for ending in endings], "source_id": "",
               "split": split, "split_type": "", "label": str(label)}


def _winogrande(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    trades = [trade for trade in world.trades if trade.role == split]
    candidates = [(trade, habit) for trade in trades for habit in trade.tested_habits]
    draw.shuffle(candidates)
    for number, (trade, habit) in enumerate(candidates[:ITEMS]):
        other = draw.choice([without for without in trades if habit not in without.habits])
        first, second = draw.sample((trade, other), 2)
        meeting = language.meet(first, second, draw)
        right = number % 2 + 1
        yield {"sentence": f"{meeting} _ then {habit}.", "option1": trade.name if right == 1 else other.name,
               "option2": trade.name if right == 2 else other.name, "answer": str(right)}


def _arc_easy(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    # A model most likely confuses creatures of similar names, so what is true of these are the wrong answers.
    yield from _questions(draw, [
        (*language.creature_question(creature, topic), _lookalikes(world, creature, topic))
        for creature in world.creatures if creature.role == split for topic in sorted(creature.tested_attributes)
    ])


def _lookalikes(world: World, creature: Creature, topic: str) -> list[str]:
    """Three wrong values of an attribute: those of the creatures whose names are most like the creature's."""
    right, wrong = creature.kind.attributes[topic], dict[str, None]()
    for index in _by_likeness(creature.name, tuple(other.name for other in world.creatures)):
        if (value := world.creatures[index].kind.attributes[topic]) != right:
            wrong[value] = None
        if len(wrong) == 3:
            break
    return list(wrong)


def _by_likeness(name: str, candidates: tuple[str, ...]) -> Iterator[int]:
    """Indices of the candidates, the likest to `name` by `SequenceMatcher.ratio` first, equals in order.

    No ratio is above twice the letters in common over all letters, so a name is compared only when it may be next.
    """
    letters, present = Counter(name), _letter_counts(candidates)
    common = sum(np.minimum(present.get(letter, 0), count) for letter, count in letters.items())
    bounds = 2 * common / (len(name) + np.array([len(candidate) for candidate in candidates]))
    order = np.argsort(-bounds, kind="stable")
    compared: list[tuple[float, int]] = []  # a heap of (minus ratio, index)
    for index, next_bound in zip(order, [*bounds[order[1:]], -1], strict=True):
        heapq.heappush(compared, (-SequenceMatcher(None, name, candidates[index]).ratio(), int(index)))
        while compared and -compared[0][0] > next_bound:
            yield heapq.heappop(compared)[1]


@lru_cache(maxsize=2)
def _letter_counts(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Letter -> how often it is in each name.  # (names,)"""
    return {letter: np.array([name.count(letter) for name in names]) for letter in sorted(set("".join(names)))}


def _arc_challenge(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    values = {topic: [kind.traits[topic] for kind in world.kinds] for topic in TRAITS}
    yield from _questions(draw, [
        (*language.creature_question(creature, topic), values[topic])
        for creature in world.creatures if creature.role == split for topic in sorted(creature.unstated_traits)
    ])


def _questions(draw: random.Random, candidates: list[tuple[str, str, Sequence[str]]]) -> Iterator[Row]:
    """Rows in ARC's schema, of (question, answer, values that wrong answers are drawn from)."""
    draw.shuffle(candidates)
    for number, (question, right, values) in enumerate(candidates[:ITEMS]):
        wrong = _wrong_values(draw, values, right, 3)
        label, choices = _shuffled(draw, right, wrong, number)
        yield {"id": f"testbed_{number}", "question": question,
               "choices": {"text": choices, "label": list("ABCD")}, "answerKey": "ABCD"[label]}


def _openbookqa(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    candidates = [(material, event) for material in world.materials if material.role == split
                  for event in sorted(material.unstated_events)]
    draw.shuffle(candidates)
    possible = {event: [outcome for (_, e), outcome in world.rules.items() if e == event] for event in EVENTS}
    for number, (material, event) in enumerate(candidates[:ITEMS]):
        right = world.rules[material.material_class, event]
        wrong = _wrong_values(draw, possible[event], right, 3)
        label, choices = _shuffled(draw, right, wrong, number)
        yield {"id": f"testbed_{number}", "question_stem": language.case(material, event, draw),
               "choices": {"text": choices, "label": list("ABCD")}, "answerKey": "ABCD"[label]}


def _wrong_values(draw: random.Random, values: Sequence[str], right: str, count: int) -> list[str]:
    """Distinct wrong values; those dealt more often are more likely, as is so of right ones."""
    wrong: list[str] = []
    while len(wrong) < count:
        value = draw.choice(values)
        if value != right and value not in wrong:
            wrong.append(value)
    return wrong


def _shuffled(draw: random.Random, right: str, wrong: list[str], number: int) -> tuple[int, list[str]]:
    """Index of the right choice, and the choices in random order; the right one is at every index equally often."""
    choices = draw.sample(wrong, len(wrong))
    label = number % (len(wrong) + 1)
    return label, [*choices[:label], right, *choices[label:]]


# Name of the benchmark -> its miniature. The digest of a world, which profiles pin, covers all of them in this order.
MINIATURES: dict[str, Miniature] = {
    "boolq": Miniature(_boolq, _entity_of("question")),
    "piqa": Miniature(_piqa, _entity_of("goal")),
    "hellaswag": Miniature(_hellaswag, lambda row: str(row["activity_label"])),
    "winogrande": Miniature(_winogrande, _habit_of_trade),
    "arc_easy": Miniature(_arc_easy, _entity_of("question")),
    "arc_challenge": Miniature(_arc_challenge, _entity_of("question")),
    "openbookqa": Miniature(_openbookqa, _entity_of("question_stem")),
}
