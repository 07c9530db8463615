"""Models that transformers has no question answering class for train, are saved, and answer with and without us."""

from __future__ import annotations

import copy
import json
import math
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from transformers import AutoConfig, AutoModel, AutoModelForQuestionAnswering, AutoTokenizer

from qa_lightning import QALightningModule, Reader, SquadDataModule, pipeline
from qa_lightning.errors import InputError
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.models.computing import head
from qa_lightning.models.computing.layers import layer_names
from qa_lightning.models.folder import model_files
from qa_lightning.models.heads import LOADER, has_own_head
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import load_model, load_tokenizer
from qa_lightning.training.steps.optim import layer_depths
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.heads import DECODERS, ENCODERS, FEATURES, LOADS, WITH_CLASS, decoders_tokenizer, save_base
from tests.helpers.processes import finished
from tests.helpers.training import QUIET, SMALL, train_flags

OURS = [*ENCODERS, *DECODERS]


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("bases")
    return {kind: save_base(kind, folder / kind) for kind in (*OURS, *WITH_CLASS)}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_json(tmp_path_factory.mktemp("data") / "rows.json", make_rows(12, unanswerable=4, long=2))


def fitted(
    folder: str, data: str, epochs: int = 1, checkpoint: str | None = None, **flags
) -> tuple[QALightningModule, Trainer]:
    """A module after so many epochs of four steps, and its Trainer."""
    module = QALightningModule(folder, learning_rate=1e-2, **flags)
    trainer = Trainer(max_epochs=epochs, num_sanity_val_steps=0, **QUIET)
    trainer.fit(module, SquadDataModule(data, data, folder, **SMALL), ckpt_path=checkpoint, weights_only=True)
    return module, trainer


@pytest.mark.parametrize("kind", [*OURS, "qwen3"])
def test_a_model_trains_validates_is_saved_answers_and_goes_on(kind, bases, data, tmp_path) -> None:
    module, trainer = fitted(bases[kind], data)
    assert has_own_head(module.model) == (kind in OURS)
    assert math.isfinite(trainer.callback_metrics["val/loss"])
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    module.save(tmp_path / "model")
    assert (tmp_path / "model" / LOADER).is_file() == (kind in OURS)
    reader = Reader.load(str(tmp_path / "model"))
    examples = trainer.datamodule.validation_set.examples
    answers = reader.answer(examples["question"], examples["context"])
    for answer, context, (_, _, validated) in zip(answers, examples["context"], module.predictions.rows(), strict=True):
        assert answer.text == context[answer.start : answer.end]
        assert (answer.start, answer.end) == (validated.start, validated.end)
    question, context = examples["question"][0], examples["context"][0]
    assert pipeline(str(tmp_path / "model"))(question=question, context=context)["answer"] in context
    again, further = fitted(bases[kind], data, 2, str(tmp_path / "some.ckpt"))
    assert further.global_step == 2 * trainer.global_step
    assert not torch.equal(again.model.qa_outputs.weight, module.model.qa_outputs.weight)


def test_a_run_says_whose_head_it_is_and_its_model_is_scored_and_published(bases, data, tmp_path, capsys) -> None:
    assert commands.train(train_flags(tmp_path, bases["gemma3_text"], data, data)) == 0
    said = capsys.readouterr().out
    assert "head:      this package's, as transformers has none for Gemma3TextModel" in said
    assert "attention: in both directions" in said
    (folder,) = tmp_path.glob("lightning_logs/*/model")
    assert json.loads((folder / "config.json").read_text())["is_causal"] is False
    assert commands.evaluate(["--model", str(folder), "--data", data]) == 0
    assert commands.predict(["--model", str(folder), "--question", "Who?", "--context", "Anna lives in Oslo."]) == 0
    names, problems = model_files(folder)
    assert not problems
    assert LOADER in names


@pytest.mark.parametrize("kind", OURS)
def test_the_base_model_is_the_one_that_transformers_loads_before_and_after(kind, bases, tmp_path) -> None:
    ids = torch.tensor([[3, 4, 5, 6]])
    model = load_model(bases[kind], bidirectional=False if kind in DECODERS else None).eval()
    with quiet_transformers(), torch.inference_mode():
        expected = AutoModel.from_pretrained(bases[kind]).eval()(input_ids=ids).last_hidden_state
        torch.testing.assert_close(model.base_model(input_ids=ids).last_hidden_state, expected)
        model.save_pretrained(tmp_path)
        torch.testing.assert_close(
            AutoModel.from_pretrained(tmp_path).eval()(input_ids=ids).last_hidden_state, expected
        )
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(AutoConfig.from_pretrained(bases[kind]))


@pytest.mark.parametrize("kind", WITH_CLASS)
def test_a_class_of_transformers_begins_with_the_weights_of_the_base_model(kind, bases) -> None:
    model = load_model(bases[kind])
    with quiet_transformers():
        expected = AutoModel.from_pretrained(bases[kind]).state_dict()
    assert type(model) is AutoModelForQuestionAnswering._model_mapping[type(model.config)]
    own = model.base_model.state_dict()
    assert all(torch.equal(own[name], weight) for name, weight in expected.items())


@pytest.mark.parametrize("kind", ["modernvbert", "gemma3"])
def test_of_a_model_that_also_sees_the_text_part_is_taken(kind, data, tmp_path) -> None:
    folder = save_base(kind, tmp_path / "base")
    module, _ = fitted(folder, data)
    assert module.model.config.model_type == {"modernvbert": "modernbert", "gemma3": "gemma3_text"}[kind]
    assert not any("vision" in name for name, _ in module.model.named_parameters())
    with quiet_transformers():
        whole = AutoModel.from_pretrained(folder)
    part = whole.text_model if kind == "modernvbert" else whole.language_model
    fresh = load_model(folder).base_model.state_dict()
    assert all(torch.equal(fresh[name], weight) for name, weight in part.state_dict().items())
    module.save(tmp_path / "model")
    context = "Anna lives in Oslo."
    answer = Reader.load(str(tmp_path / "model")).answer(["Who?"], [context])[0]
    assert answer.text == context[answer.start : answer.end]


@pytest.mark.parametrize("kind", ["eurobert", "gemma3_text"])
def test_a_folder_is_loaded_without_this_package(kind, bases, data, tmp_path) -> None:
    module, _ = fitted(bases[kind], data)
    folder = tmp_path / "model"
    module.save(folder)
    assert (folder / LOADER).read_bytes() == Path(head.__file__).read_bytes()
    (tmp_path / "loads.py").write_text(LOADS)
    ended = finished([tmp_path / "loads.py", folder, tmp_path / "logits.pt"])
    assert ended.returncode == 0, ended.stderr
    tokenizer = load_tokenizer(str(folder))
    pair = tokenizer("Who lives in Oslo?", "Anna lives in Oslo.", return_tensors="pt")
    with torch.inference_mode():
        output = module.model.eval()(**pair)
    there = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(there, (output.start_logits, output.end_logits))


def test_a_model_is_copied_and_pickled(bases) -> None:
    model = load_model(bases["eurobert"]).eval()
    ids = torch.tensor([[3, 4, 5]])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(input_ids=ids).start_logits, model(input_ids=ids).start_logits)


def test_ids_beyond_the_vocabulary_are_read_as_padding(bases, tmp_path) -> None:
    """Gemma 3's tokenizer has a token for images that its text models have no embedding for."""
    folder = Path(shutil.copytree(bases["gemma3_text"], tmp_path / "model"))
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    model = load_model(str(folder))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids("<image>") == model.config.vocab_size
    context = "Anna <image> lives in Oslo."
    answer = Reader.load(str(folder)).answer(["Who <image> lives in Oslo?"], [context])[0]
    assert answer.text == context[answer.start : answer.end] != ""


def first_changes(model, mask: bool) -> bool:
    """Whether the first token's logit depends on the last token."""
    rows = [torch.tensor([[5, 6, 7, last]]) for last in (8, 9)]
    with torch.inference_mode():
        masks = [torch.ones_like(ids) if mask else None for ids in rows]
        outputs = [model.eval()(input_ids=ids, attention_mask=one) for ids, one in zip(rows, masks, strict=True)]
    first, second = (output.start_logits[0, 0] for output in outputs)
    return not torch.allclose(first, second, atol=1e-6)


@pytest.mark.parametrize("kind", [*DECODERS, *WITH_CLASS])
def test_a_decoder_attends_as_it_is_asked_to_with_and_without_padding(kind, bases, tmp_path) -> None:
    for asked, expected in ((None, True), (True, True), (False, False)):
        model = load_model(bases[kind], bidirectional=asked)
        with quiet_transformers():
            model.save_pretrained(tmp_path / str(asked))
        loaded = load_model(str(tmp_path / str(asked)))
        for mask in (True, False):
            assert first_changes(model, mask) == first_changes(loaded, mask) == expected
        with pytest.raises(InputError, match="which it was trained with; leave the flag out"):
            load_model(str(tmp_path / str(asked)), bidirectional=not expected)


def test_an_encoder_is_not_made_causal(bases) -> None:
    with pytest.raises(InputError, match=r"false: .* has attention in both directions, which transformers cannot ch"):
        load_model(bases["eurobert"], bidirectional=False)


def test_a_decoders_checkpoint_of_an_older_version_is_refused(bases, data, tmp_path) -> None:
    _, trainer = fitted(bases["qwen3"], data)
    trainer.save_checkpoint(tmp_path / "new.ckpt")
    checkpoint = torch.load(tmp_path / "new.ckpt", weights_only=True)
    del checkpoint["hyper_parameters"]["bidirectional"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    QALightningModule.load_from_checkpoint(tmp_path / "new.ckpt", weights_only=True)
    with pytest.raises(InputError, match="a decoder that was trained by an older version"):
        QALightningModule.load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True)


@pytest.mark.parametrize("kind", OURS)
def test_layers_and_backbone_are_those_of_the_base_model(kind, bases) -> None:
    module = QALightningModule(bases[kind], layer_decay=0.5)
    assert type(module.backbone) is head.base_class(type(module.model.config))
    assert len(layer_names(module.model)) == 2
    depths = layer_depths(module.model)
    assert {name for name, depth in depths.items() if depth == 3} == {"qa_outputs.weight", "qa_outputs.bias"}
    embeddings = module.model.get_input_embeddings().weight
    for name, weight in module.model.named_parameters():
        if weight is embeddings:
            assert depths[name] == 0
        elif ".layers." in name or ".layer." in name:
            assert depths[name] == 1 + int(name.split(".layer")[1].partition(".")[2].partition(".")[0])
    assert set(depths.values()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "vit"}, "reads no texts"),
        ({"model_type": "marian"}, "an encoder with a decoder"),
        ({"model_type": "t5gemma"}, "an encoder with a decoder"),
    ],
)
def test_what_cannot_have_a_head_is_refused_in_one_line(config, reason, tmp_path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as caught:
        load_model(str(tmp_path))
    (problem,) = caught.value.problems
    assert "has no question answering head and can get none" in problem
    assert reason in problem


FORMS = ("all", "no BOS", "no pad token", "EOS alone")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("form", FORMS)
def test_a_decoders_tokenizer_gets_a_last_token_that_stands_for_no_answer(form, side, tmp_path) -> None:
    tokenizer = decoders_tokenizer(*FEATURES[form], side=side)
    assert tokenizer.cls_token_id is tokenizer.sep_token_id is None
    folder = save_base("phi3", tmp_path / "base", tokenizer)
    load_tokenizer(folder).save_pretrained(tmp_path / "saved")
    for given in (load_tokenizer(folder), AutoTokenizer.from_pretrained(tmp_path / "saved")):
        bos, eos, pad = FEATURES[form]
        begin = [bos] if bos else []
        ids = given("Who", "Anna")["input_ids"]
        words = [given.tokenize(text) for text in ("Who", "Anna")]
        assert given.convert_ids_to_tokens(ids) == [*begin, *words[0], eos, *begin, *words[1], eos]
        assert (given.padding_side, given.cls_token, given.pad_token) == ("right", eos, pad or eos)
        contexts, spans = ["Anna lives in Oslo. " * 20, "Anna"], [(0, 4), None]
        batch = Windower(given, WindowSettings(40, 8, 12))(["Who lives in Oslo?"] * 2, contexts, spans)
        ends = batch.windows["length"].cumsum()
        assert len(ends) > 3
        for window, end in zip(batch.windows, ends, strict=True):
            assert window["cls"] == window["length"] - 1
            assert batch.input_ids[end - 1] == given.eos_token_id
            assert window["context_begin"] + window["context_length"] == window["cls"]
        assert (batch.windows["start"][1:] == batch.windows["cls"][1:]).all()
        assert batch.windows["start"][0] == batch.windows["context_begin"][0]


@pytest.mark.parametrize("side", ["right", "left"])
def test_without_special_tokens_a_token_of_the_question_stands_for_no_answer(side) -> None:
    """As for a decoder that others have trained to answer questions: its tokenizer stays as it is."""
    tokenizer = decoders_tokenizer(*FEATURES["no BOS"], side=side)
    (window,) = Windower(tokenizer, WindowSettings(40, 8, 12))(["Who?"], ["Anna lives."], [None]).windows
    context = range(window["context_begin"], window["context_begin"] + window["context_length"])
    assert window["cls"] not in context
    assert window["cls"] == (0 if side == "right" else window["length"] - 1) == window["start"]


def test_the_tokenizer_of_a_decoder_that_can_answer_is_left_alone(bases, tmp_path) -> None:
    model = load_model(bases["mistral"])
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    decoders_tokenizer(*FEATURES["all"], side="left").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.padding_side == "left"
    assert tokenizer.cls_token is None


def test_with_causal_attention_no_answer_is_read_where_all_was_seen(bases) -> None:
    model, tokenizer = (
        load_model(bases["gemma3_text"], bidirectional=False).eval(),
        load_tokenizer(bases["gemma3_text"]),
    )
    with torch.inference_mode():
        logits = [
            model(**tokenizer("Who?", context, return_tensors="pt")).start_logits[0] for context in ("Anna.", "Anne.")
        ]
    assert torch.equal(logits[0][0], logits[1][0])  # the first token has seen nothing
    assert not torch.equal(logits[0][-1], logits[1][-1])


def test_a_base_model_that_is_to_answer_is_refused_for_its_untrained_head(bases) -> None:
    with pytest.raises(InputError, match="no trained question answering head"):
        Reader.load(bases["eurobert"])
