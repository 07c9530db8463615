"""The end of a run: what was trained is written whatever comes after, with true words about what, where and why."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file

from qa_lightning import Reader
from qa_lightning.errors import InputError
from qa_lightning.evaluation.model import score_model
from qa_lightning.metrics import plots
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.pages import report as reports
from qa_lightning.training import finish as finishing
from qa_lightning.training.callbacks import BestCheckpoint
from qa_lightning.training.ended import surviving_the_end
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.training import train_flags

BEST = "the best checkpoint is written as a model for transformers: "


class Case:
    """A run and what it left.

    Args:
        folder: that it may write to.
        model, data: what it trains.
        capsys: pytest's.
    """

    def __init__(self, folder: Path, model: str, data: str, capsys) -> None:
        self.folder, self.flags, self.capsys = folder, train_flags(folder, model, data, data), capsys
        self.said = ""

    def run(self, *flags: str) -> int:
        """Train; the flags come after those of `train_flags`."""
        status = commands.train([*self.flags, "--trainer.max_epochs", "2", *flags])
        self.said = self.capsys.readouterr().out
        return status

    @property
    def path(self) -> Path:
        return self.folder / "lightning_logs" / "version_0"

    @property
    def why(self) -> str:
        """Why the run said that it ended."""
        (line,) = re.findall(r"^training ended: (.*)$", self.said, re.MULTILINE)
        return line

    @property
    def model(self) -> Path:
        """The model that the run said it wrote; it answers."""
        (found,) = re.findall(r"written as a model for transformers: (.*)$", self.said, re.MULTILINE)
        assert Reader.load(found).answer(["Where lives Anna ?"], ["Anna lives in Rome ."])[0].score > 0
        return Path(found)

    @property
    def settings(self) -> AnswerSettings:
        return AnswerSettings(**json.loads((self.model / "config.json").read_text())["qa_lightning"])

    @property
    def finished(self) -> dict:
        return json.loads((self.model.parent / "run.json").read_text())[-1]


@pytest.fixture
def case(tmp_path, model_folder, capsys) -> Case:
    return Case(tmp_path, model_folder, write_json(tmp_path / "rows.json", make_rows(40)), capsys)


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_validation_the_last_weights_are_written(case) -> None:
    assert case.run("--trainer.limit_val_batches", "0") == 0
    assert case.why == "--trainer.max_epochs 2 reached"
    assert "the weights after step 10 are written" in case.said
    assert "--trainer.limit_val_batches 0: no validation, so no scores" in case.said
    assert_same(load_file(case.model / "model.safetensors"), weights_of(case.path / "checkpoints" / "last.ckpt"))
    assert case.settings.temperature == 1.0
    assert case.settings.fitted_to == ""
    assert case.finished["scores"] == {}
    assert BEST not in case.said


def test_the_model_is_saved_with_its_scores_at_each_precision(case, monkeypatch) -> None:
    curve = property(lambda self: {"0.9": 0.25, "0.95": float(len(self.held_out_columns[0]) == 40)})
    monkeypatch.setattr("qa_lightning.metrics.confidence.Confidence.scores_at_precision", curve)
    assert case.run() == 0
    assert case.settings.scores_at_precision == {"0.9": 0.25, "0.95": 1.0}
    assert Reader.load(str(case.model)).settings.score_at(0.93) == 1.0


def test_a_trial_run_writes_nothing_and_says_so(case) -> None:
    assert case.run("--trainer.fast_dev_run", "true") == 0
    assert case.why == "--trainer.fast_dev_run is done"
    assert "writes nothing: no checkpoint, no model, no scores" in case.said
    assert "is written" not in case.said
    assert not list(case.folder.rglob("model.safetensors"))


def test_without_checkpoints_none_is_written_but_the_model_is(case) -> None:
    assert case.run("--trainer.enable_checkpointing", "false") == 0
    assert not list(case.folder.rglob("*.ckpt"))
    assert "the weights after step 10 are written" in case.said
    assert "last weights    EM" in case.said
    assert case.finished["scores"]["best/f1"] >= 0
    assert case.model.is_dir()


def test_without_a_logger_the_model_is_written(case) -> None:
    assert case.run("--trainer.logger", "false") == 0
    assert BEST in case.said
    assert "curves:" not in case.said
    assert case.model.is_relative_to(case.folder)


def test_another_loggers_curves_are_named(case) -> None:
    assert case.run("--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(case.folder)) == 0
    assert case.model.is_dir()
    (curves,) = re.findall(r"^curves: +(.*)$", case.said, re.MULTILINE)
    assert curves.endswith("metrics.csv")
    assert Path(curves).is_file()
    assert "tensorboard" not in case.said


@pytest.mark.parametrize("epochs", ["1000000", "-1"])
def test_when_the_time_is_up_the_run_says_so(case, epochs) -> None:
    flags = ("--trainer.max_time", "00:00:00:01", "--trainer.max_epochs", epochs)
    assert case.run(*flags) == 0
    assert case.why == "--trainer.max_time 00:00:00:01 is up"
    assert case.model.is_dir()


@pytest.mark.parametrize("least", [(), ("--trainer.min_epochs", "1")])
def test_steps_that_end_within_an_epoch(case, least) -> None:
    assert case.run("--trainer.max_steps", "3", *least) == 0
    assert case.why == "--trainer.max_steps 3 reached"
    assert "best checkpoint is written as a model" in case.said
    assert_same(load_file(case.model / "model.safetensors"), weights_of(case.path / "checkpoints" / "last.ckpt"))


EARLY = ("--trainer.callbacks+", "EarlyStopping", "--trainer.max_epochs", "50")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (
            ("monitor", "val/f1", "mode", "max", "patience", "2", "min_delta", "1000"),
            "early stopping: val/f1 has not risen for 2 epochs",
        ),
        (
            ("monitor", "val/loss", "patience", "1", "min_delta", "1000"),
            "early stopping: val/loss has not fallen for 1 validation",
        ),
        (
            ("monitor", "val/loss", "stopping_threshold", "100"),
            "early stopping: val/loss is below its stopping_threshold 100.0",
        ),
    ],
)
def test_early_stopping_says_why(case, given, why) -> None:
    flags = [word if place % 2 else f"--trainer.callbacks.{word}" for place, word in enumerate(given)]
    every = ("--trainer.val_check_interval", "2") if why.endswith("validation") else ()
    assert case.run(*EARLY, *flags, *every) == 0
    assert case.why == why
    assert BEST in case.said
    assert case.model.is_dir()


def test_a_finder_of_batch_sizes_works_once_and_the_rate_still_falls_to_zero(case) -> None:
    finder = ("--trainer.callbacks+", "BatchSizeFinder", "--trainer.callbacks.max_trials", "2")
    assert case.run(*finder, "--validate_first", "true", "--data.batch_size", "2") == 0
    assert case.said.count("Finished batch size finder, will continue with full run using batch size 4") == 1
    assert case.said.count("before training ") == 1
    assert "best checkpoint EM" in case.said
    state = torch.load(case.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 20  # 40 windows in fours, twice; it was to be 40, in twos
    assert [group["lr"] for group in state["optimizer_states"][0]["param_groups"]] == [0.0, 0.0]


def test_overfitting_on_few_batches_says_what_the_scores_are_worth(case) -> None:
    assert case.run("--trainer.overfit_batches", "1", "--data.eval_batch_size", "8") == 0
    assert "scores, threshold and temperature are those of 8 of 40 questions" in case.said
    assert case.model.is_dir()


def test_a_thawed_encoder_trains_and_its_rate_follows_the_schedule(case) -> None:
    thaw = ("--trainer.callbacks+", "BackboneFinetuning", "--trainer.callbacks.unfreeze_backbone_at_epoch", "1")
    assert case.run(*thaw, "--trainer.max_epochs", "3", "--trainer.enable_progress_bar", "false") == 0
    last = torch.load(case.path / "checkpoints" / "last.ckpt", weights_only=True)
    groups = last["optimizer_states"][0]["param_groups"]
    assert [group["lr"] for group in groups] == [0.0] * 3
    assert groups[2]["initial_lr"] > 0
    before = load_file(Path(case.flags[5]) / "model.safetensors")
    after = weights_of(case.path / "checkpoints" / "last.ckpt")
    inside = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[inside], after[inside])


class Raises(Callback):
    """Stands for a callback of somebody's, which fails when all is over."""

    def on_fit_end(self, trainer, pl_module) -> None:
        raise RuntimeError("the upload failed")


def test_a_callback_that_fails_when_all_is_trained_costs_no_model(case) -> None:
    assert case.run("--trainer.callbacks+", f"{__name__}.Raises") == 1
    place = r"on_fit_end \(.*test_finish\.py:\d+\) failed \(RuntimeError: the upload failed\)"
    assert re.search(rf"^{place}; all was trained before, and is written$", case.said, re.MULTILINE)
    assert case.why == "--trainer.max_epochs 2 reached"
    assert BEST in case.said
    assert case.finished["scores"]["best/f1"] >= 0


def test_a_fold_is_resumed_by_the_command_that_started_it(monkeypatch, tmp_path, caplog) -> None:
    progress = SimpleNamespace(current=SimpleNamespace(ready=1, processed=1))
    ended = SimpleNamespace(global_step=1, fit_loop=SimpleNamespace(done=True, epoch_progress=progress), world_size=2)
    with pytest.raises(ValueError, match="late"), surviving_the_end(ended, "with the same command"):
        raise ValueError("late")
    assert "resume with the same command to write the model" in caplog.text
    module = SimpleNamespace(predictions=SimpleNamespace(rows=lambda: [], spans=None))
    monkeypatch.setattr(finishing, "write_spans", disk_is_full)
    with pytest.raises(InputError, match="then resume with the same command to write them"):
        finishing._keep_answers(module, tmp_path / "answers.npz", "with the same command")


def test_a_callback_that_fails_before_that_keeps_its_traceback(case, monkeypatch) -> None:
    def fail(self, trainer, pl_module) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Raises, "on_train_epoch_start", fail)
    with pytest.raises(RuntimeError, match="broken"):
        case.run("--trainer.callbacks+", f"{__name__}.Raises")


def cannot_draw(*_) -> None:
    raise ImportError("no backend")


def disk_is_full(*_) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("where", "name", "fails", "words"),
    [
        (plots, "reliability_diagram", cannot_draw, "no figures: ImportError: no backend, in cannot_draw"),
        (plots, "write_file", disk_is_full, "no figures: .*No space left on device"),
        (finishing, "write_json", disk_is_full, "no figures about confidence: .*No space left on device"),
        (finishing, "mark_finished", disk_is_full, "no record of the end of the run: .*No space left on device"),
        (finishing, "peak_memory", cannot_draw, "no figures about speed and memory: ImportError: no backend"),
        (reports, "make_page", cannot_draw, "no report of errors: ImportError: no backend, in cannot_draw"),
        (reports, "write_file", disk_is_full, "no report of errors: .*No space left on device"),
        (finishing, "save_settings", disk_is_full, "no threshold and temperature: .*No space left on device"),
        (finishing, "fit_confidence", cannot_draw, "no threshold and temperature: ImportError: no backend"),
    ],
)
def test_each_fault_after_the_weights_costs_that_part_alone(case, monkeypatch, where, name, fails, words) -> None:
    monkeypatch.setattr(where, name, fails)
    assert case.run() == 0
    assert re.search(rf"^{words}.*; the model is written all the same$", case.said, re.MULTILINE)
    assert case.said.count("all the same") == 1
    assert BEST in case.said
    assert case.model.is_dir()
    assert (case.model.parent / "report.html").is_file() is (where is not reports)
    if name != "mark_finished":
        assert case.finished["scores"]["best/f1"] >= 0


@pytest.mark.parametrize("unanswerable", [0, 15])
def test_a_run_ends_with_a_report_of_what_its_model_says(case, tmp_path, unanswerable) -> None:
    """Its numbers are those of an evaluation of the model that was written, with its own threshold."""
    case.data = write_json(tmp_path / "rows.json", make_rows(40, unanswerable))
    validation = write_json(tmp_path / "dev.json", make_rows(24, unanswerable))
    assert case.run("--data.validation", validation) == 0
    assert re.search(r"^report:    .*version_0/report\.html$", case.said, re.MULTILINE)
    folder = case.model.parent
    shown = dict(re.findall(r'data-score="(\w+)">([\d.]+)<', (folder / "report.html").read_text("utf-8")))
    result = score_model(str(case.model), validation)
    assert result.scored is not None
    assert result.scored.fitted
    assert "fitted to these very questions" in (folder / "report.html").read_text("utf-8")
    names = {"exact": "exact" if unanswerable else "exact_match"}
    assert shown == {name: f"{result.metrics[names.get(name, name)]:.2f}" for name in shown}
    assert len(shown) == (6 if unanswerable else 2)
    rows = [json.loads(line) for line in (folder / "report.jsonl").read_text("utf-8").splitlines()]
    assert {row["id"]: row["prediction"]["answer"] for row in rows} == result.predictions
    assert {len(row["n_best"]) for row in rows} == {5}
    sure = {row["id"]: row["score"] for row in rows}
    best = {key: max(one["probability"] for one in found) for key, found in result.n_best.items()}
    assert sure == pytest.approx(best, abs=2e-3)


def test_a_run_records_its_best_epoch_speed_and_memory(case) -> None:
    assert case.run() == 0
    measured = case.finished["measured"]
    epochs = [float(score) for score in re.findall(r"^epoch \d/2 +EM +[\d.]+  F1 +([\d.]+)", case.said, re.MULTILINE)]
    assert measured["best_epoch"] == 1 + epochs.index(max(epochs))
    speeds = [float(speed.replace(",", "")) for speed in re.findall(r"([\d,]+) windows/s", case.said)]
    assert min(speeds) - 1 <= measured["windows_per_second"] <= max(speeds) + 1
    assert 2**26 < measured["peak_memory_bytes"] < 2**36


@pytest.mark.parametrize(
    ("best", "unanswerable"), [("last", 0), ("last", 15), ("first", 0), ("last, but changed since", 0)]
)
def test_the_best_checkpoint_is_validated_once_more_only_if_it_is_not_the_last_one(
    case, tmp_path, monkeypatch, best, unanswerable
) -> None:
    """All that a run leaves is the same in both cases."""
    write_json(tmp_path / "rows.json", make_rows(40, unanswerable))
    again: list[bool] = []
    given = finishing._validate
    monkeypatch.setattr(finishing, "_validate", lambda *values: again.append(True) or given(*values))
    saves = {"first": lambda self, trainer, current=None: trainer.current_epoch == 0}
    monkeypatch.setattr(BestCheckpoint, "check_monitor_top_k", saves.get(best, lambda *_, **__: True))
    if best == "last, but changed since":
        monkeypatch.setattr(Raises, "on_fit_end", lambda self, _, module: module.model.qa_outputs.bias.data.add_(1))
    changes = ("--trainer.callbacks+", f"{__name__}.Raises") if "changed" in best else ()
    assert case.run(*changes) == 0
    assert bool(again) is (best != "last")
    files = [case.path / "checkpoints" / name for name in ("best.ckpt", "last.ckpt")]
    assert files[0].samefile(files[1]) is (best != "first")
    if best != "last":
        return
    names = ("confidence/confidence.json", "report.jsonl", "model/config.json")
    left = [(case.path / name).read_text("utf-8") for name in names]
    scores, line = case.finished["scores"], re.findall("^best checkpoint EM.*$", case.said, re.MULTILINE)
    monkeypatch.setattr(finishing, "_is_in_memory", lambda *_: False)
    shutil.rmtree(case.path)
    assert case.run() == 0
    assert again
    assert left == [(case.path / name).read_text("utf-8") for name in names]
    assert (scores, line) == (case.finished["scores"], re.findall("^best checkpoint EM.*$", case.said, re.MULTILINE))


@pytest.mark.parametrize("at_the_end_of_epochs", [False, True])
def test_averages_of_weights_are_validated_again_if_they_changed_since(case, monkeypatch, at_the_end_of_epochs) -> None:
    """As averages of epochs do, between the validation and the checkpoint."""
    again: list[bool] = []
    given = finishing._validate
    monkeypatch.setattr(finishing, "_validate", lambda *values: again.append(True) or given(*values))
    monkeypatch.setattr(BestCheckpoint, "check_monitor_top_k", lambda *_, **__: True)
    average = ["--trainer.callbacks+", "EMAWeightAveraging", "--trainer.callbacks.use_buffers", "false"]
    average += ["--trainer.callbacks.update_starting_at_epoch", "0"] if at_the_end_of_epochs else []
    assert case.run(*average) == 0
    assert bool(again) is at_the_end_of_epochs
    assert_same(load_file(case.model / "model.safetensors"), weights_of(case.path / "checkpoints" / "best.ckpt"))


def test_a_validation_that_fails_costs_the_scores_alone(case, monkeypatch) -> None:
    """As where the end needs more memory than there is."""
    monkeypatch.setattr(finishing, "_is_in_memory", lambda *_: False)
    given = finishing._validate

    def failing(trainer, module, *others):
        monkeypatch.setattr(type(module), "validation_step", disk_is_full)
        return given(trainer, module, *others)

    monkeypatch.setattr(finishing, "_validate", failing)
    assert case.run() == 0
    assert "no validation of the model: " in case.said
    assert_same(load_file(case.model / "model.safetensors"), weights_of(case.path / "checkpoints" / "best.ckpt"))
    assert case.finished["scores"] == {}


def test_the_weights_are_written_before_anything_else(case, monkeypatch) -> None:
    """A kill in the validation at the end leaves the model."""

    class Killed(BaseException):
        pass

    def killed(*_, **__) -> bool:
        raise Killed

    monkeypatch.setattr(finishing, "_is_in_memory", killed)
    with pytest.raises(Killed):
        case.run()
    assert_same(
        load_file(case.path / "model" / "model.safetensors"), weights_of(case.path / "checkpoints" / "best.ckpt")
    )


def test_a_damaged_best_checkpoint_costs_that_alone(case, monkeypatch) -> None:
    given = finishing._weights

    def damaged(trainer):
        (case.path / "checkpoints" / "best.ckpt").unlink()  # it may be the last one's file, too
        (case.path / "checkpoints" / "best.ckpt").write_bytes(b"no checkpoint")
        return given(trainer)

    monkeypatch.setattr(finishing, "_weights", damaged)
    assert case.run() == 0
    assert "best.ckpt cannot be read" in case.said
    assert_same(load_file(case.model / "model.safetensors"), weights_of(case.path / "checkpoints" / "last.ckpt"))


def test_somebody_elses_checkpoints_do_not_take_the_place_of_the_best_one(case) -> None:
    """A second ModelCheckpoint, which comes first in the list, keeps the weights of another step."""
    second = ("--trainer.callbacks+", "ModelCheckpoint", "--trainer.callbacks.every_n_train_steps", "3")
    assert case.run(*second, "--trainer.callbacks.filename", "step") == 0
    assert (case.path / "checkpoints" / "step.ckpt").is_file()
    assert_same(load_file(case.model / "model.safetensors"), weights_of(case.path / "checkpoints" / "best.ckpt"))


def test_reports_that_were_asked_for_are_shown_once(case) -> None:
    assert case.run("--trainer.profiler", "simple") == 0
    assert case.said.count("FIT Profiler Report") == 1
    assert case.said.count("Profiler Report") == 1
    assert "GPU available" not in case.said
    assert "`Trainer.fit` stopped" not in case.said


def test_nothing_trained_is_said(case) -> None:
    assert case.run("--trainer.limit_train_batches", "0") == 0
    assert case.why == "no step was trained"
    assert "the weights after step 0 are written" in case.said
