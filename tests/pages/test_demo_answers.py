"""The page to ask in, without a browser: limits, files, the threshold, and what its HTML is made of."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from qa_lightning.decoding.calibrator import Calibrator
from qa_lightning.documents.sources import Document
from qa_lightning.errors import InputError
from qa_lightning.inference.asking import CANDIDATES, AskSettings
from qa_lightning.pages.demo import view
from qa_lightning.pages.demo.answers import Asker, at_threshold
from qa_lightning.pages.demo.limits import Limits
from qa_lightning.pages.demo.view import answers_panel, marked_text, problem_panel
from tests.helpers.documents import pdf
from tests.helpers.pages import SETTINGS, steered_asker, steered_model

TEXT = "Anna lives in Paris. Ben works in Rome, and Carl in Oslo. " * 8


def documents(*texts: str) -> list[Document]:
    return [Document(f"{number}.txt", text, path=Path(f"{number}.txt")) for number, text in enumerate(texts)]


class _Texts(HTMLParser):
    """The text of each element `mark`, and the whole text of each body."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.marks: dict[str, str] = {}
        self.text = ""
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs) -> None:
        if tag == "mark":
            self._inside.append(dict(attrs)["data-answer"])
            self.marks[self._inside[-1]] = ""

    def handle_endtag(self, tag) -> None:
        if tag == "mark":
            self._inside.pop()

    def handle_data(self, data) -> None:
        self.text += data
        for name in self._inside:
            self.marks[name] += data


def test_answers_stand_where_they_are_marked() -> None:
    asked = steered_asker().ask("Where is Ben?", documents(TEXT))
    texts = [one.text for one in asked.found]
    assert texts == ["Rome"] * 6
    seen = _Texts(marked_text(documents(TEXT), asked))
    assert [seen.marks[str(number)] for number in range(len(texts))] == texts
    assert seen.text == f"0.txt{TEXT}"
    for one in asked.found:
        assert TEXT[one.place.start : one.place.end] == one.text


def test_windows_cover_the_text_and_overlap() -> None:
    asked = steered_asker().ask("Where is Ben?", documents(TEXT))
    windows = asked.windows
    assert len(windows) > 1
    assert windows[0].start == 0
    assert windows[-1].end == len(TEXT.rstrip())
    assert all(after.start < before.end < after.end for before, after in pairwise(windows))
    html = marked_text(documents(TEXT), asked)
    assert html.count('class="qa-edge"') == 2 * len(windows)
    alone = steered_asker().ask("Where is Ben?", documents("Ben is in Rome."))
    assert "qa-edge" not in marked_text(documents("Ben is in Rome."), alone)


@pytest.mark.parametrize("threshold", [-7.5, -1.0, 0.0, 0.3, 2.0, 6.0, 9.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_threshold_gives_what_decoding_with_it_gives(threshold, temperature) -> None:
    """The page does not run the model again; the probabilities are those of a model with that threshold."""
    own = replace(SETTINGS, null_score_diff_threshold=0.5, temperature=temperature)
    decoded = replace(own, null_score_diff_threshold=threshold)
    asked, expected = (steered_asker(settings=one).ask("Where is Ben?", documents(TEXT)) for one in (own, decoded))
    found = at_threshold(asked, own, threshold)
    assert found.probabilities == pytest.approx([one.probability for one in expected.found], rel=1e-9)
    assert found.null == pytest.approx(expected.null_probability, rel=1e-9)
    assert sum(found.probabilities) + found.null + found.rest == pytest.approx(1)
    answer, *_ = replace(steered_model(), settings=decoded).ask("Where is Ben?", [TEXT], AskSettings(top_k=1))
    assert (found.best is None) == (answer.document is None)


def test_a_model_without_no_answer_has_a_lowest_probability() -> None:
    settings = replace(SETTINGS, version_2=False)
    asked = steered_asker(settings=settings).ask("Where is Ben?", documents("Ben is in Rome."))
    assert at_threshold(asked, settings, 0.0).best == 0
    assert at_threshold(asked, settings, asked.found[0].probability).best == 0
    assert at_threshold(asked, settings, 1.0).best is None
    panel = answers_panel(asked, at_threshold(asked, settings, 1.0), settings)
    assert "No answer is likely enough" in panel.headline
    assert ">No answer<" not in panel.rows
    assert ">All other spans and “no answer”<" in panel.rows


@pytest.mark.parametrize("version_2", [True, False])
@pytest.mark.parametrize("text", ["Ben is in Rome.", TEXT, "Nobody is anywhere at all."])
def test_scores_of_a_calibrator_are_those_of_the_model(version_2, text) -> None:
    """Also where "no answer" would be likelier than the answer of a model that does not know it."""
    made = Calibrator((-0.31, 0.71, 0.13, -0.23, 0.05, 0.2), (0.4, 1.1, 0.02, 0.1, 1 / 3, -0.4), 0.5)
    settings = replace(SETTINGS, version_2=version_2, calibrator=made.as_json())
    asked = steered_asker(settings=settings).ask("Where is Ben?", documents(text))
    found = at_threshold(asked, settings, settings.null_score_diff_threshold if version_2 else 0.0)
    told = replace(steered_model(), settings=settings).ask("Where is Ben?", [text], AskSettings(top_k=3))
    of_spans = [one.score for one in told if one.document is not None]
    assert found.probabilities[: len(of_spans)] == pytest.approx(of_spans, rel=1e-9)


def test_rows_stand_in_the_order_of_their_probabilities() -> None:
    asked = steered_asker().ask("Where is Ben?", documents(TEXT))
    for threshold, first in ((0.0, "Rome"), (-20.0, "No answer")):
        panel = answers_panel(asked, at_threshold(asked, SETTINGS, threshold), SETTINGS)
        rows = re.findall(r'class="qa-text" dir="auto">([^<]*)<', panel.rows)
        assert rows[0] == first
        assert rows[-1] == "All other spans"
    assert "The text does not answer it" in panel.headline


def test_the_map_holds_the_likeliest_answer_also_behind_the_windows_that_are_shown(monkeypatch) -> None:
    monkeypatch.setattr(view, "_SHOWN_WINDOWS", 2)
    text = "the a of in is was " * 60 + "Ben is in Rome."
    asked = steered_asker().ask("Where is Ben?", documents(text))
    assert asked.found[0].place.start > asked.windows[1].end
    panel = answers_panel(asked, at_threshold(asked, SETTINGS, 0.0), SETTINGS)
    places = [float(left) for left in re.findall(r"left:([\d.]+)%", panel.rows)]
    assert len(places) == 3
    assert max(places) <= 100


def test_unlikely_answers_are_left_out_but_for_three() -> None:
    asked = steered_asker().ask("Where is Anna?", documents("Anna is in Rome. " + "the a of in is was " * 3))
    assert asked.found[0].text == "Rome"
    assert len(asked.found) == 3


LIMITS = Limits(characters=100, seconds=30, files=2, file_mb=1)


@pytest.mark.parametrize(
    ("text", "files", "problem"),
    [
        ("", {}, "there is no text to look in: paste one, or drop a file"),
        (" \n\t", {}, "there is no text to look in: paste one, or drop a file"),
        ("x" * 101, {}, "there are 101 characters; at most 100 are read at a time"),
        ("x" * 60, {"a.txt": b"y" * 60}, "there are 120 characters; at most 100 are read at a time"),
        ("", dict.fromkeys(("a.txt", "b.txt", "c.txt"), b"y"), "there are 3 files; at most 2 are read at a time"),
        ("", {"a.txt": b"y" * 1_000_001}, "a.txt: has 1,000,001 bytes; a file may have 1 MB"),
        ("", {"a.txt": b"\xff\xff"}, "a.txt: is not utf-8 (byte 0); save it as UTF-8"),
        ("", {"a.pdf": b"%PDF"}, "a.pdf: is damaged"),
        ("", {"a.txt": b" "}, "a.txt: is empty"),
        ("\ud800", {}, "document text holds half of a surrogate pair"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(tmp_path, text, files, problem) -> None:
    """Also where the browser's own limits were passed by; no folder of this machine is named."""
    paths = []
    for number, (name, content) in enumerate(files.items()):
        paths.append(tmp_path / str(number) / name)
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(content)
    with pytest.raises(InputError) as error:
        steered_asker(LIMITS).ask("Where?", steered_asker(LIMITS).documents(text, paths))
    assert error.value.problems[0].startswith(problem)
    assert str(tmp_path) not in str(error.value)


def test_all_bad_files_are_named_at_once(tmp_path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.pdf"]
    for path in paths:
        path.write_bytes(b"\0")
    with pytest.raises(InputError) as error:
        steered_asker().documents("", paths)
    assert [problem.partition(":")[0] for problem in error.value.problems] == ["a.txt", "b.pdf"]


@pytest.mark.parametrize(("question", "problem"), [("", "the question is empty"), ("\n", "the question is empty")])
def test_a_question_must_be_there(question, problem) -> None:
    with pytest.raises(InputError, match=problem):
        steered_asker().ask(question, documents("Ben is in Rome."))


def test_a_question_is_no_book() -> None:
    with pytest.raises(InputError, match="the question has 1,001 characters; at most 1,000 are read"):
        steered_asker().ask("x" * 1001, documents("Ben is in Rome."))


def test_the_time_is_limited() -> None:
    """Each forward pass takes a moment; the limit is checked between them."""
    model = steered_model()

    def slow(batch):
        time.sleep(0.06)
        return model.forward(batch)

    asker = Asker(replace(model, forward=slow), Limits(seconds=0.1))
    long = "Ben is in Rome. " * 800
    started = time.monotonic()
    with pytest.raises(InputError, match=r"took longer than 0\.1 seconds; ask about a shorter text"):
        asker.ask("Where is Ben?", documents(long))
    assert time.monotonic() - started < 2
    assert asker.ask("Where is Ben?", documents("Ben is in Rome.")).found[0].text == "Rome"


def test_files_are_named_without_their_folders_and_apart(tmp_path) -> None:
    paths = []
    for number, (name, content) in enumerate(
        [("a.txt", b"Anna."), ("a.txt", b"Ben."), ("c.pdf", pdf("Carl.", "Dora."))]
    ):
        paths.append(tmp_path / str(number) / name)
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(content)
    asker = steered_asker()
    found = asker.documents("Paris.", paths)
    assert [one.id for one in found] == ["text", "a.txt", "a.txt (2)", "c.pdf"]
    asked = asker.ask("Who?", found)
    assert {(one.text, one.where) for one in asked.found} >= {
        ("Anna", "a.txt line 1"),
        ("Ben", "a.txt (2) line 1"),
        ("Carl", "c.pdf page 1"),
        ("Dora", "c.pdf page 2"),
    }
    assert "x0c" not in marked_text(found, asked)  # between the pages


def test_what_is_pasted_stays_in_memory(tmp_path, monkeypatch) -> None:
    """An index of thousands of passages is cached elsewhere."""
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    text = "\f".join(f"Ben is in Rome {number}." for number in range(2500))
    asked = steered_asker().ask("Where is Ben?", documents(text))
    assert asked.passages_left == 2500 - CANDIDATES
    assert f"{2500 - CANDIDATES:,} passages" in answers_panel(asked, at_threshold(asked, SETTINGS, 0.0), SETTINGS).rows
    assert not (tmp_path / "cache").exists()


def test_a_problem_is_a_sentence_and_a_file_keeps_its_name() -> None:
    html = problem_panel(["the question is empty", "b.txt: is empty"]).headline
    assert re.findall("<p>(.*?)</p>", html) == ["The question is empty.", "b.txt: is empty."]
