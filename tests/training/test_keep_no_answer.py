"""--data.keep_no_answer: an epoch trains on a share of the windows without an answer, drawn anew each time."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.errors import InputError
from qa_lightning.features.labels import hold_answers
from tests.helpers import commands
from tests.helpers.data import make_rows, mixed_rows, write_json
from tests.helpers.kill_and_resume import differences
from tests.helpers.training import QUIET, SMALL, Crash, add_callbacks, crash, train_flags


class Seen(Callback):
    """Notes the windows of each epoch, the steps after which it is validated, and the last learning rate."""

    def __init__(self) -> None:
        self.windows: dict[int, Counter[int]] = {}
        self.validated: list[int] = []
        self.rate = -1.0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.windows.setdefault(trainer.current_epoch, Counter()).update(batch["feature"].tolist())

    def on_validation_start(self, trainer, pl_module) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_train_end(self, trainer, pl_module) -> None:
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_json(tmp_path_factory.mktemp("data") / "train.json", mixed_rows(26, unanswerable=2, long=5))


def test_a_run_takes_its_share_and_one_that_was_cut_off_ends_as_it(
    tmp_path, model_folder, data, monkeypatch, capsys
) -> None:
    more = ["--data.keep_no_answer", "0.3", "--data.batch_size", "4", "--trainer.accumulate_grad_batches", "2"]
    more += ["--trainer.max_epochs", "2", "--save_every_minutes", "0"]
    few = write_json(tmp_path / "validation.json", make_rows(6, unanswerable=2))
    whole, cut = ([*train_flags(tmp_path / name, model_folder, data, few), *more] for name in ("whole", "cut"))
    seen = Seen()
    with monkeypatch.context() as patch:
        add_callbacks(patch, seen)
        assert commands.train(whole) == 0
    said = capsys.readouterr().out
    taken = re.search(r"train: an epoch takes (\d+) windows with an answer and (\d+) of the (\d+) without \(", said)
    assert taken is not None, said
    answered, drawn, others = map(int, taken.groups())
    assert drawn == round(0.3 * others) >= 6
    assert "drawn anew each time; among those without are the windows of 2 questions that have no answer" in said
    for windows in seen.windows.values():
        assert set(windows.values()) == {1}
        assert len(windows) == answered + drawn
    assert len(set(seen.windows[0]) & set(seen.windows[1])) < answered + drawn
    batches = -(-(answered + drawn) // 4)
    steps = 2 * -(-batches // 2)
    windows = f"{answered + drawn} of {answered + others} windows in {batches} batches an epoch"
    assert f"ahead:     {windows}, {steps} steps of the optimizer in all" in said
    assert seen.rate == 0.0
    crash(monkeypatch, Crash("batch", 1, 2), cut)  # within an accumulated step
    again = [*cut, "--ckpt_path", "last"]
    with pytest.raises(InputError, match=r"--data.keep_no_answer was 0.3, is 0.5.*resume with the flags"):
        commands.train([*again, "--data.keep_no_answer", "0.5"])
    assert commands.train(again) == 0
    runs = [tmp_path / name / "lightning_logs" / "version_0" for name in ("whole", "cut")]
    assert differences(*runs) == []
    assert torch.load(runs[1] / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == steps


def test_memory_counts_in_the_steps_of_the_windows_that_are_taken(tmp_path, model_folder, data) -> None:
    """Validations come after half of the steps that these windows take, not of those that all would take."""
    sizes = {**SMALL, "batch_size": "auto", "windows_per_step": 6, "cache_dir": str(tmp_path)}
    datamodule = SquadDataModule(data, data, model_folder, keep_no_answer=0, **sizes)
    seen = Seen()
    trainer = Trainer(max_epochs=2, val_check_interval=0.5, callbacks=[seen], **QUIET)
    trainer.fit(QALightningModule(model_folder), datamodule)
    answered = np.flatnonzero(hold_answers(datamodule.train_set.store.windows)).tolist()
    assert [sorted(windows) for windows in seen.windows.values()] == [answered, answered]
    steps = -(-len(answered) // 6)
    assert trainer.global_step == 2 * steps
    assert seen.validated[:1] == [steps // 2]
    assert seen.rate == 0.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"keep_no_answer": -0.1}, "keep_no_answer is -0.1; it must be at least 0 and at most 1"),
        ({"keep_no_answer": 20}, "keep_no_answer is 20; it must be at least 0 and at most 1"),
        ({"keep_no_answer": float("nan")}, "keep_no_answer is nan; it must be at least 0 and at most 1"),
        ({"keep_no_answer": "half"}, "keep_no_answer is 'half', a text; it must be a number"),
        (
            {"keep_no_answer": 0.5, "tokens_per_batch": 400},
            r"does not go .*tokens_per_batch.*; pass --data.batch_size N in",
        ),
    ],
)
def test_a_share_that_cannot_be_is_refused(model_folder, given, words: str) -> None:
    with pytest.raises(InputError, match=words):
        SquadDataModule("synthetic", model_name=model_folder, **given)


def test_a_share_that_leaves_nothing_is_one_error_and_one_without_effect_is_said(tmp_path, model_folder, said) -> None:
    sizes = {**SMALL, "cache_dir": str(tmp_path)}
    none = write_json(tmp_path / "none.json", make_rows(6, unanswerable=6))
    nothing = SquadDataModule(none, none, model_folder, keep_no_answer=0, **sizes)
    with pytest.raises(InputError) as caught:
        nothing.prepare_data()
    assert caught.value.problems == [
        f"--data.keep_no_answer 0 leaves nothing to train on: none of the 6 windows of {none} holds an answer; "
        "leave it out, or name data with answers"
    ]
    said.clear()
    short = write_json(tmp_path / "short.json", make_rows(6))
    orders = []
    for more in ({}, {"keep_no_answer": 0}):
        data = SquadDataModule(short, short, model_folder, **sizes, **more)
        data.prepare_data()
        data.setup("fit")
        orders.append(list(data.train_dataloader().sampler))
    assert orders[0] == orders[1]
    assert said.text.count("train: --data.keep_no_answer 0 is without effect: every window holds an answer") == 1
    assert "keep_no_answer" in repr(data)
