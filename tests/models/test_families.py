"""A model of every family loads as it was saved, trains a step, validates and answers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file, save_file
from transformers import (
    CanineConfig,
    CanineForQuestionAnswering,
    CanineTokenizer,
    ViTConfig,
    ViTModel,
)

from qa_lightning import QALightningModule, Reader, SquadDataModule, pipeline
from qa_lightning.cli.evaluate import evaluate
from qa_lightning.errors import InputError
from qa_lightning.features.batching import FeatureDataset, PaddingCollator
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.models.computing.loss import model_logits, span_loss
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import (
    load_answering_model,
    load_model,
    load_tokenizer,
    max_positions,
    vocabulary_problem,
)
from qa_lightning.models.settings import AnswerSettings
from tests.helpers.data import make_rows, write_json
from tests.helpers.families import FAMILIES, SIZES, save, tokenizer_of
from tests.helpers.texts import FILLER, PARTS, WORDS
from tests.helpers.training import QUIET

WINDOWS = {"max_length": 64, "doc_stride": 16, "max_question_length": 24}
# The families with a position table of limited size; the others have relative positions.
TABLES = {name for name in FAMILIES if name not in ("xlnet", "deberta-v3", "modernbert")}


@pytest.fixture(scope="module", params=list(FAMILIES))
def saved(request, tmp_path_factory) -> tuple[str, str]:
    """The name of a family, and the folder of an untrained model of it."""
    return request.param, save(FAMILIES[request.param], tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("data")
    train = write_json(folder / "train.json", make_rows(12, unanswerable=3, long=1))
    return train, write_json(folder / "validation.json", make_rows(5, long=2))


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
    assert not unused  # DDP waits for the gradient of every weight
    assert math.isfinite(trainer.callback_metrics["train/loss"])
    assert math.isfinite(trainer.callback_metrics["val/loss"])
    assert 0 <= trainer.callback_metrics["val/f1"] <= 100
    after = dict(module.model.named_parameters())
    embeddings = next(path for path, weight in after.items() if weight is module.model.get_input_embeddings().weight)
    head = [path for path, weight in after.items() if weight.ndim == 2][-1]  # its bias shifts all logits equally
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


def without(folder: str, lost: str, copy: Path) -> str:
    """A copy of a model without the tensors in whose names a text is."""
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if lost not in name}
    assert len(kept) < len(weights)
    save_file(kept, copy / "model.safetensors", {"format": "pt"})
    return str(copy)


def test_a_model_whose_files_lack_a_layer_does_not_answer_and_trains_with_a_line(saved, tmp_path, said) -> None:
    _, folder = saved
    load_answering_model(folder)
    weights, marks = load_file(f"{folder}/model.safetensors"), ("layer.1.", "layers.1.", "h.1.", "attention.dense.")
    last = next(mark for mark in marks if any(mark in path for path in weights))
    half = without(folder, last, tmp_path / "half")
    with pytest.raises(InputError, match=r"half' lacks \d+ tensors? that its config.json asks for \(the first: "):
        load_answering_model(half)
    assert not said.messages
    load_model(half)
    (line,) = said.messages
    assert "of the base model not in its files, random at the beginning" in line


def test_weights_that_no_answer_is_computed_from_may_be_missing(tmp_path, said) -> None:
    folder = without(save(FAMILIES["xlnet"], tmp_path / "xlnet"), "mask_emb", tmp_path / "without")
    load_answering_model(folder)
    load_model(folder)
    assert not said.messages


def test_a_config_that_is_not_of_its_weights_is_refused_by_all_that_answers(tmp_path, questions) -> None:
    folder = save(FAMILIES["bert cased"], tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for changes in ({"num_hidden_layers": 5}, {"model_type": "roberta", "pad_token_id": 1}):
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | changes))
        for answers in (
            lambda: Reader.load(folder),
            lambda: pipeline(folder),
            lambda: evaluate(["--model", folder, "--data", questions[1]]),
        ):
            with pytest.raises(InputError, match="weights do not belong together"):
                answers()


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
    """transformers 5 leaves them out for ALBERT and XLNet, which then see question and context as one text."""
    name, folder = saved
    collator = PaddingCollator(load_tokenizer(folder))
    batch = collator(features_of(folder, ["Ben lives."]))
    if FAMILIES[name].types is None:
        assert not batch.get("token_type_ids", torch.zeros(1)).any() or name == "deberta-v3"  # it does not use them
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
    # The saved tokenizer gives them without this package, too.
    assert "token_type_ids" in type(tokenizer_of(name)).from_pretrained(tmp_path)("Who?", "Ben")


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


def test_a_slow_tokenizer_is_refused_with_the_models_name_and_a_fix(tmp_path) -> None:
    with quiet_transformers():
        CanineForQuestionAnswering(CanineConfig(**SIZES, num_hash_buckets=32)).save_pretrained(tmp_path)
    CanineTokenizer().save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        Reader.load(str(tmp_path))
    (problem,) = caught.value.problems
    assert str(tmp_path) in problem
    assert "(CanineTokenizer) is a slow one" in problem
    assert "choose a model that has a fast tokenizer" in problem


def test_a_model_whose_kind_can_have_no_head_is_refused_with_its_name_and_a_fix(tmp_path) -> None:
    with quiet_transformers():
        ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    tokenizer_of("gpt2, no CLS").save_pretrained(tmp_path)
    for load in (Reader.load, load_model):
        with pytest.raises(InputError) as caught:
            load(str(tmp_path))
        (problem,) = caught.value.problems
        assert str(tmp_path) in problem
        assert "has no question answering head and can get none, as it reads no texts; choose an encoder" in problem


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused_with_the_models_name_and_a_fix(saved, tmp_path) -> None:
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
    assert f"a vocabulary of {size - 1:,} tokens, but its {type(tokenizer_of(name)).__name__} has {size:,}:" in problem
    assert "save the model again after model.resize_token_embeddings(len(tokenizer))" in problem
    with quiet_transformers():
        model.resize_token_embeddings(size)  # the fix
        model.save_pretrained(tmp_path)
    Reader.load(str(tmp_path)).answer(["Who? <added>"], ["Anna <added>"])
