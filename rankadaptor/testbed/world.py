"""The world: what is true in it. All texts that a model reads and all items that it is scored on follow from here.

Names are made up, values are English words. Values are dealt from balanced decks, so that no answer is more frequent
than another. Every entity has a role. *Open* entities may be in questions of pretraining and in any text. All others
belong to the items of one split; pretraining states facts about them, but asks no questions. Items *test* some of
these facts: recovery data repeat none of them, and calibration and perplexity text have nothing about these entities.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar

T = TypeVar("T")

SEED = 1  # of the world that is shipped; another seed gives another world

Role = Literal["tuning", "search", "report", "open"]
SPLITS: tuple[Role, ...] = ("tuning", "search", "report")

# One-hop facts of a creature, and traits that it has from its kind.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "colour": tuple("red blue green white black brown grey pink gold silver orange purple yellow olive cream scarlet"
                    .split()),
    "home": tuple("caves rivers forests deserts swamps meadows cliffs lakes hills islands reefs dunes marshes valleys"
                  " gardens ruins".split()),
    "food": tuple("moss seeds berries ants fish roots leaves nuts honey worms grass bark snails crabs eggs mushrooms"
                  .split()),
    "foe": tuple("wolves owls snakes foxes hawks bears cats eagles sharks tigers spiders wasps crows lions otters"
                 " lynxes".split()),
}
TRAITS: dict[str, tuple[str, ...]] = {
    "month": tuple("January February March April May June July August September October".split()),
    "young": tuple("two three four five six seven eight nine ten twelve".split()),
    "sound": tuple("growls hisses hums clicks whistles howls chirps squeals rattles purrs".split()),
    "gait": tuple("hopping gliding crawling digging climbing swimming sliding rolling leaping drifting".split()),
}
ACTIONS = tuple("cut dig lift grind bend polish crack stir scrape pull press peel".split())
TARGETS = tuple("rope clay bread glass wool leather stone ice corn wax sand wire".split())
PLACES = tuple("kitchen garden cellar attic stable tower hall barn library harbour market chapel mill orchard cabin"
               " workshop bakery forge school dairy castle prison station theatre".split())
CLASSES = tuple("metal wood stone cloth salt gum glass resin".split())
EVENTS = tuple("heated frozen soaked dropped pressed hung buried shaken painted rubbed".split())
OUTCOMES = tuple("melts cracks swells glows bends shrinks smokes softens hardens fades rusts sticks".split())
VERBS = tuple("washes folds lights fills cuts opens closes lifts turns shakes cleans paints moves drops warms cools"
              " ties hangs weighs marks covers empties sorts wraps".split())
THINGS = tuple("bowl cloth lamp jar rope box door basket wheel bottle pan wall chair stone pot spoon sack shelf plate"
               " card lid bucket tray net".split())
HABITS = ("felt proud", "went home", "laughed aloud", "sang a song", "told a joke", "lit a lamp", "took a bath",
          "won a prize", "rang the bell", "made a cake", "hid the key", "bought a hat", "fell asleep", "lost a shoe",
          "drank some tea", "wrote a letter", "paid a coin", "cried a little", "left the town", "closed the door",
          "ate an apple", "read a book", "broke a cup", "caught a cold")
LIKES, DISLIKES = ("likes", "wants", "keeps"), ("hates", "fears", "avoids")
PEOPLE = tuple("Anna Ben Carl Dora Emil Fay Gus Hana Ivan June Karl Lena Max Nora Omar Paul Rosa Sam Tara Ugo Vera"
               " Will Yara Zoe Adam Beth Cleo Dan Eva Finn Gina Hugo Iris Jack Kim Leo Mira Nils Olga Pia".split())

# Outcomes that one event can have; rules deal them evenly over the classes.
OUTCOMES_OF_EVENT = 6
UNSTATED_EVENTS = 4  # of a tested material
STEPS_OF_SCRIPT = 6
FIRST_TESTED_STEP = 3  # counted from 0; the steps before it lead up to it
HABITS_OF_TRADE = 3
TESTED_HABITS = 2


@dataclass(frozen=True)
class Sizes:
    """How many of each there are, by role; `tested` counts hold for each of the three splits."""

    creatures_tested: int = 140
    creatures_open: int = 110
    kinds: int = 30
    tools_tested: int = 130
    tools_open: int = 60
    materials_tested: int = 33
    materials_open: int = 21
    scripts_tested: int = 90
    scripts_open: int = 90
    crafts: int = 45
    events: int = 30  # distinct steps that crafts are made of
    trades_tested: int = 50
    trades_open: int = 50
    guilds: int = 32


@dataclass(frozen=True)
class Kind:
    """A kind of creature. All that is true of it is true of every creature of the kind."""

    name: str
    attributes: dict[str, str]
    traits: dict[str, str]


@dataclass(frozen=True)
class Creature:
    """A creature. All that is true of its kind is true of it."""

    name: str
    role: Role
    kind: Kind
    unstated_traits: frozenset[str]  # that no text ever states of it: they follow from its kind
    tested_attributes: frozenset[str]  # that items test


@dataclass(frozen=True)
class Tool:
    """A tool. Tools that are kept in one place serve one purpose."""

    name: str
    role: Role
    purpose: tuple[str, str]  # action and target
    place: str


@dataclass(frozen=True)
class Material:
    """A material. What an event does to it follows from its class."""

    name: str
    role: Role
    material_class: str
    unstated_events: frozenset[str]  # that no text ever shows it in: the outcome follows from its class


@dataclass(frozen=True)
class Script:
    """An activity. Its steps are those of its craft."""

    name: str
    role: Role
    steps: tuple[str, ...]  # such as "washes the bowl", in the order in which they are done


@dataclass(frozen=True)
class Trade:
    """A trade of people, and what those who have it are known to do: the habits of its guild."""

    name: str
    role: Role
    habits: tuple[str, ...]
    tested_habits: tuple[str, ...]  # that items test


@dataclass(frozen=True)
class World:
    """All entities, and the rules that decide what an event does to a material."""

    seed: int
    kinds: tuple[Kind, ...]
    creatures: tuple[Creature, ...]
    tools: tuple[Tool, ...]
    materials: tuple[Material, ...]
    rules: dict[tuple[str, str], str]  # (class of material, event) -> outcome
    events: tuple[str, ...]
    scripts: tuple[Script, ...]
    trades: tuple[Trade, ...]


@lru_cache(maxsize=2)
def build_world(seed: int = SEED, sizes: Sizes = Sizes()) -> World:
    """The world of a seed: the same on every machine."""
    draw, draw_tested = random.Random(f"world {seed}"), random.Random(f"asked {seed}")
    names = _names(draw)
    kinds = _kinds(draw, names, sizes.kinds)
    return World(
        seed,
        kinds,
        _creatures(draw, draw_tested, names, kinds, _roles(sizes.creatures_tested, sizes.creatures_open)),
        _tools(draw, names, _roles(sizes.tools_tested, sizes.tools_open)),
        _materials(draw, names, _roles(sizes.materials_tested, sizes.materials_open)),
        _rules(draw),
        events := tuple(f"{verb} the {thing}" for verb, thing in draw.sample(
            [(verb, thing) for verb in VERBS for thing in THINGS], sizes.events)),
        _scripts(draw, names, events, sizes.crafts, _roles(sizes.scripts_tested, sizes.scripts_open)),
        _trades(draw, draw_tested, names, sizes.guilds, _roles(sizes.trades_tested, sizes.trades_open)),
    )


def _kinds(draw: random.Random, names: Iterator[str], count: int) -> tuple[Kind, ...]:
    decks = {topic: _deck(draw, values, count) for topic, values in (ATTRIBUTES | TRAITS).items()}
    return tuple(
        Kind(next(names), {a: decks[a][i] for a in ATTRIBUTES}, {t: decks[t][i] for t in TRAITS}) for i in range(count)
    )


def _creatures(
    draw: random.Random, draw_tested: random.Random, names: Iterator[str], kinds: Sequence[Kind], roles: Sequence[Role]
) -> tuple[Creature, ...]:
    kind_of = _deck(draw, kinds, len(roles))
    return tuple(
        Creature(
            next(names),
            role,
            kind_of[i],
            frozenset(draw.sample(sorted(TRAITS), 2)) if role != "open" else frozenset(),
            frozenset(draw_tested.sample(sorted(ATTRIBUTES), 2)) if role != "open" else frozenset(),
        )
        for i, role in enumerate(roles)
    )


def _tools(draw: random.Random, names: Iterator[str], roles: Sequence[Role]) -> tuple[Tool, ...]:
    # Every action and every target serves two purposes, so that two purposes may differ in one word.
    targets = draw.sample(TARGETS, len(TARGETS))
    pairs = [(action, targets[(i + shift) % len(targets)]) for i, action in enumerate(ACTIONS) for shift in (0, 1)]
    shelf = _deck(draw, list(zip(pairs, draw.sample(PLACES, len(pairs)), strict=True)), len(roles))
    return tuple(Tool(next(names), role, *shelf[i]) for i, role in enumerate(roles))


def _materials(draw: random.Random, names: Iterator[str], roles: Sequence[Role]) -> tuple[Material, ...]:
    classes = _deck(draw, CLASSES, len(roles))
    return tuple(
        Material(
            next(names),
            role,
            classes[i],
            frozenset(draw.sample(EVENTS, UNSTATED_EVENTS) if role != "open" else ()),
        )
        for i, role in enumerate(roles)
    )


def _rules(draw: random.Random) -> dict[tuple[str, str], str]:
    rules: dict[tuple[str, str], str] = {}
    for event in EVENTS:
        outcomes = _deck(draw, draw.sample(OUTCOMES, OUTCOMES_OF_EVENT), len(CLASSES))
        rules |= {(material_class, event): outcomes[i] for i, material_class in enumerate(CLASSES)}
    return rules


def _scripts(
    draw: random.Random, names: Iterator[str], events: Sequence[str], crafts: int, roles: Sequence[Role]
) -> tuple[Script, ...]:
    steps = _deck(draw, [tuple(draw.sample(events, STEPS_OF_SCRIPT)) for _ in range(crafts)], len(roles))
    return tuple(Script(next(names) + "ing", role, steps[i]) for i, role in enumerate(roles))


def _trades(
    draw: random.Random, draw_tested: random.Random, names: Iterator[str], guilds: int, roles: Sequence[Role]
) -> tuple[Trade, ...]:
    # Every habit is known of equally many guilds: all of HABITS, shuffled and cut into threes, several times over.
    rounds = [draw.sample(HABITS, len(HABITS)) for _ in range(guilds * HABITS_OF_TRADE // len(HABITS))]
    guild_habits = [tuple(order[i : i + HABITS_OF_TRADE]) for order in rounds
                    for i in range(0, len(order), HABITS_OF_TRADE)]
    habits = _deck(draw, guild_habits, len(roles))
    return tuple(
        Trade(
            next(names),
            role,
            habits[i],
            tuple(draw_tested.sample(habits[i], TESTED_HABITS) if role != "open" else ()),
        )
        for i, role in enumerate(roles)
    )


def _roles(tested: int, open_: int) -> list[Role]:
    return [role for role in SPLITS for _ in range(tested)] + ["open"] * open_


def _deck(draw: random.Random, values: Sequence[T], count: int) -> list[T]:
    """`count` values, each as often as any other or once more, shuffled."""
    dealt = [values[i % len(values)] for i in range(count)]
    draw.shuffle(dealt)
    return dealt


def _names(draw: random.Random) -> Iterator[str]:
    """Pronounceable names of two syllables, none twice, none that is one of the world's words."""
    onsets = "b br d dr f fl g gr h k kl l m n p pl r s sk sl t tr v w z".split()
    vowels, codas = "a e i o u".split(), "b d g k l m n p r s t x".split()
    groups = (*ATTRIBUTES.values(), *TRAITS.values(), ACTIONS, TARGETS, PLACES, CLASSES, EVENTS, OUTCOMES, VERBS,
              THINGS, PEOPLE, HABITS, LIKES, DISLIKES)
    seen = {word.lower() for group in groups for text in group for word in text.split()}
    while True:
        name = "".join(draw.choice(part) for part in (onsets, vowels, codas, vowels, codas))
        if name not in seen:
            seen.add(name)
            yield name
