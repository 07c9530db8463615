"""The page to ask in, in a real browser over a live server.

Every test also fails on a request to another host, an error of a script, or a dialog. Pages take a second to load, so
four are opened once, each with connections and storage of its own, and most tests use the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import TYPE_CHECKING

import pytest

from qa_lightning.models.settings import AnswerSettings
from qa_lightning.pages.demo.answers import Asked, Asker, AtThreshold, at_threshold
from qa_lightning.pages.demo.examples import Opening, Openings
from qa_lightning.pages.demo.limits import Limits
from qa_lightning.wording import visible
from tests.helpers.browser import NARROW, OFFLINE, WIDE, Watched
from tests.helpers.pages import OPENINGS, served, steered_asker
from tests.helpers.payloads import PAYLOADS

if TYPE_CHECKING:
    from playwright.sync_api import Page

LIMITS = Limits(characters=1_000_000, seconds=20, concurrency=2, files=len(PAYLOADS), file_mb=1)
HOSTILE = Opening(" ".join(" ".join(PAYLOADS).split())[:900], "\n".join(PAYLOADS))
REPORT = "<!doctype html><title>Report</title><h1>Report of errors</h1>"
TEXT = "\U0001f3bb Anna lives in Paris.\n\nBen works in Rome, \u05d1\u05df and Carl in Oslo.\n" * 3
BEFORE = """number => {
  const mark = document.getElementById(`qa-answer-${number}`), range = document.createRange();
  range.setStart(mark.closest('.qa-body'), 0);
  range.setEndBefore(mark);
  return [range.toString(), mark.textContent];
}"""


class Asking:
    """A page that is asked as a person asks: by keyboard."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.wait_for_selector("#qa-question input")

    def send(self, question: str, text: str | None = None) -> None:
        """Fill in and press Enter; `wait` for the answer."""
        if text is not None:
            if self.page.evaluate("document.body.dataset.qaMode") == "read":
                self.page.click("#qa-edit")
            self.page.fill("#qa-text textarea", text)
        self._run = self._last_run()
        self.page.fill("#qa-question input", question)
        self.page.press("#qa-question input", "Enter")

    def _last_run(self) -> str:
        return self.page.evaluate("document.querySelector('#qa-reading [data-run]')?.dataset.run ?? ''")

    def wait(self) -> None:
        """Until the page shows an answer, or a problem, that was not there before."""
        self.page.wait_for_function(
            "run => (document.querySelector('#qa-reading [data-run]')?.dataset.run ?? '') !== run", arg=self._run
        )

    def ask(self, question: str, text: str | None = None) -> None:
        self.send(question, text)
        self.wait()

    def upload(self, files: dict[str, bytes]) -> None:
        """Drop files, and wait until all are listed."""
        given = [{"name": name, "mimeType": "text/plain", "buffer": content} for name, content in files.items()]
        self._run = self._last_run()
        self.page.set_input_files("#qa-files input[type=file]", given)
        self.wait()
        assert self.page.locator("#qa-files tbody tr").count() == len(files)

    def clear(self) -> None:
        """Take text, files and answers away, and put the threshold back."""
        self._run = self._last_run()
        self.page.click("#qa-new")
        self.wait()
        self.page.locator("#qa-threshold .reset-button").click()

    @property
    def answer(self) -> str:
        return self.page.inner_text("#qa-headline .qa-answer")

    @property
    def problem(self) -> str:
        return self.page.inner_text("#qa-headline [role=alert]")

    @property
    def lit(self) -> list[str]:
        """The answers that are lit up in the text."""
        return self.page.eval_on_selector_all("#qa-reading mark.qa-on", "marks => marks.map(mark => mark.id)")


@pytest.fixture(scope="module")
def asker() -> Asker:
    return steered_asker(LIMITS)


@pytest.fixture(scope="module")
def address(tmp_path_factory, asker) -> Iterator[str]:
    report = tmp_path_factory.mktemp("run") / "report.html"
    report.write_text(REPORT, encoding="utf-8")
    openings = Openings([*OPENINGS.questions, HOSTILE], OPENINGS.source)
    with served(asker, openings, report=report) as found:
        yield found


@pytest.fixture(scope="module")
def opened(browser, address) -> Iterator[list[tuple[Asking, Watched]]]:
    contexts = [browser.new_context(viewport={"width": WIDE, "height": 1000}) for _ in range(4)]
    found = []
    for context in contexts:
        page = context.new_page()
        watched = Watched(page, (*OFFLINE, address))
        page.goto(address)
        found.append((Asking(page), watched))
    yield found
    for context in contexts:
        context.close()


def cleared(opened: list[tuple[Asking, Watched]]) -> Iterator[list[Asking]]:
    """Pages without a text; afterwards none of them has done what it must not do."""
    for one, _ in opened:
        one.clear()
    yield [one for one, _ in opened]
    assert [fault for _, watched in opened for fault in watched.faults] == []


@pytest.fixture
def four(opened) -> Iterator[list[Asking]]:
    """The pages of four people."""
    yield from cleared(opened)


@pytest.fixture
def one(opened) -> Iterator[Asking]:
    """The page of one person."""
    for pages in cleared(opened[:1]):
        yield pages[0]


def test_enter_asks_and_the_answer_is_marked_at_its_characters(one) -> None:
    one.ask("Where is Ben?", TEXT)
    assert one.answer == "Rome"
    assert one.lit == ["qa-answer-0"]
    marks = [one.page.evaluate(BEFORE, number) for number in range(6)]
    assert [text for _, text in marks] == ["Rome"] * 3 + ["Paris"] * 3
    for before, text in marks:
        assert TEXT.startswith(before + text)
    assert one.page.text_content(".qa-body") == TEXT
    one.ask("Who is it?", "Ben.")  # another text, and no mark of the old one
    assert [one.page.evaluate(BEFORE, 0), one.lit] == [["", "Ben"], ["qa-answer-0"]]


def test_chips_move_the_highlight(one) -> None:
    one.ask("Who is it?", "Anna and Ben. " + "\n" * 60 + "Carl.")
    chips = one.page.locator("#qa-panel .qa-chip")
    assert chips.locator(".qa-text").all_inner_texts() == ["Anna", "Ben", "Carl"]
    chips.nth(1).click()
    assert one.lit == ["qa-answer-1"]
    assert chips.nth(1).get_attribute("aria-pressed") == "true"
    one.page.keyboard.press("ArrowDown")
    assert one.lit == ["qa-answer-2"]
    frame, mark = one.page.locator(".qa-pages").bounding_box(), one.page.locator("#qa-answer-2").bounding_box()
    assert frame["y"] <= mark["y"] <= frame["y"] + frame["height"] - mark["height"]  # it was scrolled to
    one.page.keyboard.press("ArrowUp")
    one.page.keyboard.press("ArrowUp")
    assert one.lit == ["qa-answer-0"]
    one.page.locator("#qa-answer-1").click()
    assert one.lit == ["qa-answer-1"]
    assert chips.nth(1).get_attribute("aria-pressed") == "true"


def test_the_slider_moves_the_threshold(one) -> None:
    one.ask("Where is Ben?", "Ben is in Rome.")
    rows = one.page.locator("#qa-panel .qa-percent")
    assert one.answer == "Rome"
    before = rows.all_inner_texts()
    assert before[0] == "99.4%"
    number = one.page.locator("#qa-threshold input[type=number]")
    number.fill("-10")
    one.page.wait_for_selector("#qa-headline .qa-none")
    assert one.answer == "The text does not answer it."
    assert one.lit == []
    assert one.page.inner_text("#qa-panel .qa-chosen .qa-text") == "No answer"
    one.page.locator("#qa-threshold .reset-button").click()
    one.page.wait_for_selector("#qa-headline .qa-answer:not(.qa-none)")
    assert (one.answer, rows.all_inner_texts(), one.lit) == ("Rome", before, ["qa-answer-0"])
    number.fill("-99")  # beyond the slider's end, and the next question is answered there
    one.page.wait_for_selector("#qa-headline .qa-none")
    one.ask("Where is Ben?")
    assert one.answer == "The text does not answer it."


def test_the_threshold_that_a_question_began_at_does_not_come_back(one, monkeypatch) -> None:
    """Whatever a busy machine does first: the slider's last threshold is the one that is shown."""
    one.ask("Where is Ben?", "Ben is in Rome.")
    asked, judged = Event(), Event()

    def slow(asking: Asked, settings: AnswerSettings, threshold: float) -> AtThreshold:
        if threshold != -10 and asked.is_set():
            judged.wait(3)  # the page has shown the other threshold by then
        asked.set()
        return at_threshold(asking, settings, threshold)

    monkeypatch.setattr("qa_lightning.pages.demo.page.at_threshold", slow)
    one.ask("Where is Ben?", "Ben is in Oslo.")
    one.page.locator("#qa-threshold input[type=number]").fill("-10")
    one.page.wait_for_selector("#qa-headline .qa-none")
    judged.set()
    one.page.wait_for_timeout(500)
    assert one.answer == "The text does not answer it."


def test_windows_are_shown_on_demand(one) -> None:
    one.ask("Where is Ben?", TEXT * 2)
    one.page.locator("#qa-panel .qa-chip").nth(1).click()
    edges = one.page.locator("#qa-reading .qa-edge")
    assert edges.count() > 2
    assert not edges.first.is_visible()
    one.page.click("#qa-panel summary")
    assert edges.first.is_visible()
    one.page.evaluate("new Promise(done => (document.body.append(''), requestAnimationFrame(done)))")  # a change
    assert one.lit == ["qa-answer-1"]  # the one that was chosen
    assert one.page.locator("#qa-panel .qa-map > i").count() * 2 == edges.count()
    one.page.locator("#qa-threshold input[type=number]").fill("1")  # they stay when the panel is drawn again
    one.page.wait_for_function("document.querySelector('#qa-panel details').open")
    assert edges.first.is_visible()
    assert one.page.locator("#qa-panel .qa-map").is_visible()
    one.page.click("#qa-panel summary")
    assert not edges.first.is_visible()


def test_examples_files_and_new_texts(one) -> None:
    one.page.click("#qa-samples button >> nth=1")
    one.page.wait_for_selector("#qa-headline .qa-answer")
    assert (one.answer, one.page.input_value("#qa-question input")) == ("Dora", "Who works?")
    one.upload({"a.txt": b"Anna is in Oslo.", "b.md": b"# Ben\n\nBen is in Rome."})
    assert one.page.evaluate("document.body.dataset.qaMode") == "edit"
    assert one.page.input_value("#qa-text textarea") == ""  # the example has gone
    one.ask("Where is Ben?")
    assert one.page.locator("#qa-reading h2").all_inner_texts() == ["a.txt", "b.md"]
    assert (one.answer, one.page.inner_text("#qa-headline .qa-where")) == ("Rome", "b.md line 3")
    one.page.click("#qa-new")
    one.page.wait_for_function("document.activeElement.matches('#qa-text textarea')")
    assert one.page.locator("#qa-files tbody tr").count() == 0
    one.page.keyboard.type("Dora is in Paris.")
    one.ask("Where is Dora?")
    assert (one.answer, one.page.inner_text(".qa-body")) == ("Paris", "Dora is in Paris.")


@pytest.fixture
def slow(asker, monkeypatch) -> Iterator[tuple[Event, Event, Event]]:
    """Set when a question that begins with "Where" has come; to be set to answer it; set once it is answered."""
    come, go, gone = Event(), Event(), Event()
    ask = asker.ask

    def wait(question: str, documents) -> Asked:
        found = ask(question, documents)
        if question.startswith("Where"):
            come.set()
            go.wait(20)
            gone.set()
        return found

    monkeypatch.setattr(asker, "ask", wait)
    yield come, go, gone
    go.set()


@pytest.mark.parametrize("moved_on", ["new", "files", "example"])
def test_an_answer_that_comes_after_the_person_has_moved_on_is_not_shown(one, slow, moved_on) -> None:
    come, go, gone = slow
    one.send("Where is Ben?", "Ben is in Rome.")
    assert come.wait(20)
    if moved_on == "files":
        one.upload({"a.txt": b"Dora works."})
    else:
        one.page.click("#qa-new" if moved_on == "new" else "#qa-samples button >> nth=1")
        one.wait()
    go.set()
    assert gone.wait(20)
    if moved_on == "example":
        one.page.wait_for_timeout(300)
        assert (one.answer, one.page.input_value("#qa-question input")) == ("Dora", "Who works?")
        return
    one.page.locator("#qa-threshold input[type=number]").fill("-9")
    one.page.wait_for_timeout(300)
    assert one.page.locator("#qa-headline .qa-answer").count() == 0
    assert one.page.locator("#qa-reading .qa-body").count() == 0


def test_an_answer_is_shown_at_the_threshold_of_its_time(one, slow) -> None:
    one.send("Where is Ben?", "Ben is in Rome.")
    one.page.locator("#qa-threshold input[type=number]").fill("-10")
    one.page.wait_for_timeout(100)
    slow[1].set()
    one.wait()
    one.page.wait_for_selector("#qa-headline .qa-none")
    assert one.answer == "The text does not answer it."


@pytest.mark.parametrize(
    ("question", "text", "problem"),
    [
        ("", "Ben.", "The question is empty."),
        ("Who?", " ", "There is no text to look in: paste one, or drop a file."),
        ("x" * 1001, "Ben.", "The question has 1,001 characters; at most 1,000 are read."),
    ],
    ids=["no question", "no text", "long question"],
)
def test_what_cannot_be_asked_gets_one_sentence(one, question, text, problem) -> None:
    one.ask(question, text)
    assert one.problem == problem
    assert one.page.locator("#qa-panel .qa-chip").count() == 0
    one.ask("Who?", "Ben.")  # and the page goes on
    assert one.answer == "Ben"


def test_files_that_cannot_be_read_are_named(one) -> None:
    one.upload({"a.pdf": b"no pdf", "b.txt": b"\xff\xfe"})
    one.ask("Who?", "Ben.")
    lines = one.problem.split("\n\n")
    assert [line.partition(":")[0] for line in lines] == ["a.pdf", "b.txt"]


def test_a_context_of_a_megabyte_is_answered(one) -> None:
    one.ask("Where is Ben?", ("The club meets in town. " * 42_000)[:999_980] + "\n\nBen is in Rome.")
    assert one.answer == "Rome"
    before, text = one.page.evaluate(BEFORE, 0)
    assert (len(before), text) == (999_982 + len("Ben is in "), "Rome")
    one.ask("Where is Ben?", one.page.input_value("#qa-text textarea") + "x" * 20)
    assert one.problem == "There are 1,000,017 characters; at most 1,000,000 are read at a time."


def test_four_at_once_get_their_own_answers(four) -> None:
    names = ["Anna", "Ben", "Carl", "Dora"]
    for number, (one, name) in enumerate(zip(four, names, strict=True)):
        one.send("Who is it?", f"Text {number}: it is {name}.")
    for number, (one, name) in enumerate(zip(four, names, strict=True)):
        one.wait()
        assert one.answer == name
        assert one.page.inner_text(".qa-body") == f"Text {number}: it is {name}."


def tags_inside(page: Page, selector: str) -> set[str]:
    return set(page.eval_on_selector_all(f"{selector} *", "found => found.map(one => one.tagName)"))


def test_hostile_texts_stay_texts(one) -> None:
    """In the text, in questions and in examples; the tests above and below open this page too, with such an example."""
    context = "\n".join(PAYLOADS)
    one.ask("Where is Ben?", f"{context}\nBen is in Rome.")
    assert one.answer == "Rome"
    shown = visible(f"{context}\nBen is in Rome.", lines=True)
    assert one.page.evaluate("document.querySelector('.qa-body').textContent") == shown
    assert tags_inside(one.page, "#qa-reading .qa-body") <= {"MARK", "I"}
    assert tags_inside(one.page, "#qa-panel .qa-text") == set()
    for payload in (" ".join(PAYLOADS)[start : start + 900] for start in range(0, len(context), 900)):
        one.ask(payload)
    one.ask("Who is it?", " ".join(f"{payload} Ben." for payload in PAYLOADS[:6]))
    assert one.answer == "Ben"
    button = one.page.locator("#qa-samples button >> nth=2")
    assert one.page.evaluate("one => one.textContent", button.element_handle()).strip() == HOSTILE.question.strip()
    button.click()
    one.page.wait_for_function(
        "text => document.querySelector('#qa-question input').value === text", arg=HOSTILE.question
    )
    assert tags_inside(one.page, "#qa-samples button") == set()


def test_hostile_names_of_files_stay_texts(one) -> None:
    names = [f"{payload[:80].translate({47: 45, 0: 48, 10: 32, 13: 32})}.txt" for payload in PAYLOADS]
    one.upload(dict.fromkeys(dict.fromkeys(names), b"Ben."))
    one.ask("Who?", "")
    assert one.answer == "Ben"
    assert one.page.locator("#qa-reading h2").count() == len(set(names))
    for selector in ("#qa-reading h2", "#qa-panel .qa-where", "#qa-headline .qa-where"):
        assert tags_inside(one.page, selector) == set()
    one.clear()
    one.upload({f"{name[:60]}.pdf": b"no pdf" for name in dict.fromkeys(names)})
    one.ask("Who?", "")
    assert one.problem
    assert tags_inside(one.page, "#qa-headline [role=alert]") == {"P"}


def test_the_report_is_linked(one, address) -> None:
    with one.page.expect_popup() as opened:
        one.page.click("text=Report of errors")
    assert opened.value.inner_text("h1") == "Report of errors"
    assert opened.value.url == f"{address}/report.html"


CONTRAST = """selectors => selectors.map(selector => {
  const value = text => {
    const part = text.match(/[\\d.]+/g).map(Number);
    const linear = part.slice(0, 3).map(c => c / 255).map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return { l: .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2], a: part[3] ?? 1 };
  };
  const element = [...document.querySelectorAll(selector)].find(one => one.offsetParent !== null);
  if (!element) return [selector, null];
  let behind = element;
  while (behind && value(getComputedStyle(behind).backgroundColor).a === 0) behind = behind.parentElement;
  const ground = getComputedStyle(behind ?? document.body).backgroundColor;
  const [a, b] = [getComputedStyle(element).color, ground].map(value);
  return [selector, (Math.max(a.l, b.l) + .05) / (Math.min(a.l, b.l) + .05)];
})"""
READ = (
    "h1",
    ".qa-answer",
    ".qa-body",
    "mark.qa-on",
    ".qa-text",
    ".qa-percent",
    ".qa-other .qa-text",
    "summary",
    "#qa-go",
)
READ_TOO = ("#qa-tools h2", "#qa-new", "#qa-threshold label span", "#qa-question input")


@pytest.mark.parametrize(("width", "dark"), [(NARROW, True), (WIDE, False)], ids=["narrow, dark", "wide, light"])
def test_it_fits_and_can_be_read(open_page, address, width, dark) -> None:
    one = Asking(open_page(address, width=width, dark=dark, allowed=(address,)))
    one.page.wait_for_function("document.activeElement.matches('#qa-question input')")
    one.page.keyboard.press("Enter")  # the first example is there from the start
    one.page.wait_for_selector("#qa-headline .qa-answer")
    assert one.answer == "Paris"
    one.ask("Where is Ben?", TEXT)
    one.page.click("#qa-panel summary")
    inside = "document.documentElement.scrollWidth <= window.innerWidth"
    assert one.page.evaluate(inside)
    weak = [pair for pair in one.page.evaluate(CONTRAST, [*READ, *READ_TOO]) if pair[1] is None or pair[1] < 4.5]
    assert weak == []
    if width == NARROW:  # answer, text, rows: in this order
        tops = [one.page.locator(name).bounding_box()["y"] for name in ("#qa-headline", "#qa-left", "#qa-panel")]
        assert tops == sorted(tops)
    one.ask("x" * 1001)
    assert one.page.evaluate(inside)
