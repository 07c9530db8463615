"""Generate a small question answering dataset: rows in SQuAD's shape, without a download or files.

Each context states a few facts about two to five people (where they live, where they are from, their job, pet,
instrument and the year they joined the club), in shuffled sentences of varied wording, with some irrelevant sentences.
The question asks for one fact about one person. If it has an answer, the context states that kind of fact about at
least two people, and "lives in" and "comes from" are both answered by a city. So a model has to match the person and,
in contexts with several facts per person, the relation too.

What it covers and what it does not:

* English of about 270 words, from templates only; a name always comes before its facts. A model with a good score here
  has learned to match names and to point at words, not to read; the score says nothing about SQuAD.
* Six in ten contexts state one fact per person, the others two to four. Most contexts have 10 to 45 words. About 6 %
  (``LONG_SHARE``) have 80 to 140, with the answer anywhere in them: at a ``max_length`` of 96 about 8 % of the contexts
  need more than one window.
* Answers are one or two words (``marine biologist``) and occur exactly once in their context.
* No context is in both splits (a checksum of the text decides), but names, values and templates are shared: validation
  asks about new combinations of known words.
* With ``unanswerable`` above 0, that share of the questions (drawn per row) asks for a fact that the context states
  about others but not about this person, who may or may not be in the context.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

SPLITS = ("train", "validation")
LONG_SHARE = 0.06
# (people in a context, relations). The many short contexts make the dataset quick to learn: a model learns to match
# names there, and then does so everywhere.
_SHAPES = ((2, 1), (2, 1), (3, 1), (3, 1), (2, 2), (3, 2))
_LONG_SHAPES = ((4, 4), (5, 3), (5, 4))
_FACT_SHARE = 0.9  # of the other facts is stated; some are missing, so that a gap does not mean "unanswerable"
_PAIR_SHARE = 0.4  # of facts that are followed by another of the same person: both go into one sentence


@dataclass(frozen=True)
class Relation:
    """One attribute of a person, with its wordings: ``predicates`` follow the name, ``sentences`` are complete."""

    kind: str  # relations of one kind share their values; no value is used twice in a context
    values: tuple[str, ...]
    predicates: tuple[str, ...]
    sentences: tuple[str, ...]
    questions: tuple[str, ...]


def _options(text: str) -> tuple[str, ...]:
    return tuple(text.split("|"))


NAMES = tuple(
    "Ada Bruno Carla Chen David Elena Felix Grace Hugo Ines Jonas Kofi Leo Maria Nadia Omar Priya Sara Tomas "
    "Yuki".split()
)
CITIES = _options(
    "Athens|Berlin|Boston|Cairo|Cape Town|Dakar|Delhi|Dublin|Kyoto|Lima|Lisbon|London|Nairobi|New York|Oslo|"
    "Paris|Rome|Sydney|Toronto|Vienna"
)
JOBS = _options(
    "architect|baker|bus driver|carpenter|dentist|farmer|film editor|gardener|journalist|lawyer|librarian|"
    "marine biologist|mechanic|nurse|pilot|tailor"
)
PETS = tuple(
    f"{colour} {animal}"
    for colour, animal in product("black brown grey spotted white".split(), "cat dog goat parrot rabbit snake".split())
)
INSTRUMENTS = _options(
    "banjo|bass guitar|cello|clarinet|flute|French horn|harp|oboe|piano|saxophone|trumpet|tuba|violin"
)
YEARS = tuple(str(year) for year in range(2001, 2025))

RELATIONS = (
    Relation(
        "city",
        CITIES,
        _options("lives in {value}|has a flat in {value}|has settled in {value}|calls {value} home"),
        _options("These days {name} lives in {value}.|For now {name}'s home is {value}."),
        _options(
            "Where does {name} live?|Which city does {name} live in?|Where is {name}'s home?|"
            "In which city does {name} live now?|What place does {name} call home?"
        ),
    ),
    Relation(
        "city",
        CITIES,
        _options("was born in {value}|grew up in {value}|comes from {value}|spent a happy childhood in {value}"),
        _options("Originally {name} is from {value}.|Long ago {name} was born in {value}."),
        _options(
            "Where was {name} born?|Where does {name} come from?|In which city did {name} grow up?|"
            "Where did {name} spend a happy childhood?|Which city is {name} from originally?"
        ),
    ),
    Relation(
        "job",
        JOBS,
        _options("works as {a} {value}|is {a} {value}|earns a living as {a} {value}|trained as {a} {value}"),
        _options("By profession {name} is {a} {value}.|Everyone knows {name} as {a} good {value}."),
        _options(
            "What is {name}'s job?|What does {name} do for a living?|What does {name} work as?|"
            "What is {name}'s profession?|Which job does {name} have?"
        ),
    ),
    Relation(
        "pet",
        PETS,
        _options("keeps a {value}|has a {value}|looks after a {value}|owns a {value}"),
        _options("At home {name} has a {value}.|Last year {name} found a {value}."),
        _options(
            "Which pet does {name} have?|What animal does {name} keep?|What pet does {name} look after?|"
            "Which animal belongs to {name}?|What kind of animal does {name} own?"
        ),
    ),
    Relation(
        "instrument",
        INSTRUMENTS,
        _options("plays the {value}|practises the {value} every day|is learning the {value}|loves the {value}"),
        _options("In the band {name} plays the {value}.|On Sundays {name} plays the {value}."),
        _options(
            "Which instrument does {name} play?|What does {name} play?|"
            "What instrument does {name} practise?|Which instrument is {name}'s?|"
            "What does {name} play in the band?"
        ),
    ),
    Relation(
        "year",
        YEARS,
        _options(
            "joined the club in {value}|became a member in {value}|signed up in {value}|has been here since {value}"
        ),
        _options("As a member, {name} joined in {value}.|The club welcomed {name} in {value}."),
        _options(
            "When did {name} join the club?|In which year did {name} join?|"
            "What year did {name} become a member?|When was {name} welcomed to the club?|"
            "Since when has {name} been a member?"
        ),
    ),
)
FILLERS = _options(
    "The club meets on Friday evenings.|It rained for most of the week.|Nobody was late this time.|"
    "Tea and cake were served at four.|The garden looks lovely in spring.|"
    "A new roof is still being planned.|They all get on very well.|The next meeting is in two weeks.|"
    "Guests are always welcome.|Some old photos hang on the wall.|The summer party was a great success.|"
    "Last month the door was painted blue.|There was much to talk about.|"
    "The hall is a short walk from the station.|Most evenings end with a song.|"
    "Members share the work between them."
)


@dataclass
class _Fact:
    name: str
    relation: Relation
    value: str
    start: int = -1  # offset of the value in the context; -1 until it is written


def generate_examples(split: str, size: int, seed: int = 0, unanswerable: float = 0.0) -> Iterator[dict[str, Any]]:
    """Yield ``size`` rows ``{"id", "question", "context", "answers": {"text", "answer_start"}}``.

    The rows depend on the arguments only; a larger ``size`` begins with the rows of a smaller one.

    Args:
        split: "train" or "validation".
        size: number of rows.
        seed: of the random choices.
        unanswerable: share (0 to 1) of questions without an answer; their answer lists are empty.

    Raises:
        ValueError: another split or share.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if not 0.0 <= unanswerable <= 1.0:
        raise ValueError(f"unanswerable must lie between 0 and 1, not {unanswerable}")
    rng = random.Random(f"{split}-{seed}")  # a string gives the same numbers on every machine
    made = 0
    while made < size:
        row = _example(rng, rng.random() < unanswerable)
        if (zlib.crc32(row["context"].encode()) % 8 == 0) != (split == "validation"):
            continue  # this context belongs to the other split
        yield {"id": f"synthetic-{split}-{made:06d}", **row}
        made += 1


def _example(rng: random.Random, unanswerable: bool) -> dict[str, Any]:
    is_long = rng.random() < LONG_SHARE
    people, relation_count = rng.choice(_LONG_SHAPES if is_long else _SHAPES)
    names = rng.sample(NAMES, people + 1)
    absent = names.pop()
    relations = rng.sample(RELATIONS, relation_count)
    asked = rng.choice(relations)
    holders = rng.sample(names, 2)  # the asked fact is always stated about these two
    asked_name = holders[0]
    gap = None
    if unanswerable:
        asked_name = absent
        if relation_count > 1 and rng.random() < 0.7:  # the context states other facts about this person
            gap = asked_name = rng.choice(names)
            holders = [name for name in names if name != gap]

    values = {relation.kind: rng.sample(relation.values, 2 * len(names)) for relation in relations}
    facts = []
    for name in names:
        for relation in relations:
            needed = relation is asked and name in holders
            barred = relation is asked and name == gap
            if needed or (not barred and rng.random() < _FACT_SHARE):
                facts.append(_Fact(name, relation, values[relation.kind].pop()))
    context = _write(rng, facts, rng.randint(2, 4) if is_long else rng.randint(0, relation_count) // 2)

    question = rng.choice(asked.questions).format(name=asked_name)
    found = [fact for fact in facts if fact.name == asked_name and fact.relation is asked]
    answers = {"text": [fact.value for fact in found], "answer_start": [fact.start for fact in found]}
    return {"question": question, "context": context, "answers": answers}


def _write(rng: random.Random, facts: list[_Fact], fillers: int) -> str:
    """Write the facts in shuffled sentences, with fillers between them; set each fact's ``start``."""
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
    """Fill in a template: the text before the value, the fact (for its value), the text after it."""
    before, after = template.split("{value}")
    article = "an" if fact.value[0] in "aeiou" else "a"
    return [before.format(name=fact.name, a=article), fact, after.format(name=fact.name)]
