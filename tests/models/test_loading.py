from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import pytest
from transformers import BertConfig, BertForQuestionAnswering, RobertaConfig, RobertaForQuestionAnswering

from qa_lightning.data.sources import EMBEDDED_SIZES
from qa_lightning.data.synthetic import generate_examples
from qa_lightning.errors import InputError
from qa_lightning.models.loading import load_model, load_tokenizer, max_positions
from qa_lightning.models.tiny import create_tiny_model
from tests.helpers.families import FAMILIES, save
from tests.helpers.models import small_config


def _digests(folder: Path, results) -> None:
    create_tiny_model(folder)
    results.put({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})


@pytest.mark.slow
def test_the_tiny_model_is_the_same_in_every_process(tmp_path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        context.Process(target=_digests, args=(tmp_path / str(number), results)).start()
    first, second = results.get(timeout=120), results.get(timeout=120)
    assert first == second
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(first)


def test_the_tiny_model_knows_every_word_of_the_embedded_dataset() -> None:
    tokenizer = load_tokenizer("tiny")
    rows = generate_examples("validation", EMBEDDED_SIZES["validation"])
    texts = [text for row in rows for text in (row["question"], row["context"])]
    ids = [number for encoded in tokenizer(texts)["input_ids"] for number in encoded]
    assert tokenizer.unk_token_id not in ids
    assert set(tokenizer("a", "b")["token_type_ids"]) == {0, 1}
    assert max(ids) < load_model("tiny").config.vocab_size == len(tokenizer)


def test_models_come_in_training_mode(model_folder) -> None:
    assert load_model(model_folder).training


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: BertForQuestionAnswering(small_config(50)), 128),
        (
            lambda: RobertaForQuestionAnswering(
                RobertaConfig(**{**small_config(50).to_dict(), "model_type": "roberta", "pad_token_id": 1})
            ),
            126,
        ),
        (lambda: type("NoLimit", (), {"config": BertConfig(max_position_embeddings=-1)})(), None),
    ],
    ids=["bert", "roberta counts from its padding id on", "no limit"],
)
def test_positions_that_a_model_has(model, expected) -> None:
    assert max_positions(model()) == expected


def test_a_model_without_a_question_answering_head_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="no question answering head"):
        load_model(str(tmp_path))


def test_a_slow_tokenizer_is_refused(monkeypatch, model_folder) -> None:
    class Slow:
        is_fast = False

    monkeypatch.setattr("qa_lightning.models.loading.AutoTokenizer.from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(InputError, match=r"slow one and gives no character offsets; choose"):
        load_tokenizer(model_folder)


@pytest.mark.parametrize("attention", ["flash_attention_2", "nonsense"])
def test_an_attention_that_is_not_there_is_named_with_its_flag(model_folder, attention: str) -> None:
    with pytest.raises(InputError, match=rf"^--model.attn_implementation {attention}: .*choose sdpa or eager"):
        load_model(model_folder, attention)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_is_the_one_asked_for(model_folder, attention: str) -> None:
    assert load_model(model_folder, attention).config._attn_implementation == attention


def test_the_dropout_of_attention_is_the_one_asked_for(model_folder) -> None:
    assert load_model(model_folder, attention_dropout=0.3).config.attention_probs_dropout_prob == 0.3
    assert load_model(model_folder).config.attention_probs_dropout_prob == 0.1


def test_a_model_without_dropout_of_attention_alone_is_named(tmp_path) -> None:
    folder = save(FAMILIES["xlnet"], tmp_path)
    with pytest.raises(InputError, match=r"^--model.attention_dropout 0.0: XLNetConfig .* leave the flag out"):
        load_model(folder, attention_dropout=0.0)
