"""Answers shown in a notebook: of a reader, of documents, and of a pipeline, whose answers are plain dicts."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from qa_lightning import Reader, pipeline, show
from qa_lightning.decoding.predictions import Answer
from qa_lightning.documents.answers import DocumentAnswer
from qa_lightning.errors import InputError

CONTEXT = "Anna lives in Paris. Ben works in Rome."


def marked(html: str) -> list[str]:
    return re.findall(r"<mark[^>]*>(.*?)</mark>", html)


@pytest.fixture(scope="module")
def reader(model_folder) -> Reader:
    return Reader.from_pretrained(model_folder)


def test_a_readers_answer_marks_itself(reader) -> None:
    (answer,) = reader.answer(["Where is Ben?"], [CONTEXT])
    html = answer._repr_html_()
    assert html is not None
    assert marked(html) == [answer.text] == [CONTEXT[answer.start : answer.end]]
    assert re.sub("<[^>]+>", "", html) == f"Where is Ben?{CONTEXT}score {answer.score:.3f}"
    assert "context" not in repr(answer)  # which stays a line


def test_what_an_answer_is_has_not_changed(reader) -> None:
    """Its context is carried for notebooks alone: it is not compared, and no file holds it."""
    (answer,) = reader.answer(["Where is Ben?"], [CONTEXT])
    plain = Answer(answer.id, answer.text, answer.start, answer.end, answer.score, answer.null_odds)
    assert answer == plain
    assert hash(answer) == hash(plain)
    assert answer.as_json(True) == plain.as_json(True)
    assert pickle.loads(pickle.dumps(answer)) == copy.deepcopy(answer) == answer
    assert plain._repr_html_() is None  # a notebook then shows the line


def test_an_answer_from_documents_marks_itself(reader) -> None:
    answers = reader.ask("Where is Ben?", [{"text": CONTEXT, "id": "<b>"}, "Carl is in Oslo."], top_k=4)
    for answer in answers:
        assert marked(answer._repr_html_()) == [answer.text]
    assert any("&lt;b&gt;</div>" in answer._repr_html_() for answer in answers)
    assert "no answer" in DocumentAnswer("Where?", "", 0.5)._repr_html_()


def test_answers_of_a_pipeline_are_shown_with_their_context(model_folder) -> None:
    ask = pipeline(model_folder)
    answer = ask(question="Where is Ben?", context=CONTEXT)
    assert type(answer) is dict
    assert marked(show(answer, CONTEXT)._repr_html_()) == [answer["answer"]]
    several = ask(question="Where is Ben?", context=CONTEXT, top_k=3, handle_impossible_answer=True)
    shown = show(several, CONTEXT, "Where is Ben?")
    assert marked(shown._repr_html_()) == [one["answer"] for one in several if one["answer"]]
    assert shown._repr_html_().count("Where is Ben?") == 3
    lines = [f"{one['score']:.4f}  {one['answer'] or '(no answer)'}" for one in several]
    assert repr(shown).splitlines() == lines


def test_answers_of_a_pipeline_from_documents_know_their_context(model_folder) -> None:
    ask = pipeline(model_folder)
    answers = ask(question="Where is Ben?", documents=[{"text": "x. " * 600 + CONTEXT, "id": "a"}], top_k=2)
    html = show(answers)._repr_html_()
    assert marked(html) == [one["answer"] for one in answers]
    assert " · a</div>" in html


def test_lists_of_answers_are_shown(reader) -> None:
    answers = reader.answer(["Where is Ben?", "Who?"], [CONTEXT, CONTEXT])
    assert marked(show(answers)._repr_html_()) == [answer.text for answer in answers]
    found = reader.ask("Where is Ben?", CONTEXT, top_k=2)
    assert marked(show(found)._repr_html_()) == [answer.text for answer in found]


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ("Rome", "answers is 'Rome'; pass an answer, or a list of answers"),
        ([1], "1 is no answer"),
        ({"answer": "Rome"}, "is no answer"),
        ({"score": 1.0, "start": 0, "end": 4, "answer": "Rome"}, "'Rome' does not stand at 0-4 of the context"),
    ],
)
def test_what_cannot_be_shown_is_an_error(answers, problem) -> None:
    with pytest.raises(InputError) as error:
        show(answers, CONTEXT)
    assert problem in str(error.value)
