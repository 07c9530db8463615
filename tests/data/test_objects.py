"""Objects as sources: which are taken, how their rows come out, how they are named, their fingerprints."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from qa_lightning.data.objects import GivenRows, given_source
from qa_lightning.data.sources import count_rows, has_split, read_rows, source_fingerprint, source_kind
from qa_lightning.errors import InputError
from tests.helpers.data import make_rows

ROWS = make_rows(5, unanswerable=2)


def polars_frame(rows: list[dict]) -> Any:
    return pytest.importorskip("polars").DataFrame(rows)


def objects_of(rows: list[dict]) -> dict[str, Any]:
    """The same rows in every kind of object; a function makes what may not be there."""
    return {
        "list": lambda: rows,
        "tuple": lambda: tuple(rows),
        "DataFrame": lambda: pd.DataFrame(rows),
        "DataFrame of arrays": lambda: pd.DataFrame(rows).assign(
            answers=[{name: np.array(values) for name, values in row["answers"].items()} for row in rows]
        ),
        "Dataset": lambda: Dataset.from_list(rows),
        "Dataset as numpy": lambda: Dataset.from_list(rows).with_format("numpy"),
        "DatasetDict": lambda: DatasetDict({"train": Dataset.from_list(rows)}),
        "polars DataFrame": lambda: polars_frame(rows),
    }


PLACES = {
    "list": "dataset[{}]",
    "tuple": "dataset[{}]",
    "DataFrame": "dataset.iloc[{}]",
    "DataFrame of arrays": "dataset.iloc[{}]",
    "Dataset": "dataset[{}]",
    "Dataset as numpy": "dataset[{}]",
    "DatasetDict": "dataset['train'][{}]",
    "polars DataFrame": "dataset.row({})",
}


@pytest.mark.parametrize("kind", PLACES)
def test_rows_come_out_as_they_are_and_are_named_as_their_owner_finds_them(kind: str) -> None:
    given = objects_of(ROWS)[kind]()
    before = copy.deepcopy(ROWS)
    source = given_source("dataset", given)
    assert isinstance(source, GivenRows)
    assert source_kind(source) == "object"
    assert count_rows(source, "train") == len(ROWS)
    found = list(read_rows(source, "train"))
    assert [place for place, _ in found] == [PLACES[kind].format(number) for number in range(len(ROWS))]
    for (place, row), expected in zip(found, ROWS, strict=True):
        assert row == expected
        assert type(row["answers"]["text"]) is list, place
        own = row["answers"]["answer_start"]
        assert [type(start) for start in own] == [int] * len(own), place
        if "row(" in place:  # what finds the row in the owner's hands
            assert given.row(int(place[12:-1]), named=True) == row
        else:
            assert str(eval(place, {"dataset": given})["question"]) == row["question"]
    assert before == ROWS


def test_equal_rows_have_one_fingerprint_in_whatever_object_and_other_rows_another() -> None:
    keys = {
        source_fingerprint(given_source("dataset", make()), "train")
        for kind, make in objects_of(ROWS).items()
        if kind != "polars DataFrame"
    }
    assert len(keys) == 1
    for change in ({"question": "Who ?"}, {"id": "q9"}, {"answers": {"text": ["0"], "answer_start": [0]}}):
        rows = [ROWS[0] | change, *ROWS[1:]]
        assert source_fingerprint(given_source("dataset", rows), "train") not in keys
    assert source_fingerprint(given_source("dataset", ROWS[::-1]), "train") not in keys


def test_content_that_changed_is_seen_once_the_old_look_is_forgotten() -> None:
    rows = copy.deepcopy(ROWS)
    source = given_source("dataset", rows)
    before = source.fingerprint("train")
    rows[0]["question"] = "Who ?"
    assert source.fingerprint("train") == before  # within one preparation
    source.forget()
    assert source.fingerprint("train") != before


def test_what_json_cannot_say_has_a_fingerprint_too() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for odd in ({1: "x", "y": {(1, 2)}}, {"x": "\ud800"}, {"x": b"\xff"}):
        assert source_fingerprint(given_source("dataset", [odd]), "train").startswith("rows-")


def test_missing_values_of_pandas_are_none_and_numbers_stay_numbers() -> None:
    frame = pd.DataFrame({"a": [1.5, None], "b": ["x", None], "c": pd.array([1, None], "Int64")})
    frame["d"] = pd.to_datetime(["2026-01-01", None])
    (_, first), (_, second) = read_rows(given_source("validation", frame), "validation")
    assert (first["a"], first["b"], first["c"]) == (1.5, "x", 1)
    assert type(first["c"]) is int
    assert second == dict.fromkeys("abcd")


def test_an_index_with_a_name_is_a_column_and_a_plain_one_is_not() -> None:
    frame = pd.DataFrame(ROWS)
    for given in (frame.set_index("id"), frame.set_index(["id", "context"]), frame):
        assert [row for _, row in read_rows(given_source("dataset", given), "train")] == [
            {name: row[name] for name in read} for row, (_, read) in zip(ROWS, _read(given), strict=True)
        ]
        assert {name for _, row in _read(given) for name in row} == set(ROWS[0])


def _read(given: Any) -> list[tuple[str, dict]]:
    return list(read_rows(given_source("dataset", given), "train"))


def test_columns_without_texts_as_names_and_twice_the_same_name() -> None:
    assert _read(pd.DataFrame([["a", 2]])) == [("dataset.iloc[0]", {"0": "a", "1": 2})]
    assert _read([{1: {2: "x"}}]) == [("dataset[0]", {"1": {"2": "x"}})]
    with pytest.raises(InputError, match=r"dataset \(DataFrame\): names columns twice: 'a'"):
        _read(pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"]))


def test_splits_of_a_dictionary_of_datasets() -> None:
    splits = DatasetDict({"train": Dataset.from_list(ROWS), "test": Dataset.from_list(ROWS[:1])})
    source = given_source("dataset", splits)
    assert (has_split(source, "train"), has_split(source, "validation")) == (True, False)
    with pytest.raises(InputError, match=r"dataset \(DatasetDict\): has no split 'validation'; it has 'train', 'test'"):
        read_rows(source, "validation")
    assert not has_split(given_source("dataset", ROWS), "train")


def test_paths_and_lists_of_paths_are_names(tmp_path) -> None:
    assert given_source("dataset", Path("a") / "b.json") == str(Path("a") / "b.json")
    assert given_source("dataset", ["a.json", Path("b.json")]) == "a.json,b.json"
    assert given_source("dataset", ("*.csv",)) == "*.csv"
    with pytest.raises(InputError, match=r"holds the path 'a,b.json', whose comma would separate two paths"):
        given_source("dataset", ["a,b.json", "c.json"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (5, "is of type int (5); pass a file, a folder or a dataset's name, a list of paths"),
        (b"a.json", "is of type bytes"),
        ([], "is an empty list"),
        ([1, 2], "is a list of 2 items of which item 0 is of type int (1)"),
        ([ROWS[0], "a.json"], "is a list of 2 items of which item 1 is of type str ('a.json'); give dicts alone"),
        (["a.json", ROWS[0]], "of which item 1 is of type dict"),
        ({"question": ["?"]}, "is of type dict ({'question': ['?']}); pass a list of dicts, one for each row"),
        ((row for row in ROWS), "it is read more than once; pass list(...)"),
        (pd.Series(["a"]), "it is one column; pass the whole DataFrame"),
        (Dataset.from_list(ROWS).to_iterable_dataset(), "is of type IterableDataset"),
        ("dataset (DataFrame)", "was a DataFrame in memory when this was saved; pass it again"),
    ],
)
def test_what_is_none_of_these_is_refused_with_a_fix(value: Any, words: str) -> None:
    with pytest.raises(InputError) as caught:
        given_source("dataset", value)
    assert words in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_polars_frame_that_is_lazy_is_to_be_collected() -> None:
    with pytest.raises(InputError, match=r"is of type LazyFrame .*; call its collect\(\)"):
        given_source("dataset", polars_frame(ROWS).lazy())


def test_an_index_of_several_levels_may_have_a_name_that_is_a_column_too():
    rows = make_rows(3)
    frame = pd.DataFrame(rows)
    levels = [(one["id"], "Ada", number) for number, one in enumerate(rows)]
    frame.index = pd.MultiIndex.from_tuples(levels, names=["id", "title", None])
    found = [item for _, item in given_source("dataset", frame).rows("train")]
    assert found == [item | {"title": "Ada"} for item in rows]
