"""A Trainer in a program or a notebook: what it says, what it refuses, and validate, test, predict and save."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, BertForQuestionAnswering, BertTokenizer

from qa_lightning import QALightningModule, Reader, SquadDataModule, pipeline
from qa_lightning.decoding.predictions import Answer
from qa_lightning.errors import InputError, Voice, speaking
from qa_lightning.models.folder import save_settings
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.runs.watching import StepLines
from qa_lightning.training import finish
from qa_lightning.training.callbacks import EpochLines
from tests.helpers import commands
from tests.helpers.data import make_rows, mixed_rows, write_json
from tests.helpers.models import small_config, small_tokenizer
from tests.helpers.training import QUIET, SMALL, train_flags


@pytest.fixture(autouse=True)
def _as_python() -> Iterator[None]:
    with speaking(Voice()):
        yield


@pytest.fixture
def module(model_folder) -> QALightningModule:
    torch.manual_seed(0)
    return QALightningModule(model_folder, learning_rate=1e-3)


@pytest.fixture
def data(model_folder) -> SquadDataModule:
    return SquadDataModule(mixed_rows(24, unanswerable=4), mixed_rows(12, unanswerable=3), model_folder, **SMALL)


@pytest.fixture
def other_folder(tmp_path) -> str:
    """A model with a tokenizer of other tokens, no more of them, so that its ids pass for those of the first model."""
    vocab = sorted(small_tokenizer().get_vocab())
    BertTokenizer(vocab={piece: number for number, piece in enumerate(vocab)}).save_pretrained(tmp_path / "other")
    BertForQuestionAnswering(small_config(len(vocab))).save_pretrained(tmp_path / "other")
    return str(tmp_path / "other")


def epoch_lines(printed: str) -> list[str]:
    return re.findall(r"epoch \d+/\d+ +EM[^\r\n]*", printed)  # a bar may have moved the cursor before


@pytest.mark.parametrize("bar", [False, True])
def test_a_fit_prints_the_scores_of_each_validation(module, data, capsys, bar) -> None:
    trainer = Trainer(max_epochs=2, **QUIET | {"enable_progress_bar": bar})
    trainer.fit(module, data)
    lines = epoch_lines(capsys.readouterr().out)
    assert [line[:9] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert f"EM {module.scores['exact']:>6.2f}  F1 {module.scores['f1']:.2f} (" in lines[-1]
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, data)  # a notebook's cell that is run again
    assert [line[:9] for line in epoch_lines(capsys.readouterr().out)] == ["epoch 3/3"]
    kinds = [type(callback) for callback in trainer.callbacks]
    assert kinds.count(EpochLines) == 1
    assert kinds.count(StepLines) == (not bar)


def test_lines_that_a_trainer_has_are_not_doubled(module, data, capsys) -> None:
    bar = TQDMProgressBar()
    trainer = Trainer(max_epochs=1, callbacks=[EpochLines(), bar], **QUIET | {"enable_progress_bar": True})
    trainer.fit(module, data)
    assert len(epoch_lines(capsys.readouterr().out)) == 1
    assert not any(isinstance(callback, StepLines) for callback in trainer.callbacks)


def test_validation_alone_and_test_print_a_line_unless_told_not_to(module, data, capsys) -> None:
    trainer = Trainer(**QUIET)
    validated = trainer.validate(module, data)[0]
    scores = (
        f"EM {validated['val/exact_match']:>6.2f}  F1 {validated['val/f1']:.2f} "
        f"({validated['val/best_f1']:.2f} at the best threshold)"
    )
    assert f"before training {scores}" in capsys.readouterr().out
    tested = trainer.test(module, data)[0]
    assert f"test            {scores}" in capsys.readouterr().out
    assert {name.replace("test/", "val/"): value for name, value in tested.items()} == validated
    assert len(validated) == 9  # EM, F1, loss, best F1 and its threshold, and the parts
    trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("limited", ["val", "test"])
def test_limits_of_a_test_are_its_own(module, data, limited) -> None:
    trainer = Trainer(**{f"limit_{limited}_batches": 1}, **QUIET)
    for name, call in (("test", trainer.test), ("val", trainer.validate)):
        call(module, data)
        assert len(module.predictions) == (SMALL["eval_batch_size"] if name == limited else 12)


def test_a_data_module_for_another_tokenizer_is_refused_at_fit(data, other_folder) -> None:
    other = QALightningModule(other_folder)
    for call in ("fit", "validate", "test", "predict"):
        with pytest.raises(InputError) as caught:
            getattr(Trainer(max_epochs=1, **QUIET), call)(other, data)
        assert caught.value.problems == [
            f"SquadDataModule was made for the tokenizer of {data.hparams['model_name']!r}, and QALightningModule has "
            f"the model {other_folder!r}, which reads other tokens: pass model_name={other_folder!r} to both"
        ]


def test_another_name_with_the_same_tokenizer_or_none_is_taken(tmp_path, data, model_folder) -> None:
    copy = Path(shutil.copytree(model_folder, tmp_path / "copy"))
    Trainer(fast_dev_run=True, **QUIET).fit(QALightningModule(str(copy)), data)
    for file in (*copy.glob("token*"), *copy.glob("vocab*")):
        file.unlink()
    Trainer(fast_dev_run=True, **QUIET).fit(QALightningModule(str(copy)), data)


def test_windows_that_the_model_has_no_positions_for_are_refused_at_fit(module, model_folder) -> None:
    data = SquadDataModule(make_rows(4), make_rows(4), model_folder)
    with pytest.raises(InputError, match=r"max_length=384 is more than the 128 positions of .*; pass max_length=128"):
        Trainer(max_epochs=1, **QUIET).fit(module, data)


@pytest.mark.parametrize("kind", ["DataFrame", "file"])
def test_predict_answers_questions_without_answers_in_their_order(tmp_path, module, model_folder, kind) -> None:
    rows = make_rows(70, long=3)
    asked = [{name: row[name] for name in ("id", "question", "context")} for row in rows]
    source = pd.DataFrame(asked) if kind == "DataFrame" else Path(write_json(tmp_path / "asked.json", asked))
    questions = SquadDataModule(None, source, model_folder, **SMALL | {"eval_batch_size": 2})
    batches = Trainer(**QUIET).predict(module, questions)
    assert [len(batch) for batch in batches] == [32, 32, 6]
    answers = [answer for batch in batches for answer in batch]
    assert all(isinstance(answer, Answer) for answer in answers)
    assert [answer.id for answer in answers] == [row["id"] for row in rows]
    assert all(
        row["context"][answer.start : answer.end] == answer.text for row, answer in zip(rows, answers, strict=True)
    )
    settings = AnswerSettings(**{name: SMALL[name] for name in ("max_length", "doc_stride", "max_question_length")})
    reader = Reader(module.model, questions.tokenizer, settings)
    for answer, expected in zip(
        answers, reader.answer(*zip(*((row["question"], row["context"]) for row in rows), strict=True)), strict=True
    ):
        assert (answer.text, answer.start) == (expected.text, expected.start)
        assert answer.score == pytest.approx(expected.score, abs=1e-5)


def test_predict_says_that_there_is_no_answer_as_the_training_did(module, data, model_folder) -> None:
    Trainer(fast_dev_run=True, **QUIET).fit(module, data)
    module.threshold = -1e9
    questions = SquadDataModule(None, make_rows(3), model_folder, **SMALL)
    (answers,) = Trainer(**QUIET).predict(module, questions)
    assert [answer.text for answer in answers] == [""] * 3


def test_predict_refuses_bad_questions_or_leaves_them_out(module, model_folder) -> None:
    rows = [{"question": "Who ?", "context": "Anna ."}, {"question": " ", "context": "Anna ."}]
    for refuses in ("error", "repair"):
        with pytest.raises(InputError, match=r"validation\[1\]: question is empty"):
            Trainer(**QUIET).predict(module, SquadDataModule(None, rows, model_folder, on_bad_rows=refuses, **SMALL))
    for skips in ("skip", "repair_or_skip"):
        data = SquadDataModule(None, rows, model_folder, on_bad_rows=skips, **SMALL)
        assert [len(answers) for answers in Trainer(**QUIET).predict(module, data)] == [1]
    some = [rows[1], *make_rows(5)]
    few = SquadDataModule(None, some, model_folder, max_validation_examples=2, on_bad_rows="skip", **SMALL)
    assert [len(answers) for answers in Trainer(**QUIET).predict(module, few)] == [2]  # as many as are validated on
    with pytest.raises(InputError, match="divided by context for training"):
        Trainer(**QUIET).predict(module, SquadDataModule(make_rows(5), None, model_folder, **SMALL))
    for fold in ("1/2", "all"):
        with pytest.raises(InputError, match="divided by fold for training"):
            Trainer(**QUIET).predict(module, SquadDataModule(make_rows(5), None, model_folder, fold=fold, **SMALL))
    with pytest.raises(InputError, match=r"trainer\.predict needs the questions of a SquadDataModule"):
        Trainer(**QUIET).predict(module, torch.utils.data.DataLoader([1]))


def test_predictions_print_as_a_table(module, data) -> None:
    Trainer(**QUIET).validate(module, data)
    lines = str(module.predictions).splitlines()
    assert lines[0] == "Predictions for 12 questions"
    assert lines[1].split() == ["question", "answer", "score"]
    rows = [(example["question"], answer) for _, example, answer in module.predictions.rows()]
    table = "\n".join(lines[3:])
    for question, answer in rows[:10]:
        assert question in table
        assert f"{answer.score:.3f}" in table
    assert lines[-1] == "... and 2 more"
    assert "array" not in str(module.predictions)
    assert all(len(line) <= 100 for line in lines)


def test_texts_in_the_table_are_shown_as_they_are_and_do_not_act(module, model_folder) -> None:
    rows = make_rows(2)
    rows[0]["question"] = "[red]Who[/red] \x1b[31m lives ?\n\tNow"
    Trainer(**QUIET).validate(module, SquadDataModule(None, rows, model_folder, **SMALL))
    assert "[red]Who[/red] \\x1b[31m lives ? Now" in str(module.predictions)


def test_save_writes_what_a_run_writes(tmp_path, monkeypatch, model_folder) -> None:
    monkeypatch.chdir(tmp_path)
    train, validation = (write_json(tmp_path / f"{n}.json", mixed_rows(n, unanswerable=n // 4)) for n in (24, 40))
    commands.train([*train_flags(tmp_path, model_folder, train, validation), "--trainer.max_epochs", "1"])
    run = tmp_path / "lightning_logs" / "version_0"
    windows = {"max_length": 48, "doc_stride": 12, "max_question_length": 12}
    data = SquadDataModule(train, validation, model_folder, batch_size=8, **windows)
    module = QALightningModule.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    Trainer(**QUIET).validate(module, data)
    module.save(tmp_path / "saved")
    names = {path.name for path in (run / "model").iterdir()}
    assert {path.name for path in (tmp_path / "saved").iterdir()} == names
    for name in names - {"model.safetensors", "config.json"}:
        assert (tmp_path / "saved" / name).read_bytes() == (run / "model" / name).read_bytes()
    one, other = (json.loads((folder / "config.json").read_text()) for folder in (run / "model", tmp_path / "saved"))
    assert other == one
    assert one["qa_lightning"]["fitted_to"]
    one, other = (load_file(folder / "model.safetensors") for folder in (run / "model", tmp_path / "saved"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_what_was_saved_answers_as_the_module_does(tmp_path, module, data) -> None:
    trainer = Trainer(max_epochs=1, **QUIET)
    trainer.fit(module, data)
    module.save(tmp_path / "saved")
    reader = Reader.from_pretrained(tmp_path / "saved", device="cpu")
    assert reader.settings.windows == data.settings
    assert reader.settings.version_2
    assert not reader.settings.fitted_to
    examples = [(example, answer) for _, example, answer in module.predictions.rows()]
    found = reader.answer(*zip(*((one["question"], one["context"]) for one, _ in examples), strict=True))
    assert [answer.text for answer in found] == [answer.text for _, answer in examples]
    asked = {name: examples[0][0][name] for name in ("question", "context")}
    assert pipeline(tmp_path / "saved", device=-1)(**asked)["answer"]
    assert AutoModelForQuestionAnswering.from_pretrained(tmp_path / "saved").config.model_type == "bert"


def test_a_threshold_is_fitted_to_the_weights_that_are_saved(tmp_path, module, data) -> None:
    def fitted_to() -> str:
        module.save(tmp_path / "saved")
        return json.loads((tmp_path / "saved" / "config.json").read_text())["qa_lightning"]["fitted_to"]

    trainer = Trainer(max_epochs=1, **QUIET)
    assert fitted_to() == ""
    trainer.validate(module, data)
    assert fitted_to() == data.fingerprint("validation")
    trainer.test(module, data)  # a test is not to be fitted to
    trainer.predict(module, data)
    assert fitted_to() == data.fingerprint("validation")
    trainer.fit(module, data)
    assert fitted_to() == ""


def test_a_threshold_and_its_fingerprint_are_those_of_the_same_questions(tmp_path, module, data, model_folder) -> None:
    """A validation on data of the other kind fits nothing, and so changes neither."""
    trainer = Trainer(fast_dev_run=True, **QUIET)
    trainer.fit(module, data)
    trainer.validate(module, data, verbose=False)
    other = SquadDataModule(None, make_rows(3), model_folder, **SMALL)  # all have answers
    trainer.validate(module, other, verbose=False)
    module.save(tmp_path / "saved")
    fitted_to = json.loads((tmp_path / "saved" / "config.json").read_text())["qa_lightning"]["fitted_to"]
    assert fitted_to == data.fingerprint("validation")


def test_settings_of_other_data_that_is_only_answered_are_not_saved(module, data, model_folder) -> None:
    trainer = Trainer(fast_dev_run=True, **QUIET)
    trainer.fit(module, data)
    trained = module.answer_settings
    other = SquadDataModule(None, make_rows(3), model_folder, **SMALL | {"max_length": 40, "doc_stride": 8})
    for call in (trainer.validate, trainer.test, trainer.predict):
        call(module, other)
    assert module.answer_settings == trained


def test_a_checkpoint_brings_how_its_model_is_asked(tmp_path, module, data) -> None:
    trainer = Trainer(fast_dev_run=True, **QUIET)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = QALightningModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert loaded.answer_settings == module.answer_settings
    assert asdict(loaded.answer_settings.windows) == asdict(data.settings)
    assert loaded.answer_settings.version_2
    with pytest.raises(InputError, match="dataset was a list in memory when this was saved; pass it again"):
        SquadDataModule.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    again = SquadDataModule.load_from_checkpoint(
        tmp_path / "last.ckpt", weights_only=True, dataset=make_rows(2), validation=make_rows(2)
    )
    assert again.settings == data.settings


def test_a_model_of_a_checkpoint_is_said_to_be_not_fitted(tmp_path, module, data, caplog) -> None:
    caplog.set_level("INFO", "qa_lightning")
    trainer = Trainer(fast_dev_run=True, **QUIET)
    trainer.fit(module, data)
    trainer.save_checkpoint(path := tmp_path / "best.ckpt")
    finish.save_checkpoint_as_model(path)
    assert "its threshold and temperature are not fitted, as a run does at its end: `" in caplog.text


def test_a_checkpoint_becomes_a_model(tmp_path, module, data) -> None:
    trainer = Trainer(fast_dev_run=True, **QUIET)
    trainer.fit(module, data)
    trainer.save_checkpoint(path := tmp_path / "best.ckpt")
    assert commands.export(["--model", str(path), "--format", "transformers", "--output", str(tmp_path / "out")]) == 0
    assert finish.save_checkpoint_as_model(path) == tmp_path / "best"
    for folder in ("out", "best"):
        assert Reader.from_pretrained(tmp_path / folder).settings == module.answer_settings
    with pytest.raises(InputError, match="out is there; pass --overwrite to replace it"):
        commands.export(["--model", str(path), "--format", "transformers", "--output", str(tmp_path / "out")])
    assert finish.save_checkpoint_as_model(path, tmp_path / "out", overwrite=True) == tmp_path / "out"
    trainer.save_checkpoint(alone := tmp_path / "alone.ckpt", weights_only=True)
    assert finish.save_checkpoint_as_model(alone) == tmp_path / "alone"
    runs = tmp_path / "runs"
    (runs / "version_0").mkdir(parents=True)
    for folder, words in ((tmp_path, "is or contains the checkpoint itself"), (runs, "has no model but version_0")):
        with pytest.raises(InputError, match=words):
            finish.save_checkpoint_as_model(path, folder, overwrite=True)
    assert runs.is_dir()
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="the file is damaged or not a checkpoint"):
        finish.save_checkpoint_as_model(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path, module) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the model could not be written to"):
        module.save(tmp_path / "file" / "model")


def test_arguments_of_the_module_of_other_types_are_named(model_folder) -> None:
    with pytest.raises(InputError) as caught:
        QALightningModule(
            model_folder,
            learning_rate="2e-5",
            max_answer_length=30.0,
            compile="true",
            attn_implementation=1,
            mixed_script="kanna",
            n_best=None,
        )
    assert caught.value.problems == [
        "learning_rate is '2e-5', a text; it must be a number: write it without quotes",
        "max_answer_length is 30.0, of type float; it must be a whole number",
        "n_best is None; it must be a whole number",
        "attn_implementation is 1, of type int; it must be a text",
        "mixed_script is 'kanna'; it must be one of True, False, mlqa, kana or korquad; did you mean kana?",
        "compile is 'true', a text; it must be True or False",
    ]
    with pytest.raises(InputError, match="model_name is 5, of type int; it must be a text"):
        QALightningModule(5)
    assert QALightningModule(Path(model_folder), learning_rate=1).hparams["model_name"] == model_folder


def test_a_folder_that_knows_how_it_is_asked_is_asked_so(tmp_path, model_folder) -> None:
    lengths = {"max_length": 64, "doc_stride": 16, "max_question_length": 12}
    saved = AnswerSettings(version_2=True, null_score_diff_threshold=-30.0, temperature=2.0, **lengths)
    folder = shutil.copytree(model_folder, tmp_path / "model")
    save_settings(saved, folder)
    module = QALightningModule(str(folder))
    assert module.answer_settings == saved
    trainer = Trainer(**QUIET)
    rows = [{name: row[name] for name in ("question", "context")} for row in make_rows(3)]
    (answers,) = trainer.predict(module, SquadDataModule(None, rows, str(folder), **SMALL))
    assert [answer.text for answer in answers] == [""] * 3  # as its threshold says
    module.save(tmp_path / "copy")
    assert Reader.load(tmp_path / "copy", device="cpu").settings == saved
    data = SquadDataModule(mixed_rows(8), mixed_rows(8), str(folder), **SMALL)
    Trainer(fast_dev_run=True, **QUIET).fit(module, data)
    assert module.answer_settings.null_score_diff_threshold == 0.0  # it was trained: the threshold is another one's


def test_a_file_that_changes_or_goes_while_it_is_trained_on_changes_nothing(tmp_path, module, model_folder) -> None:
    path = write_json(tmp_path / "train.json", make_rows(16))
    data = SquadDataModule(path, path, model_folder, **SMALL)
    key, saved = data.prepared("train").features_folder.name, []
    trainer = Trainer(max_epochs=2, **QUIET)

    class Changes(Callback):
        def on_train_epoch_end(self, trainer, pl_module) -> None:
            Path(path).unlink() if saved else write_json(Path(path), make_rows(9))
            saved.append(data.state_dict()["order"]["training data"])

    trainer.callbacks.append(Changes())
    trainer.fit(module, data)
    assert saved == [key] * 2


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
def test_a_fit_after_a_resumed_one_begins_at_its_first_batch(tmp_path, model_folder, data) -> None:
    def trainer() -> Trainer:
        saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
        return Trainer(max_epochs=1, **{**QUIET, "enable_checkpointing": True}, callbacks=[saves])

    trainer().fit(QALightningModule(model_folder), data)
    trainer().fit(QALightningModule(model_folder), data, ckpt_path=tmp_path / "step=2.ckpt")
    again = Trainer(max_epochs=1, **QUIET)
    again.fit(QALightningModule(model_folder), data)
    assert again.global_step == len(data.train_dataloader())


def test_arguments_count_more_than_what_the_folder_says(tmp_path, module, data) -> None:
    trainer = Trainer(fast_dev_run=True, **QUIET)
    trainer.fit(module, data)
    module.save(tmp_path / "model")
    folder = str(tmp_path / "model")
    assert QALightningModule(folder).answer_settings == Reader.from_pretrained(folder).settings
    given = QALightningModule(folder, null_score_diff_threshold=-5.0, max_answer_length=7).answer_settings
    assert (given.null_score_diff_threshold, given.max_answer_length) == (-5.0, 7)
    assert given.windows == data.settings


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_a_fit_after_a_pipeline_trains_with_dropout(module, data) -> None:
    training: list[bool] = []

    class Modes(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            training.append(all(part.training for part in pl_module.model.modules()))

    def fit() -> None:
        Trainer(max_steps=1, limit_val_batches=0, callbacks=Modes(), **QUIET).fit(module, data)

    fit()
    pipeline(model=module.model, tokenizer=data.tokenizer, device=-1)
    assert not module.model.training
    fit()
    module.model.train()
    module.backbone.eval()  # on purpose
    fit()
    assert training == [True, True, False]
    assert not module.backbone.training


def test_the_warning_of_modules_in_eval_mode_is_hidden_for_frozen_layers_alone(model_folder, data) -> None:
    def fit(module: QALightningModule) -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            before = [*warnings.filters]
            Trainer(max_steps=1, limit_val_batches=0, **QUIET).fit(module, data)
            assert warnings.filters == before
            warnings.warn("Found 3 module(s) in eval mode at the start of training.", stacklevel=1)
        return [str(one.message) for one in caught if "in eval mode" in str(one.message)]

    assert len(fit(QALightningModule(model_folder, freeze_layers=1))) == 1
    half = QALightningModule(model_folder)
    half.backbone.eval()
    assert len(fit(half)) == 2
    broken = QALightningModule(model_folder, freeze_layers=1, cuda_graphs=True)  # refused after the filter is set
    with pytest.raises(InputError, match="cuda_graphs=True: it needs a CUDA GPU"):
        fit(broken)
    assert broken._hidden is None


def test_a_further_fit_of_a_trainer_ends_with_the_rate_0(module, data) -> None:
    rates: list[float] = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    trainer = Trainer(max_epochs=1, limit_val_batches=0, callbacks=Rates(), **QUIET)
    trainer.fit(module, data)
    first = rates.copy()
    rates.clear()
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, data)
    assert len(rates) == 2 * len(first)
    for seen in (first, rates):
        assert seen == pytest.approx([1e-3 * (len(seen) - step) / len(seen) for step in range(len(seen))])


def test_a_part_of_the_validation_stays_a_part_in_the_trainer(module, model_folder) -> None:
    data = SquadDataModule(make_rows(8), make_rows(12), model_folder, **SMALL)  # three batches
    trainer = Trainer(max_steps=1, limit_val_batches=0.7, limit_test_batches=0.4, **QUIET)
    seen: list[tuple[float, float]] = []

    class Limits(Callback):
        def on_validation_start(self, trainer, pl_module) -> None:
            seen.append((trainer.limit_val_batches, sum(trainer.num_val_batches)))

        on_sanity_check_start = on_validation_start

    trainer.callbacks.append(Limits())
    trainer.fit(module, data)
    assert trainer.limit_val_batches == 0.7
    trainer.validate(module, data, verbose=False)
    trainer.test(module, data, verbose=False)
    assert (trainer.limit_val_batches, trainer.limit_test_batches) == (0.7, 0.4)
    assert {two for two in seen if two[1]} == {(2, 2)}
    data = SquadDataModule(make_rows(8), make_rows(24), model_folder, **SMALL)  # twice as many
    trainer.validate(module, data, verbose=False)
    assert seen[-1] == (4, 4)
