"""`qa-lightning ask`: answers with file, line or page and the marked sentence; JSON; hostile text shown as escapes."""

from __future__ import annotations

import json

import pytest

from qa_lightning import Reader
from qa_lightning.cli.ask import ask
from qa_lightning.errors import InputError
from qa_lightning.inference.asking import CANDIDATES, TOP_K
from tests.helpers.documents import pdf

QUESTION = "Who lives in Rome ?"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("Ben is a baker .\n\nAnna lives in\nRome . Carl works .")
    (tmp_path / "b.html").write_text("<p>Dora lives in Oslo .")
    (tmp_path / "other.csv").write_text("a,b")
    return tmp_path


def test_answers_are_shown_with_their_place_and_sentence(folder, model_folder, capsys) -> None:
    (folder / "pages.txt").write_text("Ben\fAnna lives in Rome .")
    assert ask([QUESTION, str(folder), "--model", model_folder, "--top-k", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines.pop(0) == f"{folder}: 1 file of other kinds left out (.csv)"
    found = Reader.load(model_folder).ask(QUESTION, folder, top_k=9)
    assert len(lines) == 2 * len(found) == 18
    for number, answer in enumerate(found):
        where, sentence = lines[2 * number : 2 * number + 2]
        suffix = f" page {answer.page}" if answer.page else f" line {answer.line}" if answer.line else ""
        assert where == f"{number + 1:>2}  {answer.score:.4f}  {answer.document.id}{suffix}"
        start = answer.start - answer.sentence_start
        marked = f"{answer.sentence[:start]}>>{answer.text}<<{answer.sentence[start + len(answer.text) :]}"
        assert sentence == "    " + " ".join(marked.split())
    assert {line.split()[-2] for line in lines[::2]} >= {"page", "line"}


def test_json_is_one_object_and_nothing_else(folder, model_folder, capsys) -> None:
    assert ask([QUESTION, str(folder), "--model", model_folder, "--json", "--min_score", "0.001"]) == 0
    out, err = capsys.readouterr()
    answers = Reader.load(model_folder).ask(QUESTION, folder)
    assert json.loads(out) == {"query": QUESTION, "answers": [answer.as_dict() for answer in answers]}
    assert len(answers) == TOP_K
    assert "of other kinds left out" in err


def test_nothing_that_documents_hold_acts_on_a_terminal(tmp_path, model_folder, capsys) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07\r\n\x9b31m\u202edlrow\u2066\u2028\x7f"
    file = tmp_path / f"a{hostile}.txt"
    file.write_text(f"Anna{hostile}lives in{hostile} Rome", newline="")
    for flags in ([], ["--json"]):
        ask([QUESTION, str(file), "--model", model_folder, "--top_k", "30", *flags])
        out = capsys.readouterr().out
        assert "\\x1b[2J" in out or "\\u001b[2J" in out
        assert not [letter for letter in out.replace("\n", "") if not letter.isprintable()]
    with pytest.raises(InputError) as caught:
        ask([QUESTION, str(file) + "x", "--model", model_folder])
    assert str(caught.value).isprintable()


def test_no_answer_is_said(folder, model_folder, capsys) -> None:
    assert ask([QUESTION, str(folder / "a.txt"), "--model", model_folder, "--min_score", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "no answer has a score that is high enough"


def test_flags_reach_the_search(folder, model_folder, monkeypatch) -> None:
    asked = {}
    monkeypatch.setattr(Reader, "ask", lambda self, question, documents, **given: asked.update(given) or [])
    flags = {"top_k": 7, "candidates": 3, "overlap": 0.5, "precision": 0.8, "batch_size": 2, "on_bad": "skip"}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    ask([QUESTION, str(folder), "--model", model_folder, *words])
    assert asked == flags


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--min_score", "2"], "--min_score is 2.0; pass a number from 0 to 1"),
        (["--min_score", "0.1", "--precision", "0.9"], "both say which answers are left out"),
        (["--precision", "0.9"], "--precision 0.9 needs scores that were measured on validation data"),
    ],
)
def test_flags_out_of_range_are_one_error(folder, model_folder, words, said) -> None:
    with pytest.raises(InputError, match=said):
        ask([QUESTION, str(folder), "--model", model_folder, *words])


def test_files_are_read_before_a_model_is_loaded(tmp_path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"bad.txt: is not utf-8"):
        ask([QUESTION, str(tmp_path), "--model", "no/such/model"])


def test_the_help_names_the_defaults(capsys) -> None:
    with pytest.raises(SystemExit):
        ask(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert f"answers, at most [{TOP_K}]" in out
    assert f"most words with the question [{CANDIDATES}]" in out


def test_a_pdf_gives_its_pages(tmp_path, model_folder, capsys) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "two.pdf").write_bytes(pdf("Ben", "Anna lives in Rome ."))
    ask([QUESTION, str(tmp_path / "*.pdf"), "--model", model_folder, "--top_k", "20"])
    assert "two.pdf page 2" in capsys.readouterr().out
