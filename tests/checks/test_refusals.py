"""What cannot work is one line and status 2 before data is prepared, with the nearest right name."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback
from lightning_utilities.core.imports import RequirementCache

from qa_lightning.checks.refusals import lightning_refusals, monitor_problems
from qa_lightning.errors import InputError
from qa_lightning.training.datamodule import SquadDataModule
from qa_lightning.training.flags import ParsedFlags
from qa_lightning.training.module import LOGGED, LOGGED_WITH_UNANSWERABLE
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.training import train_flags

ADD = "--trainer.callbacks+"


@pytest.fixture
def refused(tmp_path, model_folder, monkeypatch, capsys):
    """The lines that a command says; it prepares no data."""

    def prepare(self) -> None:
        raise AssertionError("data is prepared")

    data = write_json(tmp_path / "rows.json", make_rows(20))

    def call(*flags: str) -> list[str]:
        monkeypatch.setattr(SquadDataModule, "prepare_data", prepare)
        with pytest.raises(SystemExit) as caught:
            commands.run_command(lambda: commands.train([*train_flags(tmp_path, model_folder, data, data), *flags]))
        assert caught.value.code == 2
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: ")
        return said.removeprefix("error: ").splitlines()

    return call


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            (ADD, "EarlyStopping", "--trainer.callbacks.monitor", "val/f2"),
            "--trainer.callbacks EarlyStopping monitors val/f2, which is not logged; did you mean val/f1?",
        ),
        (
            (ADD, "ModelCheckpoint", "--trainer.callbacks.monitor", "val/f2"),
            "--trainer.callbacks ModelCheckpoint monitors val/f2, which is not logged; did you mean val/f1?",
        ),
        (
            (ADD, "EarlyStopping", "--trainer.callbacks.monitor", "accuracy"),
            "--trainer.callbacks EarlyStopping monitors accuracy, which is not logged; there are val/f1, ",
        ),
        (
            (ADD, "EarlyStopping", "--trainer.callbacks.monitor", "val/f1", "--trainer.limit_val_batches", "0"),
            "--trainer.callbacks EarlyStopping monitors val/f1, which is not logged with --trainer.limit_val_batches 0",
        ),
        (
            ("--trainer.val_check_interval", "00:00:30:00"),
            "--trainer.val_check_interval is '00:00:30:00'; it must be a number above 0: of batches, or 0.25 for four",
        ),
        (("--lr_scheduler", "ReduceLROnPlateau"), "there is no flag --lr_scheduler"),
        ((ADD, "EarlyStopping"), "--trainer.callbacks EarlyStopping needs --trainer.callbacks.monitor"),
        (
            (ADD, "EarlyStopping", "--trainer.callbacks.monitr", "val/f1"),
            "--trainer.callbacks.monitr: EarlyStopping has no such argument; did you mean monitor?",
        ),
        (
            (ADD, "EarlyStopping", "--trainer.callbacks.monitor", "val/f1", "--trainer.callbacks.mode", "up"),
            "`mode` can be min, max, got up",
        ),
        ((ADD, "EarlyStoping"), "--trainer.callbacks EarlyStoping: there is no class of that name; did you mean Early"),
        ((ADD, "gone.Mine"), "--trainer.callbacks gone.Mine: No module named 'gone'"),
        ((ADD, "RichProgressBar", "--trainer.enable_progress_bar", "false"), "Trainer was configured with `enable_pro"),
        (
            (ADD, "LearningRateMonitor", "--trainer.logger", "false"),
            "--trainer.callbacks LearningRateMonitor writes to a logger, and there is none",
        ),
        (("--trainer.logger", "WandbLoger"), "--trainer.logger WandbLoger: there is no class of that name; did you m"),
        (("--trainer.logger", "CSVLogger"), "--trainer.logger CSVLogger needs --trainer.logger.save_dir"),
        (
            ("--trainer.profiler", "simpel"),
            "--trainer.profiler simpel: there is none of that name; did you mean simple?",
        ),
        (("--trainer.strategy", "dpp"), "--trainer.strategy dpp: there is none of that name; did you mean ddp?"),
        (
            ("--trainer.accelerator", "gpuu"),
            "--trainer.accelerator gpuu: there is none of that name; did you mean gpu?",
        ),
        (
            ("--trainer.plugins", "HalfPrecison"),
            "--trainer.plugins HalfPrecison: there is no class of that name; did yo",
        ),
        (
            ("--trainer.gradient_clip_algorithm", "nrom"),
            "--trainer.gradient_clip_algorithm nrom: there is none of that",
        ),
        (("--trainer.max_time", "5 minutes"), "--trainer.max_time is '5 minutes'; it must be days, hours, minutes and"),
        (("--trainer.max_epochs", "-2"), "--trainer.max_epochs is -2; it must not be negative; -1 has no end"),
        (("--trainer.check_val_every_n_epoch", "0"), "--trainer.check_val_every_n_epoch is 0; it must be at least 1"),
        (("--trainer.accumulate_grad_batches", "0"), "--trainer.accumulate_grad_batches is 0; it must be at least 1"),
        (("--trainer.limit_val_batches", "1.5"), "--trainer.limit_val_batches is 1.5; it must be a number of batches"),
        (("--trainer.devices", "0"), "`Trainer(devices='0')` value is not a valid input using cpu accelerator."),
        (("--trainer.barebones", "true"), "--trainer.barebones is True; it must be false"),
        (
            ("--trainer.max_epochs", "-1", "--model.warmup_ratio", "0.1"),
            "--model.warmup_ratio 0.1 is a part of the steps, and --trainer.max_epochs -1 has no number of them",
        ),
    ],
)
def test_it_is_one_line_with_the_fix_before_data_is_prepared(refused, flags, line) -> None:
    (said,) = refused(*flags)
    assert said.startswith(line)


def test_a_misspelt_precision_is_told_with_the_nearest(refused) -> None:
    (said,) = refused("--trainer.precision", "bf17-mixed")
    assert said.startswith("--trainer.precision is 'bf17-mixed'; it must be one of 64, 32, 16, transformer-engine, ")
    assert said.endswith("bf16 or null; did you mean bf16-mixed?")
    assert "Literal" not in said


@pytest.mark.parametrize(
    ("flags", "package"),
    [
        (("--trainer.logger", "WandbLogger"), "wandb"),
        (("--trainer.strategy", "deepspeed"), "deepspeed"),
        (("--trainer.precision", "transformer-engine"), "transformer_engine"),
        (("--trainer.accelerator", "tpu"), "torch_xla"),
        (("--trainer.plugins", "BitsandbytesPrecision", "--trainer.plugins.mode", "nf4"), "bitsandbytes"),
        ((ADD, "DeviceStatsMonitor"), "psutil"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(refused, monkeypatch, flags, package) -> None:
    monkeypatch.setattr("qa_lightning.checks.refusals.find_spec", lambda name: None)
    absent = RequirementCache("wandb>=999")  # what Lightning has in its place where the package is not installed
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", absent)
    (said,) = refused(*flags)
    assert "pip install" in said
    assert package in said
    assert "Requirement" not in said


def test_all_flags_that_are_wrong_are_told_together(refused) -> None:
    lines = refused("--trainer.profiler", "simpel", "--trainer.max_steps", "-7", "--data.batch_size", "0")
    assert len(lines) == 3


def test_a_value_that_only_unanswerable_questions_have_is_refused_once_the_data_is_known(
    tmp_path, model_folder, capsys
) -> None:
    with_none = write_json(tmp_path / "v2.json", make_rows(20, unanswerable=8))
    all_have = write_json(tmp_path / "v1.json", make_rows(20))
    flags = (ADD, "EarlyStopping", "--trainer.callbacks.monitor", "val/best_f1", "--trainer.max_epochs", "1")
    with pytest.raises(InputError) as caught:
        commands.train([*train_flags(tmp_path, model_folder, all_have, all_have), *flags])
    (problem,) = caught.value.problems
    assert "monitors val/best_f1, which is not logged" in problem
    assert commands.train([*train_flags(tmp_path, model_folder, with_none, with_none), *flags]) == 0


@pytest.mark.parametrize("unanswerable", [0, 8])
def test_the_names_that_may_be_monitored_are_those_that_are_logged(
    tmp_path, model_folder, monkeypatch, unanswerable
) -> None:
    data = write_json(tmp_path / "rows.json", make_rows(20, unanswerable=unanswerable))
    seen: set[str] = set()
    monkeypatch.setattr(_Looks, "seen", seen)
    flags = (ADD, f"{__name__}._Looks", "--trainer.max_epochs", "1")
    assert commands.train([*train_flags(tmp_path, model_folder, data, data), *flags]) == 0
    names = {name for name in seen if not name.startswith("lr-") and not name.endswith("learning_rate")}
    assert names == {*LOGGED, *(LOGGED_WITH_UNANSWERABLE if unanswerable else ())}


class _Looks(Callback):
    """Keeps the names of all that was logged."""

    seen: set[str] = set()  # noqa: RUF012 - a test puts its own there

    def on_train_end(self, trainer, pl_module) -> None:
        self.seen.update(trainer.callback_metrics)


def test_a_callback_from_elsewhere_may_log_any_name() -> None:
    from lightning.pytorch.callbacks import EarlyStopping

    waits = EarlyStopping("my/score")
    assert monitor_problems([waits], LOGGED, validates=True)
    assert not monitor_problems([waits, _Looks()], LOGGED, validates=True)


def test_errors_that_nobody_raised_on_purpose_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="invalid literal"), lightning_refusals():
        int("x")
    with pytest.raises(RuntimeError, match="size"), lightning_refusals():
        torch.zeros(2) @ torch.zeros(3)
    with pytest.raises(ImportError), lightning_refusals():
        from qa_lightning import no_such_name  # noqa: F401


def test_flags_of_a_config_that_there_are_not_are_told_together_with_their_lines(refused, tmp_path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(
        "seed_everything: 1\ndata:\n  batchsize: 3\n  columns: {titel: a}\ntrainer:\n  logger:\n"
        "    class_path: CSVLogger\n    init_args: {save_dir: x}\n  callbacks+: []\n  max_epoch: 3\nmodle: {}\n"
    )
    assert refused("--config", str(config)) == [
        f"{config}, line 3: there is no flag --data.batchsize; did you mean --data.batch_size?",
        f"{config}, line 4: there is no flag --data.columns.titel; did you mean --data.columns.title?",
        f"{config}, line 10: there is no flag --trainer.max_epoch; did you mean --trainer.max_epochs?",
        f"{config}, line 11: there is no flag --modle; did you mean --model?",
    ]
    for value, what in {"[batch_size]": "a list", "": "empty", "3": "3"}.items():
        config.write_text(f"data: {value}\n")
        (said,) = refused("--config", str(config))
        assert said.startswith(f"{config}, line 1: --data is {what}; write flags and their values below it, such as ")


@pytest.mark.parametrize("text", ["<<: 3", "model: {<<: 3}", "[a, b]: 3", "&a data: {<<: *a}", "model: {"])
def test_a_config_that_is_no_yaml_is_one_line(refused, tmp_path, text) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(text)
    (said,) = refused("--config", str(config))
    assert said.startswith(f"{config}: cannot be read as YAML (")


def test_no_flags_at_all_are_those_that_are_usual() -> None:
    assert ParsedFlags([]).config.model.model_name == "bert-base-cased"
