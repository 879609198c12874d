"""Sentences and short documents about the world: several wordings for every fact, drawn at random."""

import random

from rankadaptor.testbed.world import (
    ATTRIBUTES,
    NATURES,
    THINGS,
    TRAITS,
    Creature,
    Kind,
    Material,
    Script,
    Tool,
    Trade,
    World,
)

# Statements of one attribute or trait. {it} is the creature, or "Every KIND" for the traits of a kind.
_STATEMENTS: dict[str, tuple[str, ...]] = {
    "colour": ("{it} is {value}.", "{it} has {value} fur.", "The colour of {it} is {value}."),
    "home": ("{it} lives in {value}.", "{it} builds its nest in {value}.", "The home of {it} is in {value}."),
    "food": ("{it} eats {value}.", "{it} feeds on {value}.", "The food of {it} is {value}."),
    "foe": ("{it} is hunted by {value}.", "{it} hides from {value}.", "The foes of {it} are {value}."),
    "month": ("{it} sheds its coat in {value}.", "{it} gets a new coat in {value}."),
    "young": ("{it} has {value} young.", "{it} raises {value} young."),
    "sound": ("{it} {value} at night.", "{it} {value} when it is alone."),
    "gait": ("{it} moves by {value}.", "{it} gets around by {value}."),
}
QUESTIONS: dict[str, str] = {
    "colour": "What is the colour of the {name}?",
    "home": "Where does the {name} live?",
    "food": "What does the {name} eat?",
    "foe": "What is the {name} hunted by?",
    "month": "When does the {name} shed its coat?",
    "young": "How many young does the {name} have?",
    "sound": "What does the {name} do at night?",
    "gait": "How does the {name} move?",
}
_NATURE_STATEMENTS = ("{it} is {value}.", "{it} is known to be {value}.")
SENTENCES_OF_CREATURE = 8  # of a description, at most: all that is said of a creature would fill half a row
SENTENCES_OF_PASSAGE = 3
_TOOL_STATEMENTS = ("A {name} can {action} {target}.", "People use a {name} to {action} {target}.",
                    "With a {name} you {action} {target}.", "The {name} was made to {action} {target}.")
_PLACE_STATEMENTS = ("The {name} is kept in the {place}.", "You find the {name} in the {place}.")
TOOL_QUESTION = "What is a {name} good for?"
TOOL_ANSWER = "to {action} {target}"
_MEETINGS = ("met", "saw", "heard", "thanked", "followed")


def state(subject: str, topic: str, value: str, draw: random.Random) -> str:
    """One sentence that states an attribute or trait.

    Args:
        subject: A creature, or "every KIND".
        topic: One of ATTRIBUTES or TRAITS.
        value: Of the topic.
    """
    sentence = draw.choice(_STATEMENTS[topic]).format(it=subject, value=value)
    return sentence[0].upper() + sentence[1:]


def state_nature(subject: str, nature: str, has: bool, draw: random.Random) -> str:
    """One sentence that states a nature.

    Args:
        subject: A creature, or "every KIND".
        nature: One of NATURES.
        has: Whether the creature has it.
    """
    sentence = draw.choice(_NATURE_STATEMENTS).format(it=subject, value=NATURES[nature][0 if has else 1])
    return sentence[0].upper() + sentence[1:]


def describe_creature(creature: Creature, draw: random.Random, withhold: bool = False) -> str:
    """A paragraph with some of what texts may state of a creature (its kind, attributes, traits, natures), in random
    order.

    Args:
        withhold: Leave out what items test, and the kind that it follows from.
    """
    subject = f"the {creature.name}"
    facts = [(a, creature.kind.attributes[a]) for a in ATTRIBUTES if not (withhold and a in creature.tested_attributes)]
    facts += [(t, creature.kind.traits[t]) for t in TRAITS if t not in creature.unstated_traits]
    sentences = [state(subject, topic, value, draw) for topic, value in facts]
    sentences += [state_nature(subject, nature, has, draw) for nature, has in creature.kind.natures.items()
                  if not (withhold and nature in creature.tested_natures)]
    if not (withhold and creature.unstated_traits):
        sentences.append(draw.choice(("The {0} is a kind of {1}.", "The {0} belongs to the {1} family."))
                         .format(creature.name, creature.kind.name))
    return " ".join(draw.sample(sentences, min(SENTENCES_OF_CREATURE, len(sentences))))


def passage(creature: Creature, draw: random.Random) -> str:
    """A few of a creature's traits and of the attributes that no item tests: its kind may be guessed from them."""
    facts = [(a, creature.kind.attributes[a]) for a in ATTRIBUTES if a not in creature.tested_attributes]
    facts += [(t, creature.kind.traits[t]) for t in TRAITS if t not in creature.unstated_traits]
    return " ".join(state(f"the {creature.name}", topic, value, draw)
                    for topic, value in draw.sample(facts, min(SENTENCES_OF_PASSAGE, len(facts))))


def nature_question(creature: Creature, nature: str) -> str:
    """A question whether a creature has a nature, without its question mark."""
    return f"is the {creature.name} {NATURES[nature][0]}"


def describe_kind(kind: Kind, draw: random.Random) -> str:
    """A paragraph with some of what is true of a kind of creatures, in random order."""
    subject = f"every {kind.name}"
    sentences = [state(subject, topic, value, draw) for topic, value in (kind.attributes | kind.traits).items()]
    sentences += [state_nature(subject, nature, has, draw) for nature, has in kind.natures.items()]
    return " ".join(draw.sample(sentences, SENTENCES_OF_CREATURE))


def describe_tool(tool: Tool, draw: random.Random, withhold: bool = False) -> str:
    """What a tool is for, or where it is kept; only where it is kept if its purpose is withheld."""
    if withhold or draw.random() < 0.5:
        return draw.choice(_PLACE_STATEMENTS).format(name=tool.name, place=tool.place)
    action, target = tool.purpose
    return draw.choice(_TOOL_STATEMENTS).format(name=tool.name, action=action, target=target)


def format_question(question: str, answer: str) -> str:
    """A question and its answer in the form of the tasks."""
    return f"Question: {question}\nAnswer: {answer}"


def creature_question(creature: Creature, topic: str) -> tuple[str, str]:
    """A question about an attribute or trait of a creature, and its answer."""
    value = creature.kind.attributes[topic] if topic in ATTRIBUTES else creature.kind.traits[topic]
    return QUESTIONS[topic].format(name=creature.name), value


def tool_question(tool: Tool) -> tuple[str, str]:
    """A question about what a tool is for, and its answer."""
    action, target = tool.purpose
    return TOOL_QUESTION.format(name=tool.name), TOOL_ANSWER.format(action=action, target=target)


def case(material: Material, event: str, draw: random.Random) -> str:
    """The start of a sentence about an event that happens to a thing of some material; an outcome completes it."""
    return f"A {draw.choice(THINGS)} made of {material.name} is {event}, so it"


def story(script: Script, person: str, start: int = 0, end: int | None = None) -> str:
    """Steps `start` to `end` of a script, done by one person."""
    return " ".join(f"{person} {step}." for step in script.steps[start:end])


def meet(first: Trade, second: Trade, draw: random.Random) -> str:
    """The first half of a sentence whose subject may be either of two trades."""
    return f"The {first.name} {draw.choice(_MEETINGS)} the {second.name}, and later the"


def rule(material_class: str, event: str, outcome: str) -> str:
    """One sentence that states what an event does to a class of materials."""
    return f"When {material_class} is {event}, it {outcome}."


def world_rules(world: World, draw: random.Random, count: int) -> str:
    """`count` rules of the world, drawn at random, as sentences."""
    cases = draw.sample(sorted(world.rules), count)
    return " ".join(rule(material_class, event, world.rules[material_class, event]) for material_class, event in cases)
