"""A run that was cut off and resumed ends, to the last bit, as a run that was never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.loggers.logger import DummyLogger

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.errors import InputError
from qa_lightning.runs import checkpoints
from qa_lightning.runs.checkpoints import LastCheckpoint
from qa_lightning.runs.resume import find_beginning, read_beginning
from qa_lightning.runs.signals import Stop
from qa_lightning.training import run as run_module
from tests.helpers import commands
from tests.helpers.data import mixed_rows, write_json
from tests.helpers.kill_and_resume import curves, differences
from tests.helpers.processes import TRAIN, Started, environment, finished
from tests.helpers.training import AVERAGED, Crash, CrashError, crash, train_flags


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "train": write_json(folder / "train.json", mixed_rows(90, unanswerable=9, long=3)),
        "validation": write_json(folder / "validation.json", mixed_rows(50, long=2)),
    }


def arguments(root: Path, model: str, data: dict[str, str], *more: str) -> list[str]:
    given = train_flags(root, model, data["train"], data["validation"])
    return [*given, "--trainer.max_epochs", "2", "--data.eval_batch_size", "16", "--save_every_minutes", "0", *more]


RARELY = ("--save_every_minutes", "60")  # after validations and epochs alone, in a short run

KINDS = {
    "plain": [],
    "accumulated": ["--trainer.accumulate_grad_batches", "2", "--data.batch_size", "4"],
    "validated_within_epochs": ["--trainer.val_check_interval", "0.3", "--data.batching", "random"],
    "validated_within_steps": ["--trainer.val_check_interval", "5", "--trainer.accumulate_grad_batches", "2"],
    "by_tokens": ["--data.tokens_per_batch", "200", "--trainer.accumulate_grad_batches", "2"],
    "ended_by_steps": ["--trainer.max_steps", "10"],  # an epoch has 14
    "ended_by_later_steps": ["--trainer.max_steps", "20", "--trainer.max_epochs", "-1"],
    "ended_by_steps_with_an_epoch": ["--trainer.max_steps", "14"],
    "ended_in_an_odd_epoch": ["--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "1"],
    "ended_after_an_epoch_of_two": [
        *("--trainer.callbacks+", "qa_lightning.training.callbacks.StopAfter", "--trainer.callbacks.epochs", "1"),
    ],
    "ended_early_after_some_steps": [
        *("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/f1"),
        *("--trainer.callbacks.mode", "max", "--trainer.callbacks.stopping_threshold", "-1"),
        *("--trainer.min_steps", "20", "--trainer.max_epochs", "3"),
    ],
    "with_workers": ["--data.num_workers", "1"],
    "averaged": [*AVERAGED],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_folder, data):
    """Trains a run of each kind without stopping it, once; returns the run's folder."""
    done: dict[str, Path] = {}

    def run(kind: str) -> Path:
        if kind not in done:
            root = tmp_path_factory.mktemp(kind)
            assert commands.train(arguments(root, model_folder, data, *KINDS[kind], *RARELY)) == 0
            done[kind] = root / "lightning_logs" / "version_0"
        return done[kind]

    return run


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "hook", "epoch", "batch"),
    [
        ("plain", "batch", 0, 0),  # before the first checkpoint
        ("plain", "step", 0, 7),
        ("plain", "step", 1, 0),  # after the checkpoint of an epoch's end
        ("plain", "batch", 1, 12),
        ("plain", "validation", 1, 2),
        ("plain", "epoch", 0, 0),  # after the best checkpoint was due, before the last
        ("accumulated", "batch", 0, 6),  # half of an optimizer step is done
        ("accumulated", "validation", 0, 1),
        ("validated_within_epochs", "validation", 0, 1),
        ("validated_within_epochs", "batch", 0, 5),
        ("validated_within_epochs", "epoch", 0, 0),
        ("validated_within_steps", "validation", 0, 1),
        ("validated_within_steps", "batch", 0, 5),
        ("ended_by_later_steps", "validation", 0, 1),
        ("ended_by_later_steps", "epoch", 0, 0),
        ("ended_by_later_steps", "step", 1, 0),
        ("ended_by_later_steps", "batch", 1, 2),
        ("by_tokens", "batch", 1, 4),
        ("with_workers", "batch", 1, 5),
        ("averaged", "batch", 0, 5),
        ("averaged", "validation", 0, 1),
        ("averaged", "epoch", 0, 0),
    ],
)
def test_a_run_that_was_cut_off_ends_as_one_that_was_not(
    tmp_path, model_folder, data, whole, monkeypatch, kind, hook, epoch, batch
) -> None:
    expected = whole(kind)
    given = arguments(tmp_path, model_folder, data, *KINDS[kind])
    crash(monkeypatch, Crash(hook, epoch, batch), given)
    assert commands.train([*given, *RARELY, "--ckpt_path", "last"]) == 0
    (run,) = (tmp_path / "lightning_logs").iterdir()
    assert differences(expected, run) == []
    steps = [step for step, _ in curves(run)["train/loss"]]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("plain", 14),
        ("plain", 28),
        ("averaged", 14),
        ("accumulated", 28),
        ("ended_by_steps", 10),
        ("ended_by_steps_with_an_epoch", 14),
        ("ended_in_an_odd_epoch", 14),
        ("ended_after_an_epoch_of_two", 14),
        ("ended_early_after_some_steps", 20),
    ],
)
def test_a_run_that_was_stopped_in_a_validation_ends_as_one_that_was_not(
    tmp_path, model_folder, data, whole, monkeypatch, kind, step
) -> None:
    """It is stopped twice: also when it repeats the validation."""
    given = arguments(tmp_path, model_folder, data, *KINDS[kind], *RARELY)
    agree = LastCheckpoint._agree

    def asked(self, trainer) -> tuple[bool, Stop]:
        stops = trainer.validating and trainer.global_step == step
        return (False, Stop.TERMINATE) if stops else agree(self, trainer)

    def begin(self, trainer, *_) -> None:  # it would stop here already
        if isinstance(trainer.fit_loop, checkpoints._ResumedLoop):
            trainer.fit_loop.begin_validation()

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "_agree", asked)
        patch.setattr(LastCheckpoint, "on_validation_start", begin)
        assert commands.train(given) == 143
        assert commands.train([*given, "--ckpt_path", "last"]) == 143
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    assert differences(whole(kind), tmp_path / "lightning_logs" / "version_0") == []


def test_a_run_that_was_out_of_time_repeats_the_validation_that_it_was_stopped_in(
    tmp_path, model_folder, data, monkeypatch
) -> None:
    """Its clock counts batches here."""

    def count(self, trainer, *_) -> None:
        self.batches = getattr(self, "batches", 0) + 1
        self._check_time_remaining(trainer)

    monkeypatch.setattr(Timer, "on_train_batch_end", count)
    monkeypatch.setattr(Timer, "time_elapsed", lambda self, *_: self._offset + getattr(self, "batches", 0))
    ten = ("--trainer.max_time", "00:00:00:10")  # an epoch has 14
    whole = arguments(tmp_path / "whole", model_folder, data, *ten, *RARELY)
    assert commands.train(whole) == 0
    given = arguments(tmp_path, model_folder, data, *ten, *RARELY)
    agree = LastCheckpoint._agree
    with monkeypatch.context() as patch:
        asked = lambda self, trainer: (False, Stop.TERMINATE) if trainer.validating else agree(self, trainer)  # noqa: E731
        patch.setattr(LastCheckpoint, "_agree", asked)
        assert commands.train(given) == 143
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    assert differences(tmp_path / "whole" / "lightning_logs" / "version_0", run) == []
    assert [step for step, _ in curves(run)["val/f1"]] == [9]


@pytest.mark.parametrize("every", ["1.0", "0.3"])
def test_a_run_that_stopped_early_trains_no_further_where_it_was_stopped_at_its_end(
    tmp_path, model_folder, data, monkeypatch, capsys, every
) -> None:
    early = (
        *("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/f1"),
        *("--trainer.callbacks.mode", "max", "--trainer.callbacks.patience", "9"),
        *("--trainer.callbacks.stopping_threshold", "-1", "--trainer.val_check_interval", every),
    )
    whole = arguments(tmp_path / "whole", model_folder, data, *early)
    assert commands.train(whole) == 0
    given = arguments(tmp_path, model_folder, data, *early)
    with monkeypatch.context() as patch:

        def stop(*_, **__) -> None:
            raise CrashError

        patch.setattr(run_module, "finish", stop)
        with pytest.raises(CrashError):
            commands.train(given)
    capsys.readouterr()
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    assert "early stopping: val/f1 is above its stopping_threshold -1" in capsys.readouterr().out
    assert (
        differences(tmp_path / "whole" / "lightning_logs" / "version_0", tmp_path / "lightning_logs" / "version_0")
        == []
    )

    assert commands.train([*given, "--ckpt_path", "last", "--trainer.max_epochs", "4"]) == 0  # a finished one does
    assert len(list((tmp_path / "lightning_logs").iterdir())) == 2


def test_the_comparison_sees_what_differs(tmp_path, model_folder, data, whole) -> None:
    """The comparison can fail: another seed gives different weights and curves."""
    assert commands.train([*arguments(tmp_path, model_folder, data, *RARELY), "--seed_everything", "1"]) == 0
    found = differences(whole("plain"), tmp_path / "lightning_logs" / "version_0")
    assert {"last.ckpt: state_dict", "best.ckpt: optimizer_states", "model.safetensors", "curve train/loss"} <= {*found}


def test_dropout_is_drawn_anew_in_each_step_and_on_each_process(model_folder, monkeypatch) -> None:
    module = QALightningModule(model_folder)
    drawn = set()
    for rank in (0, 1):
        for batch in range(3):
            trainer = type("Stub", (), {"current_epoch": 0, "global_rank": rank})()
            monkeypatch.setattr(QALightningModule, "trainer", trainer)
            module.on_train_batch_start({}, batch)
            drawn.add(float(torch.rand(())))
    assert len(drawn) == 6


def test_a_run_that_goes_on_draws_dropout_by_the_seed_that_it_began_with(model_folder, monkeypatch) -> None:
    """The second start's own seed has no effect."""
    monkeypatch.setattr(
        QALightningModule, "trainer", SimpleNamespace(current_epoch=1, global_rank=0, lr_scheduler_configs=[])
    )

    def started(seed: int, checkpoint: dict | None = None) -> QALightningModule:
        module = QALightningModule(model_folder)
        if checkpoint is not None:
            module.on_load_checkpoint(checkpoint)
        torch.manual_seed(seed)
        module.on_train_start()
        return module

    def drawn(module: QALightningModule) -> list[float]:
        module.on_train_batch_start({}, 5)
        return torch.rand(4).tolist()

    first = started(1)
    checkpoint: dict = {}
    first.on_save_checkpoint(checkpoint)
    second = started(2, checkpoint)
    assert drawn(second) == drawn(first)
    assert drawn(started(2)) != drawn(first)
    again: dict = {}
    second.on_save_checkpoint(again)
    assert drawn(started(3, again)) == drawn(first)


def test_other_batches_within_an_epoch_are_refused_and_between_epochs_are_not(
    tmp_path, model_folder, data, monkeypatch
) -> None:
    given = arguments(tmp_path, model_folder, data)
    crash(monkeypatch, Crash("batch", 0, 5), given)
    with pytest.raises(InputError, match=r"after batch 5 of epoch 1.*--data.batch_size was 8, is 4.*end of an epoch"):
        commands.train([*given, "--ckpt_path", "last", "--data.batch_size", "4"])
    with pytest.raises(InputError, match=r"after batch 5 of epoch 1.*--trainer.limit_train_batches was 1.0, is 0.5"):
        commands.train([*given, "--ckpt_path", "last", "--trainer.limit_train_batches", "0.5"])
    root = tmp_path / "other"
    given = arguments(root, model_folder, data)
    crash(monkeypatch, Crash("batch", 1, 0), given)
    assert commands.train([*given, "--ckpt_path", "last", "--data.batch_size", "4"]) == 0


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_renamed_run_that_is_all_trained_writes_its_best_model(tmp_path, model_folder, data, monkeypatch) -> None:
    given = arguments(tmp_path, model_folder, data)
    given_log = QALightningModule.log
    worse = lambda self, name, value, **more: given_log(  # noqa: E731
        self, name, value * (name != "val/f1" or self.current_epoch == 0), **more
    )
    monkeypatch.setattr(QALightningModule, "log", worse)
    assert commands.train(given) == 0
    first = (tmp_path / "lightning_logs" / "version_0").rename(tmp_path / "lightning_logs" / "first")
    assert commands.train([*given, "--ckpt_path", str(first / "checkpoints" / "last.ckpt")]) == 0
    again = tmp_path / "lightning_logs" / "version_0"
    assert torch.load(again / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 14
    weights = [(run / "model" / "model.safetensors").read_bytes() for run in (first, again)]
    assert weights[0] == weights[1]


def test_the_best_of_later_steps_is_not_that_of_an_earlier_checkpoint(tmp_path, model_folder, data) -> None:
    given = arguments(tmp_path, model_folder, data)
    assert commands.train([*given, "--trainer.max_epochs", "1"]) == 0
    folder = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
    early = (folder / "last.ckpt").rename(folder / "early.ckpt")
    (folder / "best.ckpt").unlink()
    assert commands.train([*given, "--ckpt_path", str(early)]) == 0
    (tmp_path / "lightning_logs" / "version_1" / "checkpoints" / "best.ckpt").rename(folder / "best.ckpt")
    assert commands.train([*given, "--ckpt_path", str(early), "--trainer.limit_train_batches", "0.1"]) == 0
    again = tmp_path / "lightning_logs" / "version_2" / "checkpoints" / "best.ckpt"
    assert torch.load(again, weights_only=True)["global_step"] == 15


def test_a_run_that_went_on_from_its_own_best_checkpoint_keeps_its_curves(tmp_path, model_folder, data) -> None:
    """It was stopped twice before its last checkpoint could be written: the best one says where its curves end."""
    given = arguments(tmp_path, model_folder, data, "--trainer.max_epochs", "1")
    assert commands.train(given) == 0
    folder = tmp_path / "lightning_logs" / "version_0"
    (folder / "checkpoints" / "last.ckpt").unlink()
    best = folder / "checkpoints" / "best.ckpt"
    for resumed_from in (None, str(best)):
        start = {"started": "2026-01-01T08:00:00+00:00", "resumed_from": resumed_from}
        (folder / "run.json").write_text(json.dumps([start]))
        begun = find_beginning("last", tmp_path / "lightning_logs")
        assert begun.checkpoint == best
        assert begun.curves == read_beginning(best).curves
        assert any(begun.curves.values())


def test_a_due_validation_that_is_switched_off_does_not_keep_a_run_from_its_end(
    tmp_path, model_folder, data, monkeypatch
) -> None:
    given = arguments(tmp_path, model_folder, data, *KINDS["ended_by_steps"], *RARELY)
    agree = LastCheckpoint._agree
    with monkeypatch.context() as patch:
        asked = lambda self, trainer: (False, Stop.TERMINATE) if trainer.validating else agree(self, trainer)  # noqa: E731
        patch.setattr(LastCheckpoint, "_agree", asked)
        assert commands.train(given) == 143
    assert commands.train([*given, "--ckpt_path", "last", "--trainer.limit_val_batches", "0"]) == 0
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 10


@pytest.mark.parametrize("name", ["layer_decay", "learning_rate", "weight_decay"])
def test_another_rate_is_refused(tmp_path, model_folder, data, monkeypatch, name) -> None:
    given = arguments(tmp_path, model_folder, data)
    crash(monkeypatch, Crash("batch", 0, 5), given)
    with pytest.raises(InputError, match=rf"was trained with --model.{name} [\d.]+; pass that, not 0.8, or begin with"):
        commands.train([*given, "--ckpt_path", "last", f"--model.{name}", "0.8"])


def test_a_rate_that_was_found_is_found_anew(tmp_path, model_folder, data, monkeypatch) -> None:
    finder = ("--trainer.callbacks+", "LearningRateFinder", "--trainer.callbacks.num_training_steps", "10")
    given = arguments(tmp_path, model_folder, data, *finder)
    crash(monkeypatch, Crash("batch", 0, 5), given)
    assert commands.train([*given, "--ckpt_path", "last"]) == 0


def test_a_finished_run_stays_as_it_is(tmp_path, model_folder, data, capsys) -> None:
    given = arguments(tmp_path, model_folder, data)
    assert commands.train([*given, "--trainer.max_epochs", "1"]) == 0
    logs = tmp_path / "lightning_logs"
    before = contents(logs / "version_0")
    with pytest.raises(InputError, match=r"that run is finished, with 1 epoch; .* --trainer.max_epochs 2 or more"):
        commands.train([*given, "--trainer.max_epochs", "1", "--ckpt_path", "last"])
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    assert "version_0 is finished and stays as it is" in capsys.readouterr().out
    assert commands.train(given) == 0
    assert contents(logs / "version_0") == before
    assert sorted(path.name for path in logs.iterdir()) == ["version_0", "version_1", "version_2"]
    assert (logs / "version_1" / "model" / "model.safetensors").is_file()
    assert min(step for step, _ in curves(logs / "version_1")["val/f1"]) == 27  # continues where version_0 ended
    scores = json.loads((logs / "version_0" / "run.json").read_text())[0]["scores"]
    assert set(scores) == {"best/exact_match", "best/f1"}


def test_a_finished_run_is_trained_further_until_a_step(tmp_path, model_folder, data) -> None:
    given = arguments(tmp_path, model_folder, data)
    assert commands.train([*given, "--trainer.max_epochs", "1"]) == 0
    assert commands.train([*given, "--trainer.max_steps", "17", "--ckpt_path", "last"]) == 0
    run = tmp_path / "lightning_logs" / "version_1"
    with pytest.raises(InputError, match=r"that run is finished, with 17 steps; .* --trainer.max_steps 18 or more"):
        commands.train([*given, "--trainer.max_epochs", "5", "--trainer.max_steps", "17", "--ckpt_path", "last"])
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 17
    assert [step for step, _ in curves(run)["val/f1"]] == [16]


@pytest.mark.parametrize(
    "how", ["trained further", "from a file of a renamed run", "with other questions", "with some of them"]
)
def test_the_best_checkpoint_stays_the_best_in_a_new_folder(
    tmp_path, model_folder, data, monkeypatch, capsys, how
) -> None:
    """The later epoch has an F1 of 0."""
    given = arguments(tmp_path, model_folder, data)
    logs = tmp_path / "lightning_logs"
    assert commands.train([*given, "--trainer.max_epochs", "1"]) == 0
    last = "last"
    if how.startswith("from"):
        last = str((logs / "version_0").rename(logs / "first") / "checkpoints" / "last.ckpt")
    if how == "with some of them":
        given += ["--trainer.limit_val_batches", "0.5"]
    if how == "with other questions":
        given += ["--data.validation", write_json(tmp_path / "others.json", mixed_rows(40, long=2))]
    given_log = QALightningModule.log
    worse = lambda self, name, value, **more: given_log(self, name, value * (name != "val/f1"), **more)  # noqa: E731
    monkeypatch.setattr(QALightningModule, "log", worse)
    assert commands.train([*given, "--ckpt_path", last]) == 0
    first, second = sorted(logs.iterdir()) if last != "last" else [logs / "version_0", logs / "version_1"]
    said = capsys.readouterr().out
    best = [(run / "checkpoints" / "best.ckpt").read_bytes() for run in (first, second)]
    assert (best[0] == best[1]) == (not how.startswith("with"))
    assert ("was scored on other questions; the best checkpoint is chosen anew" in said) == how.startswith("with")


def test_the_best_checkpoint_stays_the_best_of_a_part_of_the_validation(
    tmp_path, model_folder, data, monkeypatch, capsys
) -> None:
    """A validation before training reads the part, too."""
    part = ("--validate_first", "true", "--trainer.limit_val_batches", "0.5")
    given = arguments(tmp_path, model_folder, data, *part)
    crash(monkeypatch, Crash("batch", 1, 2), given)
    best = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "best.ckpt"
    before = best.read_bytes()
    given_log = QALightningModule.log
    worse = lambda self, name, value, **more: given_log(self, name, value * (name != "val/f1"), **more)  # noqa: E731
    monkeypatch.setattr(QALightningModule, "log", worse)
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    assert "chosen anew" not in capsys.readouterr().out
    assert best.read_bytes() == before


def test_last_is_written_by_the_clock_and_only_between_steps(tmp_path, model_folder, data, monkeypatch) -> None:
    saved = []
    save = LastCheckpoint._save

    def note(self, trainer):
        saved.append((trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.processed))
        save(self, trainer)

    monkeypatch.setattr(LastCheckpoint, "_save", note)
    given = arguments(tmp_path, model_folder, data, *KINDS["accumulated"])
    assert commands.train(given) == 0
    within = [(epoch, batch) for epoch, batch in saved if batch < 24]
    assert {batch % 2 for _, batch in within} == {0}
    assert len(within) > 10
    saved.clear()
    monkeypatch.undo()
    monkeypatch.setattr(LastCheckpoint, "_save", note)
    assert commands.train([*given, "--save_every_minutes", "60"]) == 0
    assert len(saved) == 2  # at the end of each epoch


def fit(model: str, data: dict[str, str], root: Path, *callbacks: Callback, ckpt_path: Path | None = None, **options):
    """Train one epoch of 14 steps without validation."""
    torch.manual_seed(0)
    sizes = {"max_length": 48, "doc_stride": 12, "max_question_length": 12}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(
        max_epochs=1, callbacks=[*callbacks], limit_val_batches=0, default_root_dir=root, **quiet | options
    )
    datamodule = SquadDataModule(data["train"], data["validation"], model, **sizes)
    trainer.fit(QALightningModule(model, learning_rate=1e-3), datamodule, ckpt_path=ckpt_path, weights_only=True)
    assert trainer.global_step == 14


def test_last_is_written_after_so_many_minutes_of_training(tmp_path, model_folder, data, monkeypatch) -> None:
    """The clock is replaced by one on which a step takes 20 seconds."""
    now = [1000.0]
    monkeypatch.setattr("qa_lightning.runs.checkpoints.time", SimpleNamespace(monotonic=lambda: now[0]))
    saved = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            now[0] += 20.0

        def on_save_checkpoint(self, trainer, pl_module, checkpoint) -> None:
            saved.append(trainer.global_step)

    fit(model_folder, data, tmp_path, LastCheckpoint(minutes=2.0), Watch(), logger=False)
    assert saved == [6, 12, 14]


@pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable")  # the sampler resumes
def test_a_checkpoint_that_another_callback_writes_after_a_step_is_one_to_go_on_from(
    tmp_path, model_folder, data
) -> None:
    """It resumes at the next step: the same number, batch and loss."""

    def losses(**options) -> dict[int, float]:
        seen: dict[int, float] = {}

        class Kept(DummyLogger):
            def log_metrics(self, metrics, step) -> None:
                seen.update({step: metrics["train/loss"]} if "train/loss" in metrics else {})

        every_third = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
        callbacks = (LastCheckpoint(), every_third)
        fit(model_folder, data, tmp_path, *callbacks, logger=Kept(), log_every_n_steps=1, **options)
        return seen

    whole = losses()
    assert [*whole] == [*range(14)]
    for step in (12, 3):
        rest = losses(ckpt_path=tmp_path / f"step={step}.ckpt")
        assert rest == {number: loss for number, loss in whole.items() if number >= step}


@pytest.mark.slow
def test_slurm_requeues_the_job_which_then_goes_on_with_its_own_run(tmp_path, model_folder, data) -> None:
    """A fake scontrol notes its arguments; then the job starts again with the same command."""
    asked = tmp_path / "asked"
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    slurm = environment() | {
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_NODELIST": "localhost",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }
    length = tmp_path / "length.yaml"
    length.write_text("trainer: {max_epochs: 150}")
    command = [TRAIN, *arguments(tmp_path, model_folder, data, "--config", str(length)), *RARELY]
    with Started(command, stdout=subprocess.PIPE, env=slurm) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch 2/"):
                time.sleep(0.02)
                process.send_signal(signal.SIGUSR1)
        assert process.wait(timeout=60) == 143
    assert "stopped by SLURM (the job is requeued) after step" in "".join(lines)
    assert asked.read_text() == "requeue 4711\n"
    epochs = max(int(found) for found in re.findall(r"epoch (\d+)/", "".join(lines))) + 2
    length.write_text(f"trainer: {{max_epochs: {epochs}}}")
    ended = finished(command, env=slurm)
    assert ended.returncode == 0, ended.stderr
    assert "resuming from" in ended.stdout
    assert f"epoch {epochs}/{epochs}" in ended.stdout
    assert [path.name for path in (tmp_path / "lightning_logs").iterdir()] == ["version_0"]
    assert [
        start["slurm_job"] for start in json.loads((tmp_path / "lightning_logs/version_0/run.json").read_text())
    ] == [
        "4711",
        "4711",
    ]
    third = finished([*command, "--trainer.max_steps", "1"], env=slurm)
    assert third.returncode == 0  # the same job, but its run is finished: a new run starts
    assert sorted(path.name for path in (tmp_path / "lightning_logs").iterdir()) == ["version_0", "version_1"]


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")


def test_another_command_of_the_same_job_does_not_go_on_with_its_run(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "version_0"
    (folder / "checkpoints").mkdir(parents=True)
    for command, goes_on in ((["train", "--data.dataset", "a.json"], True), (["train", "b"], False), (None, True)):
        start = {"started": "2026-01-01T00:00:00+00:00", "slurm_job": "77", "command": command}
        (folder / "run.json").write_text(json.dumps([start]))
        monkeypatch.setattr("qa_lightning.runs.resume.this_command", lambda: ["train", "--data.dataset", "a.json"])
        begun = find_beginning(None, tmp_path, "77")
        assert begun.folder == (folder if goes_on else None)


def test_a_run_s_folder_and_a_renamed_run_are_named_with_what_to_pass(tmp_path) -> None:
    checkpoint = tmp_path / "my-run" / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    with pytest.raises(InputError, match=rf"my-run is a run's folder; pass {checkpoint} to go on with it"):
        find_beginning(str(tmp_path / "my-run"), tmp_path)
    with pytest.raises(InputError, match=rf"called version_N; to go on with a renamed one, pass .* {checkpoint}"):
        find_beginning("last", tmp_path)
