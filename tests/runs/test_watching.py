"""What a run says of itself while it runs: what is ahead, lines in a file, one bar in a terminal."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import re
import struct
import termios
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._python_dispatch import TorchDispatchMode

from qa_lightning import progress
from qa_lightning.models.computing.attention import without_reads
from qa_lightning.models.computing.loss import StepLosses
from qa_lightning.runs import watching
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.processes import Started, environment
from tests.helpers.training import add_callbacks, train_flags

LINE = re.compile(
    r"step (?P<step>\d+) of (?P<steps>\d+)  epoch (?P<epoch>\d)/3 (?P<share>[\d.]+)%  loss (?P<loss>[\d.]+)  "
    r"learning rate (?P<rate>\S+)  (?P<speed>[\d,.]+) windows/s  left: (?:epoch (?P<epoch_left>[\d:]+), )?"
    r"run (?P<run_left>[\d:]+)  [\d.]+ GiB of memory"
)


@pytest.fixture
def flags(tmp_path, model_folder) -> list[str]:
    data = write_json(tmp_path / "train.json", make_rows(60))
    return train_flags(tmp_path, model_folder, data, data)


def lines_of(said: str) -> list[dict[str, str]]:
    found = [LINE.fullmatch(line) for line in said.splitlines() if line.startswith("step ")]
    assert all(found), said
    return [line.groupdict() for line in found if line]


def curve(folder: Any, tag: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(point.step, point.value) for point in events.Scalars(tag)]


def test_lines_say_step_epoch_loss_rate_speed_time_left_and_memory(flags, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "MIN_SECONDS", 0.0)  # 2% of an epoch of 8 batches is every batch
    assert commands.train([*flags, "--trainer.log_every_n_steps", "1"]) == 0
    said = lines_of(capsys.readouterr().out)
    assert [(line["step"], line["steps"], line["epoch"]) for line in said] == [
        (str(step + 1), "24", str(1 + step // 8)) for step in range(24)
    ]
    assert all(line["epoch_left"] for line in said)
    assert [line["share"] for line in said[:8]] == [f"{100 * batch / 8:.1f}" for batch in range(1, 9)]
    version = tmp_path / "lightning_logs" / "version_0"
    for name, tag, digits in (("loss", "train/loss", "{:.3f}"), ("rate", "train/learning_rate", "{:.2e}")):
        assert [line[name] for line in said] == [digits.format(value) for _, value in curve(version, tag)]


@pytest.mark.parametrize("bars", ["true", "false", "RichProgressBar"])
def test_a_run_shows_bars_or_lines_throughout_as_it_is_told(flags, tmp_path, monkeypatch, capsys, bars) -> None:
    monkeypatch.setattr(progress, "MIN_SECONDS", 0.0)
    rich = ["--trainer.callbacks+", bars]
    told = rich if bars == "RichProgressBar" else ["--trainer.enable_progress_bar", bars]
    assert commands.train([*flags, "--trainer.max_epochs", "1", *told]) == 0
    said = capsys.readouterr().out
    assert bool(re.search(r"^step \d", said, re.M)) == (bars == "false")
    if bars != "RichProgressBar":
        assert bool(re.search(r"validation: .*\d/\d", said)) == (bars == "true")
    wanted = yaml.safe_load((tmp_path / "lightning_logs" / "version_0" / "config.yaml").read_text())["trainer"]
    assert wanted["enable_progress_bar"] is {"true": True, "false": False}.get(bars)


def test_lines_of_the_epoch_in_which_a_run_ends_do_not_say_when_the_epoch_would(flags, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "MIN_SECONDS", 0.0)
    assert commands.train([*flags, "--trainer.max_steps", "11"]) == 0
    assert [bool(line["epoch_left"]) for line in lines_of(capsys.readouterr().out)] == [True] * 8 + [False] * 3


def test_a_line_tells_the_mean_loss_since_the_one_before(flags, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0.5)
    assert commands.train([*flags, "--trainer.log_every_n_steps", "1"]) == 0
    said = lines_of(capsys.readouterr().out)
    assert [line["step"] for line in said] == ["1", "5", "9", "13", "17", "21"]
    losses = [loss for _, loss in curve(tmp_path / "lightning_logs" / "version_0", "train/loss")]
    assert [line["loss"] for line in said[1:]] == [f"{sum(losses[i : i + 4]) / 4:.3f}" for i in range(1, 21, 4)]


class Reads(TorchDispatchMode):
    """Counts what is read from the device: each read waits until it has done all that it was given."""

    OPERATIONS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")
    METHODS = ("tolist", "item", "numpy", "cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.count = 0
        for name in self.METHODS:
            monkeypatch.setattr(torch.Tensor, name, self._counting(getattr(torch.Tensor, name)))

    def _counting(self, method: Any) -> Any:
        def counted(*args: Any, **keywords: Any) -> Any:
            self.count += 1
            return method(*args, **keywords)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name == "index" and any(one is not None and one.dtype == torch.bool for one in args[1])
        self.count += name in self.OPERATIONS or by_mask
        return func(*args, **(kwargs or {}))


class CountReads(Callback):
    """The reads of each training step, from batch to batch."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads
        self.steps: list[int] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        without_reads(pl_module.model)  # as on a GPU
        self.reads.__enter__()
        self.reads.count = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx:
            self.steps.append(self.reads.count)
        self.reads.count = 0

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.reads.__exit__(None, None, None)


def test_no_step_reads_from_the_device_and_every_fiftieth_reads_the_losses(
    tmp_path, model_folder, monkeypatch, capsys
) -> None:
    """Counted on a CPU, where a read costs nothing, with the rule of a GPU."""
    monkeypatch.setattr(StepLosses, "due", property(lambda losses: losses._added % losses.together == 0))
    data = write_json(tmp_path / "train.json", make_rows(110))
    flags = train_flags(tmp_path, model_folder, data, data)
    counted = CountReads(Reads(monkeypatch))
    add_callbacks(monkeypatch, counted)
    small = ["--data.batch_size", "1", "--trainer.log_every_n_steps", "1000", "--trainer.max_epochs", "1"]
    dropout = ["--model.fast_dropout", "false"]  # a GPU's; the fast one draws its seeds on the CPU
    assert commands.train([*flags, *small, *dropout]) == 0
    steps = counted.steps
    assert len(steps) > 105
    said = capsys.readouterr().out.count("step ")  # a line reads the losses, too
    assert sum(steps) <= 2 + said
    assert steps[49] == steps[99] == 1


def rendered(words: list[str], columns: int) -> str:
    """What a command writes to a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {name: value for name, value in environment().items() if name not in ("COLUMNS", "LINES")}
    process = Started(words, stdin=theirs, stdout=theirs, stderr=theirs, env=own)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait() == 0, written.decode()
    return written.decode()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 160])
def test_in_a_terminal_one_bar_holds_what_counts(flags, columns) -> None:
    words = ["-m", "qa_lightning", "train", *flags]
    drawn = [part for part in re.split(r"[\r\n]+", rendered(words, columns)) if "%|" in part and part.strip()]
    training_bars = [bar for bar in drawn if bar.startswith("epoch ")]
    assert {bar[:9] for bar in training_bars} == {"epoch 1/3", "epoch 2/3", "epoch 3/3"}
    assert max(map(len, drawn)) <= columns
    for bar in training_bars:
        assert re.search(r"\| [\d:]+ left lr \d\.\de-\d\d ", bar), bar
        if not bar.startswith("epoch 1"):
            assert re.search(r" EM +[\d.]+ F1 +\d+\.\d\d loss ", bar), bar
        assert "windows/s step" in bar or columns == 80
    assert "\x1b[A" not in "".join(drawn)  # never two bars, one below the other


def told(columns: int, **of_run: Any) -> str:
    """What stands beside the bar of the largest of runs."""
    bar = watching.RunBar()
    trainer: Any = SimpleNamespace(global_step=1_234_567)
    bar._left = lambda trainer: (0.0, of_run.get("left", 9 * 86400 + 83999.0))  # type: ignore[method-assign]
    bar._learning_rate, bar._scores, bar._losses = 1.5e-5, "EM 100.00 F1 100.00", StepLosses()
    bar._losses.total, bar._losses.count, bar._read = 12.34, 1, (0.0, 0)
    bar._batches = bar._windows = 0
    bar._seconds, bar._began, bar._told = 0.0, None, (0, 0.0)
    return bar._told_in(columns - len("epoch 10/10 100%|12345678| "), trainer)


def test_the_longest_of_runs_still_tells_its_scores_in_80_columns() -> None:
    assert told(80) == "9d 23:19:59 left lr 1.5e-05 EM 100.00 F1 100.00"
    assert told(80, left=3599.0) == "59:59 left lr 1.5e-05 EM 100.00 F1 100.00 loss 12.34"
    assert told(100).endswith("loss 12.34 0 windows/s")
    assert told(60) == "9d 23:19:59 left lr 1.5e-05"


def runs_like(in_epoch: int, every: int, epochs: int | None, current: int) -> Any:
    return SimpleNamespace(
        num_training_batches=in_epoch,
        val_check_batch=every,
        check_val_every_n_epoch=epochs,
        current_epoch=current,
        num_val_batches=[3],
        max_epochs=3,
        max_steps=-1,
    )


@pytest.mark.parametrize("current", [0, 1, 2])
@pytest.mark.parametrize(
    ("in_epoch", "every", "epochs"), [(10, 10, 1), (10, 3, 1), (10, 10, 2), (10, 4, 3), (10, 7, None)]
)
def test_validations_that_are_left_are_counted_as_lightning_has_them(in_epoch, every, epochs, current) -> None:
    def comes_after(batch: int) -> bool:
        """Lightning's rule, for the batch of this number from 0, counted from the beginning of the epoch that runs."""
        epoch, place = current + batch // in_epoch, batch % in_epoch
        if epochs is None:
            return (current * in_epoch + batch + 1) % every == 0
        return (epoch + 1) % epochs == 0 and (place + 1) % every == 0

    trainer = runs_like(in_epoch, every, epochs, current)
    for first in range(in_epoch):
        for last in range(first, 4 * in_epoch):
            expected = sum(comes_after(batch) for batch in range(first, last))
            assert watching._validations(trainer, first, last) == expected, (first, last)


@pytest.mark.parametrize(
    ("every", "epochs", "words"),
    [
        (10, 1, "after every epoch"),
        (10, 2, "after every 2 epochs, and at the end"),
        (10, 3, "after every 3 epochs"),
        (5, 1, "after every 5 batches of every epoch"),
        (4, 1, "after every 4 batches of every epoch, and at the end"),
        (1500, None, "after every 1,500 batches, and at the end"),
        (15, None, "after every 15 batches"),
        (math.inf, 1, ""),
    ],
)
def test_when_validations_come_is_said(every, epochs, words) -> None:
    assert watching._when_validated(runs_like(10, every, epochs, 0)) == words


@pytest.mark.slow
def test_evaluation_and_preparation_say_how_far_they_are(tmp_path, model_folder, monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0.0)
    path = tmp_path / "dev.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in make_rows(20)))
    data = str(path)
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    assert commands.evaluate(["--model", model_folder, "--data", data, "--batch_size", "5"]) == 0
    said = capsys.readouterr().out
    assert "\r" not in said
    assert re.search(r"^validation: reading: row +20 of 20  100.0%", said, re.M), said
    assert re.search(r"^validation: tokenizing: row +20 of 20  100.0%", said, re.M)
    assert re.search(r"^validation: window +5 of 20   25.0%", said, re.M)
    assert commands.check_data([data, "--model", model_folder]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^checking: row +20 of 20", said, re.M)
    assert re.search(r"^checking tokens: row +20 of 20", said, re.M)
