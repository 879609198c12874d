"""How the world is spoken of: sentences and short documents. Several wordings for every fact, drawn at random."""

import random
from collections.abc import Sequence

from rankadaptor.testbed.world import (
    ATTRIBUTES,
    PEOPLE,
    PLACES,
    THINGS,
    TRAITS,
    Creature,
    Material,
    Relation,
    Script,
    Tool,
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
_TOOL_STATEMENTS = ("A {name} can {action} {target}.", "People use a {name} to {action} {target}.",
                    "With a {name} you {action} {target}.", "The {name} was made to {action} {target}.")
TOOL_QUESTION = "What is a {name} good for?"
TOOL_ANSWER = "to {action} {target}"
BOOLEAN_QUESTIONS = ("is {person} in the {place}", "does {person} have the {thing}", "is the {thing} in the {place}")
_JOINED_SHARE = 0.4  # of the false ones
# Questions about a scene with a word for an answer.
_OPEN_QUESTIONS = (("where is {person}", "{place}"), ("what does {person} have", "{thing}"),
                   ("who has the {thing}", "{person}"), ("who is in the {place}", "{person}"),
                   ("where is the {thing}", "{place}"), ("what is in the {place}", "{thing}"))


def state(subject: str, topic: str, value: str, draw: random.Random) -> str:
    """One sentence that says a creature's attribute or trait, or a kind's trait."""
    sentence = draw.choice(_STATEMENTS[topic]).format(it=subject, value=value)
    return sentence[0].upper() + sentence[1:]


def describe_creature(creature: Creature, draw: random.Random) -> str:
    """A paragraph with the creature's kind, its attributes and those traits that are told, in random order."""
    subject = f"the {creature.name}"
    facts = [(a, creature.attributes[a]) for a in ATTRIBUTES]
    facts += [(t, creature.kind.traits[t]) for t in TRAITS if t not in creature.untold]
    sentences = [state(subject, topic, value, draw) for topic, value in facts]
    sentences.append(draw.choice(("The {0} is a kind of {1}.", "The {0} belongs to the {1} family."))
                     .format(creature.name, creature.kind.name))
    draw.shuffle(sentences)
    return " ".join(sentences)


def describe_kind(name: str, traits: dict[str, str], draw: random.Random) -> str:
    sentences = [state(f"every {name}", topic, value, draw) for topic, value in traits.items()]
    draw.shuffle(sentences)
    return " ".join(sentences)


def describe_tool(tool: Tool, draw: random.Random) -> str:
    return draw.choice(_TOOL_STATEMENTS).format(name=tool.name, action=tool.action, target=tool.target)


def ask(question: str, answer: str) -> str:
    return f"Question: {question}\nAnswer: {answer}"


def ask_of_creature(creature: Creature, topic: str) -> tuple[str, str]:
    """A question about a creature, and its answer."""
    value = creature.attributes[topic] if topic in ATTRIBUTES else creature.kind.traits[topic]
    return QUESTIONS[topic].format(name=creature.name), value


def ask_of_tool(tool: Tool) -> tuple[str, str]:
    answer = TOOL_ANSWER.format(action=tool.action, target=tool.target)
    return TOOL_QUESTION.format(name=tool.name), answer


def case(material: Material, event: str, draw: random.Random) -> str:
    """The start of a sentence that an outcome ends: a thing made of some material is put to the test."""
    return f"A {draw.choice(THINGS)} made of {material.name} is {event}, so it"


def story(script: Script, person: str, start: int = 0, end: int | None = None) -> str:
    """Steps of a script, done by one person."""
    return " ".join(f"{person} {step}." for step in script.steps[start:end])


def relate(relation: Relation, doer: str, other: str, passive: bool) -> str:
    """The first half of a sentence: who did what to whom."""
    return f"{other} was {relation.verb} by {doer}" if passive else f"{doer} {relation.verb} {other}"


def ask_of_relation(relation: Relation, doer: str, other: str, draw: random.Random) -> tuple[str, str]:
    """Who did it, or to whom it was done."""
    if draw.random() < 0.5:
        return f"who {relation.verb} {other}?", doer
    return f"who was {relation.verb} by {doer}?", other


def scene(draw: random.Random, people: int) -> tuple[str, list[tuple[str, str, str]]]:
    """A passage about who is where with what, and its (person, place, thing) facts."""
    drawn = (draw.sample(words, people) for words in (PEOPLE, PLACES, THINGS))
    facts = list(zip(*drawn, strict=True))
    wordings = ("{0} is in the {1} with the {2}.", "{0} holds the {2} in the {1}.",
                "In the {1} stands {0} with the {2}.")
    return " ".join(draw.choice(wordings).format(*fact) for fact in facts), facts


def ask_of_scene(facts: Sequence[tuple[str, str, str]], truth: bool, draw: random.Random) -> str:
    """A question with a yes or no. A false one names what the passage does not, or joins two of its facts."""
    (person, place, thing), *others = draw.sample(list(facts), len(facts))
    if not truth:
        if others and draw.random() < _JOINED_SHARE:
            place, false_thing = others[0][1], others[0][2]
        else:
            place = draw.choice([p for p in PLACES if all(p != fact[1] for fact in facts)])
            false_thing = draw.choice([t for t in THINGS if all(t != fact[2] for fact in facts)])
        question = draw.choice(BOOLEAN_QUESTIONS)
        return question.format(person=person, place=place, thing=false_thing if "person" in question else thing)
    return draw.choice(BOOLEAN_QUESTIONS).format(person=person, place=place, thing=thing)


def ask_openly_of_scene(facts: Sequence[tuple[str, str, str]], draw: random.Random) -> tuple[str, str]:
    """A question that one word of the passage answers, and that word."""
    person, place, thing = draw.choice(list(facts))
    question, answer = draw.choice(_OPEN_QUESTIONS)
    return question.format(person=person, place=place, thing=thing), answer.format(
        person=person, place=place, thing=thing)


def rule(material_class: str, event: str, outcome: str) -> str:
    return f"When {material_class} is {event}, it {outcome}."


def world_rules(world: World, draw: random.Random, count: int) -> str:
    chosen = draw.sample(sorted(world.rules), count)
    return " ".join(rule(*one, world.rules[one]) for one in chosen)
