"""Each family's tokenizer: from text to windows and labels, and from logits to an answer."""

from __future__ import annotations

import json
import unicodedata
from functools import cache

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders
from transformers import XLMRobertaTokenizer

from qa_lightning.decoding.decoder import FeatureLogits
from qa_lightning.decoding.predictions import Rows
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings, windowing_key
from tests.helpers.decoding import predict
from tests.helpers.families import FAMILIES, add_state, tokenizer_of, twin_of
from tests.helpers.texts import FILLER, PARTS, WORDS, placed

SETTINGS = WindowSettings(max_length=64, doc_stride=24, max_question_length=12)


@cache
def windower_of(name: str) -> Windower:
    return Windower(tokenizer_of(name), SETTINGS)


every_family = pytest.mark.parametrize("name", FAMILIES)


def windows_of(name: str, question: str, context: str, span: tuple[int, int] | None = None):
    """Each window, with its token ids, its token types and the spans of its context tokens in characters."""
    store = FeatureStore.of_batch(windower_of(name)([question], [context], [span]))
    for index, window in enumerate(store.windows):
        tokens = slice(store.token_offset[index], store.token_offset[index] + window["length"])
        places = slice(store.context_offset[index], store.context_offset[index] + window["context_length"])
        chars = list(zip(store.char_start[places].tolist(), store.char_end[places].tolist(), strict=True))
        yield window, store.input_ids[tokens].tolist(), store.token_type_ids[tokens].tolist(), chars


def encoded(name: str, text: str):
    """The token ids of a text without a template, and the spans of characters that the tokenizer gives for them."""
    encoding = tokenizer_of(name).backend_tokenizer.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


def without_space(context: str, start: int, end: int) -> tuple[int, int]:
    while start < end and context[start].isspace():
        start += 1
    while end > start and context[end - 1].isspace():
        end -= 1
    return start, end


def with_marks(context: str, end: int, offsets: list[tuple[int, int]]) -> int:
    """``end``, moved past the marks that no token covers, and past letters that compose like marks."""
    covered = {place for first, last in offsets for place in range(first, last)}
    while end < len(context) and end not in covered and joins(context[end]):
        end += 1
    return end


SECOND = {letter for code in range(0xAC00, 0xD7A4) for letter in unicodedata.normalize("NFD", chr(code))[1:]}


def joins(letter: str) -> bool:
    usual = unicodedata.normalize("NFKD", letter)[0]
    return unicodedata.category(usual).startswith("M") or usual in SECOND


def check_windows(name: str, question: str, context: str) -> None:
    """Check template, order, lengths and offsets, that windows overlap by ``doc_stride``, and that no token is lost."""
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    ids, offsets = encoded(name, context)
    asked = encoded(name, question.strip())[0][: SETTINGS.max_question_length]
    seen = 0
    windows = list(windows_of(name, question, context))
    for number, (window, window_ids, types, chars) in enumerate(windows):
        assert window["length"] == len(window_ids) <= SETTINGS.max_length
        begin = seen - (SETTINGS.doc_stride if number else 0)
        stretch = range(begin, begin + len(chars))
        parts = {"Q": asked, "C": [ids[token] for token in stretch]}
        template = family.template.split()
        parts |= {token: [tokenizer.convert_tokens_to_ids(token)] for token in template if token not in parts}
        assert window_ids == [token for part in template for token in parts[part]]
        if family.types:
            expected = [kind for part, kind in zip(template, family.types, strict=True) for _ in parts[part]]
            assert types == expected
        assert window["cls"] == (family.cls if family.cls >= 0 else len(window_ids) + family.cls)
        if chars:
            before = template[: template.index("C")]
            assert window["context_begin"] == sum(len(parts[part]) for part in before)
        for token, (start, end) in zip(stretch, chars, strict=True):
            assert 0 <= start <= end <= len(context)
            wanted = without_space(context, *offsets[token])
            if wanted[0] < wanted[1]:
                assert (start, end) == (wanted[0], with_marks(context, wanted[1], offsets))
            else:
                assert start == end
        if number + 1 < len(windows):
            assert window["length"] == SETTINGS.max_length  # only the last window is shorter
        seen = stretch.stop
    assert seen == len(ids)
    starts = [start for start, _ in offsets]
    assert starts == sorted(starts)


def check_labels(name: str, context: str, span: tuple[int, int]) -> int:
    """Check the labels of all windows against a plain search; return how many windows hold the answer."""
    _, offsets = encoded(name, context)
    owner = {}  # the first token that covers a character
    for token, (first, last) in enumerate(offsets):
        for place in range(first, last):
            owner.setdefault(place, token)
    covered = [place for place in range(*span) if place in owner and not context[place].isspace()]
    held = seen = 0
    for number, (window, _, _, chars) in enumerate(windows_of(name, "Who?", context, span)):
        begin = seen - (SETTINGS.doc_stride if number else 0)
        seen = begin + len(chars)
        if not covered or owner[covered[0]] < begin or owner[covered[-1]] >= seen:
            assert window["start"] == window["end"] == window["cls"]
            continue
        held += 1
        first, last = (int(window[side] - window["context_begin"]) for side in ("start", "end"))
        assert (begin + first, begin + last) == (owner[covered[0]], owner[covered[-1]])
        found = chars[first][0], chars[last][1]
        assert found[0] <= covered[0] <= covered[-1] < found[1]
        inside = covered[0], covered[-1] + 1
        if not any(one < edge < other for one, other in offsets for edge in inside):  # no token crosses an edge
            assert context[slice(*found)] == context[covered[0] : with_marks(context, inside[1], offsets)]
    return held


def check_answer(name: str, question: str, context: str, seed: int) -> None:
    """Decode random logits: the answer is a slice of the context, without white space around it."""
    store = FeatureStore.of_batch(windower_of(name)([question], [context], [None]))
    length = store.windows["context_length"]
    random = np.random.default_rng(seed).normal(size=(2, length.sum())).astype(np.float32)
    null = loss = np.zeros(len(store), np.float32)
    logits = FeatureLogits(np.arange(len(store)), length, *random, null, loss)
    rows = Rows([{"id": "0", "context": context}])
    ((_, _, answer),) = predict(logits, store, rows, version_2=False, n_best=1, max_answer_length=10).rows()
    assert answer.text == context[answer.start : answer.end] == answer.text.strip()
    if store.char_start.size and (store.char_end > store.char_start).any():
        assert answer.text
        assert {answer.start} <= set(store.char_start)
        assert {answer.end} <= set(store.char_end)


alphabet = st.characters(codec="utf-8")
letters = st.sampled_from(
    [
        *"ab .,'£½ßéﬁ１东ｶﾞกำשָלוֹםمَ😀▁",
        *("e\u0301", "o\u0323\u0302", "ก็", "한", "\u1112\u1161\u11ab", "क्षि", "👩‍👩‍👧", "❤️", "👍🏽", "🇫🇷", "``"),
        *("\u00a0", "\u202f", "\u3000", "\t", "\n", "\r\n", "\ufeff", "\u200b", "\u00ad"),
    ]
)
texts = st.lists(st.one_of(letters, alphabet), min_size=1, max_size=60).map("".join)


@every_family
@settings(max_examples=60, deadline=None)
@given(question=texts, context=texts, repeats=st.integers(1, 4), data=st.data())
def test_any_text(name, question, context, repeats, data) -> None:
    context *= repeats
    check_windows(name, question, context)
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    assume(context[start:end].strip())
    check_labels(name, context, (start, end))
    check_answer(name, question, context, data.draw(st.integers(0, 2**32 - 1)))


@every_family
@pytest.mark.parametrize("case", [*WORDS, *PARTS])
def test_answers_come_back_from_their_labels(name, case) -> None:
    context, span = placed((WORDS | PARTS)[case])
    check_windows(name, "Where does Anna live?", context)
    assert check_labels(name, context, span) >= 1
    for window, _, _, chars in windows_of(name, "Who?", context, span):
        if window["start"] != window["cls"] and case in WORDS:  # a word: no token crosses its edges
            first, last = (int(window[side] - window["context_begin"]) for side in ("start", "end"))
            assert context[chars[first][0] : chars[last][1]] == context[slice(*span)]


@pytest.mark.parametrize(
    ("name", "context", "span"),
    [
        ("modernbert", "e\u0301\u00a0e\u0301 Rome", (1, 4)),  # composed: no token covers the mark alone
        ("deberta-v3", "o\u0323\u0302\u00a0\ra", (1, 6)),
        ("albert", "a❤️\x1fﾞ", (0, 5)),
    ],
)
def test_white_space_behind_what_no_token_covers_is_not_the_answers_edge(name, context, span) -> None:
    """A token of white space alone covers no character, and decoding never starts or ends there."""
    assert check_labels(name, context, span) == 1


@every_family
def test_no_answer_is_labelled_with_the_cls_token_wherever_it_stands(name) -> None:
    tokenizer = tokenizer_of(name)
    no_answer = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    windows = list(windows_of(name, "Where does Anna live?", FILLER * 30))
    assert len(windows) >= 3
    for window, ids, _, _ in windows:
        assert window["start"] == window["end"] == window["cls"]
        place = FAMILIES[name].cls % len(ids)
        assert window["cls"] == place
        if no_answer in ids:
            assert ids[place] == no_answer
        else:
            assert name == "gpt2, no CLS"  # the first token stands for it


def letters_of(text: str) -> str:
    """Letters without marks, case or compatibility forms: what no normalizer changes."""
    marked = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in marked if not unicodedata.category(letter).startswith(("M", "C", "Z")))


@every_family
def test_a_token_covers_the_characters_that_it_was_made_of(name) -> None:
    """A token's piece must match the text at its span, so a span at a wrong offset fails."""
    tokenizer = tokenizer_of(name)
    byte_level = "Ġ" in tokenizer.get_vocab()
    looked_at = 0
    for parts in (WORDS | PARTS).values():
        context, _ = placed(parts)
        for window, ids, _, chars in windows_of(name, "Who?", context):
            pieces = tokenizer.convert_ids_to_tokens(ids[window["context_begin"] :][: window["context_length"]])
            for piece, (start, end) in zip(pieces, chars, strict=True):
                if piece == tokenizer.unk_token or start == end:
                    continue
                if byte_level:  # some bytes of a letter alone decode to U+FFFD
                    made_of = decoders.ByteLevel().decode([piece]).replace("\ufffd", "")
                else:
                    made_of = piece.removeprefix("##").replace("▁", "")
                assert letters_of(made_of) in letters_of(context[start:end])
                looked_at += bool(letters_of(made_of))
    assert looked_at > 1000


@every_family
def test_truncation_and_padding_that_came_with_a_tokenizer_change_no_window(name) -> None:
    context, span = placed(WORDS["Arabic"])
    (one, other) = (
        Windower(each, SETTINGS)(["Who?"], [context], [span]) for each in (twin_of(name), tokenizer_of(name))
    )
    for field in ("windows", "input_ids", "token_type_ids", "char_start", "char_end"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


@every_family
@pytest.mark.parametrize("twin", [False, True])
def test_no_call_of_a_tokenizer_changes_the_key_of_prepared_data(name, twin, tmp_path) -> None:
    tokenizer = FAMILIES[name].tokenizer()
    tokenizer.save_pretrained(tmp_path)
    if twin:
        add_state(tmp_path, tokenizer.padding_side)
    tokenizer = type(tokenizer).from_pretrained(tmp_path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    expected = windowing_key(tokenizer)
    told = {json.dumps(windowing_key(tokenizer))}
    for options in (
        {"truncation": True, "max_length": 16},
        {"padding": "max_length", "max_length": 32, "truncation": True},
        {"padding": "longest", "padding_side": "left"},
        {"split_special_tokens": True},
        {},
    ):
        tokenizer(["Who?"], **options)
        told.add(json.dumps(windowing_key(tokenizer)))
    assert told == {json.dumps(expected)}
    if tokenizer_of(name).pad_token:  # so that none was given to it above
        assert expected == windowing_key(tokenizer_of(name)) == windowing_key(twin_of(name))


@every_family
def test_special_tokens_in_texts_are_text_if_the_tokenizer_says_so(name, tmp_path) -> None:
    tokenizer = FAMILIES[name].tokenizer()
    tokenizer.save_pretrained(tmp_path)
    splitting = type(tokenizer).from_pretrained(tmp_path, split_special_tokens=True)
    special = tokenizer.sep_token or tokenizer.eos_token
    texts = [f"Who {special} ?", f"Ann {special} lives in Rome"]
    found = []
    for each in (tokenizer, splitting):
        ids = Windower(each, WindowSettings(100, 8, 40))(texts[:1], texts[1:], [None]).input_ids.tolist()
        pair = texts[::-1] if each.padding_side == "left" else texts
        assert ids == each(*pair)["input_ids"]
        found.append(ids)
    assert found[0] != found[1]
    assert windowing_key(tokenizer) != windowing_key(splitting)


def test_a_vocabulary_is_read_once_for_its_key(monkeypatch) -> None:
    """One of 262,144 tokens takes seconds, and a run asks for its key a dozen times."""
    tokenizer = FAMILIES["bert cased"].tokenizer()
    expected = windowing_key(tokenizer)
    monkeypatch.setattr("qa_lightning.features.windows.Tokenizer", None)
    assert windowing_key(tokenizer) == expected == windowing_key(FAMILIES["bert cased"].tokenizer())


def test_scores_that_a_file_rounds_do_not_change_the_key_with_a_tokenizers_state() -> None:
    """Those of a Unigram model that transformers builds in Python are exact; written and read again, some are not."""
    scores = np.random.default_rng(0).normal(-8, 3, 3000).astype(np.float32).astype(float).tolist()
    special = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
    tokenizer = XLMRobertaTokenizer(vocab=[*special, *((f"w{number}", score) for number, score in enumerate(scores))])
    exact = tokenizer.backend_tokenizer.to_str()
    assert Tokenizer.from_str(exact).to_str() != exact
    before = windowing_key(tokenizer)
    tokenizer(["w1"], truncation=True, max_length=8, padding="max_length")
    assert windowing_key(tokenizer) == before


def test_the_token_for_no_answer_is_part_of_the_key() -> None:
    """A tokenizer's own files name it beside its tokenizer.json, and windows hold where it stands."""
    one, other = (FAMILIES["bert cased"].tokenizer() for _ in range(2))
    other.cls_token = "[SEP]"
    assert windowing_key(one)[0] == windowing_key(other)[0]
    assert windowing_key(one) != windowing_key(other)
