from __future__ import annotations

import itertools
import unicodedata
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import BertTokenizer, PreTrainedTokenizerFast

from qa_lightning.errors import InputError
from qa_lightning.features.store import FeatureStore, write_features
from qa_lightning.features.windows import Windower, WindowSettings
from tests.helpers.windows import CONTEXT, TOKENIZERS, rows_of, texts, unigram_left, wordpiece


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def family(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return TOKENIZERS[request.param]()


def labelled_text(window, char_start, char_end, context: str) -> str:
    first, last = window["start"] - window["context_begin"], window["end"] - window["context_begin"]
    return context[char_start[first] : char_end[last]]


def pair_windows(tokenizer, question: str, context: str, settings_: WindowSettings):
    """The tokenizer's own windows of a pair: ids, token types, and the context tokens' spans in characters."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    asked = question.strip()
    assume(len(backend.encode(asked, add_special_tokens=False)) <= settings_.max_question_length)
    context_first = tokenizer.padding_side == "left"
    backend.enable_truncation(
        settings_.max_length, stride=settings_.doc_stride, strategy="only_first" if context_first else "only_second"
    )
    encoding = backend.encode(*((context, asked) if context_first else (asked, context)))
    # A template without token types means 0, but in windows after the first one the library gives 1.
    type_of = dict(zip(encoding.sequence_ids, encoding.type_ids, strict=True))
    for part in (encoding, *encoding.overflowing):
        owners = part.sequence_ids
        types = [own if of is None else type_of[of] for of, own in zip(owners, part.type_ids, strict=True)]
        owner = 0 if context_first else 1
        yield part.ids, types, [part.offsets[i] for i, of in enumerate(owners) if of == owner]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_windows_are_the_tokenizers_own_of_each_pair(family, data) -> None:
    settings_ = WindowSettings(max_length=40, doc_stride=8, max_question_length=20)
    contexts = data.draw(st.lists(texts.map(lambda text: text * 3), min_size=1, max_size=3))
    pairs = [(data.draw(texts), data.draw(st.sampled_from(contexts))) for _ in range(4)]
    batch = Windower(family, settings_)(*zip(*pairs, strict=True), [None] * len(pairs))
    own = [(window, pair) for pair in pairs for window in pair_windows(family, *pair, settings_)]
    assert len(batch.windows) == len(own)
    store = FeatureStore.of_batch(batch)
    for number, ((ids, types, offsets), (_, context)) in enumerate(own):
        window = store.windows[number]
        tokens = slice(store.token_offset[number], store.token_offset[number] + window["length"])
        assert store.input_ids[tokens].tolist() == ids
        assert store.token_type_ids[tokens].tolist() == types
        begin = store.context_offset[number]
        assert window["context_length"] == len(offsets)
        for place, (start, end) in enumerate(offsets, begin):
            found = context[store.char_start[place] : store.char_end[place]]
            own = context[start:end].strip()
            assert found.startswith(own) if own else not found
            assert all(unicodedata.category(mark).startswith("M") for mark in found[len(own) :])  # dropped, composed


@pytest.mark.parametrize("answer", ["Ben", "£20,980", "Anna lives in Oslo", "Rome", "Carl moved to Rome", "In 1999"])
def test_windows_that_hold_the_answer_point_at_it_and_others_at_cls(family, answer: str) -> None:
    start = CONTEXT.index(answer)
    span = (start, start + len(answer))
    settings_ = WindowSettings(max_length=60, doc_stride=12, max_question_length=16)
    batch = Windower(family, settings_)(["Who paid it in 1999?"], [CONTEXT], [span])
    assert len(batch.windows) >= 3
    held = 0
    for window, ids, char_start, char_end in rows_of(batch):
        assert window["length"] <= 60
        expected_cls = list(ids).index(family.cls_token_id) if family.cls_token_id is not None else 0
        assert window["cls"] == expected_cls
        whole = char_start[0] <= span[0] and char_end[-1] >= span[1]
        if whole:
            held += 1
            assert labelled_text(window, char_start, char_end, CONTEXT) == answer
            assert window["start"] >= window["context_begin"]
            assert window["end"] < window["context_begin"] + window["context_length"]
        else:
            assert window["start"] == window["end"] == window["cls"]
    assert held == batch.labelled[0] >= 1


def test_xlnet_like_cls_is_last_and_context_first() -> None:
    batch = Windower(unigram_left(), WindowSettings(60, 12, 16))(["Who?"], [CONTEXT], [None])
    for window, ids, _, _ in rows_of(batch):
        assert window["cls"] == len(ids) - 1
        assert window["context_begin"] == 0


def test_windows_overlap_by_doc_stride_and_cover_the_context(family) -> None:
    batch = Windower(family, WindowSettings(60, 12, 16))(["Who?"], [CONTEXT], [None])
    parts = [char_start for _, _, char_start, _ in rows_of(batch)]
    for left, right in itertools.pairwise(parts):
        np.testing.assert_array_equal(left[-12:], right[:12])
    covered = np.zeros(len(CONTEXT), bool)
    for _, _, char_start, char_end in rows_of(batch):
        for start, end in zip(char_start, char_end, strict=True):
            covered[start:end] = True
    assert all(covered[place] for place, letter in enumerate(CONTEXT) if not letter.isspace())


def test_a_long_question_is_cut_and_counted_never_a_crash(family) -> None:
    settings_ = WindowSettings(max_length=40, doc_stride=8, max_question_length=10)
    batch = Windower(family, settings_)(["who paid " * 200, "Who?"], [CONTEXT, CONTEXT], [None, None])
    assert batch.cut_questions == 1
    for window in batch.windows:
        assert window["length"] <= 40
        assert window["length"] - window["context_length"] <= 10 + 4


@pytest.mark.parametrize(("tokens", "cut"), [(9, 0), (10, 0), (11, 1)])
def test_a_question_of_exactly_the_longest_length_is_not_cut(tokens: int, cut: int) -> None:
    family = wordpiece()
    question = " ".join(["?"] * tokens)
    assert len(family(question, add_special_tokens=False)["input_ids"]) == tokens
    batch = Windower(family, WindowSettings(max_length=40, doc_stride=8, max_question_length=10))(
        [question], ["Oslo."], [None]
    )
    assert batch.cut_questions == cut
    assert (batch.windows["length"] - batch.windows["context_length"]).tolist() == [min(tokens, 10) + 3]


def test_where_a_question_leaves_no_more_room_than_the_overlap_windows_share_half_of_it() -> None:
    """Otherwise each window would move on by one token, and there would be as many windows as tokens."""
    family = wordpiece()
    for tokens, room in ((7, 30), (17, 20), (18, 19), (25, 19)):  # of 40 tokens, 3 special; a question takes 18 at most
        windower = Windower(family, WindowSettings(40, 20, 30), shorten=True)
        question, context = " ".join(["?"] * tokens), " ".join(["."] * 200)
        batch = windower([question], [context], [None])
        step = room - (20 if room > 20 else room // 2)
        assert (batch.windows["length"] == 40).sum() >= len(batch.windows) - 1
        assert batch.windows["context_length"].max() == room
        assert len(batch.windows) == 1 + -(-(200 - room) // step)


def test_an_unanswerable_question_is_labelled_cls_in_every_window(family) -> None:
    batch = Windower(family, WindowSettings(60, 12, 16))(["Who?"], [CONTEXT], [None])
    assert (batch.windows["start"] == batch.windows["cls"]).all()
    assert batch.labelled.tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(context=texts, question=texts, data=st.data())
def test_offsets_slice_the_original_text_and_labels_cover_the_answer(family, context, question, data) -> None:
    start = data.draw(st.integers(0, len(context) - 1))
    end = data.draw(st.integers(start + 1, len(context)))
    assume(context[start:end].strip())  # `examples.check_row` refuses an empty answer
    batch = Windower(family, WindowSettings(40, 8, 12))([question], [context], [(start, end)])
    for window, _, char_start, char_end in rows_of(batch):
        assert (char_start >= 0).all()
        assert (char_end <= len(context)).all()
        assert (char_start <= char_end).all()
        for first, last in zip(char_start, char_end, strict=True):
            token = context[first:last]
            assert token == token.strip()
        if window["start"] != window["cls"] and window["context_begin"] <= window["start"]:
            first = window["start"] - window["context_begin"]
            last = window["end"] - window["context_begin"]
            assert 0 <= first <= last < window["context_length"]
            assert char_start[first] < end
            assert char_end[last] > start


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((64, 40, 24), ["--data.doc_stride 40", "room for context, 37 tokens", "--data.max_length 64"]),
        ((64, 37, 24), ["--data.doc_stride 37", "room for context, 37 tokens"]),  # windows would never move on
        ((20, 8, 64), ["--data.doc_stride 8", "lower doc_stride or max_question_length"]),
        ((0, -1, 0), ["max_length is 0", "doc_stride is -1", "max_question_length is 0"]),
    ],
)
def test_settings_without_room_for_context_are_refused(values, words) -> None:
    with pytest.raises(InputError) as caught:
        Windower(wordpiece(), WindowSettings(*values))
    assert all(word in str(caught.value) for word in words)


def test_an_overlap_of_one_token_less_than_the_room_moves_on_token_by_token() -> None:
    batch = Windower(wordpiece(), WindowSettings(64, 36, 24))(["who " * 30], [CONTEXT], [None])
    assert (batch.windows["context_length"] == 37).all()
    assert len(batch.windows) > 30
    for left, right in itertools.pairwise(char_start for _, _, char_start, _ in rows_of(batch)):
        np.testing.assert_array_equal(left[1:], right[:-1])


def test_a_mark_that_begins_a_context_never_joins_the_context_before() -> None:
    contexts = ["Anna lives in Oslo", "\u0301Ben works in Rome"]  # the normalizer drops the accent: no token covers it
    apart = [Windower(wordpiece(), WindowSettings(60, 12, 16))(["Who?"], [context], [None]) for context in contexts]
    together = Windower(wordpiece(), WindowSettings(60, 12, 16))(["Who?"] * 2, contexts, [None] * 2)
    for name in ("char_start", "char_end"):
        np.testing.assert_array_equal(getattr(together, name), np.concatenate([getattr(one, name) for one in apart]))
    (_, _, starts, ends), (_, _, others, _) = rows_of(together)
    assert contexts[0][starts[0] : ends[-1]] == contexts[0]
    assert ends[-1] == len(contexts[0])
    assert others[0] == 1


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        name_or_path = "some/model"

    with pytest.raises(InputError, match=r"some/model.*slow.*fast tokenizer"):
        Windower(Slow(), WindowSettings())


def test_store_gives_back_what_was_written(tmp_path, family) -> None:
    windower = Windower(family, WindowSettings(60, 12, 16))
    batches = [windower(["Who?", "Where is it?"], [CONTEXT, "In Oslo."], [None, (3, 7)], first=2 * n) for n in range(3)]
    summary = write_features(iter(batches), tmp_path, len(family))
    store = FeatureStore.open(tmp_path)
    assert len(store) == summary["features"] == sum(len(batch.windows) for batch in batches)
    assert summary["unlabelled"] == 3
    for name in ("windows", "input_ids", "token_type_ids", "char_start", "char_end"):
        np.testing.assert_array_equal(getattr(store, name), np.concatenate([getattr(batch, name) for batch in batches]))
    window = store.windows[len(store) - 1]
    begin = int(store.context_offset[len(store) - 1]) - window["context_begin"]
    start, end = store.char_start[begin + window["start"]], store.char_end[begin + window["end"]]
    assert "In Oslo."[start:end] == "Oslo"
    assert isinstance(store.input_ids, np.memmap)
    assert store.input_ids.dtype == np.uint16


@pytest.mark.parametrize(
    ("vocab_size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.int32), (80_000, np.int32), (2**17, np.int32)]
)
def test_ids_above_65535_survive_the_store(tmp_path, vocab_size: int, dtype) -> None:
    batch = Windower(wordpiece(), WindowSettings(60, 12, 16))(["Who?"], [CONTEXT], [None])
    ids = np.linspace(0, vocab_size - 1, len(batch.input_ids)).astype(np.int32)  # up to the last id of the vocabulary
    write_features(iter([replace(batch, input_ids=ids)]), tmp_path, vocab_size)
    store = FeatureStore.open(tmp_path)
    assert store.input_ids.dtype == dtype
    assert store.input_ids[-1] == vocab_size - 1
    np.testing.assert_array_equal(store.input_ids, ids)


@pytest.fixture(scope="module")
def cased(shared_data) -> BertTokenizer:
    return BertTokenizer(vocab=str(shared_data / "vocab" / "bert-base-cased-vocab.txt"), do_lower_case=False)


def real_windows(tokenizer, path):
    from qa_lightning.data.examples import read_examples
    from qa_lightning.data.sources import read_rows

    rows = list(read_examples(read_rows(str(path), "train"), "error"))
    spans = [
        (row["answers"]["answer_start"][0], row["answers"]["answer_start"][0] + len(row["answers"]["text"][0]))
        if row["answers"]["text"]
        else None
        for row in rows
    ]
    batch = Windower(tokenizer, WindowSettings())(
        [row["question"] for row in rows], [row["context"] for row in rows], spans
    )
    return rows, batch


def test_known_number_of_features(cased, shared_data) -> None:
    rows, batch = real_windows(cased, shared_data / "squad" / "dev-v1.1.json")
    assert (len(rows), len(batch.windows)) == (10_570, 10_822)


@pytest.mark.parametrize("name", ["train-40-articles.json", "train-v2-articles.json"])
def test_gold_answers_come_back_from_their_labels(cased, shared_data, name: str, capsys) -> None:
    rows, batch = real_windows(cased, shared_data / "squad" / name)
    labelled = wrong = 0
    for window, _, char_start, char_end in rows_of(batch):
        row = rows[window["example"]]
        if window["start"] == window["cls"]:
            continue
        labelled += 1
        gold = row["answers"]["text"][0]
        found = labelled_text(window, char_start, char_end, row["context"])
        wrong += found != gold
        assert gold in found  # a token may cover more than the answer, never less
    with capsys.disabled():
        print(f"\n{name}: {wrong} of {labelled} labels cover more than the answer ({wrong / labelled:.2%})")
    assert wrong / labelled <= 0.005
    answered = sum(bool(row["answers"]["text"]) for row in rows)
    assert (batch.labelled > 0).sum() == answered  # no answer is lost between windows
