"""Pieces of data files that others have published, as their authors wrote them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from qa_lightning.checks.report import check_source
from qa_lightning.data.columns import Columns, ReadSettings
from qa_lightning.errors import InputError
from tests.helpers import commands
from tests.helpers.data import make_rows
from tests.helpers.forms import read

REVIEW = "I love their food! Fantastic service. ANSWERNOTFOUND"

# mrqa/MRQA-Shared-Task-2019, baseline/NewsQA_sample.jsonl; the header is that of the task's own files.
MRQA_CONTEXT = "CNN will feature one of three different videos. What videos? Environmental, say environmental ones."
MRQA = {
    "context": MRQA_CONTEXT,
    "context_tokens": [["CNN", 0], ["will", 4]],
    "qas": [
        {
            "question": "What videos will you send?",
            "question_tokens": [["What", 0]],
            "answers": ["environmental"],
            "qid": "fb575e95e21843f9bc7ab8acdde72ee7",
            "detected_answers": [{"text": "environmental", "char_spans": [[80, 92]], "token_spans": [[270, 270]]}],
        },
        {
            "question": "What will be featured?",
            "answers": ["three different videos", "Videos"],
            "qid": "849240180c584f71bc56c0c92c5df5fd",
            "detected_answers": [
                {"text": "three different videos", "char_spans": [[24, 45]], "token_spans": [[5, 7]]},
                {"text": "Videos", "char_spans": [[40, 45], [53, 58]], "token_spans": [[7, 7]]},
            ],
        },
    ],
}
# pengwei-iie/Dureader_robustness, data_2020/devset/dev.json: all offsets are -1
DUREADER = {
    "context": "2017年失业金每月为1600元,最低为900元,最高1600元。",
    "qas": [
        {"question": "失业金最低是多少", "id": "9c66", "answers": [{"text": "900元", "answer_start": -1}]},
        {"question": "失业金是多少", "id": "9d11", "answers": [{"text": "1600元", "answer_start": -1}]},
    ],
}


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def told(path, on_bad_rows: str = "error", **options) -> list[str]:
    """What is said about how a file is read."""
    lines: list[str] = []
    read(path, on_bad_rows, lines, **options)
    return lines


@pytest.mark.parametrize("packed", [False, True])
def test_the_answers_of_mrqa_are_at_the_spans_that_were_detected(tmp_path, packed) -> None:
    lines = "".join(json.dumps(one) + "\n" for one in ({"header": {"dataset": "NewsQA", "split": "train"}}, MRQA))
    path = tmp_path / ("train.jsonl.gz" if packed else "train.jsonl")
    path.write_bytes(gzip.compress(lines.encode()) if packed else lines.encode())
    first, second = read(path)
    assert first["answers"] == {"text": ["environmental"], "answer_start": [80]}
    assert second["answers"] == {
        "text": ["three different videos", "videos", "videos"],
        "answer_start": [24, 40, 53],
    }
    assert first["id"] == MRQA["qas"][0]["qid"]


def test_spans_that_are_none_leave_mrqa_its_texts(tmp_path) -> None:
    item = json.loads(json.dumps(MRQA))
    item["qas"][1]["detected_answers"][0]["char_spans"] = [["24", 45]]
    item["qas"][0]["detected_answers"] = None
    with pytest.raises(InputError, match="'environmental' has no answer_start, and it occurs at 80"):
        read(write_json(tmp_path / "one.json", item | {"context": f"{MRQA_CONTEXT} environmental"}))


def test_one_context_or_one_row_may_be_a_whole_file(tmp_path) -> None:
    assert [row["id"] for row in read(write_json(tmp_path / "a.json", MRQA))] == [qa["qid"] for qa in MRQA["qas"]]
    (row,) = make_rows(1)
    (found,) = read(write_json(tmp_path / "b.json", row))
    assert found["question"] == row["question"]
    task = {"id": 1, "data": {"question": "Who ?", "text": "Ben ."}, "annotations": [{"result": []}]}
    (found,) = read(write_json(tmp_path / "c.json", task))
    assert found["answers"]["text"] == []


def test_an_offset_of_minus_one_is_one_that_is_not_known(tmp_path) -> None:
    """The text is searched for, as where there is no offset at all, and that is said."""
    path = write_json(tmp_path / "dev.json", {"data": [{"title": "", "paragraphs": [DUREADER]}]})
    with pytest.raises(InputError) as caught:
        read(path)
    (_, problem) = caught.value.problems
    assert "'1600元' has no answer_start, and it occurs at 11, 27" in problem
    kept, _ = read(path, "skip")
    assert [row["answers"] for row in kept] == [{"text": ["900元"], "answer_start": [20]}]
    line = "answers whose answer_start is -1 or empty: answer_start from the context, if the answer occurs there once"
    assert told(path, "skip") == [line]
    assert not told(write_json(tmp_path / "none.json", make_rows(3, unanswerable=3)))


def test_json_lines_may_be_called_json(tmp_path) -> None:
    """masakhane-io/afriqa has them, and `datasets.Dataset.to_json` writes them so."""
    rows = make_rows(3)
    path = tmp_path / "gold.json"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert [row["id"] for row in read(path)] == [row["id"] for row in rows]
    assert told(path) == [f"{path}: has one JSON object in each line, and is read so"]
    path.write_text("".join(f"{json.dumps(row, indent=1)}\n" for row in rows), encoding="utf-8")
    with pytest.raises(InputError, match=r"Extra data\); name a file with one object per line .jsonl"):
        read(path)


def test_ids_that_begin_anew_in_each_article_can_be_left_out(tmp_path) -> None:
    """okanvk/Turkish-Reading-Comprehension-Question-Answering-Dataset, 2020-enelpi-squad-dataset."""
    rows = [{**row, "id": number % 5, "qid": ""} for number, row in enumerate(make_rows(20))]
    path = write_json(tmp_path / "train.json", rows)
    (found,) = (one for one in check_source(str(path)).findings if one.kind == "duplicate_id")
    assert "pass --data.columns.id none" in found.fix
    with pytest.raises(InputError, match=r"correct them, or pass --data\.columns\.id none to have them made"):
        read(path)
    without = ReadSettings(Columns(id="none"))
    assert len({row["id"] for row in read(path, reading=without)}) == 20
    assert told(path, reading=without) == ["columns: ids made from each row's content"]
    named = write_json(tmp_path / "named.json", [{**row, "none": row["id"]} for row in make_rows(2)])
    assert [row["id"] for row in read(named, reading=without)] == ["q0", "q1"]  # a column of that name is one


def test_numbers_that_are_taken_for_offsets_are_told(tmp_path) -> None:
    """digitalfabrik/integreat-qa-dataset: the answers are numbers of lines."""
    item = {"question": "Was ?", "context": "Mittelschule\nSie geht bis zur 9. Klasse.\n"}
    path = write_json(tmp_path / "dev.json", [{**item, "id": 1, "answers": [5, 7]}, {**item, "id": 2, "answers": []}])
    assert told(path) == [
        "answers are pairs of numbers: offsets in characters, the second one after the last character"
    ]
    table = tmp_path / "dev.csv"
    table.write_text('id,question,context,answers\n1,Was ?,Mittelschule,"[5, 7]"\n', encoding="utf-8")
    assert told(table)[-1].startswith("answers are pairs of numbers")


def test_one_answer_at_the_end_of_many_contexts_is_told(tmp_path) -> None:
    """megagonlabs/SubjQA writes ANSWERNOTFOUND there, QuAC CANNOTANSWER."""
    marked = {"context": REVIEW, "answers": {"text": ["ANSWERNOTFOUND"], "answer_start": [len(REVIEW) - 14]}}
    rows = [row | (marked if number % 2 else {}) for number, row in enumerate(make_rows(40))]
    report = check_source(str(write_json(tmp_path / "dev.json", rows)))
    (found,) = (one for one in report.findings if one.kind == "marker")
    assert (found.count, found.severity) == (20, "warning")
    assert found.rows[0]["what"] == "'ANSWERNOTFOUND'"
    report = check_source(str(write_json(tmp_path / "few.json", rows[:18])))
    assert not [one for one in report.findings if one.kind == "marker"]


def test_a_fix_that_would_leave_no_row_is_not_proposed(tmp_path) -> None:
    """HotpotQA's contexts are lists of titles and sentences."""
    context = [["Paris", ["Paris is a city.", " It is old."]]]
    rows = [{"_id": str(number), "question": "Where ?", "answer": "Paris", "context": context} for number in (1, 2)]
    path = write_json(tmp_path / "hotpot.json", rows)
    (found,) = check_source(str(path)).findings
    assert found.fix == "correct them"
    assert "join its parts into one text" in found.rows[0]["what"]
    (row,) = make_rows(1)
    one_good = [{**row, "_id": "3", "answer": row["answers"]["text"][0]}]
    for one in one_good:
        del one["id"], one["answers"]
    (found,) = (one for one in check_source(str(write_json(path, rows + one_good))).findings if one.kind == "type")
    assert found.fix.endswith("skip, which leaves the rows out")


def test_offsets_in_bytes_are_named(tmp_path) -> None:
    """google-research-datasets/tydiqa."""
    answers = [{"plaintext_start_byte": 3, "plaintext_end_byte": 9}]
    rows = [row | {"answers": answers} for row in make_rows(2)]
    with pytest.raises(InputError, match="offsets count characters, not bytes"):
        read(write_json(tmp_path / "dev.json", rows))


def test_answers_in_the_form_of_dureader_are_scored(tmp_path, capsys) -> None:
    rows = make_rows(3)
    data = write_json(tmp_path / "dev.json", rows)
    path = tmp_path / "predicts.json"
    lines = [{"question_id": row["id"], "answers": row["answers"]["text"][:1], "yesno": None} for row in rows]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert commands.evaluate(["--predictions", str(path), "--data", str(data)]) == 0
    assert "exact_match    100.0000" in capsys.readouterr().out
    path.write_text(json.dumps({**lines[0], "answers": ["a", "b"]}) + "\n")
    with pytest.raises(InputError, match=r"the prediction for id 'q0' is \['a', 'b'\]; it must be a text"):
        commands.evaluate(["--predictions", str(path), "--data", str(data)])
