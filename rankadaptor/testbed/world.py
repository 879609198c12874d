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
# Two words for a creature that has a nature, and for one that has not; a question asks for the first.
NATURES: dict[str, tuple[str, str]] = {
    "temper": ("tame", "wild"),
    "courage": ("bold", "shy"),
    "pace": ("quick", "slow"),
    "voice": ("loud", "quiet"),
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
PEOPLE = tuple("Anna Ben Carl Dora Emil Fay Gus Hana Ivan June Karl Lena Max Nora Omar Paul Rosa Sam Tara Ugo Vera"
               " Will Yara Zoe Adam Beth Cleo Dan Eva Finn Gina Hugo Iris Jack Kim Leo Mira Nils Olga Pia".split())

# Outcomes that one event can have; rules deal them evenly over the classes.
OUTCOMES_OF_EVENT = 6
UNSTATED_EVENTS = 4  # of a tested material
STEPS_OF_SCRIPT = 6
# Steps, counted from 0, in which the crafts of a family differ. The step before each of them they share, so that what
# was done just before does not tell which of the crafts it is.
OWN_STEPS = (1, 3, 5)
TESTED_STEPS = 2  # of OWN_STEPS
CRAFTS_OF_FAMILY = 4
HABITS_OF_TRADE = 3
TESTED_HABITS = 2


@dataclass(frozen=True)
class Counts:
    """How many entities of one sort there are, by role."""

    tuning: int
    search: int
    report: int
    open: int

    def roles(self) -> list[Role]:
        """The role of every entity."""
        return [role for role in (*SPLITS, "open") for _ in range(getattr(self, role))]


@dataclass(frozen=True)
class Sizes:
    """How many of each there are. Verdicts are judged on the report split, so most entities are in it."""

    creatures: Counts = Counts(75, 130, 260, 100)
    kinds: int = 30
    tools: Counts = Counts(75, 130, 260, 60)
    materials: Counts = Counts(40, 65, 130, 30)
    scripts: Counts = Counts(75, 130, 260, 90)
    families: int = 12  # of crafts
    events: int = 30  # distinct steps that crafts are made of
    trades: Counts = Counts(75, 130, 260, 60)
    guilds: int = 32


@dataclass(frozen=True)
class Kind:
    """A kind of creature. All that is true of it is true of every creature of the kind."""

    name: str
    attributes: dict[str, str]
    traits: dict[str, str]
    natures: dict[str, bool]


@dataclass(frozen=True)
class Creature:
    """A creature. All that is true of its kind is true of it."""

    name: str
    role: Role
    kind: Kind
    unstated_traits: frozenset[str]  # that no text ever states of it: they follow from its kind
    tested_attributes: frozenset[str]  # that items test
    tested_natures: frozenset[str]  # that items test


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
    """An activity. Its steps are those of its craft, which is one of a family."""

    name: str
    role: Role
    steps: tuple[str, ...]  # such as "washes the bowl", in the order in which they are done
    own_steps_of_family: tuple[tuple[str, ...], ...]  # of OWN_STEPS: what each craft of the family does then
    tested_steps: frozenset[int]  # of OWN_STEPS, that items test


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
        _creatures(draw, draw_tested, names, kinds, sizes.creatures.roles()),
        _tools(draw, names, sizes.tools.roles()),
        _materials(draw, names, sizes.materials.roles()),
        _rules(draw),
        events := tuple(f"{verb} the {thing}" for verb, thing in draw.sample(
            [(verb, thing) for verb in VERBS for thing in THINGS], sizes.events)),
        _scripts(draw, draw_tested, names, events, sizes.families, sizes.scripts.roles()),
        _trades(draw, draw_tested, names, sizes.guilds, sizes.trades.roles()),
    )


def _kinds(draw: random.Random, names: Iterator[str], count: int) -> tuple[Kind, ...]:
    decks = {topic: _deck(draw, values, count) for topic, values in (ATTRIBUTES | TRAITS).items()}
    natures = {nature: _deck(draw, (True, False), count) for nature in NATURES}
    return tuple(
        Kind(next(names), {a: decks[a][i] for a in ATTRIBUTES}, {t: decks[t][i] for t in TRAITS},
             {n: natures[n][i] for n in NATURES})
        for i in range(count)
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
            frozenset(draw_tested.sample(sorted(NATURES), 2)) if role != "open" else frozenset(),
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
    draw: random.Random, draw_tested: random.Random, names: Iterator[str], events: Sequence[str], families: int,
    roles: Sequence[Role],
) -> tuple[Script, ...]:
    crafts = [craft for _ in range(families) for craft in _family(draw, events)]
    dealt = _deck(draw, crafts, len(roles))
    return tuple(
        Script(next(names) + "ing", role, *dealt[i],
               frozenset(draw_tested.sample(OWN_STEPS, TESTED_STEPS) if role != "open" else ()))
        for i, role in enumerate(roles)
    )


def _family(
    draw: random.Random, events: Sequence[str]
) -> list[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]]:
    """Crafts that share all steps but OWN_STEPS: of each its steps, and what every craft of the family does then."""
    shared = STEPS_OF_SCRIPT - len(OWN_STEPS)
    drawn = draw.sample(events, shared + len(OWN_STEPS) * CRAFTS_OF_FAMILY)
    own = tuple(tuple(drawn[shared + i :: len(OWN_STEPS)]) for i in range(len(OWN_STEPS)))  # (own steps, crafts)
    crafts = []
    for craft in range(CRAFTS_OF_FAMILY):
        common, special = iter(drawn[:shared]), iter(steps[craft] for steps in own)
        steps = tuple(next(special if at in OWN_STEPS else common) for at in range(STEPS_OF_SCRIPT))
        crafts.append((steps, own))
    return crafts


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
              THINGS, PEOPLE, HABITS, *NATURES.values())
    seen = {word.lower() for group in groups for text in group for word in text.split()}
    while True:
        name = "".join(draw.choice(part) for part in (onsets, vowels, codas, vowels, codas))
        if name not in seen:
            seen.add(name)
            yield name
