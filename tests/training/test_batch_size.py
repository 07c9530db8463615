"""``--data.batch_size auto``: as many windows in a pass as fit, the steps of the usual batch size."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.errors import InputError
from qa_lightning.runs import memory
from qa_lightning.training.steps import batch_size
from tests.helpers import commands
from tests.helpers.data import mixed_rows, write_json
from tests.helpers.kill_and_resume import differences
from tests.helpers.training import (
    QUIET,
    SMALL,
    Crash,
    Gradients,
    add_callbacks,
    checkpoint_gradients,
    crash,
    train_flags,
)

AUTO = {**SMALL, "batch_size": "auto"}
RUN = ("--data.batch_size", "auto", "--trainer.max_epochs", "2")
SAVING = ("--save_every_minutes", "0")  # after every step


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_json(tmp_path_factory.mktemp("data") / "train.json", mixed_rows(40, unanswerable=4, long=3))


@pytest.fixture
def room(monkeypatch):
    """Sets for how many windows a forward pass in training has memory."""
    forward = QALightningModule.forward

    def limited(most: float) -> None:
        def run(self, batch):
            if torch.is_grad_enabled() and len(batch["input_ids"]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return forward(self, batch)

        monkeypatch.setattr(QALightningModule, "forward", run)

    return limited


def fit(model: str, data: str, dropout: bool = True, callbacks=(), flags=None, **sizes):
    """Weights after a fit of two epochs from one seed, the data module and the Trainer."""
    torch.manual_seed(0)
    module = QALightningModule(model, learning_rate=1e-3)
    for layer in module.modules():
        if isinstance(layer, torch.nn.Dropout) and not dropout:
            layer.p = 0.0
    datamodule = SquadDataModule(data, data, model, **{**SMALL, **sizes})
    trainer = Trainer(max_epochs=2, gradient_clip_val=1.0, callbacks=list(callbacks), **{**QUIET, **(flags or {})})
    trainer.fit(module, datamodule)
    return module.state_dict(), datamodule, trainer


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("most", "size"), [(math.inf, 8), (7, 4), (1, 1)])
def test_a_step_has_the_usual_windows_in_passes_that_fit(model_folder, data, room, said, most, size) -> None:
    usual, seen = Gradients(), Gradients()
    expected, _, _ = fit(model_folder, data, dropout=False, callbacks=[usual], batch_size=8)
    room(most)
    found, datamodule, trainer = fit(model_folder, data, dropout=False, callbacks=[seen], batch_size="auto")
    assert (datamodule.batch_size, datamodule.accumulated) == (size, 8 // size)
    assert trainer.global_step == 16  # 58 windows, in eights, twice
    torch.testing.assert_close(torch.stack(seen.seen), torch.stack(usual.seen), rtol=1e-3, atol=1e-5)
    for weights in (found, expected):
        del weights[
            "model.qa_outputs.bias"
        ]  # its gradient is zero but for rounding, which Adam makes as large as others
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=5e-4)  # of 1.6e-2 that a weight may move
    (line,) = [record.message for record in said.records if "in one pass" in record.message]
    how = "1 pass" if size == 8 else f"{8 // size} passes"
    assert f"{size} window{'s' * (size > 1)} in one pass, {how} per step of 8 windows; " in line
    assert ("the whole step fits into" if size == 8 else f"{2 * size} do not fit into") in line


@pytest.mark.parametrize(("most", "explicit", "accumulated"), [(math.inf, 6, 1), (4, 3, 2)])
def test_the_search_leaves_no_trace_in_what_is_trained(model_folder, data, room, most, explicit, accumulated) -> None:
    """To the last bit, with dropout, a schedule and validations within epochs."""
    every = {"val_check_interval": 0.5}
    expected, _, usual = fit(
        model_folder, data, batch_size=explicit, flags={**every, "accumulate_grad_batches": accumulated}
    )
    room(most)
    found, datamodule, trainer = fit(model_folder, data, batch_size="auto", windows_per_step=6, flags=every)
    assert (datamodule.batch_size, datamodule.accumulated) == (explicit, accumulated)
    assert trainer.global_step == usual.global_step
    assert same(found, expected)


def test_what_training_counts_in_batches_is_counted_in_steps_and_given_back(model_folder, data, room) -> None:
    class Validations(Callback):
        def __init__(self) -> None:
            self.steps: list[int] = []

        def on_validation_start(self, trainer, pl_module) -> None:
            self.steps.append(trainer.global_step)

    seen = Validations()
    room(2)
    limits = {"limit_train_batches": 5, "val_check_interval": 2, "num_sanity_val_steps": 0}
    _, datamodule, trainer = fit(model_folder, data, callbacks=[seen], flags=limits, batch_size="auto")
    assert trainer.global_step == 10
    assert seen.steps == [2, 4, 7, 9]
    assert (trainer.accumulate_grad_batches, trainer.limit_train_batches, trainer.val_check_interval) == (1, 5, 2)
    assert (datamodule.batch_size, datamodule.accumulated) == (2, 4)
    room(4)  # a notebook's cell that is run again
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, datamodule)
    assert (datamodule.batch_size, datamodule.accumulated, trainer.global_step) == (4, 2, 15)


@pytest.mark.parametrize(("limits", "steps"), [({}, 8), ({"limit_train_batches": 5}, 5)])
def test_validations_after_more_steps_than_an_epoch_has_are_refused_in_steps(
    model_folder, data, room, limits, steps
) -> None:
    room(2)
    flags = {"val_check_interval": 9, **limits}
    refusal = rf"--trainer.val_check_interval 9 is more than the {steps} steps of an epoch; pass at most {steps}, or"
    with pytest.raises(InputError, match=refusal):
        fit(model_folder, data, flags=flags, batch_size="auto")
    _, _, trainer = fit(model_folder, data, flags={**flags, "limit_val_batches": 0}, batch_size="auto")
    assert trainer.global_step == 2 * steps


def test_a_fit_that_fails_gives_the_trainer_its_flags_back(model_folder, data, room) -> None:
    class Fails(Callback):
        def on_train_batch_end(self, trainer, *_) -> None:
            assert trainer.accumulate_grad_batches == 4
            raise KeyError

    trainer = Trainer(max_epochs=1, callbacks=[Fails()], **QUIET)
    room(2)
    with pytest.raises(KeyError):
        trainer.fit(QALightningModule(model_folder), SquadDataModule(data, data, model_folder, **AUTO))
    assert trainer.accumulate_grad_batches == 1


@pytest.mark.parametrize(("hook", "epoch", "batch"), [("batch", 0, 10), ("step", 1, 3)])
def test_a_run_that_is_resumed_goes_on_with_the_size_that_it_began_with(
    tmp_path, model_folder, data, room, monkeypatch, capsys, hook, epoch, batch
) -> None:
    """Though another would fit now; it ends, to the last bit, as one that was never stopped."""
    room(2)
    whole, cut = (train_flags(tmp_path / name, model_folder, data, data) for name in ("whole", "cut"))
    assert commands.train([*whole, *RUN]) == 0
    crash(monkeypatch, Crash(hook, epoch, batch), [*cut, *RUN, *SAVING])
    room(math.inf)
    capsys.readouterr()
    assert commands.train([*cut, *RUN, "--ckpt_path", "last"]) == 0
    expected, found = (tmp_path / name / "lightning_logs" / "version_0" for name in ("whole", "cut"))
    assert differences(expected, found) == []
    assert "2 windows in one pass, 4 passes per step of 8 windows; as in the checkpoint" in capsys.readouterr().out
    for start in json.loads((found / "run.json").read_text()):
        assert (start["batch_size"], start["accumulate_grad_batches"]) == (2, 4)
    assert "batch_size: auto" in (found / "config.yaml").read_text()


def test_a_step_of_other_windows_is_refused_within_an_epoch_and_tried_anew_between_two(
    tmp_path, model_folder, data, room, monkeypatch, capsys
) -> None:
    room(2)
    given = [*train_flags(tmp_path, model_folder, data, data), *RUN]
    crash(monkeypatch, Crash("batch", 0, 10), [*given, *SAVING])
    other = ["--ckpt_path", "last", "--data.windows_per_step", "4"]
    with pytest.raises(InputError, match=r"batches are different now \(windows per step was 8, is 4\)"):
        commands.train([*given, *other])
    crash(monkeypatch, Crash("batch", 1, 0), [*given, *SAVING, "--ckpt_path", "last"])
    room(4)
    assert commands.train([*given, *other]) == 0
    assert "4 windows in one pass, 1 pass per step of 4 windows; the whole step fits into" in capsys.readouterr().out


def test_flags_that_do_not_go_together_are_told_at_once(tmp_path, model_folder, data) -> None:
    given = [*train_flags(tmp_path, model_folder, data, data), "--data.batch_size", "auto"]
    with pytest.raises(InputError) as caught:
        commands.train([*given, "--data.tokens_per_batch", "400", "--data.windows_per_step", "0"])
    assert caught.value.problems == [
        "--data.windows_per_step is 0; it must be at least 1",
        "--data.tokens_per_batch stands in place of --data.batch_size auto; leave one out",
    ]
    with pytest.raises(InputError, match=r"--data.windows_per_step goes together with --data.batch_size auto; "):
        commands.train([*given, "--data.windows_per_step", "8", "--data.batch_size", "4"])
    with pytest.raises(
        InputError, match=r"--data.batch_size is 'atuo'; it must be a whole number or auto; did you mean"
    ):
        SquadDataModule(data, data, model_folder, batch_size="atuo")
    thaw = ("--trainer.callbacks+", "BackboneFinetuning", "--trainer.callbacks+", "BatchSizeFinder")
    with pytest.raises(InputError) as caught:
        commands.train(
            [
                *given,
                *thaw,
                *("--trainer.accumulate_grad_batches", "2", "--model.cuda_graphs", "true"),
                *("--trainer.val_check_interval", "3", "--trainer.check_val_every_n_epoch", "null"),
            ]
        )
    told = "\n".join(caught.value.problems)
    for words in (
        "in place of --trainer.accumulate_grad_batches 2, pass --data.windows_per_step N",
        "counts --trainer.val_check_interval 3 in steps of each epoch, not of all together; pass "
        "--trainer.check_val_every_n_epoch 1 too, or a number",
        "cannot foresee the memory of weights that --trainer.callbacks BackboneFinetuning thaws",
        "it does what --trainer.callbacks BatchSizeFinder does too",
        "--model.cuda_graphs true keeps memory for each shape of batch",
    ):
        assert words in told
    with pytest.raises(InputError, match=r"windows_per_step 9 cannot be divided evenly among 2 devices; pass 8 or 10"):
        commands.train([*given, "--data.windows_per_step", "9", "--trainer.devices", "2"])
    assert not list((tmp_path / "lightning_logs").glob("version_*"))


def test_a_program_is_told_in_its_own_words(model_folder, data) -> None:
    datamodule = SquadDataModule(data, data, model_folder, **AUTO)
    assert "batch_size='auto', windows_per_step=None" in repr(datamodule)
    with pytest.raises(InputError, match="accumulates as memory needs it"):
        Trainer(max_epochs=1, accumulate_grad_batches=2, **QUIET).fit(QALightningModule(model_folder), datamodule)
    datamodule.trainer = None
    datamodule.prepare_data()
    datamodule.setup("fit")
    with pytest.raises(InputError, match="found when a Trainer begins to fit; pass a number"):
        datamodule.train_dataloader()


class OutOfMemory(Callback):
    """Runs out of memory in a step, or in a validation."""

    def _fail(self, *_) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    on_before_optimizer_step = on_validation_start = _fail


def without_memory(monkeypatch, given: list[str]) -> list[str]:
    """What a run says that runs out of memory."""
    with monkeypatch.context() as patch:
        add_callbacks(patch, OutOfMemory())
        with pytest.raises(InputError) as caught:
            commands.train([*given, "--trainer.num_sanity_val_steps", "0"])
    return caught.value.problems


@pytest.mark.parametrize(
    ("own", "smaller"),
    [
        ((), "--data.batch_size 4 --trainer.accumulate_grad_batches 2"),
        (("--data.windows_per_step", "6"), "--data.batch_size 3 --trainer.accumulate_grad_batches 2"),
    ],
)
def test_flags_that_help_where_memory_runs_out_all_the_same_are_accepted(
    tmp_path, model_folder, data, monkeypatch, own, smaller
) -> None:
    given = [*train_flags(tmp_path, model_folder, data, data), *RUN]
    (line,) = [line for line in without_memory(monkeypatch, [*given, *own]) if "accumulate" in line]
    words = f", in place of {' '.join(own)}" if own else ""
    assert line == f"{smaller}{words}: the same number of windows per step, in smaller batches"
    assert commands.train([*given, *smaller.split(), "--trainer.max_steps", "2"]) == 0


def test_where_memory_runs_out_before_a_size_is_found_no_other_one_is_told(
    tmp_path, model_folder, data, monkeypatch
) -> None:
    given = [*train_flags(tmp_path, model_folder, data, data), *RUN, "--validate_first", "true"]
    first, *rest = without_memory(monkeypatch, given)
    assert first.startswith("out of memory at step 0 with --data.batch_size auto, --data.max_length 48")
    assert not [line for line in rest if "accumulate" in line]


class Checkpointing(Callback):
    """Turns gradient checkpointing on when a fit begins."""

    def setup(self, trainer, pl_module, stage) -> None:
        checkpoint_gradients(pl_module.model)


def test_on_a_cpu_a_model_with_gradient_checkpointing_is_refused(tmp_path, model_folder, data, capsys) -> None:
    """Whether its config turns that on or a callback does: what it keeps cannot be counted."""
    refusal = (
        r"--data.batch_size auto: on a CPU it cannot count the memory of a model with gradient checkpointing; pass"
    )
    with pytest.raises(InputError, match=refusal):
        fit(model_folder, data, callbacks=[Checkpointing()], batch_size="auto")
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"gradient_checkpointing": True}))
    with pytest.raises(InputError, match=refusal):
        commands.train([*train_flags(tmp_path, str(folder), data, data), *RUN])
    assert "steps:" not in capsys.readouterr().out  # with the other flags, before anything begins


def test_no_room_for_one_window_is_an_error_with_fixes(tmp_path, model_folder, data, room, monkeypatch) -> None:
    given = [*train_flags(tmp_path, model_folder, data, data), *RUN]
    room(0)
    with pytest.raises(InputError, match=r"not even one window of \d+ tokens fits into the free memory, .* GiB; use"):
        commands.train(given)
    assert not list((tmp_path / "lightning_logs").glob("version_*"))
    room(math.inf)
    monkeypatch.setattr(memory, "free_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"not even one window"):
        commands.train(given)


def test_a_step_is_divided_evenly() -> None:
    assert batch_size.divisors(12) == [1, 2, 3, 4, 6, 12]


@pytest.mark.parametrize(
    ("limit", "every", "expected"),
    [
        (1.0, 1.0, (1.0, 1.0)),
        (10, 1.0, (40, 1.0)),
        (0.5, 0.5, (20, 8)),  # 5 of 11 steps, validated after each second one
        (1.0, 3, (1.0, 12)),
        (1.0, 11, (1.0, 1.0)),  # the last step may have fewer passes
        (0.01, 1.0, (0.01, 1.0)),  # the Trainer refuses it
        (5, 5, (20, 1.0)),
    ],
)
def test_a_trainers_limits_are_meant_in_steps(limit, every, expected) -> None:
    given = {"accumulate_grad_batches": 1, "limit_train_batches": limit, "val_check_interval": every}
    trainer = SimpleNamespace(limit_val_batches=1.0, **given)
    before = batch_size._count_in_passes(trainer, 4, 11)
    assert {**vars(trainer), **before} == {**given, "limit_val_batches": 1.0}
    assert (trainer.limit_train_batches, trainer.val_check_interval) == expected
    assert trainer.accumulate_grad_batches == 4
