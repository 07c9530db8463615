"""A window's labels are all distinct gold answers that it holds whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qa_lightning.features.labels import NOWHERE, held_spans
from qa_lightning.features.store import FeatureStore, write_features
from qa_lightning.features.windows import Windower, WindowSettings
from tests.helpers.windows import CONTEXT, TOKENIZERS, rows_of, texts, windows_gold


@pytest.fixture(scope="module", params=["wordpiece", "byte_level", "unigram_left"])
def family(request: pytest.FixtureRequest):
    return TOKENIZERS[request.param]()


@given(data=st.data())
def test_a_window_holds_the_spans_that_begin_and_end_in_it(data) -> None:
    pair = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted)
    spans = data.draw(
        st.lists(st.lists(st.one_of(pair.map(tuple), st.just(NOWHERE)), max_size=4), min_size=1, max_size=4)
    )
    windows = [(example, *data.draw(pair)) for example in sorted(data.draw(st.lists(st.integers(0, len(spans) - 1))))]
    held = held_spans(spans, *np.array(windows, np.int64).reshape(-1, 3).T)
    expected = [
        (number, first - begin, last - begin, answer)
        for number, (example, begin, end) in enumerate(windows)
        for answer, (first, last) in enumerate(spans[example])
        if {first, last} <= set(range(begin, end))
    ]
    assert list(zip(held.window, held.first, held.last, held.answer, strict=True)) == expected


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_window_is_labelled_with_every_distinct_answer_that_it_holds_whole(family, data) -> None:
    """The expected labels are collected from windows that are cut for one answer at a time."""
    windower = Windower(family, WindowSettings(40, 8, 12))
    contexts = data.draw(st.lists(texts.map(lambda text: text * 2), min_size=1, max_size=2))
    questions = data.draw(st.lists(texts, min_size=1, max_size=3))
    contexts = [contexts[number % len(contexts)] for number in range(len(questions))]
    spans: list[list[tuple[int, int]]] = []
    for context in contexts:
        place = st.tuples(st.integers(0, len(context) - 1), st.integers(1, 12))
        drawn = data.draw(st.lists(place, max_size=4))
        spans.append([(begin, min(begin + size, len(context))) for begin, size in drawn])
    assume(all(context[begin:end].strip() for context, own in zip(contexts, spans, strict=True) for begin, end in own))
    firsts = [own[0] if own else None for own in spans]
    batch = windower(questions, contexts, firsts, first=5, others=[own[1:] for own in spans])
    plain = windower(questions, contexts, firsts, first=5)
    assert not len(plain.gold_window)
    expected: list[list[tuple[int, int]]] = []
    further = 0
    for question, context, own in zip(questions, contexts, spans, strict=True):
        alone = [windower([question], [context], [span]).windows for span in own]
        count = len(windower([question], [context], [None]).windows)
        labels = [
            [(int(one["start"][n]), int(one["end"][n])) for one in alone if one["start"][n] != one["cls"][n]]
            for n in range(count)
        ]
        expected += [list(dict.fromkeys(held)) for held in labels]
        of_first = [(int(one), int(other)) for one, other in alone[0][["start", "end"]]] if own else []
        further += any(set(held) - {of_first[n]} for n, held in enumerate(labels) if own)
    assert windows_gold(FeatureStore.of_batch(batch)) == expected
    assert np.diff(batch.gold_window).min(initial=0) >= 0
    assert set(batch.gold_window) == {number for number, held in enumerate(expected) if len(held) > 1}
    assert batch.several == further
    same = [name for name in batch.windows.dtype.names if name not in ("start", "end")]
    assert all((batch.windows[name] == plain.windows[name]).all() for name in same)
    held_first = plain.windows["start"] != plain.windows["cls"]
    assert (batch.windows[held_first] == plain.windows[held_first]).all()  # the first answer's label stays


def test_labels_are_the_answers_texts_and_windows_without_the_first_answer_have_another(family) -> None:
    answers = ["Carl moved to Rome", "Rome", "Ben", " Ben ", "Oslo"]
    spans = [(CONTEXT.index(text), CONTEXT.index(text) + len(text)) for text in answers]
    batch = Windower(family, WindowSettings(60, 12, 16))(
        ["Who paid it in 1999?", "Who?"], [CONTEXT] * 2, [spans[0], None], others=[spans[1:], []]
    )
    store = FeatureStore.of_batch(batch)
    seen = []
    for (window, _, char_start, char_end), gold in zip(rows_of(batch), windows_gold(store), strict=True):
        begin = window["context_begin"]
        found = [CONTEXT[char_start[first - begin] : char_end[last - begin]] for first, last in gold]
        held = [t for t, (a, b) in zip(answers, spans, strict=True) if char_start[0] <= a and b <= char_end[-1]]
        expected = [] if window["example"] == 1 else list(dict.fromkeys(text.strip() for text in held))
        assert found == expected
        seen.append(found)
    assert seen[0][:2] == ["Ben", "Oslo"]
    assert ["Carl moved to Rome", "Rome"] in seen
    assert [] in seen
    assert batch.several == 1
    assert batch.labelled.tolist() == [sum(map(bool, seen)), 0]


def test_an_answer_that_no_token_covers_is_no_label() -> None:
    context = "Ben\u200d\u0000 paid it"
    nothing = (4, 5)
    ben, paid = (0, 3), (6, 10)
    windower = Windower(TOKENIZERS["wordpiece"](), WindowSettings(40, 8, 12))  # drops control characters
    batch = windower(["Who?"] * 3, [context] * 3, [nothing, ben, nothing], others=[[ben, paid], [nothing], [ben]])
    alone = windower(["Who?"] * 2, [context] * 2, [ben, paid]).windows
    ben_label, paid_label = ((int(one["start"]), int(one["end"])) for one in alone)
    assert windows_gold(FeatureStore.of_batch(batch)) == [[ben_label, paid_label], [ben_label], [ben_label]]
    assert batch.several == 2  # with only the first answer, the first and the last question would have no label


def test_store_gives_back_the_labels_of_several_batches_and_maps_them(tmp_path, family) -> None:
    windower = Windower(family, WindowSettings(60, 12, 16))
    spans = [(CONTEXT.index(text), CONTEXT.index(text) + len(text)) for text in ("Oslo", "Anna lives in Oslo", "Rome")]

    def cut(first: int, count: int):
        return windower(["Who?"] * count, [CONTEXT] * count, spans[:1] * count, first, others=[spans[1:]] * count)

    summary = write_features((cut(first, 2) for first in (0, 2, 4)), tmp_path, len(family), all_answers=True)
    store, together = FeatureStore.open(tmp_path), FeatureStore.of_batch(cut(0, 6))
    assert summary["several_answers"] == 6
    assert isinstance(store.gold_window, np.memmap)
    assert 0 < len(store.gold_window) < 3 * len(store)
    for name in ("windows", "gold_window", "gold_start", "gold_end"):
        np.testing.assert_array_equal(getattr(store, name), getattr(together, name))
    assert windows_gold(store) == windows_gold(together)
