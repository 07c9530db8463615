"""A checkpoint is written whole or not at all, whatever happens meanwhile; stopped and damaged runs resume."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
from torch.utils.tensorboard import SummaryWriter
from transformers import BertForQuestionAnswering

from qa_lightning import QALightningModule
from qa_lightning.errors import DivergedError, InputError
from qa_lightning.models.loading import load_model
from qa_lightning.runs import checkpoints
from qa_lightning.runs.checkpoints import AtomicCheckpointIO, LastCheckpoint
from qa_lightning.runs.curves import CurveLogger
from qa_lightning.runs.resume import read_beginning
from qa_lightning.runs.signals import Stop, Stopped
from qa_lightning.training.callbacks import BestCheckpoint
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.kill_and_resume import curves
from tests.helpers.models import small_config
from tests.helpers.processes import TRAIN, Started
from tests.helpers.training import Crash, add_callbacks, crash, train_flags


def save(path: Path, value: float, size: int = 1000) -> None:
    AtomicCheckpointIO().save_checkpoint({"weights": torch.full((size,), value)}, path)


def load(path: Path) -> torch.Tensor:
    return torch.load(path, weights_only=True)["weights"]


def test_what_is_written_comes_back_and_nothing_else_lies_beside_it(tmp_path) -> None:
    path = tmp_path / "deep" / "last.ckpt"
    save(path, 1.0)
    save(path, 2.0)
    assert (load(path) == 2.0).all()
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_in_the_background_what_is_written_is_what_was_given(tmp_path, monkeypatch) -> None:
    """Training goes on and changes the weights; at most two files wait, and whoever reads waits for them."""
    io = AtomicCheckpointIO(background=True)
    started, go = threading.Semaphore(0), threading.Semaphore(0)
    write = checkpoints._write

    def slow(checkpoint: dict[str, Any], target: Path) -> None:
        started.release()
        go.acquire()
        write(checkpoint, target)

    monkeypatch.setattr(checkpoints, "_write", slow)
    weights = torch.zeros(1000)
    places = {1.0: tmp_path / "last.ckpt", 2.0: tmp_path / "best.ckpt", 9.0: tmp_path / "more" / "last.ckpt"}
    for value in (1.0, 2.0):
        weights.fill_(value)
        io.save_checkpoint({"weights": weights, "tied": weights[:], "steps": [1, {"a": weights}]}, places[value])
    weights.fill_(9.0)
    third = threading.Thread(target=io.save_checkpoint, args=({"weights": weights}, places[9.0]))
    third.start()
    started.acquire()
    assert not list(tmp_path.iterdir())
    third.join(0.2)
    assert third.is_alive()  # two are waiting
    for _ in range(3):
        go.release()
    third.join(20)
    found = io.load_checkpoint(places[9.0], map_location="cpu", weights_only=True)
    assert (found["weights"] == 9.0).all()
    for value in (1.0, 2.0):
        found = torch.load(places[value], weights_only=True)
        assert (found["weights"] == value).all()
        assert (found["steps"][1]["a"] == value).all()
        assert found["weights"].untyped_storage().data_ptr() == found["tied"].untyped_storage().data_ptr()
    io.teardown()


def test_checkpoints_of_other_callbacks_are_there_as_soon_as_they_are_saved(tmp_path, monkeypatch) -> None:
    """Lightning looks for them at once: to choose another name, to link to them, to upload them."""
    io = AtomicCheckpointIO(background=True)
    write = checkpoints._write
    monkeypatch.setattr(checkpoints, "_write", lambda *given: time.sleep(0.1) or write(*given))
    io.save_checkpoint({"weights": torch.ones(3)}, tmp_path / "best.ckpt")
    io.save_checkpoint({"weights": torch.ones(3)}, tmp_path / "kept.ckpt")
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "kept.ckpt"}
    io.teardown()


def test_where_no_copy_fits_into_memory_the_file_is_written_all_the_same(tmp_path, monkeypatch) -> None:
    def no_room(checkpoint: dict[str, Any]) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(checkpoints, "_copied", no_room)
    io = AtomicCheckpointIO(background=True)
    io.save_checkpoint({"weights": torch.ones(3)}, tmp_path / "last.ckpt")
    assert (load(tmp_path / "last.ckpt") == 1).all()


def test_a_job_is_requeued_after_its_checkpoint_is_written(tmp_path, monkeypatch) -> None:
    """SLURM may end the job at once."""
    io = AtomicCheckpointIO(background=True)
    write = checkpoints._write
    monkeypatch.setattr(checkpoints, "_write", lambda *given: time.sleep(0.2) or write(*given))
    there = []
    monkeypatch.setattr(checkpoints, "requeue_job", lambda: there.append((tmp_path / "last.ckpt").exists()))
    last = LastCheckpoint()
    last._coming = checkpoints._Coming(io, tmp_path / "last.ckpt", 7, None)
    io.save_checkpoint({"weights": torch.ones(3)}, tmp_path / "last.ckpt")
    trainer: Any = SimpleNamespace(is_global_zero=True)
    with pytest.raises(Stopped):
        last._stop_if_asked(trainer, Stop.REQUEUE)
    assert there == [True]
    assert (last.path, last.step) == (tmp_path / "last.ckpt", 7)


def test_a_write_in_the_background_that_fails_warns_and_the_run_goes_on(tmp_path, monkeypatch, said) -> None:
    io = AtomicCheckpointIO(background=True)
    io.save_checkpoint({"weights": torch.ones(3)}, tmp_path / "last.ckpt")
    io.wait()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write", full)
    io.save_checkpoint({"weights": torch.zeros(3)}, tmp_path / "last.ckpt")
    io.teardown()
    assert "last.ckpt could not be written, the previous one is kept" in said.text
    assert (load(tmp_path / "last.ckpt") == 1).all()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_checkpoint_is_durable_before_it_takes_the_place_of_the_one_before_and_so_is_the_place(
    tmp_path, disk_calls
) -> None:
    """For a power cut: first the new file's data is on disk, then its name, then the folder that holds the name."""
    path = tmp_path / "last.ckpt"
    save(path, 1.0)
    disk_calls.clear()
    save(path, 2.0)
    assert disk_calls.hold_in_order([disk_calls.synced(path), ("replaced", path), disk_calls.synced(tmp_path)])


def state(step: int = 3, weight: float = 1.0) -> dict[str, Any]:
    """A checkpoint with all kinds of values that one holds."""
    numbers = {"steps": [step, (0.5, float("nan"))], "on": True, "name": "a", "none": None}
    tensors = OrderedDict(full=torch.full((50,), weight, dtype=torch.bfloat16), single=torch.tensor(weight))
    return {"state_dict": tensors, "loops": numbers}


def saved(folder: Path, best: dict[str, Any], last: dict[str, Any]) -> tuple[Path, Path]:
    io, (one, other) = AtomicCheckpointIO(), (folder / "best.ckpt", folder / "last.ckpt")
    io.save_checkpoint(best, one)
    io.save_checkpoint(last, other)
    return one, other


def test_the_best_checkpoint_that_is_the_last_one_too_takes_its_room_on_disk_once(tmp_path) -> None:
    """Of what is written later to one name, and of its removal, the other sees nothing."""
    best, last = saved(tmp_path, state(), state())
    assert best.samefile(last)
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}
    io = AtomicCheckpointIO()
    io.save_checkpoint(state(), last)  # once more: both are names of one file already
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}
    before = best.read_bytes()
    io.save_checkpoint(state(4, 2.0), last)
    assert best.read_bytes() == before != last.read_bytes()
    io.save_checkpoint(state(4, 2.0), best)
    assert best.samefile(last)
    io.remove_checkpoint(best)
    assert torch.load(last, weights_only=True)["loops"]["steps"][0] == 4


@pytest.mark.parametrize(
    ("best", "last"),
    [
        (state(), state(4)),
        (state(), state(weight=1.5)),
        (state(weight=0.0), state(weight=-0.0)),
        (state(), {**state(), "loops": {**state()["loops"], "on": 1}}),
        (state(), {**state(), "more": 1}),
        ({"a": [1, 2]}, {"a": [1]}),
        ({"a": torch.zeros(4)}, {"a": torch.zeros(2, 2)}),
        ({"a": torch.zeros(4)}, {"a": torch.zeros(4, dtype=torch.int32)}),
    ],
)
def test_checkpoints_that_differ_in_anything_are_two_files(tmp_path, best, last) -> None:
    files = saved(tmp_path, best, last)
    assert not files[0].samefile(files[1])
    for path, written in zip(files, (best, last), strict=True):
        assert checkpoints._alike(torch.load(path, weights_only=True), written)


def test_where_files_cannot_have_two_names_they_are_written_twice(tmp_path, monkeypatch) -> None:
    def unknown(*_) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", unknown)
    best, last = saved(tmp_path, state(), state())
    assert not best.samefile(last)
    assert best.read_bytes() == last.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_damaged_checkpoint_gets_no_second_name(tmp_path) -> None:
    (tmp_path / "best.ckpt").write_bytes(b"no checkpoint")
    AtomicCheckpointIO().save_checkpoint(state(), tmp_path / "last.ckpt")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["loops"]["steps"][0] == 3


@pytest.fixture
def warnings_of_the_project():
    """Lines of the project's logger, from a handler of its own: another test may have set up the usual ones."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("qa_lightning").addHandler(handler)
    yield lines
    logging.getLogger("qa_lightning").removeHandler(handler)


def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path, warnings_of_the_project) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk")
    try:
        save(disk / "last.ckpt", 1.0)
        save(disk / "last.ckpt", 2.0, size=10**6)
        assert (load(disk / "last.ckpt") == 1.0).all()
        assert [file.name for file in disk.iterdir()] == ["last.ckpt"]
        assert "the previous one is kept and training continues; free some space" in warnings_of_the_project[-1]
        save(disk / "last.ckpt", 3.0)  # and there is room again
        assert (load(disk / "last.ckpt") == 3.0).all()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _save_under_a_limit(path: Path, queue) -> None:
    torch.set_num_threads(1)  # a forked process does not have the parent's threads
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    save(path, 2.0, size=10**6)
    queue.put((bool((load(path) == 1.0).all()), [file.name for file in path.parent.iterdir()]))


def test_a_write_that_fails_half_way_leaves_the_checkpoint_before(tmp_path) -> None:
    save(tmp_path / "best.ckpt", 1.0)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=_save_under_a_limit, args=(tmp_path / "best.ckpt", queue))
    process.start()
    assert queue.get(timeout=60) == (True, ["best.ckpt"])
    process.join()


def _save_on_and_on(path: Path, value: float, begun) -> None:
    torch.set_num_threads(1)
    while True:
        value += 1
        save(path, value, size=500_000)
        begun.set()


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path) -> None:
    path = tmp_path / "last.ckpt"
    save(path, 0.0, size=500_000)
    moments = random.Random(0)
    seen = set()
    context = multiprocessing.get_context("fork")
    for number in range(15):
        begun = context.Event()
        process = context.Process(target=_save_on_and_on, args=(path, 1000.0 * number, begun))
        process.start()
        assert begun.wait(60)
        time.sleep(moments.uniform(0.0, 0.1))
        process.kill()
        process.join()
        weights = load(path)
        assert len(weights) == 500_000
        assert (weights == weights[0]).all()
        seen.add(float(weights[0]))
    assert len(seen) == 15
    save(path, 1.0)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_run_whose_checkpoints_cannot_be_written_goes_on_and_says_so(tmp_path, model_folder, monkeypatch, capsys):
    def full(checkpoint, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qa_lightning.runs.checkpoints._write", full)
    train = write_json(tmp_path / "train.json", make_rows(20))
    assert commands.train([*train_flags(tmp_path, model_folder, train, train), "--trainer.max_epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "best.ckpt could not be written, there is no previous one and training continues" in printed
    assert "No space left on device" in printed
    assert "the current weights are written" in printed
    assert (tmp_path / "lightning_logs" / "version_0" / "model" / "model.safetensors").is_file()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path, model_folder) -> None:
    train = write_json(tmp_path / "train.json", make_rows(20))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"runs go to .*, where nothing can be written .* --trainer.default_root_dir"):
        commands.train(train_flags(tmp_path / "file", model_folder, train, train))


def test_a_full_disk_costs_curves_and_model_but_not_the_run(tmp_path, model_folder, capsys, monkeypatch) -> None:
    """The disk fills up after the first epoch; once there is room again, the run resumes and finishes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    train = write_json(tmp_path / "train.json", make_rows(20))
    arguments = [*train_flags(disk, model_folder, train, train), "--trainer.log_every_n_steps", "1"]
    monkeypatch.setattr(CurveLogger, "retry_seconds", 1e6)  # on a busy machine, the first run may take a minute

    class Fill(Callback):
        def on_train_epoch_start(self, trainer, pl_module) -> None:
            if trainer.current_epoch == 1:
                trainer.strategy.checkpoint_io.wait()
                with (disk / "fill").open("wb", buffering=0) as fill, contextlib.suppress(OSError):
                    while True:
                        fill.write(bytes(1024))

    try:
        add_callbacks(monkeypatch, Fill())
        with pytest.raises(InputError, match=r"the model could not be written to .*free some space"):
            commands.train(arguments)
        printed = capsys.readouterr().out
        assert "epoch 3/3" in printed
        assert printed.count("curves could not be written to") == 1
        assert "last.ckpt could not be written, the previous one is kept" in printed
        monkeypatch.undo()
        (disk / "fill").unlink()
        assert commands.train([*arguments, "--ckpt_path", "last"]) == 0
        printed = capsys.readouterr().out
        assert "epoch 2/3" in printed  # from the first epoch's checkpoint
        (run,) = (disk / "lightning_logs").iterdir()
        assert (run / "model" / "model.safetensors").is_file()
        assert [step for step, _ in curves(run)["val/f1"]] == [2, 5, 8]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("logger", ["CSVLogger", "TensorBoardLogger"])
def test_other_loggers_than_ours_do_not_end_a_run_on_a_full_disk_either(
    tmp_path, model_folder, capsys, monkeypatch, logger
) -> None:
    train = write_json(tmp_path / "train.json", make_rows(20))
    given = [*train_flags(tmp_path, model_folder, train, train), "--trainer.log_every_n_steps", "1"]
    save, add_scalar = CSVLogger.save, SummaryWriter.add_scalar

    def full(self) -> None:
        if self.experiment.metrics and self.experiment.metrics[-1]["step"] > 2:
            raise OSError(28, "No space left on device")
        save(self)

    def full_from(self, tag, value, step=None, **more) -> None:
        if step is not None and step > 2:
            raise OSError(28, "No space left on device")
        add_scalar(self, tag, value, step, **more)

    def full_text(self, *_, **__) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CSVLogger, "save", full)
    monkeypatch.setattr(SummaryWriter, "add_scalar", full_from)
    monkeypatch.setattr(SummaryWriter, "add_text", full_text)
    assert commands.train([*given, "--trainer.logger", logger, "--trainer.logger.save_dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count(f"{logger} could not write (No space left on device), training continues") == 1
    run = tmp_path / "lightning_logs" / "version_0"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 9


@pytest.mark.parametrize("cut_off", [False, True])
def test_the_best_checkpoint_is_the_best_of_those_that_could_be_written(
    tmp_path, model_folder, monkeypatch, cut_off
) -> None:
    """The second of three is not: neither it nor its score counts, also after a resume."""
    train = write_json(tmp_path / "train.json", make_rows(20))
    given = train_flags(tmp_path, model_folder, train, train)
    write, log = checkpoints._write, QALightningModule.log
    scores = [50.0, 70.0, 60.0]

    def full(checkpoint, target) -> None:
        if target.name == "best.ckpt" and checkpoint["epoch"] == 1:
            raise OSError(28, "No space left on device")
        write(checkpoint, target)

    def planned(self, name, value, **more) -> None:
        log(self, name, scores[self.current_epoch] if name == "val/f1" else value, **more)

    monkeypatch.setattr(checkpoints, "_write", full)
    monkeypatch.setattr(QALightningModule, "log", planned)
    if cut_off:
        crash(monkeypatch, Crash("batch", 2, 1), given)
        assert commands.train([*given, "--ckpt_path", "last"]) == 0
    else:
        assert commands.train(given) == 0
    run = tmp_path / "lightning_logs" / "version_0"
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 2
    states = [state for key, state in best["callbacks"].items() if key.startswith("BestCheckpoint")]
    assert [float(state["best_model_score"]) for state in states] == [60.0]


def test_a_checkpoint_that_could_not_be_written_is_not_called_saved(
    tmp_path, model_folder, monkeypatch, capsys
) -> None:
    class Full(Callback):
        """The disk is full from the second step on; the loss diverges after the fourth."""

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            if batch_idx == 1:
                monkeypatch.setattr("qa_lightning.runs.checkpoints._write", self.full)
            if batch_idx == 3:
                pl_module.model.qa_outputs.weight.data.fill_(torch.nan)

        def full(self, checkpoint, target) -> None:
            raise OSError(28, "No space left on device")

    train = write_json(tmp_path / "train.json", make_rows(80))
    add_callbacks(monkeypatch, Full())
    arguments = [*train_flags(tmp_path, model_folder, train, train), "--save_every_minutes", "0"]
    with pytest.raises(DivergedError, match=r"at step 4 .*; step 1 is saved in .*last.ckpt; resume with"):
        commands.train(arguments)
    saved = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(saved, weights_only=True)["global_step"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGUSR1", 143), ("SIGINT", 130)])
def test_a_stopped_run_saves_says_so_and_goes_on(tmp_path, model_folder, capsys, name: str, status: int) -> None:
    train = write_json(tmp_path / "train.json", make_rows(60))
    flags = train_flags(tmp_path, model_folder, train, train)
    with Started([TRAIN, *flags, "--trainer.max_epochs", "100000"], stdout=subprocess.PIPE) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("epoch 2/"):
                process.send_signal(getattr(signal, name))
        assert process.wait(timeout=60) == status
    said = "".join(lines)
    cause = "Ctrl-C" if name == "SIGINT" else "SIGTERM"
    (step,) = re.findall(
        rf"stopped by {cause} after step (\d+): step \1 is saved in .*last.ckpt; resume with the same flags and --ckpt",
        said,
    )
    saved = torch.load(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == int(step) > 0
    epochs = str(saved["epoch"] + 2)
    assert commands.train([*flags, "--trainer.max_epochs", epochs, "--ckpt_path", "last"]) == 0
    assert f"epoch {epochs}/{epochs}" in capsys.readouterr().out


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def finished_run(tmp_path, model_folder, capsys) -> list[str]:
    """Train for one epoch; returns the run's flags."""
    train = write_json(tmp_path / "train.json", make_rows(20))
    arguments = [*train_flags(tmp_path, model_folder, train, train), "--trainer.max_epochs", "1"]
    assert commands.train(arguments) == 0
    capsys.readouterr()
    return arguments


def test_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, model_folder, capsys) -> None:
    arguments = finished_run(tmp_path, model_folder, capsys)
    marker = tmp_path / "executed"
    good = torch.load(tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(good | {"callbacks": Evil(marker)}, tmp_path / "evil.ckpt")
    with pytest.raises(
        InputError, match=r"^--ckpt_path .*evil.ckpt: the file holds more than tensors .* could run code"
    ):
        commands.train([*arguments, "--ckpt_path", str(tmp_path / "evil.ckpt")])
    assert not marker.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert marker.exists()  # loading it without weights_only does run the code


def test_a_model_folder_with_a_pickle_that_runs_code_is_refused_and_runs_nothing(tmp_path, model_folder) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(model_folder, evil)
    (evil / "model.safetensors").unlink()
    torch.save({"weights": Evil(tmp_path / "executed")}, evil / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"evil' cannot be loaded"):
        load_model(str(evil))
    assert not (tmp_path / "executed").exists()


def test_a_model_that_brings_code_of_its_own_is_refused_and_runs_nothing(tmp_path, model_folder) -> None:
    evil = tmp_path / "evil"
    shutil.copytree(model_folder, evil)
    config = json.loads((evil / "config.json").read_text())
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForQuestionAnswering": "own.OwnModel"}
    (evil / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": names}))
    (evil / "own.py").write_text(
        f"open({str(tmp_path / 'executed')!r}, 'w')\nclass OwnConfig: pass\nclass OwnModel: pass\n"
    )
    with pytest.raises(InputError, match=r"evil' cannot be loaded"):
        load_model(str(evil))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "other"])
def test_a_damaged_last_checkpoint_is_told_and_the_best_one_taken(tmp_path, model_folder, capsys, damage) -> None:
    arguments = finished_run(tmp_path, model_folder, capsys)
    last = tmp_path / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    last.unlink()  # the best one is the same file
    last.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "other": b"not a checkpoint"}[damage])
    assert commands.train([*arguments, "--trainer.max_epochs", "2", "--ckpt_path", "last"]) == 0
    printed = capsys.readouterr().out
    assert "last.ckpt: the file is " in printed
    assert "resuming from best.ckpt, the best checkpoint of that run, instead" in printed
    assert "epoch 2/2" in printed
    newest = tmp_path / "lightning_logs" / "version_1" / "checkpoints"  # the first run was finished
    (newest / "last.ckpt").write_bytes(b"")
    (newest / "best.ckpt").write_bytes(b"x")
    with pytest.raises(InputError) as caught:
        commands.train([*arguments, "--ckpt_path", "last"])
    assert len(caught.value.problems) == 2


@pytest.fixture(scope="module")
def good(tmp_path_factory, model_folder) -> tuple[list[str], dict]:
    """The flags of a finished run of one epoch, and its last checkpoint."""
    folder = tmp_path_factory.mktemp("good")
    train = write_json(folder / "train.json", make_rows(20))
    flags = [*train_flags(folder, model_folder, train, train), "--trainer.max_epochs", "1"]
    assert commands.train(flags) == 0
    return flags, torch.load(folder / "lightning_logs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)


def changed(checkpoint: dict, path: str, value: object) -> dict:
    """A copy with another value at a place; None takes the place away."""
    first, _, rest = path.partition("/")
    copy = dict(checkpoint)
    if rest:
        copy[first] = changed(copy[first], rest, value)
    elif value is None:
        del copy[first]
    else:
        copy[first] = value
    return copy


BATCHES = "loops/fit_loop/epoch_loop.batch_progress"


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("", torch.zeros(3), "the file holds a Tensor, not a checkpoint of a training run"),
        ("", [1, 2], "the file holds a list, not a checkpoint of a training run"),
        ("", {}, "it lacks state_dict, loops, global_step"),
        ("optimizer_states", None, "the file holds weights alone, to resume it lacks optimizer_states"),
        ("state_dict", [1], "its state_dict is a list in place of a dict"),
        ("state_dict/model.bert.embeddings.word_embeddings.weight", "text", "embeddings.weight', a str"),
        ("global_step", "ten", "its global_step is 'ten'"),
        ("global_step", True, "its global_step is True"),
        ("global_step", -4, "its global_step is -4"),
        ("optimizer_states", {}, "its optimizer_states is a dict"),
        ("loops", "none", "its loops is a str in place of a dict"),
        ("loops/fit_loop", None, "it lacks loops.fit_loop"),
        (
            "loops/fit_loop/epoch_loop.state_dict",
            {"other": 3},
            "it lacks loops.fit_loop.epoch_loop.state_dict._batches",
        ),
        (BATCHES, 7, "batch_progress is a int in place of a dict"),
        (f"{BATCHES}/current/ready", "x", "batch_progress.current.ready is 'x'"),
        ("hyper_parameters", 3, "its hyper_parameters is a int in place of a dict"),
        ("callbacks", {"LastCheckpoint": 3}, "its callbacks holds 'LastCheckpoint', a int"),
        ("curves", {"events": "long"}, "its curves holds 'events', a str"),
    ],
)
def test_a_file_that_is_no_checkpoint_of_a_run_is_one_line_before_anything_is_trained(
    tmp_path, good, capsys, place, value, said
) -> None:
    flags, checkpoint = good
    torch.save(changed(checkpoint, place, value) if place else value, tmp_path / "other.ckpt")
    with pytest.raises(InputError) as caught:
        commands.train(
            [*flags, "--trainer.default_root_dir", str(tmp_path), "--ckpt_path", str(tmp_path / "other.ckpt")]
        )
    (problem,) = caught.value.problems
    assert problem.startswith(f"--ckpt_path {tmp_path / 'other.ckpt'}: ")
    assert said in problem
    assert "choose another" in problem
    assert not list(tmp_path.glob("lightning_logs/*"))
    assert "epoch" not in capsys.readouterr().out.replace("1 epoch", "")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("optimizer_states", [{"state": 3, "param_groups": 4}]),
        ("lr_schedulers", ["one"]),
        ("epoch_so_far", {"loss": "high", "batches": None, "counted": 3}),
        ("SquadDataModule", "text"),
    ],
)
def test_what_cannot_be_restored_from_a_checkpoint_is_one_line_and_costs_no_other_run(
    tmp_path, good, place, value
) -> None:
    flags, checkpoint = good
    torch.save(changed(checkpoint, place, value), tmp_path / "other.ckpt")
    given = [*flags, "--trainer.default_root_dir", str(tmp_path), "--trainer.max_epochs", "2"]
    with pytest.raises(InputError) as caught:
        commands.train([*given, "--ckpt_path", str(tmp_path / "other.ckpt")])
    (problem,) = caught.value.problems
    assert problem.startswith(f"--ckpt_path: {tmp_path / 'other.ckpt'} does not fit this run, what it holds could not")
    assert not list((tmp_path / "lightning_logs").glob("*"))


def test_a_checkpoint_of_another_model_is_refused_with_the_model_that_fits(
    tmp_path, tokenizer, good, model_folder
) -> None:
    _, checkpoint = good
    other = tmp_path / "wider"
    BertForQuestionAnswering(small_config(len(tokenizer), hidden_size=64)).save_pretrained(other)
    tokenizer.save_pretrained(other)
    torch.save(checkpoint, tmp_path / "saved.ckpt")
    train = write_json(tmp_path / "train.json", make_rows(20))
    for model, said in [
        (str(other), r"it holds \d+ of other shapes \(model.bert.embeddings.LayerNorm.bias: \[32\], not \[64\]\)"),
        (
            "tiny",
            r"it holds \d+ weights that this model does not have \(model.bert.\S+\), lacks \d+ that it has \(model.ro",
        ),
    ]:
        flags = [*train_flags(tmp_path, model, train, train), "--ckpt_path", str(tmp_path / "saved.ckpt")]
        with pytest.raises(InputError) as caught:
            commands.train(flags)
        (problem,) = caught.value.problems
        assert re.search(f"belongs to another model than --model.model_name {model}, {said}", problem), problem
        assert f"it was made with --model.model_name {model_folder}: pass that" in problem
    assert not list(tmp_path.glob("lightning_logs/*"))


def test_tensors_alone_are_no_checkpoint(tmp_path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    assert read_beginning(tmp_path / "weights.ckpt") == (
        "the file is not a checkpoint of a training run, it lacks loops, global_step; choose another one"
    )


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the forks, signals and limits of POSIX")


@pytest.mark.parametrize("where", ["spelled otherwise", "moved"])
def test_the_best_score_is_known_where_the_folder_is_called_otherwise(tmp_path, monkeypatch, caplog, where) -> None:
    caplog.set_level("INFO")
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "best.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    before = BestCheckpoint()
    before.dirpath = "run/checkpoints"
    before.best_model_path = before.kth_best_model_path = "run/checkpoints/best.ckpt"
    before.best_model_score = before.kth_value = torch.tensor(80.0)
    before.best_k_models = {before.best_model_path: torch.tensor(80.0)}
    if where == "moved":
        folder = (tmp_path / "run").rename(tmp_path / "other") / "checkpoints"
    after = BestCheckpoint()
    after.dirpath = str(folder)
    after.load_state_dict(before.state_dict())
    assert after.best_model_path == str(folder / "best.ckpt")
    alone = SimpleNamespace(strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision))
    assert not after.check_monitor_top_k(alone, torch.tensor(50.0))
    assert after.check_monitor_top_k(alone, torch.tensor(81.0))
    elsewhere = BestCheckpoint()
    elsewhere.dirpath = str(tmp_path / "new")
    elsewhere.load_state_dict(before.state_dict())
    assert elsewhere.best_model_score is None
    assert "best so far: its best.ckpt is not beside the checkpoint; the best one is chosen anew" in caplog.text
    other_machine = BestCheckpoint()  # without the file, which the first process has
    other_machine.dirpath = str(tmp_path / "new")
    other_machine._strategy = SimpleNamespace(
        broadcast=lambda own: (tmp_path / "new", torch.tensor(80.0)), is_global_zero=False
    )
    other_machine.load_state_dict(before.state_dict())
    assert other_machine.best_k_models == {str(tmp_path / "new" / "best.ckpt"): torch.tensor(80.0)}
