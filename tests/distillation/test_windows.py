"""The teacher's windows hold the text of the student's, and each of its tokens is mapped by its characters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qa_lightning.distillation.windows import pair_windows, whole_windower
from qa_lightning.features.windows import Windower, WindowSettings
from tests.helpers.models import small_tokenizer
from tests.helpers.windows import CONTEXT, TEXTS, TOKENIZERS, rows_of, texts

SETTINGS = WindowSettings(max_length=40, doc_stride=8, max_question_length=10)
QUESTIONS = ["Where does Anna live?", "Who paid it?", "Wo fließt die Donau – und warum?"]
MADE = {name: make() for name, make in TOKENIZERS.items()} | {"small": small_tokenizer()}


def first_covering(spans: list[tuple[int, int, int]], character: int) -> int | None:
    return next((index for index, start, end in spans if start <= character < end), None)


def expected(spans: list[tuple[int, int, int]], start: int, end: int) -> tuple[int, int]:
    """The student's tokens for a teacher's token that covers [start, end), found one character at a time.

    ``spans`` are index, start and end of the student's tokens that cover characters.
    """
    first, last = first_covering(spans, start), first_covering(spans, end - 1)
    if first is None:
        first = next((index for index, begin, _ in spans if begin > start), spans[-1][0])
    if last is None:
        last = next((index for index, _, stop in reversed(spans) if stop <= end - 1), spans[0][0])
    return first, last


def check(questions: list[str], contexts: list[str], student: str, teacher: str) -> None:
    own = Windower(MADE[student], SETTINGS)
    paired = pair_windows(questions, contexts, own, whole_windower(MADE[teacher], SETTINGS))
    student_rows = list(rows_of(own(questions, contexts, [None] * len(questions))))
    teacher_rows = list(rows_of(paired.read))
    assert len(student_rows) == len(teacher_rows)
    place = 0
    for (window, _, starts, ends), (read, ids, read_starts, read_ends) in zip(student_rows, teacher_rows, strict=True):
        spans = [
            (int(window["context_begin"]) + number, int(start), int(end))
            for number, (start, end) in enumerate(zip(starts, ends, strict=True))
            if end > start
        ]
        begin, stop = (spans[0][1], spans[-1][2]) if spans else (0, 0)
        text = contexts[window["example"]][begin:stop]
        whole = MADE[teacher].backend_tokenizer.encode(text, add_special_tokens=False).ids
        context = slice(read["context_begin"], read["context_begin"] + read["context_length"])
        assert ids[context].tolist() == whole
        mine = slice(place, place + 1 + read["context_length"])
        start_index, end_index = paired.start_index[mine].tolist(), paired.end_index[mine].tolist()
        place = mine.stop
        assert start_index[0] == end_index[0] == window["cls"]
        for number, (start, end) in enumerate(zip(read_starts.tolist(), read_ends.tolist(), strict=True), 1):
            if not spans:
                assert (start_index[number], end_index[number]) == (window["cls"],) * 2
            elif end > start:
                assert (start_index[number], end_index[number]) == expected(spans, begin + start, begin + end)
            else:
                indices = [index for index, _, _ in spans]
                assert {start_index[number], end_index[number]} <= set(indices)
    assert place == len(paired.start_index) == len(paired.end_index)


@pytest.mark.parametrize("teacher", MADE)
@pytest.mark.parametrize("student", MADE)
def test_each_token_is_mapped_by_its_first_and_last_character(student: str, teacher: str) -> None:
    contexts = [CONTEXT, *TEXTS]
    check([QUESTIONS[number % 3] for number in range(len(contexts))], contexts, student, teacher)


@given(st.lists(texts, min_size=1, max_size=3), st.sampled_from(list(MADE)), st.sampled_from(list(MADE)))
def test_any_text_is_mapped(contexts: list[str], student: str, teacher: str) -> None:
    check([QUESTIONS[0]] * len(contexts), contexts, student, teacher)


def test_the_same_tokenizer_maps_each_token_to_itself() -> None:
    own = Windower(MADE["small"], SETTINGS)
    paired = pair_windows(QUESTIONS[:1], [CONTEXT[:60]], own, whole_windower(MADE["small"], SETTINGS))
    (window,) = paired.read.windows
    tokens = window["context_begin"] + np.arange(window["context_length"])
    assert paired.start_index.tolist() == paired.end_index.tolist() == [window["cls"], *tokens]
