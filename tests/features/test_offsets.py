"""Answers come back from their tokens with every character, whatever a normalizer composes."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from qa_lightning.features.labels import gold_tokens
from qa_lightning.features.offsets import offsets_without_space
from tests.helpers.families import FAMILIES, tokenizer_of

LETTERS = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]


@cache
def compositions() -> list[str]:
    """Every sequence that NFC or NFKC composes: of Unicode's own decompositions, and with letters in other forms.

    The other forms are those of letters that no mark is: halfwidth kana with voiced marks, jamo for compatibility.
    """
    composed, forms = set(), {}
    for letter in LETTERS:
        for form in ("NFD", "NFKD"):
            apart = unicodedata.normalize(form, letter)
            if len(apart) > 1 and len(unicodedata.normalize("NFKC", apart)) < len(apart):
                composed.add(apart)
        if len(apart) == 1 and apart != letter:
            forms.setdefault(apart, []).append(letter)
    others = set()
    for first, *rest in composed:
        if len(rest) == 1 and any(not is_mark(letter) for letter in forms.get(rest[0], ())):
            others |= {one + other for one in (first, *forms.get(first, ())) for other in forms[rest[0]]}
    return sorted(composed | others)


def is_mark(letter: str) -> bool:
    return unicodedata.category(letter).startswith("M")


def byte_level(normalizer: Any) -> Any:
    """A tokenizer of single bytes behind a normalizer."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def answers_back(tokenizer: Any, contexts: list[str], spans: list[tuple[int, int]]) -> list[str]:
    """What the tokens of each context's answer say in characters."""
    encodings = tokenizer.backend_tokenizer.encode_batch(contexts, add_special_tokens=False)
    starts, ends = offsets_without_space(encodings, contexts)
    back, before = [], 0
    for encoding, context, span in zip(encodings, contexts, spans, strict=True):
        ((first, last),) = gold_tokens(encoding, context, [span])
        back.append(context[starts[before + first] : ends[before + last]] if first >= 0 else "")
        before += len(encoding)
    return back


NORMALIZERS = {name: getattr(normalizers, name) for name in ("NFC", "NFKC")}


@pytest.mark.parametrize("name", [*FAMILIES, *NORMALIZERS])
def test_every_composition_of_unicode_comes_back_whole(name) -> None:
    contexts, spans = [], []
    for sequence in compositions():
        # A mark alone is a letter of no word, and some normalizers leave nothing of it: it needs one before it.
        alone = is_mark(sequence[0]) or unicodedata.normalize("NFKD", sequence)[0] == " "
        answer = f"k{sequence}" if alone else sequence
        contexts.append(f"in {answer} now")
        spans.append((3, 3 + len(answer)))
    assert len(contexts) > 15_000
    tokenizer = tokenizer_of(name) if name in FAMILIES else byte_level(NORMALIZERS[name]())
    back = answers_back(tokenizer, contexts, spans)
    wrong = [
        f"{context[slice(*span)]!a} came back as {text!a}"
        for context, span, text in zip(contexts, spans, back, strict=True)
        if text != context[slice(*span)]
    ]
    assert not wrong, f"{len(wrong)}: {wrong[:5]}"


@pytest.mark.parametrize("name", [*FAMILIES, *NORMALIZERS])
def test_what_is_composed_takes_nothing_from_its_neighbours(name) -> None:
    """Syllables and voiced kana one after the other: each is an answer of its own."""
    words = ["\u1112\u1161\u11ab", "\u1100\u116e\u11a8", "\u1109\u1165", "ｶﾞ", "ﾊﾟ", "か\u3099", "e\u0301"]
    text = " ".join(words)
    starts = [sum(len(word) + 1 for word in words[:number]) for number in range(len(words))]
    spans = [(start, start + len(word)) for start, word in zip(starts, words, strict=True)]
    tokenizer = tokenizer_of(name) if name in FAMILIES else byte_level(NORMALIZERS[name]())
    assert answers_back(tokenizer, [text] * len(words), spans) == words
