"""A small generated question answering data set: SQuAD-shaped rows, no download, no files.

Each context says a few things about two to five people (where they live, where they are from, their job,
pet, instrument and the year they joined the club), in shuffled sentences of varied wording, with some
sentences that say nothing of use. The question asks one thing about one person. At least two people in the
context have an answer to it, and "lives in" and "comes from" are both answered by a city, so that neither the
question's kind of answer nor its person alone is enough: a model has to match both.

What it covers and what it does not:

* English of about 500 words, templates only. A model that does well here has learned to match and to point,
  not to read; it says nothing about SQuAD.
* Most contexts are 25 to 80 words; about 8 % (``LONG_SHARE``) are 90 to 150 words, so that they need more
  than one window at a ``max_length`` of 96, with the answer anywhere in them.
* Answers are one to three words (``marine biologist``) and occur exactly once in their context.
* No context is in both splits (a checksum of the text decides its split), but names, values and templates
  are shared: validation asks about new combinations of known words.
* With ``unanswerable`` above 0, that share of the questions (drawn per row) asks for something that the
  context says of others but not of this person, or about a person it does not mention.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

SPLITS = ("train", "validation")
LONG_SHARE = 0.07
_SHAPES = ((2, 1), (3, 1), (3, 1), (2, 2), (3, 2))  # people, things told of each
_LONG_SHAPES = ((4, 4), (5, 3), (5, 4))
_FACT_SHARE = 0.9  # a fact is left out now and then, so that a gap does not give away an unanswerable question
_PAIR_SHARE = 0.4  # of a person's facts that could share a sentence with the next one


@dataclass(frozen=True)
class Relation:
    """One attribute of a person. ``predicates`` follow the name, ``sentences`` stand alone."""

    kind: str  # relations of one kind draw from the same values, never the same one twice in a context
    values: tuple[str, ...]
    predicates: tuple[str, ...]
    sentences: tuple[str, ...]
    questions: tuple[str, ...]


NAMES = tuple(
    "Ada Bruno Carla Chen David Elena Felix Grace Hugo Ines Jonas Kofi Laura Leo Maria Mehmet Nadia Omar Paula "
    "Priya Samir Sara Tomas Yuki".split()
)
CITIES = tuple(
    "Athens|Berlin|Boston|Cairo|Cape Town|Dakar|Delhi|Dublin|Hanoi|Kyoto|Lagos|Lima|Lisbon|London|Mexico City|"
    "Nairobi|New York|Oslo|Paris|Prague|Rome|Sydney|Toronto|Vienna".split("|")
)
JOBS = tuple(
    "architect|baker|bus driver|carpenter|dentist|electrician|farmer|film editor|gardener|journalist|lawyer|"
    "librarian|marine biologist|mechanic|music teacher|nurse|pilot|plumber|surgeon|tailor".split("|")
)
PETS = tuple(
    f"{colour} {animal}"
    for colour, animal in product(
        "black brown golden grey spotted white".split(), "cat dog goat horse lizard parrot rabbit snake".split()
    )
)
INSTRUMENTS = tuple(
    "accordion|banjo|bass guitar|cello|clarinet|flute|French horn|harp|oboe|piano|saxophone|trumpet|tuba|"
    "ukulele|viola|violin".split("|")
)
YEARS = tuple(str(year) for year in range(1991, 2021))

RELATIONS = (
    Relation(
        "city",
        CITIES,
        ("lives in {value}", "has a flat in {value}", "has settled in {value}", "calls {value} home"),
        ("These days {name} lives in {value}.", "For now {name}'s home is {value}."),
        (
            "Where does {name} live?",
            "Which city does {name} live in?",
            "Where is {name}'s home?",
            "In which city does {name} live now?",
            "What place does {name} call home?",
        ),
    ),
    Relation(
        "city",
        CITIES,
        ("was born in {value}", "grew up in {value}", "comes from {value}", "spent a happy childhood in {value}"),
        ("Originally {name} is from {value}.", "Long ago {name} was born in {value}."),
        (
            "Where was {name} born?",
            "Where does {name} come from?",
            "In which city did {name} grow up?",
            "Where did {name} spend a happy childhood?",
            "Which city is {name} from originally?",
        ),
    ),
    Relation(
        "job",
        JOBS,
        ("works as {a} {value}", "is {a} {value}", "earns a living as {a} {value}", "trained as {a} {value}"),
        ("By profession {name} is {a} {value}.", "Everyone knows {name} as {a} good {value}."),
        (
            "What is {name}'s job?",
            "What does {name} do for a living?",
            "What does {name} work as?",
            "What is {name}'s profession?",
            "Which job does {name} have?",
        ),
    ),
    Relation(
        "pet",
        PETS,
        ("keeps a {value}", "has a {value}", "looks after a {value}", "owns a {value}"),
        ("At home {name} has a {value}.", "Last year {name} found a {value}."),
        (
            "Which pet does {name} have?",
            "What animal does {name} keep?",
            "What pet does {name} look after?",
            "Which animal belongs to {name}?",
            "What kind of animal does {name} own?",
        ),
    ),
    Relation(
        "instrument",
        INSTRUMENTS,
        ("plays the {value}", "practises the {value} every day", "is learning the {value}", "loves the {value}"),
        ("In the band {name} plays the {value}.", "On Sundays {name} plays the {value}."),
        (
            "Which instrument does {name} play?",
            "What does {name} play?",
            "What instrument does {name} practise?",
            "Which instrument is {name}'s?",
            "What does {name} play in the band?",
        ),
    ),
    Relation(
        "year",
        YEARS,
        (
            "joined the club in {value}",
            "became a member in {value}",
            "signed up in {value}",
            "has been here since {value}",
        ),
        ("As a member, {name} joined in {value}.", "The club welcomed {name} in {value}."),
        (
            "When did {name} join the club?",
            "In which year did {name} join?",
            "What year did {name} become a member?",
            "When was {name} welcomed to the club?",
            "Since when has {name} been a member?",
        ),
    ),
)
FILLERS = (
    "The club meets on Friday evenings.",
    "It rained for most of the week.",
    "Nobody was late this time.",
    "Tea and cake were served at four.",
    "The garden looks lovely in spring.",
    "A new roof is still being planned.",
    "They all get on very well.",
    "The next meeting is in two weeks.",
    "Guests are always welcome.",
    "Some old photos hang on the wall.",
    "The summer party was a great success.",
    "Last month the door was painted blue.",
    "There was much to talk about.",
    "The hall is a short walk from the station.",
    "Most evenings end with a song.",
    "Members share the work between them.",
)


@dataclass
class _Fact:
    name: str
    relation: Relation
    value: str
    start: int = -1  # of the value in the context


def generate_examples(split: str, size: int, seed: int = 0, unanswerable: float = 0.0) -> Iterator[dict[str, Any]]:
    """Yield ``size`` rows ``{"id", "question", "context", "answers": {"text", "answer_start"}}``.

    The rows depend on the arguments alone, and the first rows of a larger ``size`` are those of a smaller one.
    ``split`` is "train" or "validation"; ``unanswerable`` is a share from 0 to 1, whose rows have empty lists.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if not 0.0 <= unanswerable <= 1.0:
        raise ValueError(f"unanswerable must lie between 0 and 1, not {unanswerable}")
    rng = random.Random(f"{split}-{seed}")  # a string seeds alike everywhere
    made = 0
    while made < size:
        row = _example(rng, rng.random() < unanswerable)
        if (zlib.crc32(row["context"].encode()) % 8 == 0) != (split == "validation"):
            continue  # this text belongs to the other split
        yield {"id": f"synthetic-{split}-{made:06d}", **row}
        made += 1


def _example(rng: random.Random, unanswerable: bool) -> dict[str, Any]:
    is_long = rng.random() < LONG_SHARE
    people, relation_count = rng.choice(_LONG_SHAPES if is_long else _SHAPES)
    names = rng.sample(NAMES, people + 1)
    absent = names.pop()
    relations = rng.sample(RELATIONS, relation_count)
    asked = rng.choice(relations)
    holders = rng.sample(names, 2)  # these two have the asked fact for certain
    asked_name = holders[0]
    gap = None
    if unanswerable:
        if len(names) > 2 and rng.random() < 0.5:
            gap = asked_name = next(name for name in names if name not in holders)
        else:
            asked_name = absent

    values = {relation.kind: rng.sample(relation.values, 2 * len(names)) for relation in relations}
    facts = []
    for name in names:
        for relation in relations:
            if relation is asked:
                keep = name in holders or (name != gap and rng.random() < _FACT_SHARE)
            else:
                keep = rng.random() < _FACT_SHARE
            if keep:
                facts.append(_Fact(name, relation, values[relation.kind].pop()))
    context = _write(rng, facts, rng.randint(2, 4) if is_long else rng.randint(0, 1))

    question = rng.choice(asked.questions).format(name=asked_name)
    found = [fact for fact in facts if fact.name == asked_name and fact.relation is asked]
    answers = {"text": [fact.value for fact in found], "answer_start": [fact.start for fact in found]}
    return {"question": question, "context": context, "answers": answers}


def _write(rng: random.Random, facts: list[_Fact], fillers: int) -> str:
    """Put the facts into shuffled sentences and note where each value came to stand."""
    rng.shuffle(facts)
    sentences: list[list[str | _Fact]] = [[filler] for filler in rng.sample(FILLERS, fillers)]
    pending = sorted(facts, key=lambda fact: fact.name)  # stable: a person's facts stay shuffled
    while pending:
        fact = pending.pop()
        if pending and pending[-1].name == fact.name and rng.random() < _PAIR_SHARE:
            other = pending.pop()
            first, second = rng.choice(fact.relation.predicates), rng.choice(other.relation.predicates)
            sentence = [*_fill("{name} " + first, fact), *_fill(" and " + second + ".", other)]
        else:
            predicates = tuple("{name} " + predicate + "." for predicate in fact.relation.predicates)
            sentence = _fill(rng.choice(predicates + fact.relation.sentences), fact)
        sentences.append(sentence)
    rng.shuffle(sentences)

    context = ""
    for sentence in sentences:
        context += " " if context else ""
        for part in sentence:
            if isinstance(part, str):
                context += part
            else:
                part.start = len(context)
                context += part.value
    return context


def _fill(template: str, fact: _Fact) -> list[str | _Fact]:
    """Split a template at its value, with the rest filled in."""
    before, after = template.split("{value}")
    article = "an" if fact.value[0] in "aeiou" else "a"
    return [before.format(name=fact.name, a=article), fact, after.format(name=fact.name)]
