"""The seven miniature tasks: rows in the hub schemas of the real ones, every answer a fact of the world.

| task | what it takes |
|---|---|
| boolq | weigh opinions in a passage; who holds which one matters least, see README |
| piqa | recall what a tool is for; the wrong solution differs in one word |
| hellaswag | recall which step follows two others; the wrong ones follow in other scripts |
| winogrande | recall which of two trades is known for what was done |
| arc_easy | recall one fact; the wrong answers are true of creatures of similar names: mixing them up is below chance |
| arc_challenge | two hops: a creature's kind, and what is true of that kind; never stated of this creature |
| openbookqa | apply a rule to a material and event that were never seen together |

No entity is asked about in two splits. Recovery data repeat no asked fact of a tested entity; they do teach what its
kind shares, such as the steps of a craft.
"""

import heapq
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from rankadaptor.testbed import language
from rankadaptor.testbed.world import (
    EVENTS,
    FIRST_STEP_ASKED,
    PEOPLE,
    SEED,
    STEPS_OF_SCRIPT,
    TRAITS,
    Creature,
    Role,
    World,
    build_world,
)

Row = dict[str, Any]

ITEMS = 300  # a task and split, at most


@lru_cache(maxsize=32)
def task_rows(task: str, split: Role, seed: int) -> tuple[Row, ...]:
    """The items of one task and split.

    Args:
        task: One of `specs.TASKS`.
        split: "tuning", "search" or "report".
        seed: Of the world.
    """
    draw = random.Random(f"items {seed} {task} {split}")
    return tuple(_BUILD[task](build_world(seed), split, draw))


def subject(task: str, row: Row) -> str:
    """What an item is about: items that ask for one fact of the world in other words, or about one entity, share it."""
    if task == "boolq":
        return str(row["idx"])
    if task == "hellaswag":
        return str(row["activity_label"])
    if task == "winogrande":
        return f"{row['option' + row['answer']]} {row['sentence'].partition(' _ then ')[2]}"
    text = row[{"piqa": "goal", "openbookqa": "question_stem"}.get(task, "question")]
    (name,) = set(re.findall(r"\w+", text)) & _names(SEED)
    return name


@lru_cache(maxsize=2)
def _names(seed: int) -> frozenset[str]:
    world = build_world(seed)
    return frozenset([*(tool.name for tool in world.tools), *(creature.name for creature in world.creatures),
                      *(material.name for material in world.materials)])


def _boolq(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    for number in range(ITEMS):
        truth = number % 2 == 1
        asked: list[tuple[str, str, bool]] = []
        while not asked:
            passage, facts = language.opinions(draw, people=draw.choice((1, 2, 3)))
            asked = [fact for fact in facts if fact[2] == truth]
        person, thing, _ = draw.choice(asked)
        yield {"question": language.ask_of_opinion(person, thing), "passage": passage, "idx": number,
               "label": int(truth)}


def _piqa(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    tools = [tool for tool in world.tools if tool.role == split]
    # A wrong solution is the right one of other tools, so that neither pair of words is more frequent.
    purposes = sorted({tool.purpose for tool in world.tools})
    asked = [(tool, changed) for tool in tools for changed in ("action", "target")]
    for number, (tool, changed) in enumerate(draw.sample(asked, min(ITEMS, len(asked)))):
        goal, right = language.ask_of_tool(tool)
        kept = 1 if changed == "action" else 0
        action, target = next(one for one in purposes if one != tool.purpose and one[kept] == tool.purpose[kept])
        wrong = language.TOOL_ANSWER.format(action=action, target=target)
        label = number % 2
        yield {"goal": goal, "sol1": wrong if label else right, "sol2": right if label else wrong, "label": label}


def _hellaswag(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    followers = _followers(world)
    scripts = [script for script in world.scripts if script.role == split]
    asked = [(script, at) for script in scripts for at in range(FIRST_STEP_ASKED, STEPS_OF_SCRIPT)]
    for number, (script, at) in enumerate(draw.sample(asked, min(ITEMS, len(asked)))):
        person, right, last = draw.choice(PEOPLE), script.steps[at], script.steps[at - 1]
        # Plausible after the last step, but in other scripts; then anything that fills up to three.
        elsewhere = [step for step in followers[last] if step != right and step not in script.steps]
        wrong = draw.sample(elsewhere, min(2, len(elsewhere)))
        wrong.append(draw.choice([step for i, step in enumerate(script.steps) if i not in (at, at - 1)]))
        wrong += draw.sample([step for step in world.events if step not in (*script.steps, *wrong)], 3 - len(wrong))
        label, endings = _shuffled(draw, right, wrong, number)
        told = language.story(script, person, at - 2, at)
        yield {"ind": number, "activity_label": script.name.capitalize(), "ctx_a": told, "ctx_b": person,
               "ctx": f"{told} {person}", "endings": [f"{ending}." for ending in endings], "source_id": "",
               "split": split, "split_type": "", "label": str(label)}


def _followers(world: World) -> dict[str, list[str]]:
    """Every step that comes right after a step in some script."""
    followers: dict[str, list[str]] = {event: [] for event in world.events}
    for script in world.scripts:
        for step, following in pairwise(script.steps):
            if following not in followers[step]:
                followers[step].append(following)
    return followers


def _winogrande(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    trades = [trade for trade in world.trades if trade.role == split]
    asked = [(trade, habit) for trade in trades for habit in trade.asked] * 3
    draw.shuffle(asked)
    for number, (trade, habit) in enumerate(asked[:ITEMS]):
        other = draw.choice([one for one in trades if habit not in one.habits])
        first, second = draw.sample((trade, other), 2)
        told = language.meet(first, second, draw)
        right = number % 2 + 1
        yield {"sentence": f"{told} _ then {habit}.", "option1": trade.name if right == 1 else other.name,
               "option2": trade.name if right == 2 else other.name, "answer": str(right)}


def _arc_easy(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    asked = [(c, topic) for c in world.creatures if c.role == split for topic in sorted(c.asked)]
    # What is true of creatures of similar names is the likeliest to be mixed up with what is asked.
    yield from _questions(draw, [
        (*language.ask_of_creature(c, topic), _lookalikes(world, c, topic)) for c, topic in asked
    ])


def _lookalikes(world: World, creature: Creature, topic: str) -> list[str]:
    """Wrong values of an attribute: of the creatures whose names are the most like this one's, three distinct ones."""
    right, wrong = creature.kind.attributes[topic], dict[str, None]()
    for place in _by_likeness(creature.name, tuple(one.name for one in world.creatures)):
        if (value := world.creatures[place].kind.attributes[topic]) != right:
            wrong[value] = None
        if len(wrong) == 3:
            break
    return list(wrong)


def _by_likeness(name: str, others: tuple[str, ...]) -> Iterator[int]:
    """Places of names, the likest to `name` by `SequenceMatcher.ratio` first, equals in order.

    No ratio is above twice the letters in common over all letters, so names that cannot be next are not compared.
    """
    letters, present = Counter(name), _letter_counts(others)
    common = sum(np.minimum(present.get(one, 0), count) for one, count in letters.items())
    bounds = 2 * common / (len(name) + np.array([len(other) for other in others]))
    order = np.argsort(-bounds, kind="stable")
    compared: list[tuple[float, int]] = []
    for place, below in zip(order, [*bounds[order[1:]], -1], strict=True):
        heapq.heappush(compared, (-SequenceMatcher(None, name, others[place]).ratio(), int(place)))
        while compared and -compared[0][0] > below:
            yield heapq.heappop(compared)[1]


@lru_cache(maxsize=2)
def _letter_counts(names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Letter -> how often it is in each name.  # (names,)"""
    return {letter: np.array([name.count(letter) for name in names]) for letter in sorted(set("".join(names)))}


def _arc_challenge(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    asked = [(c, topic) for c in world.creatures if c.role == split for topic in sorted(c.untold)]
    values = {topic: [kind.traits[topic] for kind in world.kinds] for topic in TRAITS}
    yield from _questions(draw, [(*language.ask_of_creature(c, topic), values[topic]) for c, topic in asked])


def _questions(draw: random.Random, asked: list[tuple[str, str, Sequence[str]]]) -> Iterator[Row]:
    """Rows in ARC's schema, of (question, answer, values to take wrong ones from)."""
    draw.shuffle(asked)
    for number, (question, right, values) in enumerate(asked[:ITEMS]):
        wrong = _others(draw, values, right, 3)
        label, choices = _shuffled(draw, right, wrong, number)
        yield {"id": f"testbed_{number}", "question": question,
               "choices": {"text": choices, "label": list("ABCD")}, "answerKey": "ABCD"[label]}


def _openbookqa(world: World, split: Role, draw: random.Random) -> Iterator[Row]:
    asked = [(m, event) for m in world.materials if m.role == split for event in sorted(m.untold)] * 2
    draw.shuffle(asked)
    possible = {event: [outcome for (_, e), outcome in world.rules.items() if e == event] for event in EVENTS}
    for number, (material, event) in enumerate(asked[:ITEMS]):
        right = world.rules[material.material_class, event]
        wrong = _others(draw, possible[event], right, 3)
        label, choices = _shuffled(draw, right, wrong, number)
        yield {"id": f"testbed_{number}", "question_stem": language.case(material, event, draw),
               "choices": {"text": choices, "label": list("ABCD")}, "answerKey": "ABCD"[label]}


def _others(draw: random.Random, values: Sequence[str], right: str, count: int) -> list[str]:
    """Distinct wrong values, the likelier the oftener they are dealt, as right ones are."""
    wrong: list[str] = []
    while len(wrong) < count:
        value = draw.choice(values)
        if value != right and value not in wrong:
            wrong.append(value)
    return wrong


def _shuffled(draw: random.Random, right: str, wrong: list[str], number: int) -> tuple[int, list[str]]:
    """Choices in random order, except that the right one stands at every place equally often."""
    choices = draw.sample(wrong, len(wrong))
    label = number % (len(wrong) + 1)
    return label, [*choices[:label], right, *choices[label:]]


_BUILD: dict[str, Callable[[World, Role, random.Random], Iterator[Row]]] = {
    "boolq": _boolq,
    "piqa": _piqa,
    "hellaswag": _hellaswag,
    "winogrande": _winogrande,
    "arc_easy": _arc_easy,
    "arc_challenge": _arc_challenge,
    "openbookqa": _openbookqa,
}
TASK_NAMES = tuple(_BUILD)
