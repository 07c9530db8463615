from __future__ import annotations

import hashlib
import multiprocessing
from pathlib import Path

import pytest
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    LongformerConfig,
    LongformerForQuestionAnswering,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from qa_lightning import Reader, pipeline
from qa_lightning.data.sources import EMBEDDED_SIZES
from qa_lightning.data.synthetic import generate_examples
from qa_lightning.errors import InputError
from qa_lightning.models.loading import load_model, load_tokenizer, max_positions
from qa_lightning.models.tiny import create_tiny_model
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.families import FAMILIES, save
from tests.helpers.models import small_config, small_tokenizer
from tests.helpers.training import train_flags


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


def _longformer(folder: Path) -> str:
    """An untrained Longformer with a tokenizer of BERT's layout: two separators, where the model counts three."""
    tokenizer = small_tokenizer()
    sizes = small_config(len(tokenizer)).to_dict()
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    config = LongformerConfig(
        **{name: sizes[name] for name in names},
        attention_window=16,
        max_position_embeddings=130,
        sep_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LongformerForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_with_other_separators_than_its_model_counts_is_refused_in_one_line(tmp_path) -> None:
    model, data = _longformer(tmp_path / "model"), write_json(tmp_path / "rows.json", make_rows(8))
    for call in (
        lambda: commands.train(train_flags(tmp_path, model, data, data)),
        lambda: commands.evaluate(["--model", model, "--data", data]),
        lambda: Reader.load(model),
        lambda: pipeline(model),
    ):
        with pytest.raises(InputError) as caught:
            call()
        (problem,) = caught.value.problems
        assert "finds the question by 3 separators" in problem
        assert "BertTokenizer writes 2" in problem


def test_a_longformer_with_its_own_layout_is_taken(tmp_path) -> None:
    folder = _longformer(tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    ids = [("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ids
    )
    special = {name: f"[{name[:3].upper()}]" for name in ("cls_token", "sep_token", "pad_token", "unk_token")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special).save_pretrained(folder)
    assert Reader.load(folder).answer(["Who lives in Rome ?"], ["Anna lives in Rome ."])[0].text
