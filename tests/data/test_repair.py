"""A misplaced answer is moved to where it can only be meant, never into a word, in linear time."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from qa_lightning.data.repair import NEAR, Placed, miscounted, occurrences, repaired, where
from tests.helpers.forms import ASTRAL, CONTEXT

FAR = " x" * 25 + " "
MAY = "We met in may. The mayor, Ms May, came."


@pytest.mark.parametrize(
    ("text", "start", "context", "right"),
    [
        pytest.param("Ada", 5, "Ada is here.", 0, id="one place"),
        pytest.param("Ada", 10**30, "Ada is here.", 0, id="one place, a start beyond the context"),
        pytest.param("Ada", -1, f"{FAR}Ada", 51, id="one place, a negative start"),
        pytest.param("Ada", None, f"{FAR}Ada", 51, id="one place, no start"),
        pytest.param("Ada", "five", f"{FAR}Ada", 51, id="one place, a start that is no number"),
        pytest.param("Ada", 3, f"Ada{FAR}Ada", 0, id="two places, one of them near"),
        pytest.param("Ada", 20, f"Ada{FAR}Ada", 0, id="just near enough"),
        pytest.param("Ada", 21, f"Ada{FAR}Ada", None, id="just too far"),
        pytest.param("Ada", 2, "Ada or Ada", 0, id="two near, one nearer"),
        pytest.param("Ada", 2, "Ada Ada", None, id="a tie"),
        pytest.param("Ada", -1, "Ada Ada", None, id="two places, a negative start"),
        pytest.param("Ada", None, "Ada Ada", None, id="two places, no start"),
        pytest.param("Ada", 0.5, "Ada Ada", None, id="two places, a fractional start"),
        pytest.param("Ada", True, "Ada Ada", None, id="two places, a start of true"),
        pytest.param("Bob", 0, "Ada is here.", None, id="no place"),
        pytest.param("Ada", 0, "Ada Ada", 0, id="where it is said to be"),
        pytest.param("Ada", 8, "éé “Ada” Ada.", None, id="bytes tell of another place than the nearest"),
        pytest.param("Ada", 6, "éé Ada und “Ada”.", 3, id="no unit tells of another place than the nearest"),
        pytest.param("Ada", 5, "éé Ada " + FAR + "Ada.", 3, id="bytes tell of the nearest"),
        pytest.param("Ada", 6, "🚀🚀🚀Ada, Ada", None, id="UTF-16 units tell of another place than the nearest"),
        # whole words
        pytest.param("may", 3, MAY, 10, id="not into the mayor"),
        pytest.param("or", 0, "The mayor came.", None, id="only within a word"),
        pytest.param("84", -1, "Built in 1843.", None, id="only within a number"),
        pytest.param("84", -1, "In 1843, aged 84.", 14, id="as a number of its own"),
        pytest.param("5", -1, "It took 3.5 days.", None, id="behind a decimal point"),
        pytest.param("1", -1, "It cost 1,200.", None, id="before the thousands"),
        pytest.param("5", -1, "It took 5, they say.", 8, id="before a comma"),
        pytest.param("la sera", 0, "Tornò dalla sera alla mattina.", None, id="an ending of another word"),
        pytest.param("sera", 0, "Tornò l'altra sera.", 14, id="behind a blank"),
        pytest.param("altra", 0, "Tornò l'altra sera.", 8, id="behind an apostrophe"),
        pytest.param("or", 4, "The mayor came.", None, id="a word that begins with it nearby"),
        pytest.param("or", 7, "The mayor came.", 7, id="within a word where it is said to be"),
        pytest.param("e", 0, "cafe\u0301 au lait", None, id="not without its accent"),
        pytest.param("caf", 1, "cafe\u0301 au lait", None, id="not the beginning of a word with accents"),
        # scripts without spaces, or with particles behind a word
        pytest.param("北京", 0, "他在北京住。", 2, id="ideographs"),
        pytest.param("12", 0, "在2012年", None, id="a part of a number among ideographs"),
        pytest.param("12", 0, "在12月", 1, id="a number among ideographs"),
        pytest.param("サッカー", 0, "彼はサッカーをした", 2, id="katakana between hiragana"),
        pytest.param("メリカ", 0, "彼はアメリカへ行った", None, id="the end of a word in katakana"),
        pytest.param("서울", 0, "나는 서울에서 산다", 3, id="a Korean word with its particle"),
        pytest.param("울", 0, "나는 서울에서 산다", None, id="the end of a Korean word"),
        pytest.param("กรุงเทพ", 0, "เขาอยู่กรุงเทพมานาน", 7, id="Thai"),
    ],
)
def test_an_answer_is_moved_to_where_it_can_only_be_meant(text, start, context, right):
    assert repaired(text, start, context) == (None if right is None else Placed(right, text))


@pytest.mark.parametrize(
    ("text", "start", "context", "right", "own"),
    [
        pytest.param("May", 10, MAY, 10, "may", id="case, though it occurs elsewhere"),
        pytest.param("MAY", 29, MAY, 29, "May", id="case, where another differs too"),
        pytest.param("May", 9, MAY, 10, "may", id="the blank before it"),
        pytest.param(
            "5 kg", 4, "Take 5\u00a0kg, not 5 kg.", 5, "5\u00a0kg", id="no-break space, and the blank before it"
        ),
        pytest.param("of it ", 4, "All of it", 4, "of it", id="a blank behind it"),
        pytest.param(" of it", 4, "All of it", 4, "of it", id="a blank before it"),
        pytest.param("one\ntwo", 0, "one\r\n two", 0, "one\r\n two", id="line ends"),
        pytest.param("caf\u00e9", 2, "a cafe\u0301, a caf\u00e9", 2, "cafe\u0301", id="NFD"),
        pytest.param("cafe\u0301", 2, "a caf\u00e9, a cafe\u0301", 2, "caf\u00e9", id="NFC"),
        pytest.param("\uac01", 0, "\u1100\u1161\u11a8 x \uac01", 0, "\u1100\u1161\u11a8", id="Hangul in jamo"),
        pytest.param('the "x"', 0, 'the “x” or the "x"', 0, "the “x”", id="quotes"),
        pytest.param("Ada's", 0, "Ada’s and Ada's", 0, "Ada’s", id="an apostrophe"),
        pytest.param("1914-18", 3, "In 1914–18, not 1914-18", 3, "1914–18", id="a dash"),
        pytest.param("STRASSE", 4, "die straße", 4, "straße", id="a letter that is two in upper case"),
        # elsewhere, where the text itself is nowhere
        pytest.param("ADA", 40, f"Ada{FAR}", 0, "Ada", id="once in another case"),
        pytest.param("ada", 3, f"Ada{FAR}Ada", 0, "Ada", id="the nearest in another case"),
        pytest.param(" Ada ", None, "Said Ada.", 5, "Ada", id="once without its blanks"),
    ],
)
def test_a_text_alike_is_replaced_by_the_contexts_own(text, start, context, right, own):
    assert repaired(text, start, context) == Placed(right, own)
    assert context[right : right + len(own)] == own


@pytest.mark.parametrize(
    ("text", "start", "context"),
    [
        pytest.param("May", 6, "We dismay May.", id="alike within a word, where it is said to be"),
        pytest.param("May", 12, MAY, id="alike nearer than the only one"),
        pytest.param("ada", None, "Ada, ADA", id="alike twice"),
        pytest.param("ss", 0, "ß", id="half of nothing"),
        pytest.param("s", 8, "die straße", id="half of a letter"),
        pytest.param("cafe", 1, "cafe\u0301", id="without an accent"),
        pytest.param("OR", 0, "The mayor came.", id="alike only within a word"),
        pytest.param("\u1100\u1161", 0, "\uac01", id="a part of a syllable"),
    ],
)
def test_a_text_alike_is_not_taken_where_that_is_not_certain(text, start, context):
    if text == "ss":  # the whole letter is alike
        assert repaired(text, start, context) == Placed(0, "ß")
    else:
        assert repaired(text, start, context) is None


def boundary(context: str, at: int) -> bool:
    """For ASCII texts: whether no word goes on over the offset ``at``."""
    return not (0 < at < len(context) and context[at - 1].isalnum() and context[at].isalnum())


def oracle(text: str, start: int, context: str) -> tuple[int, int] | None:
    """The right repair of texts in ASCII letters, blanks and line ends, found by trying every span."""
    if context.startswith(text, start):
        return start, start + len(text)
    same = [" ".join(value.lower().split()) for value in (text, context[start:].lstrip())]
    spans = [(a, b) for a in range(len(context)) for b in range(a + 1, len(context) + 1)]
    whole = [(a, b) for a, b in spans if boundary(context, a) and boundary(context, b)]
    bare = [(a, b) for a, b in spans if context[a:b].strip() == context[a:b]]
    alike = [(a, b) for a, b in bare if " ".join(context[a:b].lower().split()) == same[0]]
    here = [(a, b) for a, b in alike if a >= start and not context[start:a].strip()]
    if here:
        return here[0] if here[0] in whole else None
    exact = [(a, b) for a, b in spans if context[a:b] == text]
    trimmed = {(a, b): (b - len(context[a:b].lstrip()), a + len(context[a:b].rstrip())) for a, b in exact}
    found = [span for span in exact if trimmed[span] in whole] if exact else [span for span in alike if span in whole]
    near = sorted((abs(a - start), a, b) for a, b in found if abs(a - start) <= NEAR)
    meant = found[0] if len(found) == 1 else None
    if len(found) > 1 and near and (len(near) == 1 or near[0][0] < near[1][0]):
        meant = near[0][1:]
    if meant is None:
        return None
    nearer = [abs(a - start) for a, b in alike if (a, b) in whole and abs(a - start) <= NEAR]
    return None if exact and min(nearer, default=99) < abs(meant[0] - start) else meant


@settings(max_examples=400, deadline=None)
@given(st.text("aA \n", max_size=18), st.integers(0, 30), st.data())
@example("aa aA", 3, None)
def test_repairs_agree_with_trying_every_span(context, start, data):
    assume(context.strip())
    if data is None:
        text = "aa"
    else:
        begin = data.draw(st.integers(0, len(context) - 1), "begin")
        text = context[begin : begin + data.draw(st.integers(1, 3), "length")]
        text = data.draw(st.sampled_from([text, text.swapcase()]), "text")
    assume(text.strip())
    found = repaired(text, start, context)
    assert (found and (found.start, found.start + len(found.text))) == oracle(text, start, context)


@settings(max_examples=150)
@given(st.text(), st.text(min_size=1).filter(str.strip), st.integers(-5, 60))
def test_what_is_taken_stands_there_and_is_alike(context, text, start):
    found = repaired(text, start, context)
    if found is not None:
        assert context.startswith(found.text, found.start)
        plain = [unicodedata.normalize("NFD", one).casefold().split() for one in (found.text, text)]
        marks = str.maketrans("‘’‚‛′ʼ´`“”„‟″«»‐‑‒–—―−﹘﹣－", "''''''''" + '"' * 7 + "-" * 10)
        both = ["".join(unicodedata.normalize("NFD", " ".join(one)).translate(marks).split()) for one in plain]
        assert both[0] == both[1]


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=3), st.integers(1, 4))
def test_occurrences_are_all_places_and_at_most_so_many(context, text, most):
    places = [place for place in range(len(context)) if context[place : place + len(text)] == text]
    assert occurrences(text, context) == places
    assert occurrences(text, context, most) == places[:most]


@settings(max_examples=200)
@given(st.text("ab", min_size=40, max_size=200), st.text("ab", min_size=1, max_size=4), st.integers(2, 20))
@example("a" * 200, "a", 20)
def test_occurrences_are_the_same_where_they_overlap_much(context, part, times):
    text = part * times
    assert occurrences(text, context) == [at for at in range(len(context)) if context.startswith(text, at)]


@pytest.mark.parametrize(
    ("text", "context"),
    [
        ("a" * 40_000, "a" * 80_000),
        ("a " * 20_000 + "b", "a " * 40_000),
        ("a " * 20_000, "a " * 40_000),
        ("A" * 40_000, "a" * 80_000),
        ("a\n" * 20_000, "a " * 40_000),
        ("e\u0301" * 20_000, "\u00e9" * 80_000),
        ("a" + "\u0301" * 40_000, "a" + "\u0301" * 80_000),
    ],
    ids=["one letter", "words with another end", "words", "another case", "line ends", "accents", "one accent"],
)
@pytest.mark.parametrize("start", [7, None])
def test_texts_that_repeat_themselves_take_linear_time(text, context, start):
    begin = time.process_time()  # of this process alone: the machine may be busy
    repaired(text, start, context)
    where(text, context)
    occurrences(text, context)
    assert time.process_time() - begin < 3  # a quadratic search takes 10 s and more


@pytest.mark.parametrize(
    ("text", "start", "context", "hint"),
    [
        (
            "«Ada»",
            len("𝔸da 🚀 flew. Ⅳ — naïve ".encode()),
            ASTRAL,
            "; answer_start seems to count bytes, not characters",
        ),
        ("«Ada»", 24, ASTRAL, "; answer_start seems to count UTF-16 units, as JavaScript and Java do, not characters"),
        ("«Ada»", 23, ASTRAL, "; answer_start is one too many, as if it counted from 1"),
        ("1843", 41, CONTEXT, "; answer_start is one too many, as if it counted from 1"),
        ("1843", 42, CONTEXT, ""),
        ("Ada", 0, "x Ada", ""),
        ("Ada", 10**30, "é Ada", ""),
    ],
)
def test_what_a_wrong_place_counts_is_told(text, start, context, hint):
    assert miscounted(text, start, context) == hint


SPACES = "white space (around it, line ends, tabs, no-break spaces)"


@pytest.mark.parametrize(
    ("text", "context", "words"),
    [
        ("a", "a b a b a", "it occurs at 0, 4, 8"),
        ("a", "a b a b a a", "it occurs at 0, 4, 8 and elsewhere"),
        ("a", "banana", "it occurs at 1, 3, 5, inside of a word"),
        ("a", "banana a", "it occurs at 1, 3, 5 and elsewhere"),
        ("Ada", "ADA", "the context holds it except for upper and lower case"),
        ("a b", "a\u00a0b", f"the context holds it except for {SPACES}"),
        ("a\nb ", "a\r\nb", f"the context holds it except for {SPACES}"),
        (
            "e\u0301",
            "\u00e9",
            "the context holds it except for the form of its characters (composed or not, NFC or NFD)",
        ),
        ("it's", "it’s", "the context holds it except for quotes or dashes"),
        (
            "It's  é",
            "it’s e\u0301",
            "the context holds it except for several of case, white space, form of characters, quotes and dashes",
        ),
        ("Ada", "Bob", "the context does not hold it"),
    ],
)
def test_where_an_answer_stands_is_told(text, context, words):
    assert where(text, context) == words
    if "except for" in words:  # what the message sees, a repair mends
        assert repaired(text, None, context) == Placed(0, context)
