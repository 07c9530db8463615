"""The generated dataset: exact offsets, questions that need the context, disjoint splits."""

import re
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from qa_lightning.data.synthetic import LONG_SHARE, RELATIONS, generate_examples


@pytest.fixture(scope="module")
def train() -> list[dict[str, Any]]:
    return list(generate_examples("train", 4000))


@pytest.fixture(scope="module")
def validation() -> list[dict[str, Any]]:
    return list(generate_examples("validation", 1000))


def candidates(context: str, answer: str) -> list[str]:
    """The values in ``context`` of the same kind as ``answer``."""
    (values,) = {relation.values for relation in RELATIONS if answer in relation.values}
    return [value for value in values if re.search(rf"\b{re.escape(value)}\b", context)]


def test_rows_have_the_squad_shape_and_exact_offsets(train, validation):
    for row in train + validation:
        assert set(row) == {"id", "question", "context", "answers"}
        (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"][start : start + len(text)] == text
        assert len(re.findall(rf"\b{re.escape(text)}\b", row["context"])) == 1
        assert row["question"].endswith("?")
        assert "{" not in row["question"] + row["context"]


def test_sizes_and_ids(train, validation):
    assert (len(train), len(validation)) == (4000, 1000)
    assert len({row["id"] for row in train + validation}) == 5000
    assert train[12]["id"] == "synthetic-train-000012"
    assert validation[0]["id"] == "synthetic-validation-000000"
    assert list(generate_examples("train", 0)) == []


def test_the_rows_depend_on_the_arguments_alone(train):
    assert list(generate_examples("train", 4000)) == train
    assert list(generate_examples("train", 50)) == train[:50]
    assert list(islice(generate_examples("train", 10**9), 50)) == train[:50]
    assert list(generate_examples("train", 50, seed=1)) != train[:50]


def test_rows_are_the_same_on_every_machine():
    """The text is pinned: a change of the generator makes recorded results incomparable."""
    row = next(generate_examples("train", 1))
    assert row == {
        "id": "synthetic-train-000000",
        "question": "What pet does Priya look after?",
        "context": "Priya has a black goat. At home Sara has a black parrot.",
        "answers": {"text": ["black goat"], "answer_start": [12]},
    }


def test_the_answer_competes_with_others_of_its_kind(train):
    counts = Counter(len(candidates(row["context"], row["answers"]["text"][0])) for row in train)
    assert min(counts) >= 2
    assert sum(n for count, n in counts.items() if count >= 3) > 0.3 * len(train)


def test_person_and_relation_both_matter(train):
    """Many contexts state several kinds of facts, so the name alone does not give the answer."""
    several = 0
    for row in train:
        kinds = {relation.kind for relation in RELATIONS for value in relation.values if value in row["context"]}
        several += len(kinds) > 1
    assert several > 0.3 * len(train)


def test_the_answers_are_in_no_fixed_place(train):
    places = [row["answers"]["answer_start"][0] / len(row["context"]) for row in train]
    assert all(
        0.1 < sum(low <= place < low + 0.25 for place in places) / len(places) < 0.4 for low in (0.0, 0.25, 0.5, 0.75)
    )


def test_no_context_is_in_both_splits(train, validation):
    other_seed = list(generate_examples("validation", 500, seed=3))
    assert not {row["context"] for row in train} & {row["context"] for row in validation + other_seed}


def test_wording_varies(train):
    names = {match for row in train for match in re.findall(r"[A-Z][a-z]+", row["question"])[1:]}
    shapes = {re.sub("|".join(names), "NAME", row["question"]) for row in train}
    assert len(shapes) >= 25
    assert len({row["context"] for row in train}) > 0.95 * len(train)
    assert any(" " in row["answers"]["text"][0] for row in train)


def test_some_contexts_are_long(train):
    lengths = [len(row["context"].split()) for row in train]
    share = sum(length >= 80 for length in lengths) / len(lengths)
    assert LONG_SHARE / 2 < share < 2 * LONG_SHARE
    late = [row for row in train if row["answers"]["answer_start"][0] > 450]
    assert late


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_unanswerable_share(share):
    rows = list(generate_examples("train", 2000, unanswerable=share))
    empty = [row for row in rows if row["answers"] == {"text": [], "answer_start": []}]
    assert len(empty) / len(rows) == pytest.approx(share, abs=0.04)
    assert len({row["id"] for row in rows}) == len(rows)


def test_unanswerable_questions_ask_for_what_the_context_does_not_say():
    known = 0
    for row in generate_examples("train", 1000, unanswerable=1.0):
        name = re.findall(r"[A-Z][a-z]+", row["question"])[-1]
        (asked,) = (
            relation for relation in RELATIONS if row["question"] in [q.format(name=name) for q in relation.questions]
        )
        known += name in row["context"]
        for value in asked.values:
            for template in asked.predicates + asked.sentences:
                article = "an" if value[0] in "aeiou" else "a"
                phrase = template.format(name=name, value=value, a=article).rstrip(".")
                phrase = phrase if "{name}" in template else f"{name} {phrase}"
                assert phrase not in row["context"]
    assert known > 100  # some questions ask about a person whom the context mentions


@pytest.mark.parametrize(("split", "unanswerable"), [("test", 0.0), ("train", -0.1), ("train", 1.5)])
def test_bad_arguments_are_refused(split, unanswerable):
    with pytest.raises(ValueError, match="must"):
        next(generate_examples(split, 1, unanswerable=unanswerable))
