"""Columns with other names, answers in other shapes and made ids: what is guessed, reported and refused."""

from __future__ import annotations

import json
import random
from itertools import count, pairwise

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qa_lightning import SquadDataModule
from qa_lightning.data import columns as columns_module
from qa_lightning.data.columns import (
    PLACE,
    SYNONYMS,
    Columns,
    ReadSettings,
    choose_columns,
    made_id,
    usual_row,
    with_usual_columns,
)
from qa_lightning.data.formats import BrokenRow
from qa_lightning.errors import InputError
from tests.helpers import commands
from tests.helpers.data import make_rows
from tests.helpers.forms import (
    CONTEXT,
    ROWS,
    as_json,
    as_lines,
    as_parquet,
    as_table,
    listed_answers,
    read,
    row,
    with_listed_answers,
    write,
)
from tests.helpers.training import train_flags


def guessed(*there, columns=None):
    """Usual name -> column, without columns that have their usual name."""
    names, problems = choose_columns(there, columns or Columns())
    assert problems == []
    return {name: column for name, column in names.items() if name != column}


def refused(*there, columns=None):
    _, problems = choose_columns(there, columns or Columns())
    assert problems
    return [problem.replace(PLACE, "q.csv row 1") for problem in problems]


# --- which column is which ---


@pytest.mark.parametrize(
    ("there", "names"),
    [
        (["id", "question", "context", "answers"], {}),
        (["qid", "q", "passage", "answers"], {"id": "qid", "question": "q", "context": "passage"}),
        (["question", "text", "answer"], {"context": "text", "answer_text": "answer"}),
        (
            ["Question", "Context", "Answer Text", "Answer-Start"],
            {
                "question": "Question",
                "context": "Context",
                "answer_text": "Answer Text",
                "answer_start": "Answer-Start",
            },
        ),
        (
            ["questionText", "answerText", "answerStart", "article"],
            {
                "question": "questionText",
                "context": "article",
                "answer_text": "answerText",
                "answer_start": "answerStart",
            },
        ),
        (
            ["id", "question", "context", "answers.text", "answers.answer_start"],
            {"answer_text": "answers.text", "answer_start": "answers.answer_start"},
        ),
        (["_id", "query", "document", "answers"], {"id": "_id", "question": "query", "context": "document"}),
        (["question", "context", "unanswerable"], {"is_impossible": "unanswerable"}),
        # the usual name is chosen, whatever other columns there are
        (["question", "context", "text", "passage", "q", "answers"], {}),
        (["question", "context", "answers", "answer", "start", "answer_start"], {}),
        (["id", "uuid", "key", "question", "context", "answers"], {}),
    ],
)
def test_names_are_guessed_where_there_is_one_that_fits(there, names):
    assert guessed(*there) == names
    assert guessed(*reversed(there)) == names


@pytest.mark.parametrize("name", [name for name in SYNONYMS if name != "title"])
def test_every_synonym_is_understood_alone_and_refused_with_another(name):
    others = {"id": "id", "question": "question", "context": "context", "answer_text": "answer_text"}
    others.pop(name, None)
    if name in ("answers", "answer_end"):
        others.pop("answer_text")
    if name == "answer_end":  # it says nothing alone
        others["answer_start"] = "answer_start"
    synonyms = [synonym for synonym in SYNONYMS[name] if synonym not in SYNONYMS]
    for synonym in synonyms:
        assert guessed(*others.values(), synonym) == {name: synonym}
    for first, second in pairwise(synonyms):
        (problem,) = refused(*others.values(), first, second)
        assert problem == f"q.csv row 1: {name} could be {first!r} or {second!r}; say which with --data.columns.{name}"


def test_all_that_is_missing_or_unclear_is_one_error_that_names_the_flags():
    assert refused("q", "query", "titel", "antwort") == [
        "q.csv row 1: question could be 'q' or 'query'; say which with --data.columns.question",
        "q.csv row 1: no column 'context'; it has 'q', 'query', 'titel', 'antwort'. Say which it is with "
        "--data.columns.context NAME",
        "q.csv row 1: no column 'answers'; it has 'q', 'query', 'titel', 'antwort'. Say which it is with "
        "--data.columns.answers NAME, or with --data.columns.answer_text NAME if it holds the answer's text alone",
    ]
    assert [
        problem.split("say which with ")[-1] for problem in refused("q", "query", "text", "passage", "answers")
    ] == [
        "--data.columns.question",
        "--data.columns.context",
    ]


def test_names_that_are_given_are_taken():
    columns = Columns(id="nr", question="frage", context="absatz", answer_text="antwort", answer_start="ab")
    names = {"id": "nr", "question": "frage", "context": "absatz", "answer_text": "antwort", "answer_start": "ab"}
    assert guessed("nr", "frage", "absatz", "antwort", "ab", columns=columns) == names
    assert guessed("id", "question", "context", "answers", *names.values(), columns=columns) == names
    assert guessed("q", "query", "context", "answers", columns=Columns(question="query")) == {"question": "query"}
    # a usual name that is given to another column
    swapped = Columns(question="context", context="question")
    assert guessed("question", "context", "answers", columns=swapped) == {"question": "context", "context": "question"}
    assert guessed("question", "context", "text", "answers", columns=Columns(question="context")) == {
        "question": "context",
        "context": "text",
    }


@pytest.mark.parametrize(
    ("columns", "problems"),
    [
        (
            Columns(question="frage", context="absatz"),
            [
                "--data.columns.question frage: q.csv row 1 has no such column; it has 'id', 'question', 'context', "
                "'answers'",
                "--data.columns.context absatz: q.csv row 1 has no such column; it has 'id', 'question', 'context', "
                "'answers'",
            ],
        ),
        (
            Columns(question="context", context="context"),
            ["--data.columns.question and --data.columns.context: column 'context' cannot be both"],
        ),
        (
            Columns(answers="answers", answer_text="id"),
            ["--data.columns.answers: leave it out, or leave out --data.columns.answer_text, answer_start, answer_end"],
        ),
        (
            Columns(answer_start="id"),
            ["--data.columns.answer_start id: give --data.columns.answer_text NAME too"],
        ),
    ],
)
def test_names_that_are_given_wrongly_are_refused_together(columns, problems):
    assert refused("id", "question", "context", "answers", columns=columns) == problems


# --- what is reported ---


def test_guesses_are_told_in_one_line(tmp_path):
    rows = [{"q": item["question"], "passage": item["context"], "answer": "Ada"} for item in ROWS[:3]]
    rows[2]["answer"] = "«Ada»"
    rows[0]["passage"], rows[1]["passage"] = "Ada", "Oh, Ada."
    told = []
    examples = read(write(tmp_path, "q.csv", as_table(rows)), told=told)
    assert [item["answers"]["answer_start"] for item in examples] == [[0], [4], [22]]
    assert told == [
        "columns: question from 'q', context from 'passage', answer_text from 'answer', ids made from each row's "
        "content, answer_start from the context, if the answer occurs there once"
    ]


def test_a_run_says_what_was_guessed_each_time(tmp_path, model_folder, capsys):
    path = write(tmp_path, "q.csv", as_table([{"q": "Who?", "text": f"{n} Ada", "answer": "Ada"} for n in range(20)]))
    for _ in range(2):  # the second run finds the prepared data
        assert (
            commands.train([*train_flags(tmp_path, model_folder, str(path), str(path)), "--trainer.max_epochs", "1"])
            == 0
        )
        output = capsys.readouterr().out
        for split in ("train", "validation"):
            line = f"{split}: columns: question from 'q', context from 'text', answer_text from 'answer', ids made"
            assert output.count(line) == 1


def test_a_guess_is_said_before_the_error_that_it_led_to(tmp_path, model_folder, capsys):
    path = write(tmp_path, "q.csv", as_table([{"q": "Who?", "text": "Ada", "answer": "Bob"}]))
    with pytest.raises(InputError, match="'Bob' has no answer_start"):
        commands.train(train_flags(tmp_path, model_folder, str(path), str(path)))
    assert "train: columns: question from 'q', context from 'text'" in capsys.readouterr().out


def test_nothing_is_told_of_usual_columns(tmp_path):
    told = []
    read(write(tmp_path, "q.json", as_json([{"title": "of no use", **item} for item in ROWS])), told=told)
    assert told == []


# --- rows whose columns differ from the first row's ---


def usual(*rows, columns=None):
    told = []
    placed = ((f"row {number}", item) for number, item in enumerate(rows, 1))
    return list(with_usual_columns(placed, ReadSettings(columns or Columns()), told.append)), told


def test_a_row_of_other_columns_is_read_by_its_own():
    impossible = {"id": "q0", "question": "Who?", "context": "x", "is_impossible": True}
    rows, told = usual(impossible, row(), row(id="q2", is_impossible=False), {**row(id="q3"), "note": 1})
    assert [item for _, item in rows] == [impossible, row(), row(id="q2", is_impossible=False), row(id="q3")]
    assert told == []


def test_the_title_has_a_column_that_can_be_named_and_is_guessed():
    rows, told = usual({**row(), "Article Title": "Ada"})
    assert rows[0][1]["title"] == "Ada"
    assert told == ["columns: title from 'Article Title'"]
    rows, _ = usual({**row(), "Titel": "Ada", "title": "x"}, columns=Columns(title="Titel"))
    assert rows[0][1]["title"] == "Ada"
    with pytest.raises(InputError, match=r"--data\.columns\.title Titel: row 1 has no such column"):
        usual(row(), columns=Columns(title="Titel"))
    rows, _ = usual({**row(), "title": "the question's"}, columns=Columns(question="title"))
    assert (rows[0][1]["question"], rows[0][1].get("title")) == ("the question's", None)


def test_two_columns_that_could_be_the_title_are_no_reason_to_refuse_a_row():
    titled = {**row(), "document_title": "Ada", "page_title": "Page 1"}
    rows, told = usual(titled)
    assert "title" not in rows[0][1]
    assert told == [
        "columns: no title, as it could be 'document_title' or 'page_title': name it with --data.columns.title"
    ]
    assert usual(titled, columns=Columns(title="page_title"))[0][0][1]["title"] == "Page 1"
    for only_asked in (False, True):
        assert len(list(with_usual_columns([("row 1", titled)], ReadSettings(), only_asked=only_asked))) == 1


def test_a_table_that_numbers_its_articles_is_divided_by_them(tmp_path):
    rows = [{**row(id=str(number)), "title": number // 2} for number in range(4)]
    path = write(tmp_path, "q.jsonl", as_lines(rows))
    assert [example["title"] for example in read(path, titles=True)] == ["0", "0", "1", "1"]


def test_rows_that_are_only_asked_need_no_answers_and_ids_only_where_they_are():
    bare = {"question": "Who?", "context": "Ada."}
    rows = [bare | {"qid": "a"}, bare, bare | {"answer": "x", "answers_text": "y"}]
    placed = ((f"row {number}", item) for number, item in enumerate(rows, 1))
    found = [item for _, item in with_usual_columns(placed, ReadSettings(), only_asked=True)]
    assert [type(item) for item in found] == [dict] * 3
    assert [item["id"] for item in found] == ["a", made_id(bare), made_id(bare)]
    with pytest.raises(InputError) as caught:
        list(with_usual_columns([("row 1", {"question": "Who?"})], ReadSettings(), only_asked=True))
    (problem,) = caught.value.problems
    assert problem.startswith(
        "row 1: no column 'context'; it has 'question'; a row needs a question and a context, each"
    )


def test_a_row_that_lacks_columns_is_a_bad_row_among_others():
    rows, told = usual(row(), {"id": "q2", "question": "Who?"}, row(id="q3"))
    assert [isinstance(item, BrokenRow) for _, item in rows] == [False, True, False]
    assert [problem.split(";")[0] for problem in rows[1][1].problems] == [
        "row 2: no column 'context'",
        "row 2: no column 'answers'",
    ]
    assert told == []


def test_bad_rows_at_the_beginning_do_not_decide(tmp_path):
    bad = {"id": "q0", "question": "Who?"}
    path = write(tmp_path, "q.jsonl", as_lines([bad, bad, *ROWS]))
    examples, skipped = read(path, "skip")
    assert examples == ROWS
    assert len(skipped) == 2
    with pytest.raises(InputError, match=r"4 problems in the data(?s:.)*line 1: no column 'context'"):
        read(path)


def test_rows_that_wait_for_the_columns_keep_their_turn():
    torn = BrokenRow("line", ["row 3: not one JSON object"])
    placed, _ = usual(BrokenRow("line", ["row 1: none"]), {"id": "q0", "question": "Who?"}, torn, row(), torn, row())
    assert [place for place, _ in placed] == [f"row {number}" for number in range(1, 7)]
    assert placed[2][1] is torn


def test_columns_that_no_row_has_are_one_error_soon():
    seen = count()
    rows = ((f"row {next(seen)}", {"frage": "Wer?", "absatz": "x"}) for _ in range(10**9))
    with pytest.raises(InputError) as caught:
        list(with_usual_columns(rows, ReadSettings()))
    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "row 0: no column 'question'",
        "row 0: no column 'context'",
        "row 0: no column 'answers'",
        "so it is with all first 100 rows",
    ]
    assert next(seen) < 1000


def test_with_skip_many_bad_rows_at_the_beginning_are_left_out(tmp_path):
    bad = [{"id": str(number), "question": "Who?"} for number in range(250)]
    path = write(tmp_path, "q.jsonl", as_lines([*bad, *ROWS]))
    examples, skipped = read(path, "skip")
    assert examples == ROWS
    assert [line.split(" line ")[1].split(":")[0] for line in skipped] == [str(number + 1) for number in range(250)]
    with pytest.raises(InputError, match=r"line 1: no column 'context'(?s:.)*later ones were not looked at"):
        read(path)
    with pytest.raises(InputError) as caught:
        read(write(tmp_path, "b.jsonl", as_lines(bad)), "skip")
    assert [problem.split(";")[0].partition("jsonl ")[2] for problem in caught.value.problems] == [
        "line 1: no column 'context'",
        "line 1: no column 'answers'",
    ]


def test_no_rows_are_no_columns():
    assert usual() == ([], [])


# --- answers ---


def numpy_text(answers):
    """Answers as a table holds them if pandas wrote it from a dataset."""
    return str({"text": np.array(answers["text"], object), "answer_start": np.array(answers["answer_start"], np.int32)})


def numpy_repr(answers):
    return repr(
        {"text": np.array(answers["text"], object), "answer_start": np.array(answers["answer_start"], np.int32)}
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "written",
    [
        lambda item: json.dumps(item["answers"]),
        lambda item: json.dumps(listed_answers(item), indent=1),
        lambda item: repr(item["answers"]),
        lambda item: f" {listed_answers(item)!r}\n",
        lambda item: numpy_text(item["answers"]),
        lambda item: numpy_repr(item["answers"]),
        lambda item: json.dumps(item["answers"]) if item["answers"]["text"] else "",
        lambda item: json.dumps(item["answers"] if item["answers"]["text"] else None),
        lambda item: repr(item["answers"]) if item["answers"]["text"] else "None",
    ],
    ids=["JSON", "listed", "Python", "listed Python", "numpy", "numpy's repr", "JSON or empty", "or null", "or None"],
)
def test_answers_may_be_texts_as_json_python_or_numpy_write_them(tmp_path, suffix, written):
    rows = [item | {"answers": written(item)} for item in ROWS]
    make = {".csv": as_table, ".tsv": lambda rows: as_table(rows, "\t"), ".jsonl": as_lines, ".parquet": as_parquet}
    assert read(write(tmp_path, f"q{suffix}", make[suffix](rows))) == ROWS


@given(st.lists(st.tuples(st.text(), st.integers(-9, 99).filter(lambda start: start != -1)), max_size=3))
def test_any_answers_come_back_from_any_text(pairs):
    answers = {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}
    for written in (json.dumps(answers), repr(answers), json.dumps(answers, ensure_ascii=False)):
        parsed = usual_row({"answers": written, "id": 1})
        assert parsed["answers"] == answers


@pytest.mark.parametrize(
    "text",
    [
        "[Paris",
        "{'text': open('/etc/passwd')}",
        "[__import__('os')]",
        "{1",
        "[" * 10**5,
        "[1e999e]",
        r"['\d', 5 6]",
    ],
)
def test_a_text_that_is_no_list_stays_as_it_is(text):
    assert usual_row({"answers": text, "id": 1})["answers"] == text


def test_a_call_in_answers_is_never_made(tmp_path):
    victim = tmp_path / "victim"
    text = f"[array(__import__('pathlib').Path({str(victim)!r}).touch())]"
    assert usual_row({"answers": text, "id": 1})["answers"] == text
    assert not victim.exists()


def apart(text, start="absent", context=CONTEXT):
    """The answers of a row that has ``answer_text`` and ``answer_start`` instead of ``answers``."""
    item = {"id": "q1", "question": "Who?", "context": context, "answer_text": text}
    item |= {} if start == "absent" else {"answer_start": start}
    return usual_row(item)["answers"]


@pytest.mark.parametrize("start", [40, "40", " 40 ", "40.0", 40.0, "+40", "040", "40."])
def test_a_place_may_be_a_text_or_an_integral_fraction(start):
    assert apart("1843", start) == [{"text": "1843", "answer_start": 40}]
    assert type(apart("1843", start)[0]["answer_start"]) is int


@pytest.mark.parametrize(
    "start", ["4o", "1,024", "1_0", "4e1", "40.5", 40.5, True, "inf", float("inf"), "٤٠", [40, 1], {}]
)
def test_a_place_that_is_no_whole_number_stays_as_it_is(start):
    answers = apart("1843", start)
    assert (answers["answer_start"] if isinstance(answers, dict) else answers[0]["answer_start"]) == start


@pytest.mark.parametrize("text", [None, "", " \t", float("nan"), []])
@pytest.mark.parametrize("start", ["absent", None, "", float("nan"), "NaN", -1, "-1", 0, "0", "-1.0"])
def test_an_empty_cell_is_no_answer(text, start):
    assert not apart(text, start if text != [] else [])


@pytest.mark.parametrize("start", [None, "", " ", float("nan"), "nan", "absent", "None"])
def test_a_text_alone_is_found_where_it_stands_once(start):
    assert apart("1843", start) == [{"text": "1843", "answer_start": 40}]
    assert apart("in", start) == [{"text": "in", "answer_start": 37}]  # elsewhere it stands within words
    assert apart("mach", start) == [{"text": "mach", "answer_start": None}]
    assert apart("Grace", start) == [{"text": "Grace", "answer_start": None}]


def test_a_text_alone_that_stands_in_several_places_is_a_problem_that_lists_them(tmp_path):
    rows = [
        {"question": f"Who? {n}", "context": context, "answer": "Ada"}
        for n, context in enumerate(["Ada", "Ada, Ada, Ada, Ada, Ada", "Ada and Ada", "Bob"])
    ]
    path = write(tmp_path, "q.csv", as_table(rows))
    with pytest.raises(InputError) as caught:
        read(path)
    problems = [problem.split("): ")[1] for problem in caught.value.problems[1:]]
    assert problems == [
        "answer 'Ada' has no answer_start, and it occurs at 0, 5, 10 and elsewhere",
        "answer 'Ada' has no answer_start, and it occurs at 0, 8",
        "answer 'Ada' has no answer_start, and the context does not hold it",
    ]
    examples, skipped = read(path, "skip")
    assert (len(examples), len(skipped)) == (1, 3)


@pytest.mark.parametrize(
    ("text", "start", "answers"),
    [
        (["1843", "Ada"], [40, 0], [("1843", 40), ("Ada", 0)]),
        (["1843", "Ada"], None, [("1843", 40), ("Ada", 0)]),
        ("['1843', 'Ada']", "[40, 0]", [("1843", 40), ("Ada", 0)]),
        ('["1843", "Ada"]', "[40 ,0]", [("1843", 40), ("Ada", 0)]),
        ("['1843']", None, [("1843", 40)]),
        ([{"text": "1843", "answer_start": 40}], None, [("1843", 40)]),
    ],
)
def test_several_answers_may_stand_in_columns_of_their_own(text, start, answers):
    assert [(one["text"], one["answer_start"]) for one in apart(text, start)] == answers


def test_lists_of_unequal_length_are_left_to_be_refused():
    assert apart(["1843", "Ada"], [40]) == {"text": ["1843", "Ada"], "answer_start": [40]}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[(text, True) for text in ("true", "True", " TRUE ", "1", "1.0", "yes", 1, 1.0, True)],
        *[(text, False) for text in ("false", "False", "0", "0.0", "no", 0, 0.0, False)],
        *[(text, None) for text in ("", " ", "nan", "None", None, float("nan"))],
        *[(text, text) for text in ("maybe", "2", 2, 0.5, "wahr")],
    ],
)
def test_is_impossible_may_be_written_as_tables_do(written, value):
    given = usual_row(row(is_impossible=written))["is_impossible"]
    assert given is value or given == value


def test_is_impossible_of_a_table_is_held_against_the_answers(tmp_path):
    header = b"id,question,context,answer_text,is_impossible\n"
    good = header + b"1,Who?,Ada,Ada,False\n2,Who?,Ada,,TRUE\n3,Who?,Ada,Ada,\n"
    assert [bool(item["answers"]["text"]) for item in read(write(tmp_path, "q.csv", good))] == [True, False, True]
    with pytest.raises(InputError, match=r"is_impossible is true, yet(?s:.)*is_impossible is false, yet"):
        read(write(tmp_path, "q.csv", good + b"4,Who?,Ada,Ada,true\n5,Who?,Ada,,0\n"))


# --- ids ---


def without_ids(rows):
    return [{key: value for key, value in item.items() if key != "id"} for item in rows]


def test_made_ids_are_the_same_in_any_order_and_any_form(tmp_path):
    rows = without_ids(make_rows(30, unanswerable=5))
    ids = {item["question"] + item["context"]: item["id"] for item in read(write(tmp_path, "a.json", as_json(rows)))}
    assert len(set(ids.values())) == 30
    random.Random(0).shuffle(rows)
    apart = [
        {
            **{name: item[name] for name in ("context", "question")},
            **{"answer": "".join(item["answers"]["text"]), "start": "".join(map(str, item["answers"]["answer_start"]))},
        }
        for item in rows
    ]
    text_alone = [{key: value for key, value in item.items() if key != "start"} for item in apart]
    for name, content in (
        ("b.json", as_json(rows)),
        ("c.jsonl", as_lines(rows)),
        ("d.csv", as_table(rows)),
        ("e.tsv", as_table(rows, "\t")),
        ("f.parquet", as_parquet(rows)),
        ("g.json", as_json(with_listed_answers(rows))),
        ("h.csv", as_table(apart, ";")),
        ("i.csv", as_table(text_alone)),
    ):
        other = {item["question"] + item["context"]: item["id"] for item in read(write(tmp_path, name, content))}
        assert other == ids


def test_made_ids_stay_what_they_are():
    assert made_id(ROWS[0]) == made_id(ROWS[0] | {"id": "another", "title": "x"}) == "f2a0578fcce3cde104ab"


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3), st.none() | st.text(max_size=3)), unique=True))
def test_made_ids_of_different_rows_are_different(rows):
    ids = [
        made_id({"question": question, "context": context, "answers": answers}) for question, context, answers in rows
    ]
    assert len(set(ids)) == len(rows)


def test_ids_that_are_there_are_kept(tmp_path):
    told = []
    rows = [item | {"id": number} for number, item in enumerate(ROWS)]
    assert [item["id"] for item in read(write(tmp_path, "q.csv", as_table(rows)), told=told)] == ["0", "1", "2", "3"]
    assert told == []


# --- the command line ---


def test_columns_are_flags(capsys):
    flags = ["--data.columns.question", "q", "--data.columns.answer_text", "a b"]
    columns = commands.printed_config(flags, capsys)["data"]["columns"]
    assert columns == {name: {"question": "q", "answer_text": "a b"}.get(name) for name in SYNONYMS}


def test_an_unknown_column_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        commands.train(["--data.columns.quesion", "q", "--print_config"])
    assert ended.value.code == 2
    assert "quesion" in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder):
    """A run on tables whose columns have other names: its folder and its flags."""
    folder = tmp_path_factory.mktemp("columns")
    names = {"nr": "id", "frage": "question", "absatz": "context"}
    rows = [
        {
            **{name: item[usual] for name, usual in names.items()},
            "antwort": "".join(item["answers"]["text"]),
            "ab": f"{item['answers']['answer_start'][0]}.0" if item["answers"]["text"] else "",
        }
        for item in make_rows(40, unanswerable=8)
    ]
    train = write(folder, "train.csv", as_table(rows[:30], ";"))
    validation = write(folder, "validation.tsv", as_table(rows[30:], "\t"))
    usual = ("id", "question", "context", "answer_text", "answer_start")
    columns = [word for name, own in zip(usual, rows[0], strict=True) for word in (f"--data.columns.{name}", own)]
    arguments = [*train_flags(folder, model_folder, str(train), str(validation)), *columns]
    assert commands.train([*arguments, "--trainer.max_epochs", "1"]) == 0
    return folder, arguments


def test_a_run_on_a_table_with_other_names_trains_and_keeps_them(run):
    version = run[0] / "lightning_logs" / "version_0"
    names = {"id": "nr", "question": "frage", "context": "absatz", "answer_text": "antwort", "answer_start": "ab"}
    expected = {name: names.get(name) for name in SYNONYMS}
    assert yaml.safe_load((version / "config.yaml").read_text())["data"]["columns"] == expected
    (start,) = json.loads((version / "run.json").read_text())
    assert start["data"]["train"]["questions"] == 30
    assert start["data"]["validation"]["unanswerable"] == 8
    checkpoint = torch.load(version / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["datamodule_hyper_parameters"]["columns"] == expected


def test_a_data_module_comes_back_from_the_checkpoint_of_such_a_run(run):
    checkpoint = run[0] / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    data = SquadDataModule.load_from_checkpoint(checkpoint, weights_only=True)
    assert data.reading.columns == Columns("nr", "frage", "absatz", None, "antwort", "ab")


def test_such_a_run_goes_on(run, capsys):
    folder, arguments = run
    assert commands.train([*arguments, "--trainer.max_epochs", "2", "--ckpt_path", "last"]) == 0
    assert "epoch 2/2" in capsys.readouterr().out
    runs = [json.loads(path.read_text()) for path in folder.rglob("run.json")]
    assert sum(start["resumed_from"] is not None for starts in runs for start in starts) == 1


def test_a_wrong_name_ends_a_run_with_the_flag_and_no_traceback(run, capsys):
    arguments = ["wort" if word == "antwort" else word for word in run[1]]
    with pytest.raises(SystemExit) as ended:
        commands.run_command(lambda: commands.train(arguments))
    assert ended.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert "--data.columns.answer_text wort: " in error
    assert "train.csv row 2 has no such column; it has 'nr', 'frage', 'absatz', 'antwort', 'ab'" in error


# --- speed of odd tables: columns are chosen once, and each name is looked at once ---


def test_columns_of_many_rows_are_chosen_once(monkeypatch):
    chosen = []
    choice = columns_module.choose_columns
    monkeypatch.setattr(columns_module, "choose_columns", lambda *args: chosen.append(1) or choice(*args))
    wide = {f"column {number}": "x" for number in range(1000)}
    with pytest.raises(InputError, match="row 1: no column 'question'"):
        usual(*[wide] * 100)
    assert len(chosen) == 1
    rows, _ = usual(row(), *[wide] * 500, row(id="q2"))
    assert len(chosen) == 3  # one for each distinct set of columns
    assert rows[499][1].problems[0].startswith("row 500: no column 'question'; it has 'column 0', ")


def test_a_name_that_is_no_synonym_is_looked_at_once_and_not_taken_apart(monkeypatch):
    taken_apart = []
    simple = columns_module.simple_name
    monkeypatch.setattr(columns_module, "simple_name", lambda name: taken_apart.append(name) or simple(name))
    many = [f"column {number}" for number in range(100_000)]
    assert guessed("Question", "context", *many, "answers") == {"question": "Question"}
    assert taken_apart == ["Question", "context", "answers"]
