"""How a source is divided into folds: whole groups, evenly, whatever the order of the rows."""

from __future__ import annotations

import random

import numpy as np
import pytest
from datasets import Dataset

from qa_lightning.data.division import Fold, Groups
from qa_lightning.errors import InputError


def dataset(rows: list[tuple[str | None, str]]) -> Dataset:
    titles, contexts = zip(*rows, strict=True)
    return Dataset.from_dict({"title": titles, "context": contexts})


def many(seed: int = 0) -> list[tuple[str | None, str]]:
    """Rows of 30 articles of different sizes, with two or three questions about each context."""
    drawn = random.Random(seed)
    return [
        (f"article {article}", f"text {article} {context}")
        for article in range(30)
        for context in range(drawn.randint(1, 6))
        for _ in range(drawn.randint(2, 3))
    ]


@pytest.mark.parametrize("titled", [True, False])
def test_folds_are_whole_groups_and_about_equally_large(titled) -> None:
    rows = [(title if titled else None, context) for title, context in many()]
    groups = Groups.of(dataset(rows))
    folds = groups.folds(4, seed=1)
    assert groups.by == ("article" if titled else "context")
    assert set(folds) == {1, 2, 3, 4}
    for column in [0, 1] if titled else [1]:
        folds_of = {row[column]: {own for own, other in zip(folds, rows, strict=True) if other == row} for row in rows}
        assert all(len(found) == 1 for found in folds_of.values())
    sizes = np.bincount(folds)[1:]
    assert sizes.max() - sizes.min() <= 3


def test_the_seed_decides_folds_and_the_order_of_rows_does_not() -> None:
    rows = many()
    order = random.Random(1).sample(range(len(rows)), len(rows))
    groups, shuffled = Groups.of(dataset(rows)), Groups.of(dataset([rows[row] for row in order]))
    first = groups.folds(5, seed=1)
    assert (first[order] == shuffled.folds(5, seed=1)).all()
    assert (first == groups.folds(5, seed=1)).all()
    assert (first != groups.folds(5, seed=2)).any()


def test_articles_that_share_a_context_are_one_group() -> None:
    rows = [("a", "1"), ("b", "2"), ("c", "1"), (None, "2"), ("d", "3"), ("c", "4"), (None, "5")]
    names = Groups.of(dataset(rows)).names
    assert names[0] == names[2] == names[5]
    assert names[1] == names[3]
    assert len(set(names)) == 4


def test_names_that_differ_in_their_last_character_alone_are_two() -> None:
    rows = [("a", "1"), ("a\0", "2"), ("b", "3")]
    assert len(set(Groups.of(dataset(rows)).folds(3, 0))) == 3


def test_one_title_for_all_tells_no_articles_apart() -> None:
    groups = Groups.of(dataset([("the book", f"text {number}") for number in range(6)]))
    assert (groups.by, len(groups.sizes)) == ("context", 6)


def test_too_few_groups_are_an_error_that_counts_them() -> None:
    three = Groups.of(dataset([(f"article {number % 3}", f"text {number}") for number in range(9)]))
    with pytest.raises(InputError, match=r"has 3 articles \(by title\), too few for 4 folds.*at most 3 folds"):
        three.folds(4, 0)
    assert len(set(three.folds(3, 0))) == 3
    with pytest.raises(InputError, match=r"has 1 context, too few for 2 folds"):
        Groups.of(dataset([(None, "text")] * 4)).folds(2, 0)


def test_each_question_is_held_out_once() -> None:
    groups = Groups.of(dataset(many()))
    parts = [Fold.of(f"{number}/3", 7).held_out(groups) for number in (1, 2, 3)]
    assert (np.sum(parts, axis=0) == 1).all()
    assert not Fold.of("all", 7).holds_out


@pytest.mark.parametrize("given", ["0/5", "6/5", "1/1", "2", "two", "1/5/2", ""])
def test_a_fold_that_is_none_is_refused(given) -> None:
    with pytest.raises(InputError, match=r"--data.fold is .* must be a fold such as 2/5"):
        Fold.of(given, 0)
