"""Means of weights, against means by hand: the running one at each step, and that of the best checkpoints."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn
from safetensors.torch import load_file

from qa_lightning import QALightningModule, SquadDataModule
from qa_lightning.errors import InputError
from qa_lightning.export.card import model_card
from qa_lightning.runs import checkpoints
from qa_lightning.training import averages
from qa_lightning.training import finish as finishing
from qa_lightning.training.averages import BestWeights, MeanOfBest, RunningMean, averaging_problems, mean_weights
from tests.helpers import commands
from tests.helpers.data import mixed_rows, write_json
from tests.helpers.kill_and_resume import differences
from tests.helpers.processes import TRAIN, finished
from tests.helpers.step_weights import StepWeights, seen
from tests.helpers.training import QUIET, SMALL, Crash, crash, train_flags

DECAY = 0.9
WATCH = ("--trainer.callbacks+", "tests.helpers.step_weights.StepWeights")
TWO = ("--trainer.devices", "2")
OFTEN = ("--trainer.val_check_interval", "0.5")  # four validations in two epochs
LIGHTNINGS = ("--trainer.callbacks+", "EMAWeightAveraging", "--trainer.callbacks.use_buffers", "false")
OWN_MEAN = (
    *("--trainer.callbacks+", "qa_lightning.training.averages.RunningMean"),
    *("--trainer.callbacks.decay", "0.9"),
)
STOCHASTIC = ("--trainer.callbacks+", "StochasticWeightAveraging", "--trainer.callbacks.device", "null")
BEST = ("--average_best", "3", "--keep_averaged", "true")
SAID = "said.txt"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    """80 questions, 12 of them without an answer."""
    return write_json(tmp_path_factory.mktemp("data") / "rows.json", mixed_rows(80, unanswerable=12, long=2))


def flags(root: Path, model: str, data: str, *more: str) -> list[str]:
    """Two epochs of twelve steps."""
    return [*train_flags(root, model, data, data), "--trainer.max_epochs", "2", *more]


def train_on_two(root: Path, model: str, data: str, *more: str, stopped: bool = False) -> None:
    """Train on two processes; stopped: within the second epoch, and then resume."""
    stop, go_on = ["--trainer.callbacks.stop_at", "13"], ["--ckpt_path", "last"]
    for start in (stop, go_on) if stopped else ([],):
        ended = finished([TRAIN, *flags(root, model, data, *TWO, *more), *WATCH, *start])
        assert ended.returncode == (143 if start is stop else 0), ended.stderr[-3000:]


def run_of(root: Path) -> Path:
    return root / "lightning_logs" / "version_0"


def model_of(run: Path) -> dict[str, torch.Tensor]:
    return {f"model.{name}": value for name, value in load_file(run / "model" / "model.safetensors").items()}


def running_mean(steps: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Step -> the mean, by hand, of the weights after each step up to it; in the arithmetic of the mean itself."""
    found: dict[int, torch.Tensor] = {}
    for step in sorted(steps):
        found[step] = torch.lerp(found[step - 1], steps[step], 1 - DECAY) if found else steps[step]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_validate_and_save_the_mean_of_their_steps_also_after_a_stop(
    tmp_path, model_folder, data
) -> None:
    """A stop within an epoch; both processes hold the same mean, and the model is that of the best checkpoint."""
    batches = ("--data.batch_size", "2", "--trainer.accumulate_grad_batches", "2", *OFTEN)
    given = [*batches, "--ema_decay", str(DECAY), "--save_every_minutes", "60"]
    train_on_two(tmp_path / "whole", model_folder, data, *given)
    train_on_two(tmp_path / "stopped", model_folder, data, *given, stopped=True)
    (steps, validated), other = (seen(tmp_path / "whole", rank) for rank in (0, 1))
    means = running_mean(steps)
    assert [*steps] == [*range(1, len(steps) + 1)]
    assert len(steps) >= 20
    assert len(validated) == 5  # two in each epoch, and the weights at the end
    for step, mean in validated.items():
        assert torch.equal(mean, means[step])
        assert not torch.equal(mean, steps[step])
        assert torch.equal(mean, other[1][step])
    assert all(torch.equal(other[0][step], weights) for step, weights in steps.items())
    stopped = seen(tmp_path / "stopped", 0)
    assert stopped[0].keys() == steps.keys()
    assert all(torch.equal(stopped[1][step], mean) for step, mean in validated.items())
    run = run_of(tmp_path / "whole")
    assert differences(run, run_of(tmp_path / "stopped")) == []
    best, last = (torch.load(run / "checkpoints" / name, weights_only=True) for name in ("best.ckpt", "last.ckpt"))
    assert torch.equal(flat(best["state_dict"]), means[best["global_step"]])
    assert torch.equal(flat(last["state_dict"]), means[len(steps)])
    assert torch.equal(flat(last["current_model_state"]), steps[len(steps)])
    model = model_of(run)
    assert all(torch.equal(model[name], best["state_dict"][name]) for name in model)


def flat(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([value.flatten() for value in state.values() if value.is_floating_point()])


def fitted(model: str, data: str, *callbacks, **options) -> tuple[Trainer, QALightningModule, SquadDataModule]:
    torch.manual_seed(0)
    module = QALightningModule(model, learning_rate=1e-2)
    module.model.base_model.embeddings.requires_grad_(False)
    given = SquadDataModule(data, data, model, **SMALL)
    trainer = Trainer(max_epochs=1, num_sanity_val_steps=0, callbacks=[*callbacks], **QUIET | options)
    trainer.fit(module, given)
    return trainer, module, given


def test_the_mean_is_that_of_the_weights_after_each_step(tmp_path, model_folder, data) -> None:
    callbacks = (RunningMean(DECAY), StepWeights())
    _, module, _ = fitted(model_folder, data, *callbacks, default_root_dir=tmp_path, accumulate_grad_batches=2)
    steps, validated = seen(tmp_path, 0)
    means = running_mean(steps)
    (last,) = validated
    assert last == len(steps) == max(steps) > 10
    assert torch.equal(validated[last], means[last])
    assert torch.equal(flat(dict(module.named_parameters())), means[last])
    exact = steps[1].double()
    for step in range(2, last + 1):
        exact = DECAY * exact + (1 - DECAY) * steps[step].double()
    torch.testing.assert_close(means[last].double(), exact, rtol=1e-5, atol=1e-6)


def test_frozen_weights_are_their_own_mean_to_the_bit(tmp_path, model_folder, data) -> None:
    """0.999 x + 0.001 x, rounded, is not always x."""
    before = QALightningModule(model_folder).state_dict()
    _, module, _ = fitted(model_folder, data, RunningMean(0.999))
    frozen = {name for name in before if "embeddings" in name}
    assert frozen
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]) is (name in frozen or not value.is_floating_point()), name


def test_after_the_fit_nothing_is_swapped(tmp_path, model_folder, data) -> None:
    """A validation of the saved mean leaves the mean in the module: `save` writes what was validated."""
    mean = RunningMean(0.5)
    trainer, module, given = fitted(model_folder, data, mean)
    saved = {name: value.clone() for name, value in module.state_dict().items()}
    assert mean._average_model is None  # its memory is free
    trainer.save_checkpoint(tmp_path / "mean.ckpt")
    trainer.validate(module, given, ckpt_path=tmp_path / "mean.ckpt", verbose=False, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in module.state_dict().items())


def test_the_mean_is_made_where_the_model_is_going_to_be(model_folder) -> None:
    """When callbacks are set up, the model is still on the CPU; and a mean copies no answers of a validation."""
    mean, module = RunningMean(0.5), QALightningModule(model_folder)
    module.predictions = SimpleNamespace(__deepcopy__=None)  # cannot be copied
    mean.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta"))), module, "fit")
    assert {value.device.type for value in mean._average_model.state_dict().values()} == {"meta"}
    assert [name.removeprefix("module.") for name, _ in mean._average_model.named_parameters()] == [
        name for name, _ in module.named_parameters()
    ]


def test_a_mean_that_begins_in_mid_run_is_at_first_that_of_the_checkpoint(model_folder) -> None:
    """A validation may come before the next step: it must not score the weights from before the checkpoint."""
    mean, module = RunningMean(0.5), QALightningModule(model_folder)
    fitting = SimpleNamespace(fn=TrainerFn.FITTING)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")), state=fitting, is_global_zero=True
    )
    mean._latest_update_step = 7  # of an earlier fit
    mean.setup(trainer, module, "fit")
    assert mean._latest_update_step == 0
    module.load_state_dict({name: value + 1 for name, value in module.state_dict().items()})  # as Lightning does before
    mean.on_load_checkpoint(trainer, module, {"state_dict": {}})
    trained = module.state_dict()
    mean.on_validation_epoch_start(trainer, module)
    assert all(torch.equal(value, trained[name]) for name, value in module.state_dict().items())


def test_a_run_with_a_mean_resumes_with_one_and_one_without_begins_it(
    tmp_path, model_folder, data, monkeypatch, capsys
) -> None:
    """Without the mean, its values would be taken for the weights that the optimizer's state belongs to."""
    with_mean = flags(tmp_path / "with", model_folder, data, "--ema_decay", "0.9")
    crash(monkeypatch, Crash("batch", 1, 2), with_mean)
    with pytest.raises(InputError, match=r"^--ckpt_path: .*last.ckpt holds a running mean .*; pass the --ema_decay"):
        commands.train([*with_mean, "--ema_decay", "null", "--ckpt_path", "last"])
    without = flags(tmp_path / "without", model_folder, data)
    crash(monkeypatch, Crash("batch", 1, 2), without)
    assert commands.train([*without, "--ema_decay", "0.9", "--ckpt_path", "last"]) == 0
    assert "the checkpoint holds no running mean of the weights; one begins" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--average_best", "0"), "--average_best is 0; it must be at least 1"),
        (("--average_best", "2", "--ema_decay", "0.9"), "--average_best 2 averages weights, as --ema_decay 0.9 does"),
        (
            ("--average_best", "2", "--trainer.enable_checkpointing", "false"),
            "none with --trainer.enable",
        ),
        (("--average_best", "2", "--trainer.limit_val_batches", "0"), "none with --trainer.limit_val_batches 0"),
        (("--ema_decay", "0.9", "--trainer.precision", "bf16-true"), "in 16 bits, .*; pass bf16-mixed"),
        (
            (*OWN_MEAN, "--trainer.precision", "bf16-true"),
            "^--trainer.callbacks RunningMean: .* in 16 bits",
        ),
        (
            (*STOCHASTIC, "--trainer.callbacks.swa_lrs", "1e-3"),
            "^--trainer.callbacks StochasticWeightAveraging .*; pass --ema_decay or --average_best in its place",
        ),
        (("--keep_averaged", "true"), "--keep_averaged true keeps what --average_best averages; pass that too"),
        (
            ("--ema_decay", "0.9", *LIGHTNINGS),
            "--ema_decay 0.9 and --trainer.callbacks EMAWeightAveraging both keep a mean",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(tmp_path, model_folder, data, given, words) -> None:
    with pytest.raises(InputError, match=words) as refused:
        commands.train(flags(tmp_path, model_folder, data, *given))
    assert len(refused.value.problems) == 1
    assert not run_of(tmp_path).exists()


@pytest.mark.parametrize("chosen", [{"ema_decay": 0.9, "average_best": None}, {"ema_decay": None, "average_best": 2}])
def test_divided_weights_are_refused(chosen) -> None:
    whole, divided = object.__new__(SingleDeviceStrategy), SimpleNamespace()
    means = [RunningMean(0.9)] if chosen["ema_decay"] else [object.__new__(finishing.BestCheckpoint)]
    for strategy, count in ((whole, 0), (divided, 1)):
        trainer = SimpleNamespace(callbacks=means, strategy=strategy, precision="32-true", limit_val_batches=1.0)
        assert len(averaging_problems(trainer, **chosen)) == count


def kept(run: Path) -> dict[int, dict]:
    """Step -> what was kept of it."""
    files = [torch.load(path, weights_only=True) for path in (run / "best_weights").iterdir()]
    return {one["step"]: one for one in sorted(files, key=lambda one: one["step"])}


def mean_by_hand(states: list[dict[str, torch.Tensor]], best: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).float()
        if value.is_floating_point()
        else value
        for name, value in best.items()
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(("score", "taken"), [(101.0, True), (-1.0, False), (None, None)])
def test_the_mean_of_the_best_is_the_model_if_it_scores_as_well(
    tmp_path, model_folder, data, whole, monkeypatch, capsys, score, taken
) -> None:
    """By F1 under the best threshold, where some questions have no answer; a score of None is the mean's own."""
    if score == 101.0:
        run, said = whole, (whole / SAID).read_text()
    else:
        if score is not None:
            monkeypatch.setattr(finishing, "score_of", lambda trainer: score)
        assert commands.train(flags(tmp_path, model_folder, data, *OFTEN, *BEST)) == 0
        run, said = run_of(tmp_path), capsys.readouterr().out
    found = kept(run)
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    scores = {step: one["score"] for step, one in found.items()}
    assert len(found) == 3
    assert max(scores, key=scores.get) == best["global_step"]
    end = json.loads((run / "run.json").read_text())[-1]
    average = end["average_best"]
    assert (average["steps"], average["best"]) == ([*found], max(scores.values()))
    if score is None:
        taken = average["score"] >= average["best"]
    assert average["taken"] is taken
    states = [one["state_dict"] for one in found.values()]
    expected = mean_by_hand(states, best["state_dict"]) if taken else best["state_dict"]
    model = model_of(run)
    assert_same(model, expected)
    assert any(not torch.equal(model[name], best["state_dict"][name]) for name in model) is taken
    line = f"mean of the 3 best (steps {', '.join(map(str, found))}): best F1 {average['score']:.2f}; best checkpoint "
    assert f"{line}{average['best']:.2f}: " in said
    assert ("the mean of the 3 best checkpoints is written" in said) is taken
    assert ("the best checkpoint is written as a model" in said) is not taken
    if not taken:
        assert end["scores"]["best/best_f1"] == pytest.approx(average["best"], abs=1e-4)  # validated again
    elif score is None:
        assert end["scores"]["best/best_f1"] == pytest.approx(average["score"], abs=1e-4)
    card = str(model_card(run / "model", "somebody/model"))
    assert ("| weights | mean of the 3 best checkpoints (steps " in card) is taken
    assert ("chosen by the same questions" in card) is taken


@pytest.mark.parametrize(("score", "taken"), [(70.0, True), (70.5, True), (69.99, False), (None, False)])
def test_a_mean_is_taken_if_it_scores_at_least_as_the_best(score, taken) -> None:
    assert MeanOfBest(Path("mean.ckpt"), (1, 2), 2, 70.0, score).taken is taken


def test_only_floating_point_parameters_are_averaged_and_shared_weights_stay_shared() -> None:
    """In float64: 1 and 1e-8 three times is more than 1, in float32 it is not; buffers are those of the best."""
    states = []
    for number, value in enumerate((1.0, 4e8, -4e8, 3.0)):
        weight = torch.tensor([value])
        states.append({"a": weight, "tied": weight, "buffer": torch.tensor([float(number)]), "ids": torch.tensor([5])})
    mean = mean_weights(states, {"a", "tied", "ids"}, best=2)
    assert mean["a"].tolist() == [1.0]
    assert mean["a"].dtype == torch.float32
    assert mean["tied"] is mean["a"]
    assert (mean["buffer"].item(), mean["ids"].item()) == (2.0, 5)


@pytest.mark.parametrize(
    ("hook", "epoch", "batch"),
    [
        ("batch", 0, 2),  # before the first validation
        ("batch", 1, 7),
        ("validation", 1, 0),
        ("epoch", 0, 0),  # weights are kept, and the last checkpoint does not know of them
    ],
)
def test_a_run_that_was_cut_off_ends_with_the_same_mean(
    tmp_path, model_folder, data, monkeypatch, whole, hook, epoch, batch
) -> None:
    given = flags(tmp_path, model_folder, data, *OFTEN, *BEST)
    monkeypatch.setattr(finishing, "score_of", lambda trainer: 101.0)
    crash(monkeypatch, Crash(hook, epoch, batch), given)
    assert commands.train([*given, "--ckpt_path", "last"]) == 0
    assert differences(whole, run_of(tmp_path)) == []
    one, other = kept(whole), kept(run_of(tmp_path))
    assert one.keys() == other.keys()
    for step, weights in one.items():
        assert_same(weights["state_dict"], other[step]["state_dict"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model_folder, data) -> Path:
    """A run that was not stopped, with the mean as its model; what it printed stands in its file `SAID`."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as said:
        patch.setattr(finishing, "score_of", lambda trainer: 101.0)
        assert commands.train(flags(root, model_folder, data, *OFTEN, *BEST)) == 0
    (run_of(root) / SAID).write_text(said.getvalue())
    return run_of(root)


def test_weights_with_lower_scores_make_room_for_better_ones(tmp_path, model_folder, data, monkeypatch) -> None:
    scores = {6: 50.0, 12: 80.0, 18: 60.0, 24: 70.0}
    monkeypatch.setattr(averages, "score_of", lambda trainer: scores[trainer.global_step])
    given = ("--average_best", "2", "--keep_averaged", "true")
    assert commands.train(flags(tmp_path, model_folder, data, *OFTEN, *given)) == 0
    assert {step: one["score"] for step, one in kept(run_of(tmp_path)).items()} == {12: 80.0, 24: 70.0}


def test_fewer_validations_than_wanted_are_averaged_and_nothing_is_left(tmp_path, model_folder, data, capsys) -> None:
    assert commands.train(flags(tmp_path, model_folder, data, "--average_best", "5")) == 0
    assert re.search(r"mean of the 2 best of 5 wanted \(steps 12, 24\): ", capsys.readouterr().out)
    assert not (run_of(tmp_path) / "best_weights").exists()


def test_one_validation_is_its_own_mean(tmp_path, model_folder, data, capsys) -> None:
    assert commands.train(flags(tmp_path, model_folder, data, "--average_best", "3", "--trainer.max_epochs", "1")) == 0
    said = capsys.readouterr().out
    assert "the weights of one validation are there, and --average_best 3 needs at least two" in said
    assert "the best checkpoint is written as a model" in said
    assert "average_best" not in json.loads((run_of(tmp_path) / "run.json").read_text())[-1]
    assert not (run_of(tmp_path) / "best_weights").exists()


def test_the_best_alone_is_as_without(tmp_path, model_folder, data, capsys) -> None:
    for name, more in (("one", ("--average_best", "1")), ("none", ())):
        assert commands.train(flags(tmp_path / name, model_folder, data, *more)) == 0
        assert "mean of" not in capsys.readouterr().out
    assert differences(*(run_of(tmp_path / name) for name in ("one", "none"))) == []


def test_weights_that_cannot_be_kept_are_not_averaged(tmp_path, model_folder, data, monkeypatch, capsys) -> None:
    """As on a full disk: it costs a warning, and the others are averaged."""
    given = checkpoints.write_file

    def write(path: Path, content) -> None:
        if path.name == "step-12.ckpt":
            raise OSError(28, "No space left on device")
        given(path, content)

    monkeypatch.setattr(checkpoints, "write_file", write)
    assert commands.train(flags(tmp_path, model_folder, data, *OFTEN, "--average_best", "4")) == 0
    said = capsys.readouterr()
    assert "step-12.ckpt could not be written" in said.out + said.err
    assert "mean of the 3 best of 4 wanted (steps 6, 18, 24)" in said.out


def test_the_earlier_of_equal_scores_is_kept_and_the_rest_is_removed(tmp_path) -> None:
    best = BestWeights(2)
    for step, score in ((1, 50.0), (2, 60.0), (3, 50.0), (5, 99.0)):  # the last is of a later step than the checkpoint
        torch.save({"step": step, "score": score}, tmp_path / f"step-{step}.ckpt")
    (tmp_path / "mean.ckpt").write_bytes(b"")
    (tmp_path / "step-4.ckpt").write_bytes(b"damaged")
    run = SimpleNamespace(callbacks=[SimpleNamespace()], fast_dev_run=False, is_global_zero=True)
    best._begun = 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qa_lightning.training.averages._folder", lambda trainer: tmp_path)
        best.on_fit_start(run, None)
    assert [one.step for one in best.kept] == [2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1.ckpt", "step-2.ckpt"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_write_the_mean_of_the_best(tmp_path, model_folder, data) -> None:
    """Each validates the same weights: those of the mean, and, where that is worse, those of the best checkpoint."""
    given = [*OFTEN, *BEST, "--data.batch_size", "4", "--save_every_minutes", "60"]
    train_on_two(tmp_path, model_folder, data, *given)
    run = run_of(tmp_path)
    found, average = kept(run), json.loads((run / "run.json").read_text())[-1]["average_best"]
    assert average["steps"] == [*found]
    states = [one["state_dict"] for one in found.values()]
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert_same(model_of(run), mean_by_hand(states, best) if average["taken"] else best)
    steps, _ = seen(tmp_path, 1)  # what the first process kept is what the other one had
    for step, one in found.items():
        assert torch.equal(flat(one["state_dict"]), steps[step])
