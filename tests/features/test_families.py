"""Every tokenizer family from text to windows, through a training step, validation and an answer."""

from __future__ import annotations

import math
import unicodedata
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, Trainer
from tokenizers import decoders
from transformers import (
    CanineConfig,
    CanineForQuestionAnswering,
    CanineTokenizer,
    GPTBigCodeConfig,
    GPTBigCodeForCausalLM,
)

from qa_lightning import QALightningModule, Reader, SquadDataModule
from qa_lightning.decoding.logits import FeatureLogits
from qa_lightning.decoding.predictions import Rows
from qa_lightning.errors import InputError
from qa_lightning.features.batching import FeatureDataset, PaddingCollator
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import load_model, load_tokenizer, max_positions, vocabulary_problem
from qa_lightning.models.loss import model_logits, span_loss
from qa_lightning.models.settings import AnswerSettings
from tests.helpers.data import make_rows, write_json
from tests.helpers.decoding import predict
from tests.helpers.families import FAMILIES, SIZES, save
from tests.helpers.training import QUIET

SETTINGS = WindowSettings(max_length=64, doc_stride=24, max_question_length=12)


@cache
def tokenizer_of(name: str):
    return FAMILIES[name].tokenizer()


@cache
def windower_of(name: str) -> Windower:
    return Windower(tokenizer_of(name), SETTINGS)


every_family = pytest.mark.parametrize("name", FAMILIES)


def windows_of(name: str, question: str, context: str, span: tuple[int, int] | None = None):
    """Each window with its token ids, token types and its context tokens' characters."""
    store = FeatureStore.of_batch(windower_of(name)([question], [context], [span]))
    for index, window in enumerate(store.windows):
        tokens = slice(store.token_offset[index], store.token_offset[index] + window["length"])
        places = slice(store.context_offset[index], store.context_offset[index] + window["context_length"])
        chars = list(zip(store.char_start[places].tolist(), store.char_end[places].tolist(), strict=True))
        yield window, store.input_ids[tokens].tolist(), store.token_type_ids[tokens].tolist(), chars


def encoded(name: str, text: str):
    """The tokens of a text alone: their ids, and the characters that they cover, as the tokenizer has them."""
    encoding = tokenizer_of(name).backend_tokenizer.encode(text, add_special_tokens=False)
    return encoding.ids, encoding.offsets


def without_space(context: str, start: int, end: int) -> tuple[int, int]:
    while start < end and context[start].isspace():
        start += 1
    while end > start and context[end - 1].isspace():
        end -= 1
    return start, end


def with_marks(context: str, end: int, offsets: list[tuple[int, int]]) -> int:
    """``end``, moved behind the marks that no token covers."""
    covered = {place for first, last in offsets for place in range(first, last)}
    while end < len(context) and end not in covered and unicodedata.category(context[end]).startswith("M"):
        end += 1
    return end


def check_windows(name: str, question: str, context: str) -> None:
    """Template, order, lengths, offsets; and that windows overlap as they should and leave out no token."""
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
    """Labels of all windows against a search by hand; returns how many windows hold the answer."""
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
    """Decode logits made up for every token: the answer is a piece of the context, without white space around it."""
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


# case -> what stands before the answer, the answer, what stands behind it
WORDS = {
    "spaces": ("Anna lives in   ", "Oslo", "  and works."),
    "tabs": ("Anna\tlives\t", "Oslo", "\tBen\t"),
    "Windows line ends": ("Anna lives in\r\n", "Oslo", "\r\nBen in Rome\r\n"),
    "over Windows line ends": ("Anna lives ", "in\r\nOslo", " \r\n\r\n now"),
    "no-break spaces": ("in\u00a0", "Oslo", "\u00a0and\u202fRome"),
    "wide spaces": ("in\u3000", "Oslo", "\u3000and\u2003Rome"),
    "between byte-order marks": ("\ufeffin ", "Oslo", " \ufeff and"),
    "one letter": ("vitamin ", "C", " is"),
    "digits": ("in ", "1999", " at"),
    "composed accents (NFC)": ("le ", "café", " noir"),
    "decomposed accents (NFD)": ("les ", "cafe\u0301s", " noirs"),
    "two marks on a letter": ("in ", "Vie\u0323\u0302t Nam", " in"),
    "emoji": ("she sent ", "😀", " to Ben"),
    "emoji of several": ("the family ", "👩‍👩‍👧", " lives in"),
    "emoji with a skin tone": ("she sent ", "👍🏽", " to Ben"),
    "flag": ("the flag ", "🇫🇷", " of"),
    "beyond the first plane": ("the rune ", "𐍈𐌰", " is"),
    "Arabic": ("تقع مدينة ", "القاهرة", " في مصر "),
    "Arabic with vowels": ("في ", "مَدِينة", " مصر "),
    "Hebrew": ("העיר ", "ירושלים", " נמצאת בישראל "),
    "Hebrew with points": ("העיר ", "יְרוּשָׁלַיִם", " נמצאת "),
    "Hindi": ("शहर ", "दिल्ली", " भारत में "),
    "Thai between spaces": ("อยู่ ", "ที่นี่", " ครับ "),
    "ends in an accent (NFD)": ("le ", "cafe\u0301", " noir"),
    "Korean": ("수도는 ", "서울", " 이다 "),
    "ligature, full width, fraction": ("of ", "ﬁne １２½", " more"),
    "both directions": ("the city القاهرة is ", "in מצר now", " or"),
}
# here tokens may go beyond the answer
PARTS = {
    "Chinese": ("北京是", "中国", "的首都。"),
    "Japanese": ("東京は", "日本", "の首都です。"),
    "Thai": ("กรุงเทพเป็น", "เมืองหลวง", "ของประเทศไทย"),
    "within a word": ("Anna lives in Os", "lo", "slo and"),
    "before punctuation": ("it costs £", "20,980", ".50 (now)."),
    "one of several emoji": ("👩‍👩‍", "👧", " lives"),
}
FILLER = "Ben works in Rome. "


def placed(parts: tuple[str, str, str]) -> tuple[str, tuple[int, int]]:
    """A context of many windows around the answer, and where it stands."""
    before, answer, after = parts
    before = FILLER * 15 + before
    return before + answer + after + " " + FILLER * 15, (len(before), len(before) + len(answer))


@every_family
@pytest.mark.parametrize("case", [*WORDS, *PARTS])
def test_answers_come_back_from_their_labels(name, case) -> None:
    context, span = placed((WORDS | PARTS)[case])
    check_windows(name, "Where does Anna live?", context)
    assert check_labels(name, context, span) >= 1
    for window, _, _, chars in windows_of(name, "Who?", context, span):
        if window["start"] != window["cls"] and case in WORDS:  # a word, which no token goes beyond
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
    """A token of white space alone covers nothing, and decoding would never start or end there."""
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
    """Letters without marks, case or compatibility forms: what all normalizers leave."""
    marked = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in marked if not unicodedata.category(letter).startswith(("M", "C", "Z")))


@every_family
def test_a_token_covers_the_characters_that_it_was_made_of(name) -> None:
    """Not any place within the context, but the right one."""
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
                if byte_level:  # a part of a letter's bytes decodes to nothing
                    made_of = decoders.ByteLevel().decode([piece]).replace("\ufffd", "")
                else:
                    made_of = piece.removeprefix("##").replace("▁", "")
                assert letters_of(made_of) in letters_of(context[start:end])
                looked_at += bool(letters_of(made_of))
    assert looked_at > 1000


@pytest.fixture(scope="module", params=list(FAMILIES))
def saved(request, tmp_path_factory) -> tuple[str, str]:
    """A family's name, and the folder of an untrained model of it."""
    return request.param, save(FAMILIES[request.param], tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("data")
    train = write_json(folder / "train.json", make_rows(12, unanswerable=3, long=1))
    return train, write_json(folder / "validation.json", make_rows(5, long=2))


WINDOWS = {"max_length": 64, "doc_stride": 16, "max_question_length": 24}


def test_a_folder_gives_back_the_family_that_was_saved(saved) -> None:
    name, folder = saved
    family, before, after = FAMILIES[name], tokenizer_of(name), load_tokenizer(folder)
    assert type(after) is type(before)
    assert type(load_model(folder)) is type(family.model(before))
    assert after.padding_side == ("left" if family.context_first else "right")
    assert after.special_tokens_map == before.special_tokens_map
    assert after.get_vocab() == before.get_vocab()
    assert ("token_type_ids" in after.model_input_names) == (family.types is not None or name == "deberta-v3")
    for parts in (WORDS | PARTS).values():
        pair = "Who lives in Oslo?", "".join(parts)
        assert (
            after(*pair, return_offsets_mapping=True)["offset_mapping"]
            == (before(*pair, return_offsets_mapping=True)["offset_mapping"])
        )
        assert after(*pair)["input_ids"] == before(*pair)["input_ids"]


def test_a_training_step_validation_and_answers(saved, questions) -> None:
    _, folder = saved
    data = SquadDataModule(*questions, folder, **WINDOWS, batch_size=6, eval_batch_size=4)
    module = QALightningModule(folder, learning_rate=1e-2, weight_decay=0.0)
    before = {path: weight.detach().clone() for path, weight in module.model.named_parameters()}
    unused = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            weights = pl_module.model.named_parameters()
            unused.extend(path for path, weight in weights if weight.requires_grad and weight.grad is None)

    trainer = Trainer(max_epochs=1, limit_train_batches=1, num_sanity_val_steps=0, callbacks=Watch(), **QUIET)
    trainer.fit(module, data)
    assert trainer.global_step == 1
    assert not unused  # several devices wait for the gradient of every weight
    assert math.isfinite(trainer.callback_metrics["train/loss"])
    assert math.isfinite(trainer.callback_metrics["val/loss"])
    assert 0 <= trainer.callback_metrics["val/f1"] <= 100
    after = dict(module.model.named_parameters())
    embeddings = next(path for path, weight in after.items() if weight is module.model.get_input_embeddings().weight)
    head = [path for path, weight in after.items() if weight.ndim == 2][-1]  # its bias shifts all logits alike
    for path in (embeddings, head):
        assert not torch.equal(before[path], after[path])

    rows = data.validation_set.examples
    reader = Reader(module.model, load_tokenizer(folder), AnswerSettings(**WINDOWS))
    answers = reader.answer(rows["question"], rows["context"], batch_size=3)
    assert len(answers) == len(rows) == 5
    for answer, context, (_, example, validated) in zip(
        answers, rows["context"], module.predictions.rows(), strict=True
    ):
        assert answer.text == context[answer.start : answer.end] != ""
        assert example["context"] == context
        assert (answer.start, answer.end) == (validated.start, validated.end)
        assert answer.score == pytest.approx(validated.score, abs=1e-4)


def features_of(folder: str, contexts: list[str]) -> list[dict]:
    """The first window of each context, with an answer."""
    windower = Windower(load_tokenizer(folder), WindowSettings(**WINDOWS))
    spans = [(context.index("Ben"), context.index("Ben") + 3) for context in contexts]
    store = FeatureStore.of_batch(windower(["Who works?"] * len(contexts), contexts, spans))
    first = np.unique(store.windows["example"], return_index=True)[1]
    dataset = FeatureDataset(store, [], False)
    return [dataset[int(index)] for index in first]


def test_padding_changes_no_logit(saved) -> None:
    _, folder = saved
    features = features_of(folder, ["Ben lives.", "Ben works in the city.", FILLER * 5])
    model, collator = load_model(folder).eval(), PaddingCollator(load_tokenizer(folder))
    together = collator(features)
    assert len({feature["window"]["length"] for feature in features}) == 3
    with torch.inference_mode():
        padded = torch.stack(model_logits(model, together))
        for row, feature in enumerate(features):
            alone = torch.stack(model_logits(model, collator([feature])))[:, 0]
            torch.testing.assert_close(
                padded[:, row, together["attention_mask"][row] == 1], alone, atol=1e-5, rtol=1e-4
            )


def test_the_loss_of_a_window_is_that_of_the_models_own_head(saved) -> None:
    _, folder = saved
    model, collator = load_model(folder).eval(), PaddingCollator(load_tokenizer(folder))
    for feature in features_of(folder, ["Ben lives.", FILLER * 5]):
        batch = collator([feature])
        names = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
        with torch.inference_mode():
            own = model(**{name: batch[name] for name in names if name in batch}).loss
            assert span_loss(*model_logits(model, batch), batch).item() == pytest.approx(own.item(), abs=1e-5)


def test_models_that_know_token_types_are_given_them(saved, tmp_path) -> None:
    """transformers 5 leaves them out for ALBERT and XLNet: these then see question and context as one text."""
    name, folder = saved
    collator = PaddingCollator(load_tokenizer(folder))
    batch = collator(features_of(folder, ["Ben lives."]))
    if FAMILIES[name].types is None:
        assert (
            not batch.get("token_type_ids", torch.zeros(1)).any() or name == "deberta-v3"
        )  # which has no use for them
        return
    assert len(set(batch["token_type_ids"][0].tolist())) > 1
    model = load_model(folder).eval()
    with torch.inference_mode():
        right, blind = (
            model_logits(model, {**batch, "token_type_ids": types})[0]
            for types in (batch["token_type_ids"], torch.zeros_like(batch["token_type_ids"]))
        )
    assert not torch.allclose(right, blind, atol=1e-4)
    load_tokenizer(folder).save_pretrained(tmp_path)
    assert "token_type_ids" in type(tokenizer_of(name)).from_pretrained(tmp_path)("Who?", "Ben")  # whoever loads it


def test_what_a_tokenizer_was_saved_with_is_left_alone(tmp_path) -> None:
    tokenizer = FAMILIES["albert"].tokenizer()
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names = ["input_ids", "attention_mask"]
    with quiet_transformers():
        FAMILIES["albert"].model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).model_input_names == ["input_ids", "attention_mask"]


def test_a_tokenizer_without_a_model_beside_it_is_loaded(tmp_path) -> None:
    tokenizer_of("albert").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).model_input_names == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("name", ["bert cased", "roberta", "xlnet"])
def test_truncation_and_padding_that_came_with_a_tokenizer_change_no_window(name) -> None:
    tokenizer = FAMILIES[name].tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(16)
    tokenizer.backend_tokenizer.enable_padding(length=32)
    context, span = placed(WORDS["Arabic"])
    (one, other) = (
        Windower(each, SETTINGS)(["Who?"], [context], [span]) for each in (tokenizer, FAMILIES[name].tokenizer())
    )
    for field in ("windows", "input_ids", "token_type_ids", "char_start", "char_end"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_the_longest_input_that_a_model_has_positions_for(saved) -> None:
    name, folder = saved
    model = load_model(folder).eval()
    longest = max_positions(model)
    assert longest == FAMILIES[name].positions
    if longest is None:
        return
    with torch.inference_mode():
        for length in (longest, longest + 1):
            ids = torch.full((1, length), 5)
            if length > longest and name in TABLES:
                with pytest.raises((IndexError, RuntimeError)):
                    model(input_ids=ids, attention_mask=torch.ones_like(ids))
            else:
                assert model(input_ids=ids, attention_mask=torch.ones_like(ids)).start_logits.shape == (1, length)


# the families with a table of positions, which ends; positions of the others are relative
TABLES = {name for name in FAMILIES if name not in ("xlnet", "deberta-v3", "modernbert")}


def test_a_reader_asks_a_model_no_longer_windows_than_it_has_positions_for(saved) -> None:
    name, folder = saved
    reader = Reader.load(folder)
    assert reader.settings.max_length == (FAMILIES[name].positions or 384)
    context = FILLER * 30
    (answer,) = reader.answer(["Who works in Rome?"], [context])
    assert answer.text == context[answer.start : answer.end] != ""


def test_odd_texts_are_answered_or_refused(saved) -> None:
    _, folder = saved
    reader = Reader.load(folder)
    for context in ("\u200b", "\ufeff", "\x00", "\u0301", "e\u0301", "x" * 3000, "\r\n.\r\n", "👩‍👩‍👧" * 200):
        for question in ("Who?", "\u200b", "Who? " * 500):
            (answer,) = reader.answer([question], [context])
            assert answer.text == context[answer.start : answer.end]
            assert 0 < answer.score <= 1 + 1e-9
    with pytest.raises(InputError, match=r"question 1 holds half of a surrogate pair.*\ncontext 2 is empty"):
        reader.answer(["Who?", "W\ud800o?", "Who?"], ["Anna", "Anna", " \n"])


def test_a_slow_tokenizer_is_refused_with_the_models_name_and_a_cure(tmp_path) -> None:
    with quiet_transformers():
        CanineForQuestionAnswering(CanineConfig(**SIZES, num_hash_buckets=32)).save_pretrained(tmp_path)
    CanineTokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        Reader.load(str(tmp_path))
    (problem,) = caught.value.problems
    assert str(tmp_path) in problem
    assert "(CanineTokenizer) is a slow one" in problem
    assert "choose a model that has a fast tokenizer" in problem


def test_a_model_whose_kind_has_no_head_is_refused_with_its_name_and_a_cure(tmp_path) -> None:
    with quiet_transformers():
        GPTBigCodeForCausalLM(GPTBigCodeConfig(vocab_size=400, n_embd=32, n_layer=1, n_head=2)).save_pretrained(
            tmp_path
        )
    tokenizer_of("gpt2, no CLS").save_pretrained(tmp_path)
    for load in (Reader.load, load_model):
        with pytest.raises(InputError) as caught:
            load(str(tmp_path))
        (problem,) = caught.value.problems
        assert str(tmp_path) in problem
        assert "has no question answering head; choose an encoder such as bert-base-cased" in problem


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused_with_the_models_name_and_a_cure(saved, tmp_path) -> None:
    name, folder = saved
    tokenizer = load_tokenizer(folder)
    assert vocabulary_problem(load_model(folder), tokenizer) is None
    tokenizer.add_tokens(["<added>"])
    tokenizer.save_pretrained(tmp_path)
    model = load_model(folder)
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    size = len(tokenizer)
    with pytest.raises(InputError) as caught:
        Reader.load(str(tmp_path))
    (problem,) = caught.value.problems
    assert str(tmp_path) in problem
    assert f"a vocabulary of {size - 1:,} tokens, its {type(tokenizer_of(name)).__name__} one of {size:,}" in problem
    assert "save the model again after model.resize_token_embeddings(len(tokenizer))" in problem
    with quiet_transformers():
        model.resize_token_embeddings(size)  # the cure
        model.save_pretrained(tmp_path)
    Reader.load(str(tmp_path)).answer(["Who? <added>"], ["Anna <added>"])
