"""The report's page in a browser: slider, filters, search, order, keyboard; both widths; hostile text stays text."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from qa_lightning.metrics.errors import ErrorKind
from qa_lightning.pages.report import ErrorReport
from qa_lightning.wording import visible
from tests.helpers.browser import NARROW, WIDE
from tests.helpers.payloads import PAYLOADS
from tests.helpers.scored import Asked, renamed, scored, several

WRONG = 30  # of the forty questions


@pytest.fixture(scope="module")
def report() -> ErrorReport:
    """Forty questions, some without an answer, against a model that gets one more right and one less."""
    none = Asked("Anna lives in Paris .", (), (("Paris", 1.0),), null=-1.0, title="Article 1")
    said = Asked("Anna lives in Paris .", ("Paris",), (("Paris", 1.0),), null=4.0, title="Article 2")
    asked = [*several(36), none, renamed(none, null=3.0), said, said]
    for number, one in enumerate(asked):
        one.id = f"id-{number}"
    other = [*asked[:1], renamed(asked[1], found=(("Paris", 5.0),)), *asked[2:4]]
    other += [renamed(asked[4], found=(("Oslo", 1.0),)), *asked[5:]]
    return ErrorReport(scored(asked, "model-a"), scored(other, "model-b"))


@pytest.fixture(scope="module")
def page_file(report, tmp_path_factory) -> Path:
    return report.write(tmp_path_factory.mktemp("report") / "report.html")[0]


def texts(page, selector: str) -> list[str]:
    """The texts of all elements; also of rows that are scrolled out of sight, which are not drawn."""
    return page.locator(selector).evaluate_all("all => all.map(one => one.textContent)")


def listed(page) -> list[str]:
    return texts(page, "#list .question")


def test_the_surest_error_is_open_with_its_marks(open_page, page_file) -> None:
    page = open_page(page_file)
    assert page.locator("#list .row").count() == WRONG
    first = page.locator("#list .row").first
    assert first.get_attribute("aria-current") == "true"
    assert "the city" in first.inner_text()
    detail = page.locator("#detail")
    assert "".join(detail.locator(".context mark.answer").all_inner_texts()) == "the city"
    assert "".join(detail.locator(".context mark.gold").all_inner_texts()) == "the city of Oslo"
    assert "boundary only" in detail.inner_text()
    assert "The gold answer looks wrong" in detail.inner_text()
    colours = {
        name: detail.locator(f".answers mark.{name}").first.evaluate("one => getComputedStyle(one).backgroundColor")
        for name in ("gold", "answer")
    }
    assert colours["gold"] != colours["answer"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("wrong place", ErrorKind.WRONG_PLACE),
        ("boundary only", ErrorKind.BOUNDARY),
        ("missed none", ErrorKind.MISSED_NONE),
        ("said none", ErrorKind.SAID_NONE),
    ],
)
def test_filters_show_the_questions_of_their_kind(open_page, page_file, report, name, kind) -> None:
    page = open_page(page_file)
    button = page.get_by_role("button", name=name, exact=False).first
    assert button.inner_text().split()[-1] == str(report.kinds[kind])
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert page.locator("#list .row").count() == report.kinds[kind] > 0
    assert all(name in line for line in texts(page, "#list .line"))


def test_gold_that_looks_wrong_won_and_lost_have_filters_too(open_page, page_file, report) -> None:
    page = open_page(page_file)
    for name, count in (("doubt", 9), ("won", 1), ("lost", 1)):
        page.locator(f'[data-filter="{name}"]').click()
        assert page.locator("#list .row").count() == count
    detail = page.locator("#detail")
    assert "model-b" in detail.inner_text()
    assert detail.locator(".answers mark.other").inner_text() == "Paris"
    verdict = page.locator("#verdict-f1").inner_text()
    assert verdict.startswith("No clear difference: model-a and model-b have about the same F1, 95% interval of the")


def test_search_finds_questions_contexts_and_ids(open_page, page_file) -> None:
    page = open_page(page_file)
    page.keyboard.press("/")
    page.keyboard.type("PERSON 13 ?")
    assert listed(page) == ["Where lives person 13 ?"]
    page.locator("#search").fill("id-21")
    assert listed(page) == ["Where lives person 21 ?"]
    page.locator("#search").fill("nowhere at all")
    assert listed(page) == []
    assert "No question fits." in page.locator("#list").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#list .row").count() == WRONG


def test_order(open_page, page_file) -> None:
    page = open_page(page_file)

    def scores() -> list[float]:
        return [float(text.rpartition("·")[2].strip(" %")) for text in texts(page, "#list .line")]

    assert scores() == sorted(scores(), reverse=True)
    page.locator("#sort").select_option("unsure")
    assert scores() == sorted(scores())
    page.locator("#sort").select_option("data")
    assert listed(page)[:2] == ["Where lives person 1 ?", "Where lives person 2 ?"]


def test_the_keyboard_moves_through_the_questions(open_page, page_file) -> None:
    page = open_page(page_file)
    names = listed(page)

    def current() -> int:
        marked = page.locator('.row[aria-current="true"]')
        assert marked.count() == 1
        return page.locator(".row").evaluate_all("(rows) => rows.findIndex((row) => row.getAttribute('aria-current'))")

    for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("ArrowUp", 0), ("ArrowUp", 0)):
        page.keyboard.press(key)
        assert current() == place
        assert page.locator("#detail h3").first.inner_text() == names[place]
    for _ in range(40):
        page.keyboard.press("ArrowDown")
    assert current() == len(names) - 1
    assert page.locator(".row").last.evaluate("row => document.activeElement === row")


def test_the_slider_says_how_many_answers_are_right(open_page, page_file, report) -> None:
    page = open_page(page_file)
    says, slider = page.locator("#coverage-says"), page.locator("#coverage")
    judged = report.scored.judged
    for key in ("End", "Home"):
        slider.press(key)
        share = says.locator("b").all_inner_texts()
        assert says.inner_text().startswith(f"answers {share[0]}, of which {share[1]} right")
        at = judged.confidence >= (judged.confidence.max() if key == "Home" else 0)
        assert share == [f"{100 * at.mean():.1f}%", f"{100 * judged.correct[at].mean():.1f}%"]
    before = page.locator("#coverage-dot").get_attribute("cx")
    slider.press("ArrowRight")
    assert page.locator("#coverage-dot").get_attribute("cx") != before


def test_the_threshold_slider_begins_at_the_one_in_use(open_page, page_file, report) -> None:
    page = open_page(page_file)
    says = page.locator("#threshold-says")
    assert says.inner_text().startswith(f"threshold 0.00: F1 {report.intervals['f1'].mean:.1f}, EM")
    page.locator("#threshold").press("Home")
    assert "“no answer” to 100.0%" in says.inner_text()


@pytest.mark.parametrize("golds", [(), ("Paris",)], ids=["none has an answer", "each has"])
def test_of_a_kind_that_no_question_has_nothing_is_drawn(open_page, tmp_path, golds) -> None:
    one = Asked("Anna lives in Paris .", (), (("Paris", 1.0),), null=-1.0)
    found = scored([one, one])
    if golds:
        found = replace(found, outcomes=scored([renamed(one, golds=golds)] * 2).outcomes)
    page = open_page(ErrorReport(found).write(tmp_path / "report.html")[0])
    kind = "none" if golds else "has"
    figure = page.locator("figure", has=page.locator("#threshold"))
    assert figure.locator(f"polyline.{kind}, .key .{kind}").count() == 0
    assert figure.locator("polyline").count() == figure.locator(".key span").count() == 2
    assert "“no answer” to 0.0%" in page.locator("#threshold-says").inner_text()
    assert "with an answer" not in page.locator("#threshold-says").inner_text()


def test_a_candidate_points_at_its_place(open_page, page_file) -> None:
    page = open_page(page_file)
    page.locator(".nbest button").nth(1).click()
    assert "".join(page.locator(".context mark.pointed").all_inner_texts()) == "Oslo"
    page.locator(".nbest button").nth(1).click()
    assert page.locator(".context mark.pointed").count() == 0


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_nothing_overflows_and_texts_can_be_read(open_page, page_file, width, dark) -> None:
    page = open_page(page_file, width=width, dark=dark)
    if width == NARROW:
        page.locator(".row").nth(1).click()
        page.locator("#list li").nth(1).locator("#detail").wait_for(state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        "[...document.querySelectorAll('table, .panel, svg')].filter((one) => one.getBoundingClientRect().right > "
        "innerWidth + 1).map((one) => one.outerHTML.slice(0, 80))"
    )
    assert wide == []
    brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (brightness < 60) is dark


def test_a_question_stays_open_when_the_window_changes(open_page, page_file) -> None:
    page = open_page(page_file)
    page.locator(".row").nth(2).click()
    page.set_viewport_size({"width": NARROW, "height": 800})
    page.locator("#list li").nth(2).locator("#detail").wait_for(state="visible")
    page.set_viewport_size({"width": WIDE, "height": 800})
    page.locator(".browse > #detail").wait_for(state="visible")
    assert page.locator("#detail h3").first.inner_text() == listed(page)[2]


def test_printed_the_list_becomes_articles(open_page, page_file) -> None:
    page = open_page(page_file)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#printed article").count() == 25
    assert page.locator("#printed").is_visible()
    assert not page.locator("#list").is_visible()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """Every payload in context, question, id, title, gold answer, answer; in the names of models and data, too."""
    asked, golds = [], []
    for number, payload in enumerate(PAYLOADS):
        context = f"Anna {payload} lives in Paris ."
        given = {"title": payload, "question": payload}
        asked.append(Asked(context, ("Paris",), ((payload, 3.0),), id=f"{number} {payload}", **given))
        golds.append(Asked(context, (payload,), (("Anna", 2.0),), id=f"gold {number} {payload}", **given))
    asked += golds
    every = "".join(PAYLOADS)
    pair = [scored(asked, f"model {every}"), scored(asked, f"other {every}")]
    object.__setattr__(pair[0], "data", f"data {every}")
    return ErrorReport(*pair).write(tmp_path_factory.mktemp("hostile") / "<img src=x onerror=alert(1)>.html")[0]


def test_hostile_text_stays_text(open_page, hostile) -> None:
    """A request, an error, or a dialog fails the test, in `open_page`."""
    page = open_page(hostile)
    ours = "script style img iframe object embed link meta base form video a template".split()
    tags = "(names) => Object.fromEntries(names.map((name) => [name, document.querySelectorAll(name).length]))"
    before = page.evaluate(tags, ours)
    assert {name for name, count in before.items() if count} == {"script", "style", "meta", "a"}
    assert (before["script"], before["style"], before["meta"]) == (2, 1, 4)
    assert page.locator("#list .row").count() == 2 * len(PAYLOADS)
    shown = page.evaluate("[...document.querySelectorAll('.row')].map(row => (row.click(), row.textContent)).join()")
    assert page.evaluate(tags, ours) == before
    handlers = "[onclick], [onerror], [onload], [onfocus], [onmouseover], [ontoggle], [onbegin]"
    assert page.locator(handlers).count() == 0
    shown += page.evaluate("document.title + document.body.innerText")
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_each_payload_is_shown_as_it_is(hostile_page, number) -> None:
    payload = PAYLOADS[number]
    hostile_page.locator("#search").fill(f"gold {number} ")
    assert visible(payload, lines=True) in texts(hostile_page, "#list .question")
    text = hostile_page.locator("#detail .context").evaluate("one => one.textContent")
    assert text == f"Anna {visible(payload, lines=True)} lives in Paris ."


@pytest.fixture(scope="module")
def hostile_page(browser, hostile):
    page = browser.new_page()
    page.goto(hostile.as_uri())
    page.locator("#sort").select_option("data")
    yield page
    page.close()


def test_scripts_that_got_in_would_not_run(browser, page_file, tmp_path) -> None:
    """The page's policy: were text to become markup, it would still not run or ask anybody."""
    broken = tmp_path / "broken.html"
    image = "<img src='http://192.0.2.1/a.png' onerror='document.title = 1'>"
    inserted = f"<script>document.title = 'run'</script>{image}"
    broken.write_text(page_file.read_text("utf-8").replace("<main>", f"<main>{inserted}"), "utf-8")
    page = browser.new_page()
    failed: dict[str, str] = {}
    page.on("requestfailed", lambda request: failed.update({request.url: request.failure}))
    page.goto(broken.as_uri())
    assert page.title() == "Report of errors: model-a"
    assert failed == {"http://192.0.2.1/a.png": "csp"}
    page.close()


def test_a_megabyte_of_context_opens_at_its_answer(open_page, tmp_path) -> None:
    context = "in the city . " * 40_000 + "Anna lives in Paris . " + "of the city " * 40_000
    assert len(context) > 1_000_000
    report = ErrorReport(scored([Asked(context, ("Paris",), (("Anna", 3.0),)), *several(8)]))
    page_file, lines = report.write(tmp_path / "report.html")
    assert page_file.stat().st_size < 200_000
    assert json.loads(lines.read_text("utf-8").splitlines()[0])["context"] == context
    page = open_page(page_file)
    page.locator("#sort").select_option("long")
    assert page.locator("#detail .context mark.gold").inner_text() == "Paris"
    assert page.locator("#detail .context .gap").count() == 2
