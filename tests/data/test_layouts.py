"""Documents of JSON in every layout that is known give the same rows; splits in one file are told apart."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from qa_lightning.data.columns import Columns, ReadSettings
from qa_lightning.data.formats import CONTEXTS as NAMES
from qa_lightning.data.formats import BrokenRow, file_splits
from qa_lightning.data.sources import count_rows, has_split, read_rows, source_fingerprint
from qa_lightning.errors import InputError
from tests.helpers.forms import CONTEXT, ROWS, as_json, as_lines, cases, listed_answers, nested, read, row, write

CONTEXTS = [
    {key: paragraph[key] for key in ("qas", "context")}
    for article in nested(ROWS, "v2.0")["data"]
    for paragraph in article["paragraphs"]
]
FRAME = pd.DataFrame(ROWS)


def from_pandas(orient):
    """What `DataFrame.to_json` writes."""
    return FRAME.to_json(orient=orient, force_ascii=False).encode()


def haystack(rows):
    """As Haystack's annotation tool exports it: numbers for ids, ends and categories of answers beside them."""
    document = nested(rows, "v2.0")
    for number, article in enumerate(document["data"]):
        article.pop("title")
        for paragraph in article["paragraphs"]:
            paragraph["document_id"] = number
            for qa in paragraph["qas"]:
                qa.pop("plausible_answers", None)
                qa["answers"] = [
                    {
                        **{"answer_id": 7, "document_id": number, "question_id": 1, "answer_category": None},
                        **{"file_name": None, **one, "answer_end": one["answer_start"] + len(one["text"])},
                    }
                    for one in qa["answers"]
                ]
    return document


def label_studio(rows, texts=True):
    """As Label Studio exports the tasks of its template for question answering: an annotation for each answer."""
    tasks = []
    for item in rows:
        regions = [
            {
                **{"start": one["answer_start"], "end": one["answer_start"] + len(one["text"])},
                **({"text": one["text"]} if texts else {}),
                "labels": ["Answer"],
            }
            for one in listed_answers(item)
        ]
        results = [
            [{"id": "x", "from_name": "answer", "to_name": "text", "type": "labels", "value": region}]
            for region in regions
        ]
        choice = [{"type": "choices", "value": {"choices": ["unsure"]}, "from_name": "sure", "to_name": "text"}]
        annotations = [{"id": 1, "was_cancelled": False, "result": [*choice, *result]} for result in results]
        annotations = annotations or [{"id": 1, "was_cancelled": False, "result": []}]
        annotations.append({"id": 9, "was_cancelled": True, "result": [{"value": {"start": 0, "end": 1, "text": "?"}}]})
        data = {"id": item["id"], "question": item["question"], "text": item["context"]}
        tasks.append({"id": 5, "data": data, "annotations": annotations, "predictions": []})
    return tasks


def label_studio_short(rows):
    """The short export, JSON-MIN: the regions stand beside the data."""
    return [
        {
            **{"id": item["id"], "question": item["question"], "text": item["context"], "annotator": 1},
            "answer": [
                {"start": one["answer_start"], "end": one["answer_start"] + len(one["text"]), **one, "labels": ["A"]}
                for one in listed_answers(item)
            ],
        }
        for item in rows
    ]


LAYOUTS = {
    "contexts with qas": (".json", as_json(CONTEXTS)),
    "contexts with qas under data": (".json", as_json({"data": CONTEXTS})),
    "contexts with qas as lines": (".jsonl", as_lines(CONTEXTS)),
    "articles as lines": (".jsonl", as_lines(nested(ROWS, "v2.0")["data"])),
    "Haystack": (".json", as_json(haystack(ROWS))),
    "Label Studio": (".json", as_json(label_studio(ROWS))),
    "Label Studio without texts": (".json", as_json(label_studio(ROWS, texts=False))),
    "Label Studio as lines": (".jsonl", as_lines(label_studio(ROWS))),
    "Label Studio's short export": (".json", as_json(label_studio_short(ROWS))),
    "pandas, records": (".json", from_pandas("records")),
    "pandas, split": (".json", from_pandas("split")),
    "pandas, index": (".json", from_pandas("index")),
    "pandas, columns": (".json", from_pandas("columns")),
    "pandas, table": (".json", from_pandas("table")),
    "pandas, lists": (".json", as_json(FRAME.to_dict("list"))),
    "columns of a dataset under data": (".json", as_json({"data": FRAME.to_dict("list")})),
    "rows by their id": (".json", as_json({item["id"]: {**item, "id": item["id"]} for item in ROWS})),
    "rows by their id, which they lack": (
        ".json",
        as_json({item["id"]: {key: item[key] for key in ("question", "context", "answers")} for item in ROWS}),
    ),
}


@pytest.mark.parametrize(("suffix", "content"), cases(LAYOUTS))
def test_every_layout_reads_the_same_rows(tmp_path, suffix, content):
    assert read(write(tmp_path, f"questions{suffix}", content)) == ROWS
    assert read(write(tmp_path, f"questions{suffix}.gz", content)) == ROWS


def test_cmrc_reads_its_texts_where_they_occur_once(tmp_path):
    item = {
        "context_id": "TRIAL_800",
        "context_text": "基于《跑跑卡丁车》与《泡泡堂》上所开发的游戏，由韩国开发。",
        "qas": [
            {"query_id": "TRIAL_800_QUERY_0", "query_text": "由哪国开发？", "answers": ["韩国", "韩国开发"]},
            {"query_id": "TRIAL_800_QUERY_1", "query_text": "基于什么？", "answers": ["《泡泡堂》"]},
        ],
        "title": "泡泡战士",
    }
    told = []
    path = write(tmp_path, "q.json", as_json([item]))
    first, second = read(path, told=told)
    assert first["answers"] == {"text": ["韩国", "韩国开发"], "answer_start": [24, 24]}
    assert (second["id"], second["question"]) == ("TRIAL_800_QUERY_1", "基于什么？")
    assert second["answers"]["answer_start"] == [item["context_text"].index("《泡泡堂")]
    assert told[0] == "columns: id from 'query_id', question from 'query_text', context from 'context_text'"


@pytest.mark.parametrize("name", [*NAMES, "Context", "contextText", "ARTICLE", "Body"])
def test_a_context_with_questions_has_any_name_that_a_column_may_have(tmp_path, name):
    item = {name: CONTEXT, "qas": [{"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}]}
    (example,) = read(write(tmp_path, "q.json", as_json([item])))
    assert example["context"] == CONTEXT


def test_a_problem_names_context_and_question_by_their_numbers(tmp_path):
    bad = {"context": CONTEXT, "qas": [{"id": "a", "question": "?", "answers": []}, {"id": "b", "question": ""}]}
    for name, where in (("q.json", "context 2 question 2"), ("q.jsonl", "line 2 question 2")):
        make = as_json if name == "q.json" else as_lines
        path = write(tmp_path, name, make([CONTEXTS[0], bad]))
        with pytest.raises(InputError, match=f"{name} {where}: no column 'answers'"):
            read(path)


@pytest.mark.parametrize(
    ("bad", "rows", "words"),
    [
        ({"context": CONTEXT, "qas": None}, 0, "line 2: not SQuAD's layout (qas is None, not a list)"),
        ({"qas": []}, 0, "line 2: not SQuAD's layout (no 'context'"),
        ({"paragraphs": 3}, 0, "line 2: not SQuAD's layout (paragraphs is 3, not a list)"),
        ({"paragraphs": [CONTEXTS[0], 3]}, len(CONTEXTS[0]["qas"]), "line 2 paragraph 2: not SQuAD's layout (it is 3"),
        ({**CONTEXTS[0], "qas": [*CONTEXTS[0]["qas"], None]}, len(CONTEXTS[0]["qas"]), "(it is None, not an object)"),
    ],
)
def test_a_line_of_another_layout_is_a_bad_row_among_others(tmp_path, bad, rows, words):
    path = write(tmp_path, "q.jsonl", as_lines([ROWS[0], bad, ROWS[1]]))
    found = [item for _, item in read_rows(str(path), "validation")]
    (broken,) = [item for item in found if isinstance(item, BrokenRow)]
    assert words in broken.problems[0]
    assert (found.index(broken), len(found)) == (1 + rows, 3 + rows)
    _, skipped = read(path, "skip")
    assert any(words in problem for problem in skipped)
    path = write(tmp_path, "first.jsonl", as_lines([bad, ROWS[1]]))
    assert count_rows(str(path), "validation") == (None if rows else 2)


def test_a_row_of_a_table_of_several_layouts_is_a_row(tmp_path):
    """Where pandas writes rows of several layouts, each has null for the columns of the others."""
    for name, make in (("q.json", as_json), ("q.jsonl", as_lines)):
        path = write(tmp_path, name, make([{**row, "qas": None, "paragraphs": None} for row in ROWS]))
        assert read(path) == ROWS


def test_a_task_that_nobody_annotated_has_no_answers_column(tmp_path):
    tasks = label_studio(ROWS[:2])
    tasks[1]["annotations"] = []
    path = write(tmp_path, "q.json", as_json(tasks))
    with pytest.raises(InputError, match="row 2: no column 'answers'"):
        read(path)
    assert len(read(path, "skip")[0]) == 1


def annotated(*values):
    """A task of Label Studio with one annotation of these values."""
    result = [{"from_name": "answer", "to_name": "text", "value": value} for value in values]
    data = {"id": "1", "question": "Who?", "text": CONTEXT}
    return {"id": 5, "data": data, "annotations": [{"id": 1, "was_cancelled": False, "result": result}]}


@pytest.mark.parametrize(
    ("values", "answers"),
    [
        ([{"text": ["Ada Lovelace"]}], {"text": ["Ada Lovelace"], "answer_start": [0]}),
        ([{"text": "1843"}, {"choices": ["sure"]}], {"text": ["1843"], "answer_start": [40]}),
        ([{"text": ["1843", "Ada"]}], {"text": ["1843", "Ada"], "answer_start": [40, 0]}),
        (
            [{"text": ["a comment"]}, {"start": 40, "end": 44, "labels": ["A"]}],
            {"text": ["1843"], "answer_start": [40]},
        ),
        ([{"choices": ["No answer"]}], {"text": [], "answer_start": []}),
        ([], {"text": [], "answer_start": []}),
    ],
)
def test_what_an_annotator_typed_is_an_answer_where_nothing_is_marked(tmp_path, values, answers):
    (example,) = read(write(tmp_path, "q.json", as_json([annotated(*values)])))
    assert example["answers"] == answers


@pytest.mark.parametrize("value", [{"choices": ["the cello"]}, {"rating": 4}, {"text": ["Grace"]}])
def test_an_annotation_of_which_nothing_can_be_used_is_a_problem_and_not_no_answer(tmp_path, value):
    path = write(tmp_path, "q.json", as_json([annotated(value)]))
    with pytest.raises(InputError, match=r"has no text under a known name, only|'Grace' has no answer_start"):
        read(path)


def test_a_start_that_is_a_whole_number_in_quotes_is_that_number_in_every_format(tmp_path):
    document = nested(ROWS[:2])
    for paragraph in (paragraph for article in document["data"] for paragraph in article["paragraphs"]):
        for one in (one for qa in paragraph["qas"] for one in qa["answers"]):
            one["answer_start"] = f" {one['answer_start']}.0"
    lists = [item | {"answers": {**item["answers"], "answer_start": ["40", "37", "40"]}} for item in ROWS[:1]]
    assert read(write(tmp_path, "q.json", as_json(document))) == ROWS[:2]
    assert read(write(tmp_path, "q.jsonl", as_lines(lists))) == ROWS[:1]
    wrong = row(answers=[{"text": "Ada", "answer_start": "zero"}])
    with pytest.raises(InputError, match="answer_start is 'zero'"):
        read(write(tmp_path, "q.jsonl", as_lines([wrong])))


# --- splits in one file ---

SPLITS = {"train": nested(ROWS[:3]), "validation": ROWS[3:]}


def test_a_file_of_splits_gives_the_one_that_is_asked_for(tmp_path):
    path = str(write(tmp_path, "q.json", as_json(SPLITS)))
    assert read(path) == ROWS[:3]
    assert [item["id"] for _, item in read_rows(path, "validation")] == [ROWS[3]["id"]]
    assert [has_split(path, split) for split in ("train", "validation")] == [True, True]
    assert source_fingerprint(path, "train") != source_fingerprint(path, "validation")


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validation"])
def test_validation_has_many_names(tmp_path, name):
    path = write(tmp_path, "q.json", json.dumps({name: ROWS[3:], "test": ROWS[:1]}, indent=1).encode("utf-16"))
    assert file_splits(path) == ["validation", "test"]
    assert [item["id"] for _, item in read_rows(str(path), "validation") if item] == [ROWS[3]["id"]]


def test_a_file_of_rows_is_not_divided(tmp_path):
    plain = str(write(tmp_path, "q.json", as_json(ROWS)))
    assert not has_split(plain, "train")
    divided = str(write(tmp_path, "s.json", as_json(SPLITS)))
    assert not has_split(f"{plain},{divided}", "validation")
    assert source_fingerprint(plain, "train") == source_fingerprint(plain, "validation")
    questions = {"train": "When does it leave?", "context": CONTEXT}
    assert file_splits(write(tmp_path, "t.json", as_json(questions))) == []


def test_columns_are_named_in_any_layout(tmp_path):
    frame = FRAME.rename(columns={"question": "frage", "context": "absatz"})
    path = write(tmp_path, "q.json", frame.to_json(orient="split").encode())
    reading = ReadSettings(Columns(question="frage", context="absatz"))
    assert read(path, reading=reading) == ROWS
