"""Training that ends after some epochs of a longer schedule, and what `--data.fold all` needs."""

from __future__ import annotations

import re

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qa_lightning.errors import InputError
from qa_lightning.runs.record import last_start
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.training import Crash, crash, train_flags

STOP = ("--trainer.callbacks", "qa_lightning.training.callbacks.StopAfter", "--trainer.callbacks.epochs", "1")


def flags(tmp_path, model: str, *more: str) -> list[str]:
    usual = train_flags(tmp_path, model, write_json(tmp_path / "rows.json", make_rows(16)), "")
    kept = [
        word for pair in zip(usual[::2], usual[1::2], strict=True) if pair[0] != "--data.validation" for word in pair
    ]
    return [*kept, "--data.fold", "all", *more]


def rates_of(run) -> list[float]:
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return [point.value for point in events.Scalars("train/learning_rate")]


def test_it_ends_early_on_the_schedule_of_all_epochs_and_trains_no_further(tmp_path, model_folder, capsys) -> None:
    given = flags(tmp_path, model_folder, "--trainer.limit_val_batches", "0", *STOP)
    assert commands.train(given) == 0
    assert "training ended: 1 of 3 epochs, as many as it was to train" in capsys.readouterr().out
    run = tmp_path / "lightning_logs" / "version_0"
    record = last_start(run / "run.json")
    assert record["data"]["train"]["questions"] == 16
    last = run / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)
    assert saved["global_step"] == 2
    (group,) = {rate for rates in [saved["lr_schedulers"][0]["_last_lr"]] for rate in rates}
    assert group == pytest.approx(2e-3 * 4 / 6)  # 2 of 6 steps are done
    assert commands.train([*given, "--ckpt_path", str(last)]) == 0
    assert "the weights after step 2 are written" in capsys.readouterr().out


@pytest.mark.parametrize(("batch", "steps"), [(16, 4 + 1), (8, 4 + 2), (2, 4 + 8)])
def test_a_finished_run_that_is_trained_further_on_other_batches_still_learns(
    tmp_path, model_folder, capsys, batch, steps
) -> None:
    data = write_json(tmp_path / "rows.json", make_rows(16))
    given = [*train_flags(tmp_path, model_folder, data, data), "--trainer.log_every_n_steps", "1"]
    assert commands.train([*given, "--data.batch_size", "8", "--trainer.max_epochs", "2"]) == 0
    capsys.readouterr()
    further = ["--ckpt_path", "last", "--trainer.max_epochs", "3", "--data.batch_size", str(batch)]
    assert commands.train([*given, *further]) == 0
    assert f"{steps} steps of the optimizer in all, 4 of them done" in capsys.readouterr().out
    run = tmp_path / "lightning_logs" / "version_1"
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] is None  # --config of it begins a new run
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert last_start(run / "run.json")["measured"]["best_epoch"] == best["epoch"] + 1 <= 3
    assert rates_of(run) == pytest.approx([2e-3 * (steps - step) / steps for step in range(4, steps)])


def test_a_run_that_is_trained_further_and_cut_off_keeps_its_schedule(tmp_path, model_folder, monkeypatch) -> None:
    data = write_json(tmp_path / "rows.json", make_rows(64))
    given = [*train_flags(tmp_path, model_folder, data, data), "--trainer.log_every_n_steps", "1"]
    assert commands.train([*given, "--trainer.max_epochs", "1"]) == 0
    further = [*given, "--ckpt_path", "last", "--data.batch_size", "16", "--save_every_minutes", "0"]
    crash(monkeypatch, Crash("batch", 1, 2), further)
    assert commands.train(further) == 0
    logs = tmp_path / "lightning_logs"
    assert rates_of(logs / "version_1") == pytest.approx([2e-3 * (16 - step) / 16 for step in range(8, 16)])
    assert len(list(logs.iterdir())) == 2


@pytest.mark.parametrize("most", ["30", "-1"])
def test_the_schedule_knows_of_an_epoch_that_ended_early(tmp_path, model_folder, most) -> None:
    """Also where there is a number of steps that the epochs do not come to."""
    data = write_json(tmp_path / "rows.json", make_rows(64))
    given = [*train_flags(tmp_path, model_folder, data, data), "--trainer.log_every_n_steps", "1"]
    assert commands.train([*given, "--trainer.max_steps", "3"]) == 0
    assert commands.train([*given, "--ckpt_path", "last", "--trainer.max_steps", most]) == 0
    run = tmp_path / "lightning_logs" / "version_1"
    assert rates_of(run) == pytest.approx([2e-3 * (19 - step) / 19 for step in range(3, 19)])


def test_with_nothing_held_out_a_validation_is_refused(tmp_path, model_folder) -> None:
    with pytest.raises(InputError, match=r"--data.fold all leaves no questions.*pass --trainer.limit_val_batches 0"):
        commands.train(flags(tmp_path, model_folder))


@pytest.mark.parametrize(
    ("words", "when", "steps"),
    [
        (("--trainer.val_check_interval", "5"), "after every 5 batches of every epoch, and at the end", [5, 13, 16]),
        (("--trainer.val_check_interval", "0.5"), "after every 4 batches of every epoch", [4, 8, 12, 16]),
        (
            ("--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "3"),
            "after every 2 epochs, and at the end",
            [16, 24],
        ),
        (
            ("--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", "6"),
            "after every 6 batches, and at the end",
            [6, 12, 16],
        ),
        (
            (
                *("--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val/f1"),
                *("--trainer.callbacks.mode", "max", "--trainer.callbacks.stopping_threshold", "-1"),
                *("--trainer.callbacks.check_on_train_epoch_end", "false"),
                *("--trainer.check_val_every_n_epoch", "2", "--trainer.max_epochs", "5", "--trainer.min_epochs", "3"),
            ),
            "after every 2 epochs, and at the end",
            [16, 24],
        ),
        (
            ("--trainer.check_val_every_n_epoch", "2", "--trainer.max_steps", "7"),
            "after every 2 epochs, and at the end",
            [7],
        ),
    ],
)
def test_the_last_weights_are_validated_wherever_they_come(tmp_path, model_folder, capsys, words, when, steps) -> None:
    data = write_json(tmp_path / "rows.json", make_rows(64))
    given = [*train_flags(tmp_path, model_folder, data, data), "--trainer.max_epochs", "2", *words]
    assert commands.train(given) == 0
    assert re.search(rf"^validates: {re.escape(when)}, \d+ windows$", capsys.readouterr().out, re.MULTILINE)
    run = tmp_path / "lightning_logs" / "version_0"
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    assert [point.step + 1 for point in events.Scalars("val/f1")] == steps


def test_weights_that_max_steps_ends_with_within_an_epoch_are_validated(tmp_path, model_folder, capsys) -> None:
    data = write_json(tmp_path / "rows.json", make_rows(16))
    words = ["--data.batch_size", "2", "--trainer.max_epochs", "3", "--trainer.max_steps", "11"]
    assert commands.train([*train_flags(tmp_path, model_folder, data, data), *words]) == 0
    assert "training ended: --trainer.max_steps 11 reached" in capsys.readouterr().out
    run = tmp_path / "lightning_logs" / "version_0"
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    f1 = {point.step: point.value for point in events.Scalars("val/f1")}
    assert len(f1) == 2
    assert max(f1) in (10, 11)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"]
    assert best == (8 if f1[min(f1)] >= f1[max(f1)] else 11)
