"""The report as values: scores with intervals, kinds, what the page holds, the file of all questions, comparisons."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qa_lightning.cli.main import call
from qa_lightning.errors import InputError, Voice, speaking
from qa_lightning.evaluation.report import report_on
from qa_lightning.metrics.bootstrap import bootstrap
from qa_lightning.metrics.calibration import reliability
from qa_lightning.metrics.confidence import fit_confidence
from qa_lightning.metrics.errors import ErrorKind
from qa_lightning.pages import report as reports
from qa_lightning.pages.report import ErrorReport
from qa_lightning.pages.trust import trust_values
from tests.helpers.data import make_rows, write_json
from tests.helpers.scored import Asked, renamed, scored, several

CONTEXT = "Anna lives in Paris . Ben works in the city of Oslo ."


def data_of(page: str) -> dict:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_scores_are_the_official_ones_and_have_intervals() -> None:
    report = ErrorReport(scored(several()))
    exact, f1 = report.scored.scores
    assert report.intervals["f1"].mean == pytest.approx(report.scored.metrics["f1"])
    assert report.intervals["exact"].mean == pytest.approx(report.scored.metrics["exact_match"])
    article = report.scored.outcomes.article
    assert [report.intervals["exact"], report.intervals["f1"]] == bootstrap(100 * np.stack([exact, f1], 1), article)
    assert report.intervals["f1"].unit == "articles"
    assert set(report.intervals) == {"exact", "f1"}


def test_the_calibration_error_is_the_one_that_evaluate_prints() -> None:
    asked = [
        Asked(CONTEXT, ("Paris",), (("Paris" if number % 3 else "lives", number / 10 - 8),)) for number in range(60)
    ]
    found = scored(asked)
    expected = fit_confidence(found.outcomes, found.version_2, found.scaling).as_given["expected_calibration_error"]
    assert trust_values(found)["error"] == pytest.approx(100 * expected.mean)
    assert expected.mean != reliability(found.judged.confidence, found.judged.correct, 10).error


def test_with_unanswerable_questions_both_kinds_have_scores() -> None:
    none = Asked(CONTEXT, (), (("Paris", 1.0),), null=3.0)
    report = ErrorReport(scored([*several(8), none, renamed(none, null=-3.0)]))
    assert report.intervals["NoAns_f1"].mean == 50
    assert report.intervals["HasAns_exact"].mean == pytest.approx(report.scored.metrics["HasAns_exact"])
    counts = {ErrorKind.RIGHT: 3, ErrorKind.WRONG_PLACE: 2, ErrorKind.BOUNDARY: 4, ErrorKind.MISSED_NONE: 1}
    assert report.kinds == {kind: counts.get(kind, 0) for kind in ErrorKind}


def test_the_page_holds_the_surest_errors_of_each_kind_and_says_how_many(monkeypatch) -> None:
    monkeypatch.setattr(reports, "_EACH", 3)
    monkeypatch.setattr(reports, "_RIGHT", 2)
    report = ErrorReport(scored(several()))
    chosen = report.chosen(8)
    kinds = [question.kind for question in report.scored.questions(chosen)]
    assert (len(chosen), kinds.count(ErrorKind.RIGHT)) == (8, 2)
    assert kinds.count(ErrorKind.WRONG_PLACE) >= 2
    page = report.html(8)
    assert "This page holds 8 of the 40 questions" in " ".join(page.split())
    assert "6 of the 30 wrong answers" in " ".join(page.split())
    assert len(data_of(page)["questions"]) == 8
    assert len(report.chosen(1000)) == 32  # all that are wrong, and two that are right


def test_very_long_questions_leave_room_for_fewer(monkeypatch) -> None:
    monkeypatch.setattr(reports, "_MAX_BYTES", 20_000)
    report = ErrorReport(scored([renamed(one, question="why " * 300) for one in several()]))
    page = report.html()
    held = len(data_of(page)["questions"])
    assert 1 < held < 20
    assert f"This page holds {held} of the 40 questions" in " ".join(page.split())


def test_when_room_is_short_each_kind_keeps_some(monkeypatch) -> None:
    """Of long questions, whose letters have more than one byte, the page holds some of each kind."""
    monkeypatch.setattr(reports, "_MAX_BYTES", 20_000)
    report = ErrorReport(scored([renamed(one, question="\u0447\u0442\u043e " * 300) for one in several()]))
    page = report.html()
    records = data_of(page)["questions"]
    assert len(json.dumps(records, ensure_ascii=False).encode()) <= 20_000
    assert 5 < len(records) < 12
    kinds = {question.kind for question in report.scored.questions([record["n"] for record in records])}
    assert kinds == {ErrorKind.RIGHT, ErrorKind.WRONG_PLACE, ErrorKind.BOUNDARY}


def test_all_questions_are_in_the_json_lines_file(tmp_path: Path) -> None:
    report = ErrorReport(scored(several()))
    page, lines = report.write(tmp_path / "errors.html", 5)
    assert (page.name, lines.name) == ("errors.html", "errors.jsonl")
    rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [f"q{number}" for number in range(40)]
    assert np.mean([row["f1"] for row in rows]) == pytest.approx(report.intervals["f1"].mean / 100)
    row = rows[2]
    assert row["kind"] == "boundary only"
    start, end = row["prediction"]["start"], row["prediction"]["end"]
    assert row["prediction"]["answer"] == row["context"][start:end] == "the city"
    assert row["answers"]["text"] == ["the city of Oslo", "Oslo", "city of Oslo"]
    assert row["slices"]["article"] == "Article 2"
    assert row["n_best"][0]["probability"] > row["n_best"][1]["probability"]
    assert "against" not in row


def test_two_models_are_compared_in_a_sentence() -> None:
    asked = several()
    better = scored([renamed(one, found=((one.golds[0], 5.0),)) for one in asked], "model-a")
    worse = scored(asked, "model-b")
    report, turned = ErrorReport(better, worse), ErrorReport(worse, better)
    sentence = r"model-a is better than model-b by [\d.]+ F1, 95% interval of the difference [\d.]+ to [\d.]+"
    assert report.differences["f1"].is_clear
    for verdict in (report.verdicts["f1"], turned.verdicts["f1"]):
        assert re.fullmatch(sentence, verdict)
    assert report.won.sum() == -turned.won.sum()
    same = ErrorReport(scored(asked, "model-a"), worse)
    assert same.verdicts["f1"] == (
        "No clear difference: model-a and model-b have about the same F1, 95% interval of the difference 0.0 to 0.0"
    )


def test_one_question_has_no_intervals() -> None:
    """And nothing says nan."""
    report = ErrorReport(scored(several(1)), scored([renamed(several(1)[0], found=(("Rome", 1.0),))], "model-b"))
    assert report.lines == [
        "EM 100.00, F1 100.00; one question has no interval",
        "No clear difference: model-a scores higher here than model-b by 100.0 F1",
        "No clear difference: model-a scores higher here than model-b by 100.0 EM",
    ]
    assert not re.search(r"\bnan\b", re.sub(r"<(script|style).*?</\1>", "", report.html(), flags=re.DOTALL))
    none = Asked(CONTEXT, (), (("Paris", 1.0),), null=3.0)
    (line,) = ErrorReport(scored([*several(8), none])).lines
    assert "F1 without one 100.00; 95% intervals, resampling " in line


def test_questions_won_and_lost_are_in_the_page_with_both_answers(tmp_path: Path) -> None:
    asked = several(8)
    changed = {1: renamed(asked[1], found=(("Paris", 5.0),)), 4: renamed(asked[4], found=(("Oslo", 1.0),))}
    other = [changed.get(number, one) for number, one in enumerate(asked)]
    report = ErrorReport(scored(asked), scored(other, "model-b"))
    held = {record["i"]: record for record in data_of(report.html())["questions"]}
    assert {name: record["w"] for name, record in held.items() if record["w"]} == {"q1": -1, "q4": 1}
    assert (held["q1"]["a"], held["q1"]["r"]["a"]) == ("Rome", "Paris")
    lines = [json.loads(line) for line in report.write(tmp_path / "r.html")[1].read_text("utf-8").splitlines()]
    assert lines[4]["against"]["prediction"]["answer"] == "Oslo"


def test_other_questions_are_not_compared() -> None:
    with pytest.raises(InputError, match="did not answer the same questions"):
        ErrorReport(scored(several(8)), scored(several(7)))


def test_a_long_title_is_cut_short_in_its_slice() -> None:
    named = [renamed(one, title="t" * 5000 if number % 2 else "short") for number, one in enumerate(several(8))]
    report = ErrorReport(scored(named))
    assert "t" * 5000 in [group.name for one in report.slices for group in one.groups]
    assert "t" * 201 not in re.sub(r"<script.*?</script>", "", report.html(), flags=re.DOTALL)


def test_in_a_notebook_it_shows_itself() -> None:
    report = ErrorReport(scored(several()))
    shown = report._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    inner = re.match(r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts"', shown)
    assert inner is not None
    assert len(data_of(html.unescape(inner[1]))["questions"]) == 40
    assert repr(report) == f"ErrorReport('model-a', 'data.json': EM 25.00, F1 {report.intervals['f1'].mean:.2f})"


@pytest.mark.parametrize("unanswerable", [0, 8])
def test_the_command_reports_the_numbers_of_evaluate(model_folder, tmp_path, capsys, unanswerable) -> None:
    data = write_json(tmp_path / "dev.json", make_rows(24, unanswerable))
    assert call("evaluate", ["--model", model_folder, "--data", data]) == 0
    lines = capsys.readouterr().out.splitlines()
    evaluated = dict(line.split() for line in lines if re.match(r"\w+ +[\d.]+$", line))
    page = tmp_path / "out" / "errors.html"
    flags = ["--model", model_folder, "--data", data, "--against", model_folder, "--output", str(page)]
    assert call("report", flags) == 0
    said = capsys.readouterr().out
    assert f"{model_folder} and {model_folder} have about the same F1" in said
    assert f"written to {page.parent}: errors.html, errors.jsonl" in said
    shown = dict(re.findall(r'data-score="(\w+)">([\d.]+)<', page.read_text("utf-8")))
    names = {"exact": "exact" if unanswerable else "exact_match"}
    assert len(shown) == (6 if unanswerable else 2)
    assert "fitted to these very questions" not in page.read_text("utf-8")
    assert shown == {name: f"{float(evaluated[names.get(name, name)]):.2f}" for name in shown}


def test_the_command_refuses_other_files_and_says_what_cannot_be_written(model_folder, tmp_path, capsys) -> None:
    data = write_json(tmp_path / "dev.json", make_rows(4))
    with pytest.raises(SystemExit) as ended:
        call("report", ["--model", model_folder, "--data", data, "--output", "errors.txt"])
    assert ended.value.code == 2
    assert "--output errors.txt: the page is HTML; name a file that ends in .html" in capsys.readouterr().err


def test_where_a_page_cannot_be_written_is_said_before_scoring(tmp_path, capsys) -> None:
    """By both commands that write one."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.html").mkdir()
    places = {"file/a.html": "is in a folder where nothing can be written (", "folder.html": "is a folder; name a file"}
    for name, reason in places.items():
        for words in (["report", "--model", "no such model", "--data", "no.json"], ["compare", "no run"]):
            with pytest.raises(SystemExit) as ended:
                call(words[0], [*words[1:], "--output", str(tmp_path / name)])
            assert ended.value.code == 2
            assert f"--output {tmp_path / name}: {reason}" in capsys.readouterr().err


def test_the_other_model_is_refused_by_its_own_flag_before_the_first_is_scored(model_folder, tmp_path, caplog) -> None:
    data = write_json(tmp_path / "dev.json", make_rows(4))
    other = tmp_path / "empty"
    other.mkdir()
    (tmp_path / "notes.txt").write_text("none")
    for wrong in (other, tmp_path / "notes.txt", tmp_path / "missing"):
        words = ["--data", data, "--output", str(tmp_path / "a.html")]
        with pytest.raises(InputError) as refused:
            call("report", ["--model", str(wrong), *words])
        assert str(wrong) in str(refused.value)
        alone = str(refused.value)
        with caplog.at_level("INFO"), pytest.raises(InputError) as refused:
            call("report", ["--model", model_folder, *words, "--against", str(wrong)])
        assert str(refused.value) == alone.replace("--model ", "--against ")
        with speaking(Voice()), pytest.raises(InputError) as refused:
            report_on(model_folder, data, against=wrong)
        assert not str(refused.value).startswith("--")
    assert not caplog.messages


def test_a_full_disk_is_one_line(monkeypatch, tmp_path) -> None:
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qa_lightning.pages.runs.write_file", full)
    with pytest.raises(
        InputError, match=r"^--output .*a.html: cannot be written \(No space left on device\); free some"
    ):
        call("compare", [str(tmp_path), "--output", str(tmp_path / "a.html")])


@pytest.mark.parametrize("content", ['{"id": "q0", "question": "Who ?", "score": 1}\n', "no JSON\n", "[1]\n"])
def test_files_that_no_report_wrote_are_not_replaced(tmp_path, content) -> None:
    lines, page = tmp_path / "dev.jsonl", tmp_path / "dev.html"
    lines.write_text(content)
    refused = r"dev.html: the questions would replace .*dev.jsonl, and {}; give the page another name$"
    words = ["--model", "no such model", "--output", str(page)]
    with pytest.raises(InputError, match="^--output .*" + refused.format("no report wrote it")):
        call("report", [*words, "--data", "no.json"])
    with pytest.raises(InputError, match="^--output .*" + refused.format("it is the data")):
        call("report", [*words, "--data", str(lines)])
    with pytest.raises(InputError, match=refused.format("no report wrote it")):
        ErrorReport(scored(several(1))).write(page)
    assert (lines.read_text(), page.exists()) == (content, False)


def test_a_page_is_not_written_over_its_own_questions(tmp_path) -> None:
    with pytest.raises(
        InputError, match=r"errors.jsonl: the questions are written to a file of this name; give the page"
    ):
        ErrorReport(scored(several(1))).write(tmp_path / "errors.jsonl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", ["{}/*.jsonl", "{}/*/dev.json*", "{}/runs/train.jsonl,{}/runs/d?v.jsonl"])
def test_questions_are_not_written_to_where_they_would_be_read_as_data(tmp_path, data) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    (folder / "train.jsonl").write_text("{}")
    page, data = folder / "dev.html", data.format(folder if data.startswith("{}/*.") else tmp_path, tmp_path)
    refused = rf"dev.html: the questions would be written to {folder}/dev.jsonl, and would be read as data; give"
    with pytest.raises(InputError, match="^--output .*" + refused):
        call("report", ["--model", "no such model", "--output", str(page), "--data", data])
    with pytest.raises(InputError, match=refused):
        ErrorReport(replace(scored(several(1)), data=data)).write(page)
    assert [path.name for path in folder.iterdir()] == ["train.jsonl"]
    ErrorReport(replace(scored(several(1)), data=data)).write(tmp_path / "elsewhere.html")


def test_a_report_replaces_a_report_but_not_its_data(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = ErrorReport(scored(several(3)))
    assert report.write("a.html") == report.write("a.html") == [Path("a.html"), Path("a.jsonl")]
    with pytest.raises(InputError, match="it is the data"):
        ErrorReport(replace(scored(several(3)), data="a.jsonl")).write("a.html")
