"""The calls that are recorded with the question answering pipeline of transformers 4.57; `v4_calls` defines a call.

Imports only the standard library and nothing newer than transformers 4.57, because the recorder runs under it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from qa_lightning.data.synthetic import FILLERS, generate_examples
from tests.helpers.v4_calls import Call

ONE = {"question": "Where does Ada live?", "context": "Ada lives in Oslo. Leo lives in Cape Town and plays the harp."}
TWO = {"question": "What does Leo play?", "context": ONE["context"]}
OTHER = {"question": "Who has a dog?", "context": "Omar keeps a spotted dog. Sara has a dog, a cat and a snake."}
QUESTION, CONTEXT = ONE["question"], ONE["context"]


# Real questions


def draw_settings(rng: random.Random) -> dict[str, Any]:
    """Random settings of one call: mostly valid, some invalid, above all ``doc_stride``."""
    length = rng.choice((None, *(rng.randint(64, 384) for _ in range(6))))
    reach = length or 384
    strides = (None, rng.randint(0, reach // 4), rng.randint(0, reach // 2), rng.randint(0, reach + 10))
    drawn = {
        "top_k": rng.choice((None, 1, rng.randint(1, 5), rng.randint(1, 5))),
        "max_answer_len": rng.choice((None, *(rng.randint(1, 30) for _ in range(6)))),
        "max_seq_len": length,
        "doc_stride": rng.choices(strides, (3, 4, 4, 2))[0],
        "max_question_len": rng.choice((None, None, rng.randint(1, 64))),
        "handle_impossible_answer": rng.choice((None, None, False, True, True)),
        "align_to_words": rng.choice((None, None, True, False)),
        "padding": rng.choice((None, None, "do_not_pad", "longest", "max_length", True)),
        "batch_size": rng.choice((None, None, 1, 2, 4, 8, 32)),
    }
    return {name: value for name, value in drawn.items() if value is not None}


def real_calls(rows: Sequence[dict[str, Any]], seed: int) -> Iterator[Call]:
    """Yield calls that ask each row once, in order: 95% ask one row, the others 2 to 8; with ``ids`` and ``answers``.

    Args:
        rows: dicts of ``id``, ``question``, ``context`` and ``answers``, a list of texts.
        seed: of the settings and of the number of rows per call.
    """
    rng = random.Random(seed)
    begin = 0
    while begin < len(rows):
        asked = rows[begin : begin + (rng.randint(2, 8) if rng.random() < 0.05 else 1)]
        begin += len(asked)
        arguments = {name: [row[name] for row in asked] for name in ("question", "context")}
        yield {
            "name": asked[0]["id"],
            "form": "keywords",
            "arguments": arguments if len(asked) > 1 else {name: values[0] for name, values in arguments.items()},
            "settings": draw_settings(rng),
            "ids": [row["id"] for row in asked],
            "answers": [row["answers"] for row in asked],
        }


# The golden cases


def golden_calls() -> Iterator[Call]:
    """All golden calls: generated and odd texts, every form of call, every error; on small models of 96 tokens."""
    yield from _named("settings", generated(random.Random(0), 100))
    yield from _named("text", odd_texts())
    yield from _named("form", forms())
    yield from _named("refused", refused())


def _named(prefix: str, calls: Iterator[Call]) -> Iterator[Call]:
    for number, call in enumerate(calls):
        yield {"name": f"{prefix}-{number:03d}", "model": "bert", "form": "keywords", "settings": {}} | call


def generated(rng: random.Random, count: int) -> Iterator[Call]:
    """Calls on generated contexts of one to six windows: one to five questions each, random settings, both models."""
    rows = list(generate_examples("train", 400, seed=1))
    for number in range(count):
        asked = [rng.choice(rows) for _ in range(1 if number % 4 else rng.randint(2, 5))]
        contexts = [_grown(rng, row["context"]) for row in asked]
        settings = {
            "top_k": rng.choice((None, 1, rng.randint(2, 5), rng.randint(2, 40))),
            "max_answer_len": rng.choice((None, 1, rng.randint(2, 8), rng.randint(8, 30))),
            "max_seq_len": rng.choice((None, rng.randint(40, 96), rng.randint(40, 160))),
            "doc_stride": rng.choice((None, 0, rng.randint(1, 12), rng.randint(1, 12))),
            "max_question_len": rng.choice((None, 1, 8)),
            "handle_impossible_answer": rng.choice((None, False, True)),
            "align_to_words": rng.choice((None, True, False)),
            "padding": rng.choice((None, "do_not_pad", "longest", "max_length", True, False)),
            "batch_size": rng.choice((None, 1, 2, 3, 16)),
        }
        one = {"question": asked[0]["question"], "context": contexts[0]}
        several = {"question": [row["question"] for row in asked], "context": contexts}
        yield {
            "model": ("bert", "roberta")[number % 2],
            "arguments": several if len(asked) > 1 else one,
            "settings": {name: value for name, value in settings.items() if value is not None},
        }


def _grown(rng: random.Random, context: str) -> str:
    """The context alone, between fillers, or repeated: then equal texts are in one window and in several."""
    kind = rng.randrange(3)
    if kind == 1:
        fillers = rng.sample(FILLERS, 12)
        return " ".join([*fillers[:6], context, *fillers[6:]])
    return " ".join([context] * (rng.randint(2, 4) if kind == 2 else 1))


ODD_TEXTS = (
    "Oslo oslo OSLO, Oslo. Oslo! oslo",  # equal except for case
    "Fluß FLUSS fluss fluß ΣΊΣΥΦΟΣ σίσυφος İstanbul istanbul",  # some equal after casefold(), some not
    "naïve café, nai\u0308ve cafe\u0301; déjà-vu",  # composed and decomposed accents
    "東京は日本の首都です。北京是中国的首都。",
    "تقع مدينة القاهرة في مصر.",
    "กรุงเทพเป็นเมืองหลวงของประเทศไทย",
    "Ada 😀 lives 👩‍👩‍👧 in 🇳🇴 Oslo 👍🏽",
    "  Ada\tlives\n\nin\u00a0Oslo\u200b. \r\n ",
    "Ada lives in [CLS] Oslo [SEP] and <s> Leo </s> in Rome.",  # the text of special tokens
    "Oslo",
    ".",
    " ",
    "☃☃ ☄☄",  # not in the vocabulary
    "extraordinarilyunbrokenandverylongwordthatmakesmanypieces " * 3,
    "Ada-Maria's (first) flat: No. 3/4, e.g. £20,980.50; http://oslo.example/a?b=c#d",
)


def odd_texts() -> Iterator[Call]:
    """Calls that test merging of equal texts, words, offsets and special tokens; and questions of all lengths."""
    for context in ODD_TEXTS:
        for model in ("bert", "roberta", "bert-left"):
            for settings in ({"top_k": 5, "handle_impossible_answer": True}, {"top_k": 3, "align_to_words": False}):
                arguments = {"question": ONE["question"], "context": context}
                yield {"model": model, "arguments": arguments, "settings": settings}
    short = {"question": [QUESTION] * 3, "context": ["Oslo", ".", " ".join([CONTEXT] * 3)]}
    # Fewer spans than asked for, in unpadded and in padded windows.
    for model in ("bert", "roberta"):
        for top_k in (2, 5, 30):
            for settings in ({"batch_size": 3}, {"padding": "max_length"}, {"align_to_words": False, "batch_size": 4}):
                yield {"model": model, "arguments": short, "settings": settings | {"top_k": top_k}}
    for question in (" ", "?", ODD_TEXTS[3], ODD_TEXTS[8], "Where " * 20, "Where " * 75, "Where " * 90):
        for settings in ({}, {"doc_stride": 4, "max_question_len": 5}, {"doc_stride": 4, "top_k": 3, "batch_size": 4}):
            arguments = {"question": question, "context": " ".join([ONE["context"], OTHER["context"]] * 3)}
            yield _accident_if(len(question) > 400, "a truncation error or panic of the tokenizer") | {
                "arguments": arguments,
                "settings": settings,
            }


def _accident_if(given: bool, reason: str) -> Call:
    return {"accident": reason} if given else {}


def forms() -> Iterator[Call]:
    """Every way to pass questions and contexts, each asking for one answer and for two."""
    items, questions = [ONE, TWO, OTHER], [ONE["question"], TWO["question"]]
    positional = (
        [ONE["question"], ONE["context"]],
        [ONE],
        [[ONE]],
        [items],
        items,
        [{"question": questions, "context": [ONE["context"]] * 2}],
        [[]],
    )
    keywords = (
        ONE,
        {"question": questions[:1], "context": ONE["context"]},
        {"question": questions, "context": ONE["context"]},
        {"question": questions[:1], "context": [ONE["context"]]},
        {"question": questions, "context": [ONE["context"], OTHER["context"]]},
        {"question": [], "context": []},
        {"question": [], "context": ONE["context"]},
        {"data": ONE},
        {"data": items},
        {"X": ONE},
        {"X": items, "data": ONE},
        {"data": ONE, **TWO},
    )
    for settings in ({}, {"top_k": 2, "batch_size": 2}):
        yield from ({"form": "positional", "arguments": arguments, "settings": settings} for arguments in positional)
        yield from ({"arguments": arguments, "settings": settings} for arguments in keywords)
        for form in ("tuple", "generator", "dataset"):
            for arguments in (items, items[:1]):
                yield {"form": form, "arguments": arguments, "settings": settings}
    for settings in ({"topk": 2}, {"topk": 2, "top_k": 3}, {"num_workers": 0}, {"unheard_of": 1}):
        yield {"arguments": ONE, "settings": settings}


def refused() -> Iterator[Call]:
    """Calls that raise an error."""
    long = {"question": ONE["question"], "context": " ".join([ONE["context"]] * 8)}
    yield from ({"form": "positional", "arguments": arguments} for arguments in REFUSED_POSITIONAL)
    yield from ({"arguments": arguments} for arguments in REFUSED_KEYWORDS)
    yield {"arguments": {"question": ONE["question"]}, "settings": {"top_k": 3}}
    yield {"form": "generator", "arguments": [ONE, {"question": ONE["question"]}]}
    yield {"form": "dataset", "arguments": [ONE, {"question": ONE["question"]}]}
    yield from ({"arguments": long, "settings": settings} for settings in REFUSED_SETTINGS)
    empty = ONE | {"question": "", "context": ""}
    accidents: tuple[tuple[Call, str], ...] = (
        ({"form": "positional", "arguments": [ONE | {"id": "1"}]}, "the name of an inner function"),
        ({"arguments": {"question": [5], "context": ONE["context"]}}, "the tokenizer's word for it"),
        ({"form": "generator", "arguments": [ONE, empty]}, "a missing check"),
        ({"form": "dataset", "arguments": [ONE, empty]}, "a missing check"),
        *(
            ({"arguments": ONE | {"context": text}}, "an encoding error of the tokenizer")
            for text in ("half \ud800 a pair", "\ud800")
        ),
        *(({"arguments": long, "settings": settings}, reason) for settings, reason in UNSOUND_SETTINGS),
    )
    yield from (call | {"accident": reason} for call, reason in accidents)


REFUSED_POSITIONAL: tuple[list[Any], ...] = (
    [{"question": QUESTION}],
    [{"context": CONTEXT}],
    [[ONE, {"question": QUESTION}]],
    [ONE | {"question": None}],
    [ONE | {"context": None}],
    [ONE | {"question": ""}],
    [ONE | {"context": ""}],
    [ONE, ONE | {"context": ""}],
    [QUESTION],
    [[QUESTION, CONTEXT]],
    [QUESTION, CONTEXT, CONTEXT],
    [5],
    [None],
    [[None]],
    [QUESTION, 5],
)
REFUSED_KEYWORDS: tuple[dict[str, Any], ...] = (
    {},
    {"question": QUESTION},
    {"context": CONTEXT},
    ONE | {"context": None},
    ONE | {"question": None},
    ONE | {"context": ""},
    ONE | {"question": ""},
    {"question": [QUESTION, ""], "context": CONTEXT},
    {"question": [QUESTION, None], "context": [CONTEXT, CONTEXT]},
    {"question": [QUESTION], "context": [""]},
    {"question": [QUESTION], "context": [CONTEXT, CONTEXT]},
    {"question": [QUESTION, QUESTION], "context": [CONTEXT]},
    {"question": QUESTION, "context": [CONTEXT]},
    {"question": 5, "context": CONTEXT},
    {"data": None},
    {"data": 5},
    {"data": QUESTION},
    {"X": [QUESTION]},
)
REFUSED_SETTINGS: tuple[dict[str, Any], ...] = (
    {"top_k": 0},
    {"top_k": -1},
    {"topk": 0},
    {"doc_stride": 97},
    {"doc_stride": 50, "max_seq_len": 40},
    {"doc_stride": 40, "max_seq_len": 40},
    {"doc_stride": 30, "max_seq_len": 40},
    {"padding": "sideways"},
)
UNSOUND_SETTINGS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"max_answer_len": 0}, "a parenthesis that is missing in the message"),
    ({"max_answer_len": -3}, "a parenthesis that is missing in the message"),
    ({"doc_stride": 35, "max_seq_len": 40}, "a panic of the tokenizer"),
    ({"max_seq_len": 5, "doc_stride": 2}, "a truncation error of the tokenizer"),
    ({"max_seq_len": 3}, "a tokenizer that then cuts nothing"),
    ({"max_seq_len": 0}, "a tokenizer that then cuts nothing"),
    ({"doc_stride": -1}, "an overflow in the tokenizer"),
    ({"max_seq_len": 300, "padding": "max_length"}, "an index error of the model's positions"),
    ({"batch_size": 0}, "the data loader's word for it"),
    ({"top_k": "3"}, "a comparison of a string with a number"),
    ({"max_answer_len": 2.5}, "NumPy, which takes any number"),
    ({"doc_stride": "4"}, "a comparison of a string with a number"),
)
