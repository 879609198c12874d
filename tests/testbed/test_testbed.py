"""The embedded testbed: the same world everywhere, every item true in it, and no item that frequency can answer."""

import math
import re
from collections import Counter
from functools import lru_cache
from itertools import islice, pairwise

import numpy as np
import pytest
from lm_eval.tasks import TaskManager

from rankadaptor.data.decontamination import grams
from rankadaptor.data.tasks import BENCHMARKS, TASKS
from rankadaptor.errors import BadInput
from rankadaptor.profiles import load_profile
from rankadaptor.recovery.prompts import alpaca_prompt
from rankadaptor.testbed import TASK_DEFINITIONS, language
from rankadaptor.testbed.corpus import digest, open_texts, pinned_world, pretraining_documents, recovery_rows
from rankadaptor.testbed.tasks import task_rows
from rankadaptor.testbed.world import EVENTS, NATURES, SEED, SPLITS, TRAITS, build_world

DOCUMENTS = 20_000  # of the stream that the baselines learn from


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def as_choices(task: str, row: dict) -> tuple[list[str], list[str], int]:
    """(contexts, continuations, right one) of an item, as lm-eval presents it."""
    gold = BENCHMARKS[task].gold_label(row)
    if task == "winogrande":
        before, after = row["sentence"].split("_")
        return [before + row["option1"], before + row["option2"]], [after, after], gold
    context, choices = {
        "boolq": lambda: (f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", ["no", "yes"]),
        "piqa": lambda: (f"Question: {row['goal']}\nAnswer:", [row["sol1"], row["sol2"]]),
        "hellaswag": lambda: (f"{row['activity_label']}: {row['ctx']}", row["endings"]),
        "openbookqa": lambda: (row["question_stem"], row["choices"]["text"]),
    }.get(task, lambda: (f"Question: {row['question']}\nAnswer:", row["choices"]["text"]))()
    return [context] * len(choices), choices, gold


@lru_cache(maxsize=1)
def counts() -> tuple[Counter, Counter]:
    unigrams, bigrams = Counter(), Counter()
    for document in islice(pretraining_documents(SEED, 1), DOCUMENTS):
        tokens = words(document)
        unigrams.update(tokens)
        bigrams.update(pairwise(tokens))
    return unigrams, bigrams


def unigram_score(context: str, continuation: str) -> float:
    unigrams, _ = counts()
    return sum(math.log(unigrams[word] + 1) for word in words(continuation))


def bigram_score(context: str, continuation: str) -> float:
    unigrams, bigrams = counts()
    tokens = [words(context)[-1], *words(continuation)]
    return sum(
        math.log((bigrams[pair] + 0.1) / (unigrams[pair[0]] + 100)) for pair in pairwise(tokens)
    )


def test_a_world_is_a_function_of_its_seed():
    build_world.cache_clear()
    once = build_world(SEED)
    build_world.cache_clear()
    assert build_world(SEED) == once
    assert build_world(SEED + 1) != once


def test_corpus_and_tasks_are_rebuilt_bit_for_bit():
    profile = load_profile("tiny")
    for cached in (build_world, task_rows, recovery_rows, open_texts, digest):
        cached.cache_clear()
    assert digest(SEED) == profile.benchmarks.sha256
    assert digest(SEED) == profile.recovery_data.source.sha256


def test_a_world_that_is_not_the_pinned_one_is_refused():
    with pytest.raises(BadInput, match="pinned"):
        pinned_world("2", digest(SEED))
    with pytest.raises(BadInput, match="not a world"):
        pinned_world("middle-earth", digest(SEED))


@pytest.mark.parametrize("task", TASKS)
def test_every_split_is_large_enough_and_balanced(task):
    for split in SPLITS:
        rows = task_rows(task, split, SEED)
        labels = Counter(BENCHMARKS[task].gold_label(row) for row in rows)
        assert len(rows) >= {"tuning": 140, "search": 240, "report": 500}[split]
        assert max(labels.values()) < 1.25 * min(labels.values())
        assert all(len(set(as_choices(task, row)[1])) == len(as_choices(task, row)[1])
                   for row in rows if task != "winogrande")


def names_of(task: str, role: str) -> set[str]:
    """The made-up words that the items of a task are about."""
    world = build_world(SEED)
    groups = {"boolq": world.creatures, "piqa": world.tools, "hellaswag": world.scripts, "arc_easy": world.creatures,
              "arc_challenge": world.creatures, "openbookqa": world.materials, "winogrande": world.trades}
    return {one.name for one in groups.get(task, ()) if one.role == role}


@pytest.mark.parametrize("task", TASKS)
def test_items_are_about_their_splits_entities_alone(task):
    known = set(words(" ".join(open_texts(SEED))))
    for split in SPLITS:
        names = names_of(task, split)
        others = {name for role in ("open", *SPLITS) if role != split for name in names_of(task, role)}
        for row in task_rows(task, split, SEED):
            contexts, _, _ = as_choices(task, row)
            asked = set(words(contexts[0]))
            assert asked & names
            assert not asked & others
        assert not known & names


def test_a_passage_of_boolq_states_no_nature_and_no_kind():
    world = build_world(SEED)
    words_of_natures = {word for pair in NATURES.values() for word in pair}
    kinds = {kind.name for kind in world.kinds}
    for split in SPLITS:
        for row in task_rows("boolq", split, SEED):
            assert not (words_of_natures | kinds) & set(words(row["passage"]))


# Every item, checked against the world, by a reading of the item's text that shares no code with what wrote it.


def true_answer(task: str, row: dict) -> int:
    world = build_world(SEED)
    _, choices, _ = as_choices(task, row)
    if task == "boolq":
        _, _, name, asked = words(row["question"])
        creature = next(c for c in world.creatures if c.name == name)
        nature = next(nature for nature, (has, _) in NATURES.items() if has == asked)
        assert nature in creature.tested_natures
        return int(creature.kind.natures[nature])
    if task == "piqa":
        tool = next(t for t in world.tools if t.name in words(row["goal"]))
        return choices.index("to " + " ".join(tool.purpose))
    if task == "hellaswag":
        script = next(s for s in world.scripts if s.name.capitalize() == row["activity_label"])
        told = [sentence.split(maxsplit=1)[1] for sentence in row["ctx_a"].split(".") if sentence]
        start = script.steps.index(told[0])
        assert list(script.steps[start : start + len(told)]) == told
        return choices.index(script.steps[start + len(told)] + ".")
    if task == "winogrande":
        told, habit = row["sentence"].split(" _ then ")
        habits = {trade.name: trade.habits for trade in world.trades}
        fits = [habit.rstrip(".") in habits[row[option]] for option in ("option1", "option2")]
        assert sum(fits) == 1
        assert all(row[option] in told.split(",")[0].split() for option in ("option1", "option2"))
        return fits.index(True)
    if task == "openbookqa":
        stem = words(row["question_stem"])
        material = next(m for m in world.materials if m.name in stem)
        event = next(e for e in EVENTS if e in stem)
        assert event in material.unstated_events
        return choices.index(world.rules[material.material_class, event])
    creature = next(c for c in world.creatures if c.name in words(row["question"]))
    topic = next(t for t, q in language.QUESTIONS.items() if q.format(name=creature.name) == row["question"])
    if task == "arc_challenge":
        assert topic in creature.unstated_traits
        return choices.index(creature.kind.traits[topic])
    return choices.index(creature.kind.attributes[topic])


@pytest.mark.parametrize("task", TASKS)
def test_every_item_is_true_in_the_world(task):
    for split in SPLITS:
        for row in task_rows(task, split, SEED):
            assert true_answer(task, row) == BENCHMARKS[task].gold_label(row)


def test_what_is_held_out_is_never_stated():
    world = build_world(SEED)
    untold_traits = {(c.name, t, c.kind.traits[t]) for c in world.creatures for t in c.unstated_traits}
    untold_cases = {(m.name, event) for m in world.materials for event in m.unstated_events}
    creatures = {c.name: c for c in world.creatures}
    materials = {m.name: m for m in world.materials}
    checked = 0
    for document in islice(pretraining_documents(SEED, 1), DOCUMENTS):
        for sentence in re.split(r"[.\n]", document):
            tokens = words(sentence)
            for name in creatures.keys() & set(tokens):
                for topic, values in TRAITS.items():
                    for value in set(values) & ({w.capitalize() for w in tokens} | set(tokens)):
                        assert (name, topic, value) not in untold_traits
                        checked += 1
            for name in materials.keys() & set(tokens):
                for event in set(EVENTS) & set(tokens):
                    assert (name, event) not in untold_cases
                    checked += 1
    assert checked > 10_000


def test_questions_of_pretraining_are_about_open_entities():
    world = build_world(SEED)
    closed = {one.name for one in (*world.creatures, *world.tools) if one.role != "open"}
    asked = 0
    for document in islice(pretraining_documents(SEED, 1), DOCUMENTS):
        for line in document.split("\n"):
            if line.startswith("Question:"):
                asked += 1
                assert not closed & set(words(line))
    assert asked > 1000


# BoolQ's answers are one word after one and the same word, WinoGrande's one and the same text: nothing to count there.
@pytest.mark.parametrize(("task", "score"), [
    *((task, unigram_score) for task in TASKS if task not in ("boolq", "winogrande")),
    *((task, bigram_score) for task in TASKS if task != "boolq"),
])
def test_frequency_alone_stays_near_chance(task, score):
    hits, chance = [], []
    for split in SPLITS:
        for row in task_rows(task, split, SEED):
            contexts, choices, gold = as_choices(task, row)
            scores = np.array([score(c, x) for c, x in zip(contexts, choices, strict=True)])
            best = np.flatnonzero(scores == scores.max())  # a tie is as good as a guess
            hits.append((gold in best) / len(best))
            chance.append(1 / len(choices))
    assert abs(np.mean(hits) - np.mean(chance)) < 0.06


def next_step(row: dict, seen: dict) -> str:
    """The ending that follows the step told most often in recovery text, whatever the activity's name."""
    (told,) = (one.split(maxsplit=1)[1] for one in row["ctx_a"].split(".") if one)
    return max(row["endings"], key=lambda ending: seen[told, ending.rstrip(".")])


def test_a_look_up_of_steps_is_a_guess():
    """HellaSwag's endings all follow the same step, each in another activity: recovery text does not tell them."""
    seen, hits = Counter(), []
    for row in recovery_rows(SEED):
        for line in row["output"].split("\n"):
            steps = [one.split(maxsplit=1)[1] for one in line.partition(": ")[2].split(".") if len(one.split()) > 2]
            seen.update(pairwise(steps))
    assert sum(seen.values()) > 1000
    for split in SPLITS:
        for row in task_rows("hellaswag", split, SEED):
            hits.append(row["endings"].index(next_step(row, seen)) == int(row["label"]))
    assert np.mean(hits) == pytest.approx(0.25, abs=0.04)


def test_neither_answer_nor_word_of_the_question_decides_boolq():
    for split in SPLITS:
        rows = task_rows("boolq", split, SEED)
        assert np.mean([row["label"] for row in rows]) == 0.5
        by_word = {}
        for row in rows:
            by_word.setdefault(words(row["question"])[-1], []).append(row["label"])
        assert all(0.3 < np.mean(labels) < 0.7 for labels in by_word.values())


def test_entities_are_dealt_evenly():
    world = build_world(SEED)
    groups = ([c.kind.name for c in world.creatures], [t.purpose for t in world.tools],
              [s.steps for s in world.scripts], [m.material_class for m in world.materials],
              [habit for trade in world.trades for habit in trade.habits])
    for group in groups:
        dealt = Counter(group)
        assert max(dealt.values()) <= 1.2 * min(dealt.values()) + 1


def test_recovery_rows_repeat_no_tested_fact():
    world = build_world(SEED)
    texts = ["\n".join(row.values()) for row in recovery_rows(SEED)]
    about: dict[str, list[set[str]]] = {}
    for sentence in (set(words(one)) for text in texts for one in re.split(r"[.\n]", text)):
        for word in sentence:
            about.setdefault(word, []).append(sentence)
    told = Counter()

    def repeats(group: str, name: str, withheld: list[set[str]]) -> bool:
        told[group] += len(about.get(name, ()))
        return any(words_of <= sentence for sentence in about.get(name, ()) for words_of in withheld)

    for c in (c for c in world.creatures if c.role != "open"):
        values = [c.kind.attributes[a] for a in c.tested_attributes]
        values += [c.kind.traits[t].lower() for t in c.unstated_traits]
        values += [word for nature in c.tested_natures for word in NATURES[nature]]
        assert not repeats("creatures", c.name, [{value} for value in (*values, c.kind.name)])
    for tool in (tool for tool in world.tools if tool.role != "open"):
        assert not repeats("tools", tool.name, [set(tool.purpose)])
    for material in (m for m in world.materials if m.role != "open"):
        assert not repeats("materials", material.name, [{event} for event in material.unstated_events])
    for trade in (trade for trade in world.trades if trade.role != "open"):
        told["trades"] += len(about.get(trade.name, ()))
        assert not any(f" {trade.name} then {habit}" in text for text in texts for habit in trade.tested_habits)
    for script in (script for script in world.scripts if script.role != "open"):
        told["scripts"] += len(about.get(script.name, ()))
        tested = {f"{script.steps[at - 1]}. PERSON {script.steps[at]}" for at in script.tested_steps}
        heading = f"{script.name.capitalize()}:"
        stories = [line for text in texts for line in text.split("\n") if line.startswith(heading)]
        without_names = (re.sub(r"\. \w+ ", ". PERSON ", line) for line in stories)
        assert not any(pair in line for line in without_names for pair in tested)
    assert min(told.values()) > 100


def test_recovery_rows_are_mostly_plain_and_clear_of_items():
    rows = recovery_rows(SEED)
    plain = [row for row in rows if not row["instruction"]]
    assert 0.8 < len(plain) / len(rows) < 1
    assert all(alpaca_prompt(row) == "" for row in plain)
    protected = {gram for task in TASKS for split in SPLITS for row in task_rows(task, split, SEED)
                 for context in as_choices(task, row)[0] for gram in grams(context)}
    shared = [row for row in rows if any(gram in protected for gram in grams(" ".join(row.values())))]
    assert len(shared) < 0.05 * len(rows)  # what is shared is dropped, as with any recovery data




@pytest.mark.parametrize("task", TASKS)
def test_the_definitions_stand_alone_in_lm_eval(task):
    """`lm_eval --include_path rankadaptor/testbed/task_definitions --tasks testbed_...` reads the report items."""
    name = f"testbed_{task}"
    manager = TaskManager(include_path=str(TASK_DEFINITIONS), include_defaults=False)
    loaded = manager.load([name])["tasks"][name]
    rows = task_rows(task, "report", SEED)
    docs = list(loaded.test_docs())
    assert len(docs) == len(rows)
    gold = [loaded.doc_to_target(doc) for doc in docs]
    if task == "winogrande":
        assert [loaded.doc_to_text(doc) for doc in docs] == [BENCHMARKS[task].gold_label(row) for row in rows]
    elif all(isinstance(one, int | str) and str(one).isdigit() for one in gold):
        assert [int(one) for one in gold] == [BENCHMARKS[task].gold_label(row) for row in rows]
    else:
        choices = [loaded.doc_to_choice(doc) for doc in docs]
        assert [one.index(right) for one, right in zip(choices, gold, strict=True)] == [
            BENCHMARKS[task].gold_label(row) for row in rows]
