"""Pieces of a context with their marks: whole, in order, and cut where they are long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qa_lightning.pages.marks import GAP, cut_short, marked_pieces

SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda pair: tuple(sorted(pair))), max_size=5)


def test_pieces_carry_the_marks_of_their_spans() -> None:
    assert marked_pieces("abcdef", [((1, 4), 1), ((3, 5), 2), (None, 4)]) == [
        *(("a", 0), ("bc", 1), ("d", 3), ("e", 2), ("f", 0))
    ]


@given(st.text("ab c\n", min_size=41, max_size=60), SPANS)
def test_joined_they_are_the_context_and_marked_ones_their_spans(context, spans) -> None:
    pieces = marked_pieces(context, [(span, 1 << rank) for rank, span in enumerate(spans)])
    assert "".join(text for text, _ in pieces) == context
    for rank, (start, end) in enumerate(spans):
        assert "".join(text for text, marks in pieces if marks & (1 << rank)) == context[start:end]


def test_two_spans_with_one_mark_do_not_add_up() -> None:
    assert marked_pieces("abc", [((0, 2), 1), ((0, 2), 1)]) == [("ab", 1), ("c", 0)]


def test_control_characters_are_escaped_and_do_not_move_the_marks() -> None:
    assert marked_pieces("\u202eab\x1bc\n", [((1, 3), 1)]) == [("\\u202e", 0), ("ab", 1), ("\\x1bc\n", 0)]


def test_of_a_long_context_the_surroundings_of_spans_are_shown() -> None:
    context = "x" * 500_000 + "ANSWER" + "y" * 400_000 + "GOLD" + "z" * 100_000
    answer, gold = ((start := context.index(text), start + len(text)) for text in ("ANSWER", "GOLD"))
    pieces = marked_pieces(context, [(answer, 2), (gold, 1)], [gold, answer])
    assert [text for text, marks in pieces if marks > 0] == ["ANSWER", "GOLD"]
    assert [text for text, marks in pieces if marks == GAP] == [
        *(" [… 499,500 characters …] ", " [… 399,000 characters …] ", " [… 99,500 characters …] ")
    ]
    assert sum(len(text) for text, _ in pieces) < 3000


def test_a_very_long_span_and_none_at_all_are_cut_too() -> None:
    context = "x" * 1_000_000
    for shown in ([(10, 999_000)], []):
        pieces = marked_pieces(context, [(span, 1) for span in shown], shown)
        assert sum(len(text) for text, _ in pieces) < 3000
        assert pieces[0][0].startswith("x")
        assert pieces[-1][1] == GAP


def test_texts_are_cut_short() -> None:
    assert cut_short("abc", 3) == "abc"
    assert cut_short("abcd\x00", 3) == "abc …"
    assert cut_short("\x00", 3) == "\\x00"
