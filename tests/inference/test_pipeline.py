"""Test the pipeline against a plain reference: all spans of all windows of one question, enumerated in Python."""

from __future__ import annotations

import math
from functools import partial
from itertools import count, islice, pairwise

import datasets
import numpy as np
import pandas
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, IterableDataset
from transformers import (
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertModel,
    BertTokenizer,
    PreTrainedTokenizerFast,
)

import qa_lightning
from qa_lightning import QuestionAnsweringPipeline, Reader, pipeline, register_pipeline
from qa_lightning.errors import InputError
from qa_lightning.inference.engine import word_begin, word_end
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import load_model, load_tokenizer
from qa_lightning.models.settings import AnswerSettings
from tests.helpers.families import FAMILIES, save

QUESTION = "Where does Anna live?"
CONTEXT = "Anna lives in Oslo, and Ben works in Rome at the bakery in the city."
CONTEXTS = [
    CONTEXT,
    CONTEXT * 8,
    "Ben. " * 40 + "Anna paid £20,980 in 1999 (about 2,000 more than before). " + "Ben, Anna. " * 20,
    "Anna",
]


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert", "xlnet", "albert", "deberta-v3", "gpt2"])
def family(request, tmp_path_factory):
    """The folder of an untrained model, and the pipeline loaded from it."""
    name = next(name for name in FAMILIES if name.startswith(request.param))
    folder = save(FAMILIES[name], tmp_path_factory.mktemp("family"))
    return folder, pipeline(folder)


def listed(answers):
    return answers if isinstance(answers, list) else [answers]


def same(found, other, within: float = 1e-5) -> bool:
    """Whether two results hold the same answers, with nearly the same scores."""
    if isinstance(found, dict) and isinstance(other, dict):
        return found == {**other, "score": pytest.approx(other["score"], abs=within)}
    return len(found) == len(other) and all(same(*pair, within) for pair in zip(found, other, strict=True))


@pytest.fixture(scope="module")
def ask(model_folder) -> QuestionAnsweringPipeline:
    return pipeline(model_folder)


def all_spans(folder: str, question: str, context: str, length: int, stride: int, max_tokens: int):
    """The reference.

    Returns:
        Best score of each span (its start and end offset), the smallest null score of the windows, and the log of the
        sum of exp(score) over all spans and the null answer.
    """
    tokenizer, model = load_tokenizer(folder), load_model(folder).eval()
    left = tokenizer.padding_side == "left"
    encoded = tokenizer(
        *((context, question) if left else (question, context)),
        truncation="only_first" if left else "only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    cls = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    best: dict[tuple[int, int], float] = {}
    nulls, scores = [], []
    first = encoded.encodings[0]  # without token types in the template, later windows get other ones
    type_of = dict(zip(first.sequence_ids, first.type_ids, strict=True))
    for window in encoded.encodings:
        types = [
            kind if owner is None else type_of[owner]
            for owner, kind in zip(window.sequence_ids, window.type_ids, strict=True)
        ]
        inputs = {"input_ids": torch.tensor([window.ids]), "attention_mask": torch.ones(1, len(window.ids)).long()}
        if "token_type_ids" in tokenizer.model_input_names:
            inputs["token_type_ids"] = torch.tensor([types])
        with torch.inference_mode():
            output = model(**inputs)
        start, end = (logits[0].double().tolist() for logits in (output.start_logits, output.end_logits))
        null = window.ids.index(cls) if cls in window.ids else 0
        nulls.append(start[null] + end[null])
        context_tokens = [index for index, owner in enumerate(window.sequence_ids) if owner == (0 if left else 1)]
        offsets = {}
        for index in context_tokens:
            begin, stop = window.offsets[index]
            while begin < stop and context[begin].isspace():
                begin += 1
            while stop > begin and context[stop - 1].isspace():
                stop -= 1
            offsets[index] = (begin, stop)
        visible = [index for index in context_tokens if offsets[index][0] < offsets[index][1]]
        for one in visible:
            for other in visible:
                if one <= other < one + max_tokens:
                    score = start[one] + end[other]
                    scores.append(score)
                    span = (offsets[one][0], offsets[other][1])
                    best[span] = max(best.get(span, -math.inf), score)
    total = np.logaddexp.reduce([*scores, min(nulls)])
    return best, min(nulls), float(total)


@pytest.mark.parametrize("context", CONTEXTS, ids=["one window", "windows", "numbers", "one word"])
def test_answers_are_the_likeliest_spans_with_their_probabilities(family, context: str) -> None:
    folder, ask = family
    spans, null, total = all_spans(folder, QUESTION, context, length=48, stride=12, max_tokens=6)
    asked = {"max_seq_len": 48, "doc_stride": 12, "max_answer_len": 6, "align_to_words": False}
    answers = listed(ask(question=QUESTION, context=context, top_k=7, **asked))
    wanted = sorted(spans.items(), key=lambda span: (-span[1], span[0]))[:7]
    assert len(answers) == len(wanted)
    for answer, (_, score) in zip(answers, wanted, strict=True):
        assert answer["score"] == pytest.approx(math.exp(score - total), abs=1e-5)
        assert math.exp(spans[(answer["start"], answer["end"])] - total) == pytest.approx(answer["score"], abs=1e-5)
        assert answer["answer"] == context[answer["start"] : answer["end"]] != ""
    best = ask(question=QUESTION, context=context, handle_impossible_answer=True, top_k=20_000, **asked)
    (nothing,) = (answer for answer in best if not answer["answer"])
    assert nothing == {"score": pytest.approx(math.exp(null - total), abs=1e-5), "start": 0, "end": 0, "answer": ""}
    assert (best[0] is nothing) == (null > wanted[0][1])
    assert len(best) == len(spans) + 1


def test_a_question_gets_the_same_answers_alone_in_a_list_and_in_any_batch(family) -> None:
    _, ask = family
    lengths = {"max_seq_len": 48, "doc_stride": 12}
    alone = [listed(ask(question=QUESTION, context=context, top_k=3, **lengths)) for context in CONTEXTS]
    for batch_size in (1, 3, 64):
        together = ask(question=QUESTION, context=CONTEXTS, top_k=3, batch_size=batch_size, **lengths)
        for answers, others in zip(alone, map(listed, together), strict=True):
            assert [answer["answer"] for answer in answers] == [answer["answer"] for answer in others]
            assert [answer["score"] for answer in answers] == pytest.approx([a["score"] for a in others], abs=1e-5)


def test_every_form_of_a_call_gets_the_same_answer(ask) -> None:
    one = {"question": QUESTION, "context": CONTEXT}
    answer = ask(**one)
    assert set(answer) == {"score", "start", "end", "answer"}
    for alone in (
        ask(one),
        ask([one]),
        ask(QUESTION, CONTEXT),
        ask(data=one),
        ask(question=[QUESTION], context=[CONTEXT]),
    ):
        assert alone == answer
    for two in (
        ask([one, one]),
        ask(one, one),
        ask((one, one)),
        ask(X=[one, one]),
        ask(question=[QUESTION] * 2, context=CONTEXT),
        ask(question=QUESTION, context=[CONTEXT] * 2),
        ask(question=(QUESTION, QUESTION), context=[CONTEXT] * 2),
        ask(ask.create_sample([QUESTION] * 2, [CONTEXT] * 2)),
        list(ask(one for _ in range(2))),
        list(ask(datasets.Dataset.from_list([{**one, "id": "a"}] * 2))),
        list(ask(Questions(2))),
    ):
        assert [other["answer"] for other in two] == [answer["answer"]] * 2
    assert ask([]) == []
    assert list(ask(iter_nothing())) == []


def test_columns_series_and_arrays_are_lists_and_items_may_hold_several(ask) -> None:
    contexts = [CONTEXT, CONTEXTS[2], CONTEXT]
    questions = [QUESTION, "Who?", "Who works?"]
    table = datasets.Dataset.from_dict({"question": questions, "context": contexts, "id": ["a", "b", "c"]})
    wanted = ask(question=questions, context=contexts)
    for of in (table, pandas.DataFrame({"question": questions, "context": contexts})):
        assert ask(question=of["question"], context=of["context"]) == wanted
        assert ask(question=of["question"], context=CONTEXT) == ask(question=questions, context=CONTEXT)
        assert ask(question=QUESTION, context=of["context"]) == ask(question=QUESTION, context=contexts)
        assert ask({"question": of["question"], "context": of["context"]}) == wanted
    arrays = {"question": np.array(questions), "context": np.array(contexts, dtype=object)}
    assert ask(**arrays) == ask(**{name: array[None][0] for name, array in arrays.items()}) == wanted
    assert ask(question=np.str_(QUESTION), context=np.str_(CONTEXT)) == wanted[0]
    result = ask(table)
    assert (type(result), result) == (list, wanted)
    v4 = QuestionAnsweringPipeline(model=ask.model, tokenizer=ask.tokenizer, compat="v4", max_seq_len=100)
    assert v4(question=table["question"], context=table["context"]) == v4(question=questions, context=contexts)
    assert v4(table.select_columns(["question", "context"])) == v4(question=questions, context=contexts)
    several = {"question": QUESTION, "context": contexts}
    assert ask(several) == ask(**several)
    assert ask([several]) == ask(**several)
    for one in (CONTEXTS[:1], np.array(CONTEXTS[:1])):  # a list of one, for programs with any number of texts
        assert ask(question=QUESTION, context=one) == ask({"question": QUESTION, "context": one}) == wanted[:1]
    mixed = ask([several, {"question": QUESTION, "context": CONTEXT}, {"question": questions[1:], "context": CONTEXT}])
    assert [type(part) for part in mixed] == [list, dict, list]
    assert same(mixed, [ask(**several), wanted[0], ask(question=questions[1:], context=CONTEXT)])
    assert same(list(ask(one for one in [several, several])), [ask(**several)] * 2)


def test_a_dataset_gives_a_list_or_something_with_a_length_that_can_be_read_again(ask) -> None:
    class Endless(Questions):
        def __getitem__(self, index: int) -> dict[str, str]:
            return {"question": QUESTION, "context": CONTEXT}  # does not say where it ends

    class Stream(IterableDataset):
        def __iter__(self):
            yield from Questions(3)

    one = ask(question=QUESTION, context=CONTEXT)
    for dataset in (Questions(3), Endless(3)):
        for batch_size in (1, 4):
            answers = ask(dataset, batch_size=batch_size)
            assert len(answers) == 3
            assert same(list(answers), [one] * 3)
            assert same(list(answers), [one] * 3)
    assert same(list(ask(Stream())), [one] * 3)
    stream = datasets.IterableDataset.from_generator(lambda: (item for item in Questions(3)))
    answers = ask(stream)
    assert not isinstance(answers, list)
    assert same(list(answers), [one] * 3)


class Questions(Dataset):
    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, str]:
        if index >= self.size:
            raise IndexError(index)
        return {"question": QUESTION, "context": CONTEXT}


def iter_nothing():
    yield from ()


def test_one_kind_of_call_has_one_shape_whatever_the_texts_hold(ask) -> None:
    asked = {"question": QUESTION, "context": CONTEXT}
    assert isinstance(ask(**asked), dict)
    assert len(ask(**asked, top_k=4)) == len(ask(**asked, topk=4)) == 4
    assert [len(answers) for answers in ask([asked, asked], top_k=4)] == [4, 4]
    nothing = ["\u200b", "\u00ad", "\u0301"]  # without a word, or a character that a token covers
    contexts = [*nothing, "Anna", CONTEXT]
    empty = {"score": pytest.approx(1.0), "start": 0, "end": 0, "answer": ""}
    for impossible in (False, True):
        several = ask(question="Who?", context=contexts, top_k=4, handle_impossible_answer=impossible)
        assert several[:3] == [[empty]] * 3
        assert [len(answers) for answers in several[3:]] == [1 + impossible, 4]
        each = ask(question="Who?", context=contexts, handle_impossible_answer=impossible)
        assert each[:3] == [empty] * 3
        assert all(answer["answer"] for answer in each[4:])
        alone = [ask(question="Who?", context=context, handle_impossible_answer=impossible) for context in contexts]
        assert same(each, alone)
    steps = [ask.forward(window) for window in ask.preprocess({"question": "Who?", "context": nothing[0]})]
    assert (ask.postprocess(steps), ask.postprocess(steps, top_k=2)) == (empty, [empty])


def test_a_generator_is_read_lazily(ask) -> None:
    read = count()

    def endless():
        while True:
            next(read)
            yield {"question": QUESTION, "context": CONTEXT}

    answers = ask(endless(), batch_size=1)
    assert next(read) == 0
    assert len(list(islice(answers, 3))) == 3
    assert next(read) == 4
    assert len(list(islice(ask(endless(), batch_size=4), 300))) == 300


def test_items_before_a_bad_item_of_a_generator_are_answered(ask) -> None:
    answers = ask({"question": QUESTION, "context": context} for context in (CONTEXT, CONTEXT, ""))
    assert next(answers)["answer"]
    assert next(answers)["answer"]
    with pytest.raises(ValueError, match="`context` cannot be empty"):
        next(answers)


@pytest.mark.parametrize(
    ("keywords", "kind", "message"),
    [
        ({}, ValueError, "Unknown arguments {}"),
        ({"question": "a"}, ValueError, "Unknown arguments"),
        ({"data": {"question": "a"}}, KeyError, "dictionary with keys {question:..., context:...}"),
        ({"data": {"question": "a", "context": None}}, ValueError, "`context` cannot be None"),
        ({"question": "", "context": "a"}, ValueError, "`question` cannot be empty"),
        ({"question": "a", "context": " \n"}, ValueError, "`context` has only white space"),
        ({"question": "\ud800", "context": "a"}, ValueError, "`question` holds half of a surrogate pair"),
        ({"data": {"question": 3, "context": "a"}}, TypeError, "`question` is of type int, '3'; pass a str"),
        ({"data": "Who?"}, ValueError, "a question needs a context: pass question=... and context=..."),
        ({"data": ["a", "b"]}, ValueError, "an item is of type str, 'a'; pass a dict of question and context"),
        ({"data": [3]}, ValueError, "an item is of type int, '3'; pass a dict"),
        ({"data": 3}, ValueError, "Invalid arguments"),
        ({"question": ["a"], "context": ["a", "b"]}, ValueError, "don't have the same lengths: 1 and 2"),
        (
            {"question": 3, "context": "a"},
            ValueError,
            "can't be understood: question is of type int, context of type str",
        ),
        (
            {"question": "a", "context": {"b"}},
            ValueError,
            "question is of type str, context of type set; pass a str, or",
        ),
        ({"data": [{"question": "a", "context": ["b", None]}]}, ValueError, "`context` cannot be None"),
        ({"data": {"question": ["a", 3], "context": "b"}}, TypeError, "`question` is of type int, '3'; pass a str"),
        ({"data": {"question": ["a", "c"], "context": ["b"]}}, ValueError, "same lengths: 2 and 1"),
        ({"top_k": 0}, ValueError, r"top_k parameter should be >= 1 \(got 0\)"),
        ({"top_k": 1.5}, ValueError, "top_k is 1.5, of type float; pass an int"),
        ({"top_k": True}, ValueError, "top_k is True, of type bool"),
        ({"max_answer_len": 0}, ValueError, "max_answer_len parameter should be >= 1"),
        ({"doc_stride": -1, "top_k": 0}, ValueError, r"(?s)doc_stride.*-1.*top_k|top_k.*doc_stride.*-1"),
        (
            {"doc_stride": 200, "max_seq_len": 100},
            ValueError,
            r"`doc_stride` \(200\) is larger than `max_seq_len` \(100\)",
        ),
        ({"max_seq_len": 4}, ValueError, "max_seq_len 4 leaves no room .* at least 5"),
        ({"max_seq_len": 129}, ValueError, "max_seq_len 129 is more than the model's 128 positions; pass at most"),
        ({"handle_impossible_answer": "yes"}, ValueError, "handle_impossible_answer is 'yes'; pass True or False"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; pass an int of at least 1"),
        ({"max_length": 3}, TypeError, "unknown argument 'max_length'; known are top_k"),
        ({"max_length": 3, "n": 1}, TypeError, "unknown arguments 'max_length', 'n'; known are top_k"),
    ],
)
def test_bad_calls_get_one_clear_error(ask, keywords, kind, message) -> None:
    if not {"question", "context", "data"} & set(keywords) and keywords:
        keywords = {"question": QUESTION, "context": CONTEXT, **keywords}
    with pytest.raises(kind, match=message):
        ask(**keywords)


odd = st.text(
    st.one_of(
        st.sampled_from("ab .,é😀ß東\u0301\u200d\u00a0\t\n\x00\x1f\u202e\u0600\u0e33가👩"),
        st.characters(codec="utf-8"),
    ),
    max_size=150,
)


@settings(max_examples=60, deadline=None)
@given(
    question=odd,
    context=odd.map(lambda text: text * 3),
    top_k=st.integers(1, 6),
    length=st.integers(5, 60),
    stride=st.integers(0, 60),
    switches=st.tuples(st.booleans(), st.booleans()),
    answer_length=st.integers(1, 40),
)
def test_any_text_is_refused_or_answered_by_a_part_of_itself(
    family, question, context, top_k, length, stride, switches, answer_length
) -> None:
    _, ask = family
    impossible, words = switches
    try:
        answers = ask(
            question=question,
            context=context,
            top_k=top_k,
            max_seq_len=length,
            doc_stride=stride,
            handle_impossible_answer=impossible,
            align_to_words=words,
            max_answer_len=answer_length,
        )
    except ValueError:
        if question.strip() and context.strip() and stride <= length and length >= 6:
            raise  # the call was valid
        return
    answers = listed(answers)
    assert len(answers) <= top_k
    spans = [(answer["start"], answer["end"]) for answer in answers]
    assert len(set(spans)) == len(spans)
    assert sum(answer["score"] for answer in answers) <= 1 + 1e-9
    found = [answer for answer in answers if answer["end"]]
    assert len(answers) - len(found) <= (impossible or not found)  # nothing else to say where no span is possible
    assert [answer["score"] for answer in found] == sorted((answer["score"] for answer in found), reverse=True)
    for answer in answers:
        assert answer["answer"] == context[answer["start"] : answer["end"]]
        assert bool(answer["answer"]) == (answer["end"] > 0)


def test_equal_scores_come_in_reading_order_and_one_span_once(model_folder) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    torch.nn.init.zeros_(model.qa_outputs.weight)  # all spans are equally likely
    ask = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)
    context = "anna ben carl dora " * 10
    answers = ask(
        question="who?",
        context=context,
        top_k=200,
        max_seq_len=24,
        doc_stride=10,
        max_answer_len=2,
        align_to_words=False,
    )
    words = [(start, start + len(word)) for start, word in words_of(context)]
    wanted = sorted([*words, *((one[0], other[1]) for one, other in pairwise(words))])
    assert [(answer["start"], answer["end"]) for answer in answers] == wanted


def words_of(text: str):
    """Yield the start offset of each word, and the word."""
    start = 0
    for word in text.split():
        start = text.index(word, start)
        yield start, word
        start += len(word)


def test_words_are_whole_if_asked_for_and_their_pieces_are_not_listed_too(ask) -> None:
    context = "qwerty uiopas dfghjk"  # the tokenizer splits these into single letters
    pieces = ask(question="what?", context=context, top_k=20, align_to_words=False)
    words = ask(question="what?", context=context, top_k=20)
    edges = {0, 6, 7, 13, 14, 20}
    assert any({answer["start"], answer["end"]} - edges for answer in pieces)
    assert all({answer["start"], answer["end"]} <= edges for answer in words)
    assert len(words) == 6  # all of them: more spans were decoded until all were found


def test_answers_are_listed_from_the_last_spans_that_were_decoded(model_folder) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    torch.nn.init.zeros_(model.qa_outputs.weight)  # so the first spans decoded all begin in the first word
    ask = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)
    found = ask(question="what?", context="qwert uiopa", top_k=3)  # 45 spans of pieces; 16 are decoded, then all
    assert sorted(answer["answer"] for answer in found) == ["qwert", "qwert uiopa", "uiopa"]
    assert sum(answer["score"] for answer in found) == pytest.approx(45 / 46)


def test_probabilities_of_equal_texts_add_up_and_no_answer_comes_after_equal_scores(model_folder) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    torch.nn.init.zeros_(model.qa_outputs.weight)  # 10 spans and "no answer", all equally likely
    ask = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)
    asked = {"question": "who?", "context": "anna lives in Anna"}
    answers = ask(**asked, top_k=20)
    assert len(answers) == 9
    assert answers[0] == {"score": pytest.approx(2 / 11), "start": 0, "end": 4, "answer": "anna"}
    assert [answer["score"] for answer in answers[1:]] == pytest.approx([1 / 11] * 8)
    with_none = ask(**asked, top_k=20, handle_impossible_answer=True)
    assert with_none == [*answers, {"score": pytest.approx(1 / 11), "start": 0, "end": 0, "answer": ""}]
    spans = ask(**asked, top_k=20, align_to_words=False)
    assert [answer["score"] for answer in spans] == pytest.approx([1 / 11] * 10)  # spans, not texts


@pytest.mark.parametrize(
    ("span", "widened"),
    [
        ((2, 4), (1, 5)),  # within the word
        ((1, 5), (1, 5)),  # the word
        ((0, 3), (0, 5)),  # white space that was in the span stays
        ((3, 6), (1, 6)),
    ],
)
def test_white_space_inside_a_word_stays_out_when_a_span_is_widened_to_it(span, widened) -> None:
    class OneWord:
        """An encoding whose only word is the whole text, with the white space around it."""

        def char_to_word(self, offset: int) -> int | None:
            return 0 if 0 <= offset < 6 else None

        def word_to_chars(self, word: int) -> tuple[int, int]:
            return 0, 6

    found = word_begin(OneWord(), " anna ", span[0]), word_end(OneWord(), " anna ", span[1])
    assert found == widened


def test_a_question_that_is_too_long_is_cut(ask) -> None:
    long = "anna " * 500
    cut = ask(question="anna " * 64, context=CONTEXT)
    assert ask(question=long, context=CONTEXT) == cut
    assert ask(question=long, context=CONTEXT, max_question_len=10) == ask(question="anna " * 10, context=CONTEXT)
    answer = ask(question=long, context=CONTEXT * 3, max_seq_len=20, doc_stride=19)
    assert answer["answer"] == (CONTEXT * 3)[answer["start"] : answer["end"]] != ""


@pytest.mark.slow
def test_a_context_of_a_megabyte_is_answered(ask) -> None:
    context = "ben works in rome. " * 55_000
    answer = ask(question=QUESTION, context=context, batch_size=64)
    assert len(context) > 1_000_000
    assert answer["answer"] == context[answer["start"] : answer["end"]] != ""


def test_a_saved_models_own_settings_are_the_defaults(model_folder, tmp_path) -> None:
    saved = AnswerSettings(40, 10, 12, 3, version_2=True)
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    model.config.qa_lightning = vars(saved)
    ask = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)
    given = pipeline(model_folder)
    lengths = {"max_seq_len": 40, "doc_stride": 10, "max_question_len": 12}
    asked = {"question": QUESTION * 4, "context": CONTEXT * 4}
    assert ask(**asked, top_k=5) == given(**asked, top_k=5, max_answer_len=3, **lengths)
    assert ask(**asked, top_k=5, max_answer_len=15) == given(
        **asked, top_k=5, **lengths
    )  # 15 is that of models from elsewhere
    old = {"question": QUESTION, "context": CONTEXT, "top_k": 5}
    v4, other = (QuestionAnsweringPipeline(model=one.model, tokenizer=tokenizer, compat="v4") for one in (ask, given))
    assert v4(**old) == other(**old) != other(**old, max_answer_len=3)
    plain = ask(**asked)
    for threshold, answered in ((-50.0, False), (50.0, True)):
        model.config.qa_lightning = vars(saved) | {"null_score_diff_threshold": threshold}
        ask = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)
        answer = ask(**asked, handle_impossible_answer=True)
        assert bool(answer["answer"]) == answered  # by the saved threshold
    model.config.qa_lightning = vars(saved) | {"temperature": 0.1}
    hotter = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)(**asked)
    assert hotter["answer"] == plain["answer"]
    assert hotter["score"] > plain["score"]


def test_the_three_steps_of_a_chunk_pipeline_make_the_same_answer(ask) -> None:
    asked = {"question": QUESTION, "context": CONTEXT * 8}
    for settings_ in ({}, {"top_k": 3}):
        steps = QuestionAnsweringPipeline(model=ask.model, tokenizer=ask.tokenizer, **settings_)
        windows = list(steps.preprocess(asked))
        assert len(windows) > 1
        assert [window["is_last"] for window in windows] == [False] * (len(windows) - 1) + [True]
        outputs = [steps.forward(window) for window in windows]
        answer = steps.postprocess(outputs)
        assert same(answer, ask(**asked, **settings_))
        assert same(steps.postprocess(outputs, top_k=3), ask(**asked, top_k=3))
    assert steps.run_single(asked, {}, {}, {}) == answer
    assert len(list(steps.preprocess(asked, max_seq_len=48, doc_stride=4))) > len(windows)
    with pytest.raises(InputError, match="one question with one context, and got 2; pass each alone"):
        next(steps.preprocess({"question": QUESTION, "context": [CONTEXT] * 2}))


@pytest.mark.usefixtures("_tasks")
def test_transformers_builds_it_by_its_name_and_by_the_old_one_if_restored(model_folder, tmp_path) -> None:
    wanted = pipeline(model_folder)(question=QUESTION, context=CONTEXT)
    register_pipeline()
    register_pipeline()  # twice does no harm
    with quiet_transformers():
        ask = transformers.pipeline("extractive-qa", model=model_folder)
        assert isinstance(ask, QuestionAnsweringPipeline)
        assert ask(question=QUESTION, context=CONTEXT) == wanted
        with pytest.raises(KeyError, match="removed from transformers"):
            transformers.pipeline("question-answering", model=model_folder)
        register_pipeline(restore=True)
        ask = transformers.pipeline("question-answering", model=model_folder, top_k=2, compat="v4")
        assert len(ask(question=QUESTION, context=CONTEXT)) == 2
        ask.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    assert pipeline(tmp_path)(question=QUESTION, context=CONTEXT) == wanted


def test_bfloat16_gives_nearly_the_same_scores(model_folder) -> None:
    asked = {"question": QUESTION, "context": CONTEXT}
    narrow = pipeline(model_folder, dtype=torch.bfloat16)
    assert narrow.model.dtype == torch.bfloat16
    assert narrow(**asked)["score"] == pytest.approx(pipeline(model_folder)(**asked)["score"], rel=0.1)


def test_a_model_without_a_trained_head_or_without_any_is_refused(model_folder, tmp_path) -> None:
    with quiet_transformers():
        BertModel.from_pretrained(model_folder).save_pretrained(tmp_path)
    BertTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"no trained question answering head \(qa_outputs.bias, qa_outputs.weight"):
        pipeline(tmp_path)
    with quiet_transformers():
        ask = QuestionAnsweringPipeline(
            model=AutoModel.from_pretrained(tmp_path), tokenizer=load_tokenizer(model_folder)
        )
    with pytest.raises(InputError, match="BertModel returns no start and end logits"):
        ask(question=QUESTION, context=CONTEXT)
    with pytest.raises(InputError, match="NoneType is not a fast tokenizer"):
        QuestionAnsweringPipeline(model=load_model(model_folder), tokenizer=None)
    with pytest.raises(InputError, match="compat 'v3' is unknown"):
        pipeline(model_folder, compat="v3")
    with pytest.raises(InputError, match=r"nowhere.*cannot be loaded"):
        pipeline("nobody/nowhere")


def test_pickled_weights_are_refused_unless_asked_for(model_folder, tmp_path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(model_folder)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"pickled weights only \(pytorch_model.bin\).*use_safetensors=False"):
        pipeline(tmp_path)
    asked = {"question": QUESTION, "context": CONTEXT}
    assert pipeline(tmp_path, use_safetensors=False)(**asked) == pipeline(model_folder)(**asked)


def test_code_that_comes_with_a_model_does_not_run_unless_asked_for(model_folder, tmp_path) -> None:
    model, tokenizer = load_model(model_folder), load_tokenizer(model_folder)
    model.config.auto_map = {"AutoModelForQuestionAnswering": "code.Model", "AutoConfig": "code.Config"}
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ran = tmp_path / "ran"
    (tmp_path / "code.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    pipeline(tmp_path)(question=QUESTION, context=CONTEXT)  # with transformers' own BERT
    assert not ran.exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_an_error(model_folder, value: float) -> None:
    model = load_model(model_folder)
    torch.nn.init.constant_(model.qa_outputs.bias, value)
    tokenizer = load_tokenizer(model_folder)
    for answer in (
        lambda: QuestionAnsweringPipeline(model=model, tokenizer=tokenizer)(question=QUESTION, context=CONTEXT),
        lambda: Reader(model, tokenizer).answer([QUESTION], [CONTEXT]),
        lambda: Reader(model, tokenizer).ask(QUESTION, [CONTEXT, "Ben."]),
    ):
        with pytest.raises(InputError, match="logits are not numbers"):
            answer()


def test_questions_without_logits_are_named_by_their_numbers_in_the_call(model_folder, monkeypatch) -> None:
    """Not by those within the questions that are computed together."""
    monkeypatch.setattr("qa_lightning.inference.pipeline._MIN_CHUNK", 4)
    ask = pipeline(model_folder, batch_size=1)
    forward, rome = ask.model.forward, ask.tokenizer("rome", add_special_tokens=False)["input_ids"][0]

    def broken(input_ids, **inputs):
        output = forward(input_ids=input_ids, **inputs)
        output.start_logits[(input_ids == rome).any(1)] = math.nan
        return output

    monkeypatch.setattr(ask.model, "forward", broken)
    contexts = ["Rome" if number in (17, 19, 21) else "Anna" for number in range(22)]
    with pytest.raises(InputError, match=r"not numbers \(questions 17, 19, 21\): "):
        ask(question=[QUESTION] * len(contexts), context=contexts)


def test_compat_v4_refuses_what_its_scores_do_not_know(model_folder, tmp_path) -> None:
    with pytest.raises(InputError, match="threshold_file and raw_scores: compat 'v4'"):
        pipeline(model_folder, compat="v4", threshold_file=tmp_path / "threshold.json", raw_scores=True)
    with pytest.raises(InputError, match=r"^raw_scores: compat 'v4'"):
        pipeline(model_folder, compat="v4", raw_scores=True)
    assert pipeline(model_folder, compat="v4", raw_scores=False)


def test_a_tokenizer_that_names_no_token_types_gives_them_everywhere(model_folder) -> None:
    """As `load_tokenizer` does; what the caller has stays as it is."""
    model = load_model(model_folder).eval()
    torch.nn.init.normal_(model.bert.embeddings.token_type_embeddings.weight, std=2.0)
    own = load_tokenizer(model_folder)
    plain = PreTrainedTokenizerFast(
        tokenizer_object=own.backend_tokenizer, **{name: getattr(own, name) for name in own.special_tokens_map}
    )
    assert "token_type_ids" not in plain.model_input_names
    before = plain.model_input_names, dict(plain.init_kwargs)
    asked = {"question": QUESTION, "context": CONTEXT}
    wanted = Reader(model, own).answer([QUESTION], [CONTEXT])
    assert Reader(model, plain).answer([QUESTION], [CONTEXT]) == wanted
    found = QuestionAnsweringPipeline(model=model, tokenizer=plain)(**asked)
    assert found == QuestionAnsweringPipeline(model=model, tokenizer=own)(**asked)
    assert (plain.model_input_names, dict(plain.init_kwargs)) == before


@pytest.mark.parametrize(
    ("questions", "contexts", "batch_size", "words"),
    [
        (["Who?", "Who?"], ["Ben.", "Ben."], -1, "batch_size is -1; pass an int of at least 1"),
        (["Who?"], ["Ben."], 0, "batch_size is 0; pass"),
        (["Who?"], ["Ben."], 2.0, "batch_size is 2.0; pass"),
        (["Who?"] * 3, ["Ben.", None, "Ben."], 8, "^context 1 is of type NoneType, None; pass a str$"),
        (["Who?", math.nan], ["Ben.", " "], 8, "^question 1 is of type float, nan; pass a str\ncontext 1 is empty$"),
        (["Who?"], ["Ben.", "Ben."], 8, "questions and contexts have different lengths, 1 and 2"),
        ("Who?", "Ben.", 8, "^questions is of type str; pass a list of str\ncontexts is of type str; pass"),
        (["Who?"], None, 8, "^contexts is of type NoneType; pass a list of str$"),
    ],
)
def test_a_reader_names_what_is_wrong_with_a_call(model_folder, questions, contexts, batch_size, words) -> None:
    with pytest.raises(InputError, match=words):
        Reader.load(model_folder, device="cpu").answer(questions, contexts, batch_size=batch_size)


def test_the_package_exports_the_functions_by_their_names() -> None:
    assert qa_lightning.pipeline is pipeline
    assert callable(qa_lightning.register_pipeline)


def in_bern(step, example, **settings):
    return step({**example, "context": example["context"].replace("Rome", "Bern")}, **settings)


def turned(step, inputs, **settings):
    outputs = step(inputs, **settings)
    return {**outputs, "start": -outputs["start"], "end": -outputs["end"]}


def marked(step, outputs, **settings):
    return [{**answer, "answer": f"*{answer['answer']}*"} for answer in listed(step(outputs, **settings))]


HOOKS = {"preprocess": in_bern, "_forward": turned, "postprocess": marked}


def as_subclass(ask, step, monkeypatch):
    def hook(self, *args, **keywords):
        return HOOKS[step](partial(getattr(QuestionAnsweringPipeline, step), self), *args, **keywords)

    own = type("Own", (QuestionAnsweringPipeline,), {step: hook})
    return own(model=ask.model, tokenizer=ask.tokenizer, compat=ask.compat)


def as_attribute(ask, step, monkeypatch):
    own = QuestionAnsweringPipeline(model=ask.model, tokenizer=ask.tokenizer, compat=ask.compat)
    setattr(own, step, partial(HOOKS[step], getattr(own, step)))
    return own


def as_patch(ask, step, monkeypatch):
    before = getattr(QuestionAnsweringPipeline, step)

    def hook(self, *args, **keywords):
        return HOOKS[step](partial(before, self), *args, **keywords)

    monkeypatch.setattr(QuestionAnsweringPipeline, step, hook)
    return ask


@pytest.mark.parametrize("compat", [None, "v4"])
@pytest.mark.parametrize("way", [as_subclass, as_attribute, as_patch])
@pytest.mark.parametrize("step", HOOKS)
def test_a_step_that_is_overridden_or_replaced_has_effect(model_folder, monkeypatch, step, way, compat) -> None:
    asked = [{"question": QUESTION, "context": context} for context in (CONTEXT, CONTEXT * 2, "Ben is in Rome.")]
    ask = pipeline(model_folder, compat=compat)
    for settings_ in ({"max_seq_len": 100}, {"top_k": 3, "max_seq_len": 48, "doc_stride": 12, "batch_size": 3}):
        plain = ask(asked, **settings_)
        expected = plain
        if step == "preprocess":
            expected = ask([{**one, "context": one["context"].replace("Rome", "Bern")} for one in asked], **settings_)
        elif step == "_forward":
            other = pipeline(model_folder, compat=compat)
            with torch.no_grad():
                for weight in other.model.qa_outputs.parameters():
                    weight.neg_()
            expected = other(asked, **settings_)
        else:
            expected = [marked(lambda answers: answers, answers) for answers in plain]
        with monkeypatch.context() as patches:
            own = way(ask, step, patches)
            assert not same(expected, plain)
            assert same(own(asked, **settings_), expected)
            assert same([own(one, **settings_) for one in asked], expected)
            assert same(list(own((one for one in asked), **settings_)), expected)


def test_a_subclass_may_take_a_parameter_of_its_own(ask) -> None:
    class Rounded(QuestionAnsweringPipeline):
        def _sanitize_parameters(self, digits=None, **keywords):
            before, forward, after = super()._sanitize_parameters(**keywords)
            return before, forward, after if digits is None else {**after, "digits": digits}

        def postprocess(self, model_outputs, top_k=1, digits=9, **keywords):
            answers = super().postprocess(model_outputs, top_k=top_k, **keywords)
            return [round(answer["score"], digits) for answer in listed(answers)]

    own = Rounded(model=ask.model, tokenizer=ask.tokenizer, digits=1)
    asked = {"question": QUESTION, "context": CONTEXT}
    score = ask(**asked)["score"]
    assert own(**asked) == [round(score, 1)]
    assert own(**asked, digits=3) == [round(score, 3)]
    assert len(own(**asked, top_k=2)) == 2
    with pytest.raises(TypeError, match="unknown argument 'places'"):
        own(**asked, places=2)


def test_another_postprocess_may_change_what_the_model_gave(model_folder) -> None:
    """In place, as with 4.57: tensors of inference mode would refuse that."""

    class Masked(QuestionAnsweringPipeline):
        def postprocess(self, model_outputs, **settings):
            for output in model_outputs:
                output["start"][:, :-3] = -100.0
            return super().postprocess(model_outputs, **settings)

    asked = {"question": QUESTION, "context": CONTEXT}
    plain, masked = pipeline(model_folder), pipeline(model_folder, pipeline_class=Masked)
    assert masked(**asked)["start"] > len(CONTEXT) - 10
    for ask, inference in ((plain, True), (masked, False)):
        inputs = ask.tokenizer(QUESTION, CONTEXT, return_tensors="pt")
        assert ask.forward(dict(inputs))["start"].is_inference() == inference
