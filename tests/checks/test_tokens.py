"""What a tokenizer and windows do to the data: cut questions, unknown characters, answers that are lost."""

from __future__ import annotations

import pytest

from qa_lightning.checks.bad_rows import ROW_FINDINGS
from qa_lightning.checks.report import check_source
from qa_lightning.checks.tokens import TOKEN_FINDINGS
from qa_lightning.models.loading import load_tokenizer
from tests.helpers.checks import SETTINGS, answers, found, row
from tests.helpers.data import write_json
from tests.helpers.models import small_tokenizer


def test_what_a_tokenizer_does_is_counted_from_the_windows(tmp_path, model_folder) -> None:
    filler = "The baker works at the city . " * 20
    long = f"{filler}Anna lives in Paris . {filler}"
    rows = [
        row(1),
        {"id": "cut", "question": "Who " * 30, "context": "Ben .", "answers": answers("Ben", 0)},
        {"id": "unknown", "question": "Who ?", "context": "Ben \u2603 .", "answers": answers("Ben", 0)},
        {"id": "part", "question": "Who ?", "context": "the bakers .", "answers": answers("bak", 4)},
        {"id": "longest", "question": "Who ?", "context": long, "answers": answers(long[90:150], 90)},
        {"id": "unheld", "question": "Who ?", "context": long, "answers": answers(long[3:480], 3)},
    ]
    path = write_json(tmp_path / "data.json", rows)
    report = check_source(path, tokenizer=load_tokenizer(model_folder), settings=SETTINGS, max_answer_length=10)
    by_kind = {finding.kind: finding for finding in report.findings}
    for kind, name in (
        ("cut_question", "cut"),
        ("unknown", "unknown"),
        ("long_answer", "longest"),
        ("unheld", "unheld"),
    ):
        assert by_kind[kind].count == 1, kind
        assert by_kind[kind].rows[0]["id"] == name
        assert by_kind[kind].rows[0]["place"].startswith(f"{tmp_path}/data.json row ")
    assert "--data.max_question_length; the longest has 30 tokens" in by_kind["cut_question"].fix
    assert report.facts["unknown"] == {"\u2603": 1}
    assert set(by_kind) <= set(TOKEN_FINDINGS) | set(ROW_FINDINGS)
    tokenizer = small_tokenizer()
    lengths = [len(tokenizer(one["context"], add_special_tokens=False)["input_ids"]) for one in rows]
    assert report.facts["tokens"]["context"]["max"] == max(lengths)
    assert report.facts["tokens"]["context"]["min"] == min(lengths)
    # Wrong are the part of a token, the unheld answer, and the one that is too long: one for each limit.
    assert report.facts["ceiling"]["exact_match"] == pytest.approx(100 * 4 / 6)
    assert {name: cost["exact_match"] for name, cost in report.facts["limits"].items()} == pytest.approx(
        dict.fromkeys(("tokens", "windows", "max_answer_length"), 100 / 6)
    )


@pytest.mark.parametrize(("longest", "findings", "cost"), [(3, {}, 0.0), (2, {"long_answer": 1}, 100 / 3)])
def test_an_answer_of_exactly_the_longest_length_can_be_given(tmp_path, model_folder, longest, findings, cost) -> None:
    context = "Ben lives at the city ."
    rows = [{"id": "a", "question": "Who ?", "context": context, "answers": answers("at the city", 10)}]
    report = check_source(
        write_json(tmp_path / "data.json", rows),
        tokenizer=load_tokenizer(model_folder),
        settings=SETTINGS,
        max_answer_length=longest,
    )
    assert found(report) == findings
    assert report.facts["tokens"]["answer"]["max"] == 3
    assert report.facts["ceiling"]["f1"] == 100.0
    assert report.facts["limits"]["max_answer_length"]["f1"] == pytest.approx(
        cost
    )  # without the article, 2 of 3 words are left


def test_answers_that_end_within_a_token_lower_the_ceiling(tmp_path, tokenizer, model_folder) -> None:
    context = "Ben lives at the city ."
    rows = [{"id": "a", "question": "Who ?", "context": context, "answers": answers("cit", context.index("city"))}]
    report = check_source(
        write_json(tmp_path / "data.json", rows), tokenizer=load_tokenizer(model_folder), settings=SETTINGS
    )
    assert found(report) == {"altered": 1}
    assert report.findings[0].rows[0]["what"] == "'cit' becomes 'city'"
    assert report.facts["ceiling"] == {"exact_match": 0.0, "f1": 0.0}
