"""Runs read back from their folders: figures of the record and of curves, and a line for each folder without a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import yaml

from qa_lightning.runs import SORTS
from qa_lightning.runs.listing import RunSummary, differing, read_runs, runs_of, sorted_runs
from tests.helpers import commands

CONFIG = {
    "seed_everything": 42,
    "trainer": {"max_epochs": 2, "val_check_interval": None, "check_val_every_n_epoch": 1, "default_root_dir": "here"},
    "model": {"model_name": "tiny", "learning_rate": 1e-3},
    "data": {"dataset": "squad.json", "batch_size": 8, "columns": {"id": None}},
    "save_every_minutes": 15.0,
}
START = {
    "started": "2026-11-26T08:00:00.000+00:00",
    "finished": "2026-11-26T08:30:00.000+00:00",
    "base_model": {"name": "bert-base-cased", "hub": True},
    "scores": {"best/exact_match": 80.0, "best/f1": 88.5},
    "measured": {"best_epoch": 2, "windows_per_second": 110.0, "peak_memory_bytes": 3 * 2**30},
}
CURVES = "val/f1,val/exact_match,train/features_per_second,step\n50,40,,1\n,,100,2\n70.5,60,120,3\n65,55,,4\n"


def run(folder: Path, start: dict | str | None = None, config: dict | None = None, curves: str = "") -> Path:
    folder.mkdir(parents=True)
    if start is not None:
        (folder / "run.json").write_text(start if isinstance(start, str) else json.dumps([start]))
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if curves:
        (folder / "metrics.csv").write_text(curves)
    return folder


def test_the_record_of_a_run_has_its_figures(tmp_path) -> None:
    (found,), problems = read_runs([run(tmp_path / "version_0", START, CONFIG)])
    assert problems == []
    assert (found.model, found.exact, found.f1, found.best_epoch) == ("bert-base-cased", 80.0, 88.5, 2)
    assert (found.minutes, found.speed, found.memory) == (30.0, 110.0, 3.0)
    assert found.settings["learning_rate"] == 1e-3
    assert found.settings["trainer.max_epochs"] == 2
    assert found.settings["columns.id"] is None
    assert "trainer.default_root_dir" not in found.settings


def test_what_the_record_lacks_is_read_from_curves(tmp_path) -> None:
    start = {name: value for name, value in START.items() if name not in ("scores", "measured")}
    (found,), _ = read_runs([run(tmp_path / "version_0", start, CONFIG, CURVES)])
    assert (found.exact, found.f1, found.best_epoch, found.speed) == (60.0, 70.5, 2, 110.0)
    assert math.isnan(found.memory)
    several = CONFIG | {"trainer": {"val_check_interval": 0.25, "check_val_every_n_epoch": 1}}
    (other,), _ = read_runs([run(tmp_path / "version_1", start, several, CURVES)])
    assert math.isnan(other.best_epoch)  # validations within an epoch do not say which one it was


def test_figures_that_no_float_holds_are_not_known(tmp_path) -> None:
    measured = {"best_epoch": 10**400, "windows_per_second": 1e999, "peak_memory_bytes": 10**400}
    (found,), problems = read_runs([run(tmp_path / "version_0", {**START, "measured": measured}, CONFIG)])
    assert problems == []
    assert all(map(math.isnan, (found.best_epoch, found.speed, found.memory)))


def test_curves_of_tensorboard_are_read(tmp_path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    start = {name: value for name, value in START.items() if name not in ("scores", "measured")}
    folder = run(tmp_path / "version_0", start, CONFIG)
    with SummaryWriter(str(folder)) as writer:
        for step, score in enumerate((50.0, 75.0, 60.0)):
            writer.add_scalar("val/f1", score, step)
            writer.add_scalar("val/exact_match", score - 10, step)
    (found,), _ = read_runs([folder])
    assert (found.f1, found.exact, found.best_epoch) == (75.0, 65.0, 2)


def test_a_run_of_a_trainer_in_python_has_its_curves_alone(tmp_path) -> None:
    folder = run(tmp_path / "version_0", curves=CURVES)
    (folder / "hparams.yaml").write_text(yaml.safe_dump({"model_name": "tiny", "learning_rate": 1e-3}))
    (found,), problems = read_runs([folder])
    assert problems == []
    assert (found.model, found.f1, found.settings) == ("tiny", 70.5, {"model_name": "tiny", "learning_rate": 1e-3})


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("unfinished", "unfinished, started 2026-11-26T08:00:00.000+00:00; best F1 so far 70.50"),
        ("killed", "unfinished; no score so far"),
        ("damaged", "its run.json is damaged, and there is no model"),
        ("empty record", "its run.json is empty, perhaps because the power failed or the disk was full, and there is"),
        ("settings", "its settings cannot be read (while parsing a flow"),
        ("list", "its settings cannot be read (config.yaml holds no settings)"),
        ("foreign", "not a run of qa-lightning: it has neither run.json nor config.yaml of one"),
        ("foreign hparams", "not a run of qa-lightning: its hparams.yaml names no model"),
        ("file", "it is a file; name the folders of runs"),
        ("nothing", "there is no such folder"),
    ],
)
def test_a_folder_without_a_run_is_a_line_and_the_others_are_shown(tmp_path, name, line) -> None:
    started = {"started": START["started"]}
    run(tmp_path / "unfinished", started, CONFIG, CURVES)
    run(tmp_path / "killed")
    run(tmp_path / "damaged", '[{"started": ')
    run(tmp_path / "empty record", "")
    (run(tmp_path / "settings", START) / "config.yaml").write_text("[")
    (run(tmp_path / "list", START) / "config.yaml").write_text("- 1")
    (run(tmp_path / "foreign") / "notes.txt").write_text("")
    (run(tmp_path / "foreign hparams") / "hparams.yaml").write_text("depth: 3")
    (tmp_path / "file").write_text("")
    good = run(tmp_path / "version_9", START, CONFIG)
    runs, problems = read_runs([tmp_path / name, good])
    assert [found.name for found in runs] == [str(good)]
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / name}: {line}")
    assert "\n" not in problems[0]


def test_damaged_curves_cost_their_figures_alone(tmp_path) -> None:
    folder = run(tmp_path / "version_0", START, CONFIG, "val/f1\nabc\n")
    other = run(tmp_path / "version_1", {**START, "scores": [], "measured": "x"}, CONFIG)
    (other / "events.out.tfevents.1.x.0").write_bytes(b"\x00" * 50)
    runs, problems = read_runs([folder, other])
    assert problems == []
    assert runs[0].f1 == 88.5
    assert math.isnan(runs[1].f1)


def test_runs_are_sorted_and_unknown_figures_come_last() -> None:
    figures = {"a": {"f1": 70.0, "minutes": 3.0}, "b": {}, "c": {"f1": 80.0, "minutes": 9.0}}
    runs = [RunSummary(name, "m", **given) for name, given in figures.items()]
    assert [found.name for found in sorted_runs(runs, "f1")] == ["c", "a", "b"]
    assert [found.name for found in sorted_runs(runs, "minutes")] == ["a", "c", "b"]
    assert [found.name for found in sorted_runs(runs, "run")] == ["a", "b", "c"]
    assert all(len(sorted_runs(runs, by)) == 3 for by in SORTS)


def test_a_folder_of_runs_is_all_of_them(tmp_path) -> None:
    for name in ("version_10", "version_9", "other"):
        folder = tmp_path / "lightning_logs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("[]")
    both = [tmp_path / "lightning_logs" / name for name in ("version_9", "version_10")]
    assert runs_of(tmp_path) == runs_of(tmp_path / "lightning_logs") == both
    assert runs_of(tmp_path / "lightning_logs" / "other") == [tmp_path / "lightning_logs" / "other"]


def test_a_study_without_runs_is_a_line(tmp_path, capsys) -> None:
    (tmp_path / "study.json").write_text("{}")
    (tmp_path / "trial-0").mkdir()
    assert commands.compare([str(tmp_path)]) == 1
    line = f"{tmp_path}: a study in which no run has begun yet, or whose runs were removed; start its command again\n"
    assert capsys.readouterr().out == line
    run(tmp_path / "trial-0" / "lightning_logs" / "version_0", START, CONFIG)
    assert commands.compare([str(tmp_path)]) == 0


def test_settings_differ_if_runs_that_have_them_differ() -> None:
    settings = ({"rate": 1e-3, "seed": 1, "new": 5}, {"rate": 2e-3, "seed": 1}, {"rate": 1e-3, "seed": 1})
    assert differing([RunSummary(str(number), "m", settings=one) for number, one in enumerate(settings)]) == ["rate"]
    assert differing([]) == []


def test_last_is_the_newest_run_of_the_folder_of_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs_of(Path("last")) == [Path("last")]
    assert read_runs([Path("last")])[1] == ["last: there is no run in lightning_logs here; name the folder of one"]
    for name in ("version_0", "version_1"):
        folder = tmp_path / "lightning_logs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("[]")
    assert [folder.name for folder in runs_of(Path("last"))] == ["version_1"]
    (tmp_path / "last").mkdir()
    assert runs_of(Path("last")) == [Path("last")]
