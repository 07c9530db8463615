"""The table of sample predictions: which questions it shows, and what of them."""

from __future__ import annotations

import pytest
from markdown import markdown

from qa_lightning.decoding.predictions import Answer
from qa_lightning.metrics.squad import Scoring
from qa_lightning.training.sample_table import AROUND, excerpt, sample, sampled


def test_half_are_the_same_every_epoch_and_half_are_errors() -> None:
    epochs = [sampled(1000, list(range(first, 1000, 3)), 20) for first in (0, 1, 2)]
    assert {tuple(numbers[10:]) for numbers in epochs} == {tuple(range(0, 1000, 100))}
    for first, numbers in enumerate(epochs):
        assert len(set(numbers)) == 20
        assert all(number % 3 == first for number in numbers[:10])
        assert max(numbers[:10]) - min(numbers[:10]) > 800  # spread, too


@pytest.mark.parametrize(
    ("total", "wrong", "shown"), [(1000, [], 10), (1000, [7, 500], 11), (3, [0, 1, 2], 3), (0, [], 0)]
)
def test_few_errors_and_few_questions_are_all_that_is_shown(total, wrong, shown) -> None:
    numbers = sampled(total, wrong, 20)
    assert len(numbers) == len(set(numbers)) == shown
    assert set(wrong) <= set(numbers)


CONTEXT = "a" * 100 + " Anna lives in\n Rome . " + "b" * 100


def test_the_context_around_the_answer_is_shown() -> None:
    start = CONTEXT.index("Rome")
    before, marked, after = excerpt(CONTEXT, start, start + 4)
    assert marked == "Rome"
    assert before == "…" + " ".join(CONTEXT[start - AROUND : start].split()) + " "
    assert (after[:3], after[-2:], len(after)) == (" . ", "b…", AROUND + 1)
    long = "Some words stand here before. " * 3 + "Rome" + " And some words stand there after." * 3
    before, _, after = excerpt(long, long.index("Rome"), long.index("Rome") + 4)
    assert before == "…" + "words stand here before. Some words stand here before. "[: len(before) - 1]
    assert after == " And some words stand there after. And some words stand…"
    assert excerpt("Anna lives in Rome", 14, 18) == ("Anna lives in ", "Rome", "")
    assert excerpt("Anna lives in Rome", 0, 0) == ("", "", "Anna lives in Rome")
    assert excerpt(CONTEXT, 0, 0)[2].endswith("…")


def row(context: str, question: str, golds: list[tuple[str, int]], text: str, start: int) -> str:
    example = {
        "question": question,
        "context": context,
        "answers": {"text": [gold for gold, _ in golds], "answer_start": [place for _, place in golds]},
    }
    answer = Answer("id", text, start, start + len(text), 0.25, 0.0)
    return sample(example, answer, Scoring(version_2=True)).markdown


def cells(table_row: str) -> list[str]:
    """The cells as TensorBoard's Markdown renders them."""
    header = "| question | prediction | context |\n|---|---|---|\n"
    html = markdown(header + table_row, extensions=["markdown.extensions.tables"])
    return [cell.split("</td>")[0] for cell in html.split("<td>")[1:]]


def test_a_row_marks_the_prediction_or_what_should_have_been_one() -> None:
    assert cells(row("Anna lives in Rome", "Where?", [("Rome", 14)], "in Rome", 11)) == [
        *("Where?", "in Rome (F1 67, score 0.250), gold: Rome", "Anna lives <strong>in Rome</strong>"),
    ]
    assert cells(row("Anna lives in Rome", "Where?", [("Rome", 14)], "", 0)) == [
        *("Where?", "(no answer) (F1 0, score 0.250), gold: Rome", "Anna lives in <strong>Rome</strong>"),
    ]
    assert cells(row("Anna lives", "Where?", [], "", 0))[1] == "(no answer) (F1 100, score 0.250), gold: (no answer)"


def test_nothing_in_the_data_is_taken_for_markdown() -> None:
    nasty = "a | b ** c ** _d_ `e` [f](g) \\"
    shown = cells(row(nasty, nasty, [(nasty, 0)], nasty[9:10], 9))[:2]
    assert shown == [nasty, f"c (F1 33, score 0.250), gold: {nasty}"]
    assert cells(row(nasty, "Who?", [("b", 4)], "b", 4))[2] == nasty.replace("b", "<strong>b</strong>", 1)
