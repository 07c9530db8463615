"""Pieces of data files that others have published, as their authors wrote them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from qa_lightning.checks import bad_rows
from qa_lightning.checks.report import check_source
from qa_lightning.data import columns as columns_module
from qa_lightning.data.answers import OffsetPolicy
from qa_lightning.data.columns import Columns, ReadSettings, renamed, usual_row
from qa_lightning.data.examples import check_row
from qa_lightning.data.sources import read_rows
from qa_lightning.errors import InputError, Voice, speaking
from qa_lightning.evaluation.saved import read_predictions
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
            "answers": ["three different videos", "Videos", "clips"],
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
    for nothing in (
        None,
        [],
        [{"text": "environmental", "char_spans": []}],
        [{"text": "environmental", "char_spans": None}],
    ):
        item["qas"][0]["detected_answers"] = nothing
        with pytest.raises(InputError, match="'environmental' has no answer_start, and it occurs at 80"):
            read(write_json(tmp_path / "one.json", item | {"context": f"{MRQA_CONTEXT} environmental"}))


def test_all_accepted_answers_of_mrqa_count_as_in_its_own_script(tmp_path, capsys) -> None:
    """mrqa_official_eval.py compares with ``answers``, also with those that the context does not hold, by ``qid``."""
    item = json.loads(json.dumps(MRQA))
    for qa in item["qas"]:
        qa["id"] = "another"
    data = tmp_path / "dev.jsonl"
    data.write_text(f"{json.dumps(item)}\n", encoding="utf-8")
    found = write_json(tmp_path / "predictions.json", {MRQA["qas"][0]["qid"]: "x", MRQA["qas"][1]["qid"]: "clips"})
    assert commands.evaluate(["--predictions", str(found), "--data", str(data)]) == 0
    assert "exact_match    50.0000" in capsys.readouterr().out
    report = check_source(str(data))
    assert report.errors == 0
    assert not [one for one in report.findings if one.kind == "left_out"]
    (_, second) = read(data)
    assert "clips" not in second["answers"]["text"]
    held_out = read(data, texts_alone=True)[1]["answers"]
    assert (held_out["text"][-1], held_out["answer_start"][-1]) == ("clips", -1)


def test_one_context_or_one_row_may_be_a_whole_file(tmp_path) -> None:
    assert [row["id"] for row in read(write_json(tmp_path / "a.json", MRQA))] == [qa["qid"] for qa in MRQA["qas"]]
    (row,) = make_rows(1)
    named = {"query": row["question"], "passage": row["context"], "answer": row["answers"]["text"][0]}
    for one in (row, named):
        (found,) = read(write_json(tmp_path / "b.json", one))
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
    assert told(path, "skip") == [SEARCHED]
    assert not told(write_json(tmp_path / "none.json", make_rows(3, unanswerable=3)))


SEARCHED = (
    "answers whose answer_start is missing, empty or -1: answer_start from the context, if the answer occurs there once"
)
SHAPES = {
    "a table": "answer_text,answer_start\nAda,-1\n",
    "a table of fractions": "answer_text,answer_start\nAda,-1.0\n",
    "an empty cell": "answer_text,answer_start\nAda,\n",
    "JSON in a cell": 'answers\n"{""text"": [""Ada""], ""answer_start"": [-1]}"\n',
    "Python in a cell": "answers\n\"[('Ada', -1)]\"\n",
}


@pytest.mark.parametrize("table", SHAPES.values(), ids=list(SHAPES))
def test_an_unknown_offset_is_told_in_every_shape(tmp_path, table) -> None:
    path = tmp_path / "q.csv"
    head, cell = table.strip().split("\n")
    path.write_text(f"id,question,context,{head}\n1,Who ?,Ada is here.,{cell}\n", encoding="utf-8")
    assert read(path)[0]["answers"] == {"text": ["Ada"], "answer_start": [0]}
    assert SEARCHED in told(path)


@pytest.mark.parametrize(
    "answers", [{"text": "Ada", "answer_start": -1}, [["Ada", -1]], [{"text": "Ada", "start": "-1"}]]
)
def test_an_unknown_offset_is_told_in_every_shape_of_json(tmp_path, answers) -> None:
    path = write_json(
        tmp_path / "q.json", [{"id": 1, "question": "Who ?", "context": "Ada is here.", "answers": answers}]
    )
    assert read(path)[0]["answers"] == {"text": ["Ada"], "answer_start": [0]}
    assert told(path) == [SEARCHED]


def test_json_lines_may_be_called_json(tmp_path) -> None:
    """masakhane-io/afriqa has them, and `datasets.Dataset.to_json` writes them so."""
    rows = make_rows(3)
    path = tmp_path / "gold.json"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert [row["id"] for row in read(path)] == [row["id"] for row in rows]
    assert told(path) == [f"{path}: has one JSON object in each line, and is read so"]
    document = json.dumps({"data": rows})
    for damaged in (
        "".join(f"{json.dumps(row, indent=1)}\n" for row in rows),
        f"{document}\n}}",
        f"{document}\n{document}\n",  # two files in one
        f"{json.dumps(rows[0])},\n{json.dumps(rows[1])}\n",
        f"{json.dumps(rows[0])} {json.dumps(rows[1])}\n",
    ):
        path.write_text(damaged, encoding="utf-8")
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
    with speaking(Voice()), pytest.raises(InputError, match=r"pass columns={\"id\": \"none\"} to have them made"):
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
    first = {"context": "Reuters said so (c) Reuters", "answers": {"text": ["Reuters"], "answer_start": [0]}}
    for others in (rows[:18], [row | first for row in rows]):
        report = check_source(str(write_json(tmp_path / "few.json", others)))
        assert not [one for one in report.findings if one.kind == "marker"]


def test_answers_at_the_end_that_are_rare_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(bad_rows, "_AT_END", 20)
    check, rows, most = bad_rows.RowCheck(), [], 0
    for number in range(1000):
        text = "CANNOTANSWER" if number % 10 == 0 else f"word{number // 3}"
        item = {"id": str(number), "question": "Who ?", "context": f"It is {text}"}
        item["answers"] = {"text": [text], "answer_start": [6]}
        rows.append((f"row {number}", item))
    for _ in check.valid(rows):
        most = max(most, len(check._at_end))
    assert most == 20
    (found,) = (one for one in check.findings.found() if one.kind == "marker")
    assert (found.count, len(found.rows)) == (100, 5)
    check.close()


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
    lines = [
        {"Question ID": row["id"], "id": None, "answers": row["answers"]["text"][:1], "yesno": None} for row in rows
    ]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert commands.evaluate(["--predictions", str(path), "--data", str(data)]) == 0
    assert "exact_match    100.0000" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("span", "text"),
    [([1, 13], "environmental"), ([80, 92], "say"), ([400, 412], "environmental")],
)
def test_a_span_of_mrqa_that_is_not_its_text_is_a_misplaced_answer(tmp_path, span, text) -> None:
    item = json.loads(json.dumps(MRQA))
    item["qas"][0] |= {"detected_answers": [{"text": text, "char_spans": [span]}], "answers": [text]}
    with pytest.raises(InputError, match=f"answer '{text}' is not at answer_start {span[0]}"):
        read(write_json(tmp_path / "one.json", item))
    item["qas"][0]["detected_answers"] = [{"text": "environmental", "char_spans": [[80, 93]]}]  # an exclusive end
    assert read(write_json(tmp_path / "one.json", item))[0]["answers"]["text"][0] == "environmental"
    item["qas"][0]["detected_answers"] = [{"text": [text], "char_spans": [span]}]
    item["qas"][0]["answers"] = []
    with pytest.raises(InputError, match="not a text"):
        read(write_json(tmp_path / "one.json", item))


def test_ids_of_mrqa_are_of_one_kind_and_its_other_answers_are_no_finding(tmp_path) -> None:
    item = json.loads(json.dumps(MRQA))
    item["qas"][0] |= {"detected_answers": [], "id": "x"}
    item["qas"][1]["answers"].append("A|B")
    path = write_json(tmp_path / "one.json", item)
    rows = [row for _, row in read_rows(str(path), "train")]
    assert [row["id"] for row in rows] == [qa["qid"] for qa in item["qas"]]
    found = [check_row("row 2", usual_row(rows[1], "|"), OffsetPolicy(texts_alone=alone)) for alone in (False, True)]
    assert [(one.problems, one.left_out, one.unplaced) for one in found] == [([], [], [])] * 2
    assert found[1].example["answers"]["text"][-2:] == ["clips", "A|B"]


def test_a_document_with_more_in_it_stays_one(tmp_path) -> None:
    rows = make_rows(2)
    table = {name: [row[name] for row in rows] for name in rows[0]}
    for more in ({"paragraphs": [["p"], ["p"]]}, {"qas": ["x", "y"]}):
        assert len(read(write_json(tmp_path / "table.json", table | more))) == 2
    wrapped = {"query": "SELECT", "document": "corpus", "data": rows}
    assert len(read(write_json(tmp_path / "wrapped.json", wrapped))) == 2
    assert len(read(write_json(tmp_path / "one.json", rows[0] | {"annotations": []}))) == 1


@pytest.mark.parametrize(
    ("cell", "start"),
    [("None", ""), ('{"text": ["Ada"], "answer_start": [0]}', ""), ("(3, 4)", None), ("(3, 4) lattice", None)],
)
def test_nothing_is_told_of_answers_that_are_not_searched_for(tmp_path, cell, start) -> None:
    item = {"id": "1", "question": "Who ?", "context": "Ada is in a (3, 4) lattice.", "answers": cell}
    lines = told(write_json(tmp_path / "q.json", [item | ({} if start is None else {"answer_start": start})]))
    assert SEARCHED not in lines
    assert not [line for line in lines if line.startswith("answers are pairs")]


@pytest.mark.parametrize("answers", [[], {"text": []}, [{"text": []}], "[]", '{"text": []}'])
def test_no_text_in_any_shape_is_no_answer(tmp_path, answers) -> None:
    item = {"id": "1", "question": "Who ?", "context": "Ada is here.", "answers": answers}
    path = write_json(tmp_path / "q.json", [item])
    for separator in (None, "|"):
        (found,) = read(path, reading=ReadSettings(answer_separator=separator))
        assert found["answers"] == {"text": [], "answer_start": []}
    assert not told(path)


@pytest.mark.parametrize("answers", [["Ada"], {"text": ["Ada"]}, {"Text": ["Ada"], "Answer-Start": [-1]}, '["Ada"]'])
def test_texts_alone_are_told_in_every_shape(tmp_path, answers) -> None:
    item = {"id": "1", "question": "Who ?", "context": "Ada is here.", "answers": answers}
    assert told(write_json(tmp_path / "q.json", [item])) == [SEARCHED]


def test_cells_are_not_parsed_twice(tmp_path, monkeypatch) -> None:
    """An `ast.parse` takes a fifth of a millisecond, in the one process that reads."""
    parsed = []
    monkeypatch.setattr(columns_module, "parsed_cell", lambda *cell: parsed.append(cell))
    cell = "{'text': ['the finance minister, null and nano'], 'answer_start': [1]}"
    item = {"id": "1", "question": "Who ?", "context": "So the finance minister, null and nano", "answers": cell}
    list(renamed([("row 1", item)] * 3, ReadSettings()))
    assert not parsed
    deep = "[" * 900 + "-1" + "]" * 900
    list(renamed([("row 1", item | {"answers": deep})], ReadSettings()))


@pytest.mark.parametrize(
    "rows", [{"prediction": "wrong", "answers": ["gold"]}, {"answers": "gold"}, {"answers": ["a", "b"]}]
)
def test_gold_answers_beside_predictions_are_not_taken_for_them(tmp_path, rows) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text(f"{json.dumps({'id': 'q0', **rows})}\n{json.dumps({'id': 'q1', **rows})}\n", encoding="utf-8")
    with pytest.raises(InputError, match="is no object with id and answer"):
        read_predictions(path)


def test_an_id_goes_before_other_spellings_of_it(tmp_path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"ID": 0, "id": "q0", "answer": "x"}\n{"ID": 1, "id": "q1", "answer": "y"}\n', encoding="utf-8")
    assert read_predictions(path) == {"q0": "x", "q1": "y"}
