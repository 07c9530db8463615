"""Chooses the checkpoint from which a run resumes, and rejects files that cannot be resumed from."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from qa_lightning.errors import InputError, one_line
from qa_lightning.layout import BEST_CHECKPOINT, CHECKPOINT_FOLDER, CURVE_TABLE, LAST_CHECKPOINT
from qa_lightning.paths import named_path
from qa_lightning.runs.record import PastRun, find_runs, past_run, this_command

log = logging.getLogger("qa_lightning")

CURVES = "curves"  # key in a checkpoint
_NONE = {CURVE_TABLE: 0}  # the curves of a run without a checkpoint of its own: all of them are logged again
_TRAINED = "current_model_state"  # Lightning's key for the trained weights, beside their mean
_PARTS = ("freeze_layers", "lora_rank", "lora_alpha")  # the module's arguments that decide what of the model trains
_RATES = ("learning_rate", "weight_decay", "layer_decay")  # those that stay as a checkpoint's optimizer has them


@dataclass(frozen=True)
class Beginning:
    """Where a run begins: at the first step, or at a checkpoint.

    Attributes:
        checkpoint: the file to resume from; None begins at the first step.
        folder: the resumed run's folder, which this run writes to again; None makes a new one.
        step: optimizer steps that are done.
        epochs: epochs that are done.
        curves: how far the curves had come when the checkpoint was written, see `curve_lengths`.
        shapes: name -> shape of each of the module's weights in the checkpoint.
        model_name: name of the trained model; None if it is not known.
        averaged: whether the checkpoint's weights are a running mean; those that are trained are beside them.
        arguments: name -> value of the module's arguments that a run keeps when it goes on.
        epoch: index of the epoch in which the checkpoint was written.
        scores: state key -> best score so far of each `ModelCheckpoint` that wrote the checkpoint, or was there.
    """

    checkpoint: Path | None = None
    folder: Path | None = None
    step: int = 0
    epochs: int = 0
    curves: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    model_name: str | None = None
    averaged: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    scores: Mapping[str, Any] = field(default_factory=dict)

    def misfit(self, model_name: str, weights: Mapping[str, torch.Tensor]) -> str | None:
        """Why the checkpoint belongs to another model, and the fix; None if it fits.

        Args:
            model_name: name of the model to train.
            weights: the module's, by name.
        """
        if self.checkpoint is None:
            return None
        here = {name: tuple(weight.shape) for name, weight in weights.items()}
        more, less = sorted(self.shapes.keys() - here.keys()), sorted(here.keys() - self.shapes.keys())
        other = [name for name in sorted(here.keys() & self.shapes.keys()) if here[name] != self.shapes[name]]
        differences = [f"{len(more)} weights that this model does not have ({more[0]})"] if more else []
        differences += [f"lacks {len(less)} that it has ({less[0]})"] if less else []
        if other:
            shapes = f"{list(self.shapes[other[0]])}, not {list(here[other[0]])}"
            differences += [f"{len(other)} of other shapes ({other[0]}: {shapes})"]
        if not differences:
            return None
        fix = "choose a checkpoint of this model, or leave the flag out"
        if self.model_name is not None and self.model_name != model_name:
            fix = f"it was made with --model.model_name {self.model_name}: pass that, or choose another checkpoint"
        return (
            f"{self.checkpoint} belongs to another model than --model.model_name {model_name}, it holds "
            f"{', '.join(differences)}; {fix}"
        )

    def changed_parts(self, arguments: Mapping[str, Any]) -> list[str]:
        """A line for each argument of the module that a run keeps when it goes on, and is not the checkpoint's.

        Args:
            arguments: name -> value of the module's arguments now.
        """
        if self.checkpoint is None:
            return []
        problems = []
        for name in (*_PARTS, *_RATES):
            then, now = self.arguments.get(name), arguments.get(name)
            if name in _RATES and not (name in self.arguments and name in arguments):
                continue
            if then == now or (name == "lora_alpha" and None in (then, arguments.get("lora_rank"))):
                continue
            flag = f"--model.{name}"
            how = f"without {flag}; leave it out" if then is None else f"with {flag} {then}; pass that"
            problem = f"{self.checkpoint} was trained {how}{'' if now is None else f', not {now}'}"
            more = ", or begin with the model/ of its run (--model.model_name) to have another"
            problems.append(problem + (more if name in _RATES else ""))
        return problems


def find_beginning(given: str | None, logs: Path, job: str | None = None) -> Beginning:
    """Find where a run begins, from ``--ckpt_path``; a checkpoint that cannot be read is never chosen.

    Args:
        given: a file, ``last`` for the newest run, or None.
        logs: the folder that holds the runs.
        job: id of this batch job, or of this start by torchrun. If it was started again, and its newest run by the
            same command is not finished, that run is resumed, whatever ``given`` was to begin it.

    Raises:
        InputError: there is no such file or run, or its checkpoints cannot be read.
    """
    runs = find_runs(logs) if given == "last" or job is not None else []
    now = this_command()  # a job may have several
    own = [run for run in runs if job is not None and run.job == job and run.command in (None, now)]
    if own and not own[-1].finished:
        return _resume(own[-1])
    if given is None:
        return Beginning()
    if given != "last":
        path = named_path("--ckpt_path", given)
        if path.is_dir() and (path / LAST_CHECKPOINT).is_file():
            raise InputError(f"--ckpt_path {given} is a run's folder; pass {path / LAST_CHECKPOINT} to go on with it")
        if not path.is_file():
            raise InputError(f"--ckpt_path {given}: no such file; give the path of a .ckpt file, or `last`")
        begun = read_beginning(path)
        if isinstance(begun, str):
            raise InputError(f"--ckpt_path {given}: {begun}")
        return begun
    if not runs:
        renamed = sorted(logs.glob(f"*/{LAST_CHECKPOINT}"), key=lambda found: found.stat().st_mtime_ns)
        fix = f"to go on with a renamed one, pass --ckpt_path {renamed[-1]}" if renamed else "start without the flag"
        raise InputError(f"--ckpt_path last: there is no run in {logs} that is called version_N; {fix}")
    return _resume(runs[-1])


def _resume(run: PastRun) -> Beginning:
    """Begin at the last checkpoint of ``run``, at the best one if the last is damaged or missing.

    Without any checkpoint it begins where its own start did, in the same folder.
    """
    folder: Path | None = run.folder
    if run.finished:
        log.info(f"{run.folder} is finished and stays as it is: this run gets a new folder")
        folder = None
    problems: list[str] = []
    for path in (run.folder / LAST_CHECKPOINT, run.folder / BEST_CHECKPOINT):
        if not path.is_file():
            continue
        begun = read_beginning(path)
        if not isinstance(begun, str):
            if path == run.folder / BEST_CHECKPOINT and not problems and (before := _before(run, begun)):
                return replace(before, folder=folder, curves=_NONE)
            if problems:
                log.warning(f"{problems[0]}; resuming from {path.name}, the best checkpoint of that run, instead")
            return replace(begun, folder=folder)
        problems.append(f"{path}: {begun}")
    if problems:
        raise InputError([f"--ckpt_path last: {problem}" for problem in problems])
    if before := _before(run):
        return replace(before, folder=folder, curves=_NONE)
    log.info(f"{run.folder} was stopped before its first checkpoint: it starts again from the first step")
    return Beginning(None, folder, curves=_NONE)


def _before(run: PastRun, best: Beginning | None = None) -> Beginning | None:
    """Where a run began that was stopped before its first checkpoint; None for the first step.

    Args:
        run: without a last checkpoint.
        best: its best checkpoint, which may be one that it brought along; None if that is of a later step.
    """
    source = run.resumed_from
    if source is None or not source.is_file() or source.resolve().parent == (run.folder / CHECKPOINT_FOLDER).resolve():
        return None  # its own checkpoints say where its curves end
    begun = read_beginning(source)
    if isinstance(begun, str) or (best is not None and begun.step < best.step):
        return None
    log.info(f"{run.folder} was stopped before its first checkpoint: it starts again from {begun.checkpoint}")
    return begun


def as_it_is_now(begun: Beginning) -> Beginning:
    """Where a run begins that another process may have gone on with before this one could have its folder.

    Raises:
        InputError: that process has finished it, or its checkpoints cannot be read.
    """
    folder = begun.folder
    if folder is None or not any((folder / path).is_file() for path in (LAST_CHECKPOINT, BEST_CHECKPOINT)):
        return begun
    run = past_run(folder)
    if run.finished:
        raise InputError(
            f"--ckpt_path last: {folder} has just been finished by another process; to train it further, start again "
            "with more --trainer.max_epochs"
        )
    return _resume(run)


_SCORE = "best_model_score"  # in the state of a ModelCheckpoint


def read_beginning(path: Path, resumes: bool = True) -> Beginning | str:
    """Read a `Beginning`, in a new folder, from a checkpoint; a string says why that is not possible.

    No code in the file is executed (``weights_only``).

    Args:
        path: of the checkpoint.
        resumes: whether a run is to be resumed from it; otherwise, weights alone are enough.
    """
    try:
        if path.stat().st_size == 0:
            return "the file is empty, perhaps because the disk was full; choose another checkpoint"
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        reason = one_line(error)
        return (
            "the file holds more than tensors and plain values, and loading it could run code; choose another "
            f"checkpoint ({reason})"
        )
    except Exception as error:  # a damaged file can raise anything in the zip and pickle readers
        reason = one_line(error)
        return f"the file is damaged or not a checkpoint; choose another one ({type(error).__name__}: {reason})"
    if not isinstance(checkpoint, dict):
        return f"the file holds a {type(checkpoint).__name__}, not a checkpoint of a training run; choose another one"
    missing = [key for key in ("state_dict", "loops", "global_step") if key not in checkpoint]
    if missing:
        return f"the file is not a checkpoint of a training run, it lacks {', '.join(missing)}; choose another one"
    missing = [key for key in ("optimizer_states", "lr_schedulers") if key not in checkpoint]
    if missing and resumes:
        return f"the file holds weights alone, to resume it lacks {', '.join(missing)}; choose another one"
    if wrong := _wrong_types(checkpoint, without=[] if resumes else missing):
        return f"the file is not a checkpoint of a training run, {wrong}; choose another one"
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    arguments = checkpoint.get("hyper_parameters", {})
    name = arguments.get("model_name")
    return Beginning(
        path,
        None,
        checkpoint["global_step"],
        epochs,
        checkpoint.get(CURVES, {}),
        {weight: tuple(tensor.shape) for weight, tensor in checkpoint["state_dict"].items()},
        name if isinstance(name, str) else None,
        _TRAINED in checkpoint,
        {part: arguments[part] for part in (*_PARTS, *_RATES) if part in arguments},
        checkpoint.get("epoch", 0),
        # Copies: a tensor of the file would keep it open.
        {key: deepcopy(state[_SCORE]) for key, state in checkpoint.get("callbacks", {}).items() if _SCORE in state},
    )


_COUNTS = {"ready": int, "started": int, "processed": int, "completed": int}
_PROGRESS = {"total": _COUNTS, "current": _COUNTS}
# The parts of a checkpoint that Lightning needs to resume. A type stands for a value of that type, a dictionary for one
# with these keys, a tuple (K, V) for a dictionary with any keys of type K and values of type V.
_FORM: dict[str, Any] = {
    "state_dict": (str, torch.Tensor),
    "global_step": int,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": {
        "fit_loop": {
            "state_dict": {},
            "epoch_loop.state_dict": {"_batches_that_stepped": int},
            "epoch_loop.batch_progress": _PROGRESS,
            "epoch_progress": _PROGRESS,
        }
    },
}
_OPTIONAL: dict[str, Any] = {
    "epoch": int,
    "callbacks": (str, dict),
    "hyper_parameters": {},
    CURVES: (str, int),
    _TRAINED: (str, torch.Tensor),
    "averaging_state": (str, torch.Tensor),
}


def _wrong_types(checkpoint: dict[Any, Any], without: Sequence[str]) -> str | None:
    """The first value in a checkpoint that has the wrong type, as the end of a sentence; None if there is none.

    Args:
        checkpoint: as it was read.
        without: parts that it need not have.
    """
    form = {name: wanted for name, wanted in _FORM.items() if name not in without}
    form |= {name: wanted for name, wanted in _OPTIONAL.items() if name in checkpoint}
    return _misshapen(checkpoint, form, "")


def _misshapen(value: Any, form: Any, name: str) -> str | None:
    if isinstance(form, dict):
        if not isinstance(value, dict):
            return f"its {name} is a {type(value).__name__} in place of a dict"
        for key, wanted in form.items():
            inner = f"{name}.{key}" if name else key
            if key not in value:
                return f"it lacks {inner}"
            if problem := _misshapen(value[key], wanted, inner):
                return problem
        return None
    if isinstance(form, tuple):
        keys, values = form
        if not isinstance(value, dict):
            return f"its {name} is a {type(value).__name__} in place of a dict"
        wrong = next((pair for pair in value.items() if not (_is_a(pair[0], keys) and _is_a(pair[1], values))), None)
        return f"its {name} holds {wrong[0]!r}, a {type(wrong[1]).__name__}" if wrong else None
    if not _is_a(value, form) or (form is int and value < 0):
        return f"its {name} is {value!r:.50}" if form is int else f"its {name} is a {type(value).__name__}"
    return None


def _is_a(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
