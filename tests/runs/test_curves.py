"""Curves in TensorBoard and other loggers: the same scalars and settings everywhere, and where to look at them."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from qa_lightning.runs.curves import (
    OVERVIEW,
    CurveLogger,
    curve_lengths,
    cut_curves,
    how_to_see,
    log_figures,
    log_table,
)
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.training import Crash, add_callbacks, crash, train_flags


@pytest.fixture(scope="module")
def flags(tmp_path_factory, model_folder) -> Any:
    """The flags of a run with another layer decay, in a folder."""
    data = write_json(tmp_path_factory.mktemp("data") / "train.json", make_rows(40))

    def of(folder: Path) -> list[str]:
        given = train_flags(folder, model_folder, data, data)
        return [*given, "--trainer.max_epochs", "2", "--model.layer_decay", "0.8"]

    return of


@pytest.fixture(scope="module")
def expected(tmp_path_factory, flags) -> tuple[Path, EventAccumulator]:
    """The folder of a run that logs to TensorBoard, and its curves."""
    folder = tmp_path_factory.mktemp("tensorboard")
    assert commands.train(flags(folder)) == 0
    run = folder / "lightning_logs" / "version_0"
    return run, EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()


MEASURED = ("features_per_second", "tokens_per_second")


def points(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    """The curves that other loggers have too, as tag -> (step, value); measured speed without values."""
    own = [tag for tag in events.Tags()["scalars"] if not tag.startswith("Overview/")]
    return {tag: [(p.step, 0.0 if tag.endswith(MEASURED) else p.value) for p in events.Scalars(tag)] for tag in own}


def assert_equal(found: dict[str, list[tuple[int, float]]], expected: EventAccumulator) -> None:
    """The same points, and the best checkpoint's scores beside them."""
    assert {tag for tag in found if tag.startswith("best/")} == {"best/exact_match", "best/f1"}
    for tag, curve in points(expected).items():
        seen = [(step, 0.0 if tag.endswith(MEASURED) else value) for step, value in found[tag]]
        assert [step for step, _ in seen] == [step for step, _ in curve], tag
        assert [value for _, value in seen] == pytest.approx([value for _, value in curve], rel=1e-6), tag


def test_one_learning_rate_is_shown_whatever_the_layer_decay_and_no_epoch(expected) -> None:
    tags = expected[1].Tags()["scalars"]
    assert [tag for tag in tags if "learning_rate" in tag or tag.startswith("lr")] == ["train/learning_rate"]
    assert expected[1].Scalars("train/learning_rate")[0].value == pytest.approx(2e-3 * 9 / 10)  # the head's
    assert not [tag for tag in tags if tag == "epoch" or tag.startswith(("best/", "hp"))]


def test_the_hparams_tab_has_a_row_of_settings_and_the_written_models_scores(expected) -> None:
    run, events = expected
    content = events.PluginTagToContent(metadata.PLUGIN_NAME)
    experiment = metadata.parse_experiment_plugin_data(content[metadata.EXPERIMENT_TAG])
    start = metadata.parse_session_start_info_plugin_data(content[metadata.SESSION_START_INFO_TAG])
    columns = sorted(info.name for info in experiment.hparam_infos)
    assert columns[:5] == ["batch_size", "epochs", "layer_decay", "learning_rate", "model"]  # TensorBoard shows five
    assert start.group_name == "version_0"
    assert sorted(start.hparams) == columns
    assert start.hparams["layer_decay"].number_value == 0.8
    assert start.hparams["epochs"].number_value == 2
    metrics = {info.display_name: info.name.tag for info in experiment.metric_infos}
    assert metrics == {"EM": "Overview/EM", "F1": "Overview/F1"}
    scores = json.loads((run / "run.json").read_text())[-1]["scores"]
    for name, tag in (("exact_match", "Overview/EM"), ("f1", "Overview/F1")):
        last, before = events.Scalars(tag)[-1], events.Scalars(f"val/{name}")[-1]
        assert last.value == pytest.approx(scores[f"best/{name}"], abs=1e-4)
        assert (last.step, last.value) == (before.step, before.value)  # the last checkpoint is the best


class Worsen(Callback):
    """Takes what the head has learned before the second validation of a run."""

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 1 and trainer.state.fn == "fit":
            pl_module.model.qa_outputs.weight.data.zero_()


def test_a_best_checkpoint_that_is_not_the_last_is_the_overviews_last_point(tmp_path, flags, monkeypatch) -> None:
    add_callbacks(monkeypatch, Worsen())
    assert commands.train(flags(tmp_path)) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    best, worse = (point.value for point in events.Scalars("val/f1"))
    assert worse < best
    shown = [(point.step, point.value) for point in events.Scalars("Overview/F1")]
    assert [value for _, value in shown] == [best, worse, best]
    assert shown[-1][0] == shown[-2][0] + 1


def test_the_overview_repeats_the_curves_under_names_that_come_first(tmp_path) -> None:
    logger = CurveLogger(tmp_path, name="")
    logger.log_metrics({"val/f1": 50.0, "val/loss": 1.0, "epoch": 3, "train/padding_share": 0.1}, 7)
    logger.finalize("success")
    events = EventAccumulator(logger.log_dir).Reload()
    assert set(events.Tags()["scalars"]) == {
        *("val/f1", "Overview/F1", "val/loss", OVERVIEW["val/loss"], "train/padding_share"),
    }
    assert [(point.step, point.value) for point in events.Scalars("Overview/F1")] == [(7, 50.0)]


def test_csv_files_get_the_same_scalars_and_settings(tmp_path, flags, expected, capsys) -> None:
    given = [*flags(tmp_path), "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path)]
    assert commands.train(given) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for tag, value in row.items():
            if value:
                found.setdefault(tag, []).append((int(row["step"]), float(value)))
    assert_equal(found, expected[1])
    hparams = [yaml.safe_load((folder / "hparams.yaml").read_text()) for folder in (run, expected[0])]
    assert hparams[0] == hparams[1]
    assert f"curves:    {run / 'metrics.csv'}" in capsys.readouterr().out


def steps_of(logger: str, run: Path) -> dict[str, list[int]]:
    """Tag -> the steps of its points."""
    if logger == "TensorBoardLogger":
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        tags = set(events.Tags()["scalars"]) - {"hp_metric"}  # a 0 of Lightning's, at every start
        return {tag: [point.step for point in events.Scalars(tag)] for tag in tags}
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {tag: [int(row["step"]) for row in rows if row[tag]] for tag in rows[0]}


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
@pytest.mark.parametrize(("hook", "batch"), [("batch", 1), ("validation", 0)])
def test_a_resumed_run_goes_on_with_its_curves(tmp_path, flags, monkeypatch, logger, hook, batch) -> None:
    """In its own folder, each point once, also those that were logged after the checkpoint; a killed run's, too."""
    seen = []
    for name in ("whole", "cut"):
        root = tmp_path / name
        given = [*flags(root), "--trainer.logger", logger, "--trainer.logger.save_dir", str(root)]
        given += [
            "--trainer.log_every_n_steps",
            "1",
            "--trainer.val_check_interval",
            "0.5",
            "--data.eval_batch_size",
            "4",
        ]
        if name == "cut":
            crash(monkeypatch, Crash(hook, 1, batch), [*given, "--save_every_minutes", "60"])
            given += ["--ckpt_path", "last"]
        assert commands.train(given) == 0
        (run,) = (root / "lightning_logs").iterdir()
        seen.append(steps_of(logger, run))
    assert seen[0] == seen[1]
    assert len(seen[0]["val/f1"]) == 5


def test_curves_are_cut_to_what_a_checkpoint_knows_of(tmp_path) -> None:
    """A checkpoint of an older version knows of no table, which stays; one of another run, of none here."""
    table, events = tmp_path / "metrics.csv", tmp_path / "events.out.tfevents.1"
    table.write_bytes(b"step,loss\r\n0,1\r\n1,2\r\n")
    events.write_bytes(b"123456")
    now = curve_lengths(tmp_path)
    assert now == {"metrics.csv": 3, "events.out.tfevents.1": 6}
    cut_curves(tmp_path, now)
    assert curve_lengths(tmp_path) == now
    cut_curves(tmp_path, {"metrics.csv": 2, "events.out.tfevents.1": 5})
    assert (table.read_bytes(), events.read_bytes()) == (b"step,loss\r\n0,1\r\n", b"12345")
    cut_curves(tmp_path, {"events.out.tfevents.1": 5})
    assert table.exists()
    cut_curves(tmp_path, {"metrics.csv": 0})
    assert not list(tmp_path.iterdir())
    assert curve_lengths(tmp_path) == {"metrics.csv": 0}
    cut_curves(tmp_path, {"metrics.csv": 0})


def test_a_run_that_another_ones_checkpoint_began_logs_all_its_points_again(tmp_path, flags, monkeypatch) -> None:
    logger = ["--trainer.logger", "CSVLogger", "--trainer.log_every_n_steps", "1"]
    first, second = (tmp_path / name for name in ("first", "second"))
    given = [*flags(first), *logger, "--trainer.logger.save_dir", str(first)]
    crash(monkeypatch, Crash("batch", 1, 1), [*given, "--save_every_minutes", "60"])
    given = [*flags(second), *logger, "--trainer.logger.save_dir", str(second)]
    last = str(first / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt")
    crash(monkeypatch, Crash("batch", 1, 3), [*given, "--save_every_minutes", "60", "--ckpt_path", last])
    table = second / "lightning_logs" / "version_0" / "metrics.csv"
    assert len(table.read_text().splitlines()) > 2
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    steps = steps_of("CSVLogger", table.parent)["train/loss"]
    assert steps == [5, 6, 7, 8, 9]


def test_mlflow_gets_the_same_scalars_settings_tables_and_figures(
    tmp_path, flags, expected, monkeypatch, capsys
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed: pip install qa-lightning[loggers]")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = f"file:{tmp_path / 'store'}"
    given = [*flags(tmp_path), "--trainer.logger", "MLFlowLogger", "--trainer.logger.tracking_uri", store]
    assert commands.train(given) == 0
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("lightning_logs").experiment_id])
    name = run.info.run_id
    found = {tag: [(m.step, m.value) for m in client.get_metric_history(name, tag)] for tag in run.data.metrics}
    assert_equal(found, expected[1])
    hparams = yaml.safe_load((expected[0] / "hparams.yaml").read_text())
    assert {"learning_rate", "layer_decay", "batch_size"} <= set(run.data.params)
    assert float(run.data.params["learning_rate"]) == hparams["learning_rate"]
    assert client.list_artifacts(name, "val/samples")
    assert [file.path for file in client.list_artifacts(name, "val_confidence")]
    assert f" ui --backend-store-uri {store}" in capsys.readouterr().out


def test_wandb_gets_the_same_scalars_settings_tables_and_figures(
    tmp_path, flags, expected, monkeypatch, capsys
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install qa-lightning[loggers]")
    monkeypatch.setenv("WANDB_SILENT", "true")
    given = [*flags(tmp_path), "--trainer.logger", "WandbLogger", "--trainer.logger.save_dir", str(tmp_path)]
    assert commands.train([*given, "--trainer.logger.offline", "true"]) == 0
    wandb.finish()
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    for _ in range(60):  # its service may write the last rows a moment after `finish` has returned
        found, config, files = read_offline(run)
        if "best/f1" in found:
            break
        time.sleep(0.5)
    assert_equal(found, expected[1])
    hparams = yaml.safe_load((expected[0] / "hparams.yaml").read_text())
    assert {name: config[name] for name in ("learning_rate", "layer_decay", "batch_size")} == {
        name: hparams[name] for name in ("learning_rate", "layer_decay", "batch_size")
    }
    assert any(file.startswith("media/table/val/samples") for file in files)
    assert sum(file.startswith("media/images/val_confidence/") for file in files) == 3
    assert f" sync {run}" in capsys.readouterr().out


def offline_records(log: Path) -> Iterator[bytes]:
    """The records of a log that W&B writes offline: LevelDB's format, blocks of 32 KiB, after a header of 7 bytes."""
    content, place, record = log.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_offline(run: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, Any], list[str]]:
    """The scalars by step, the settings and the files of a run that W&B logged offline."""
    from wandb.proto import wandb_internal_pb2

    (log,) = run.glob("*.wandb")
    found: dict[str, list[tuple[int, float]]] = {}
    config: dict[str, Any] = {}
    for data in offline_records(log):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for update in record.config.update:
            config[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        for tag, value in row.items():
            if isinstance(value, (int, float)) and "trainer/global_step" in row:
                found.setdefault(tag, []).append((row["trainer/global_step"], value))
    return found, config, [str(path.relative_to(run / "files")) for path in (run / "files").rglob("*")]


def test_a_logger_that_shows_no_tables_and_figures_gets_none(tmp_path) -> None:
    logger = CSVLogger(tmp_path)
    log_table(logger, "val/samples", ["a"], [["b"]], "| a |", 1)
    log_figures(logger, "group", {"one": np.zeros((2, 3, 4), np.uint8)}, 1)
    assert not list(tmp_path.rglob("*.*"))


def test_what_shows_the_curves_is_named_for_each_logger(tmp_path, monkeypatch) -> None:
    """The command can be pasted: it is quoted, and starts this Python's TensorBoard, with it on PATH or not."""
    folder = tmp_path / "all runs"
    board, table = TensorBoardLogger(folder, name="runs"), CSVLogger(folder, name="runs", version=3)
    monkeypatch.setattr(shutil, "which", lambda name: str(Path(sys.executable).with_name(name)))
    assert how_to_see([board, table], lambda path: path) == [
        f"tensorboard --logdir '{folder / 'runs'}'",
        str(folder / "runs" / "version_3" / "metrics.csv"),
    ]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", "/venv/bin/python")
    (line,) = how_to_see([board], lambda path: path)
    assert line == f"/venv/bin/python -m tensorboard.main --logdir '{folder / 'runs'}'"
    assert how_to_see([], lambda path: path) == []
