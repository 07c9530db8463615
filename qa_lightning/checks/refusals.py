"""What a Trainer cannot be made of or would refuse too late, checked at the start; and its own refusals, in one line.

Lightning says some of it after data was prepared, or after an epoch, and as a traceback. It is imported where it is
needed, so that a command can be wrapped before the library is loaded.
"""

from __future__ import annotations

import inspect
import linecache
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from qa_lightning.errors import DivergedError, InputError, Rules, broken_rules
from qa_lightning.wording import did_you_mean
from qa_lightning.workers import MOST_PROCESSES


def _share(value: Any) -> bool:
    return not isinstance(value, (int, float)) or (value >= 0 and (isinstance(value, int) or value <= 1))


def _fits_a_machine(devices: Any) -> bool:
    return not str(devices).isdigit() or int(devices) <= MOST_PROCESSES


_SHARE = (_share, "must be a number of batches, or a part of them, from 0.0 to 1.0")
_RULES: Rules = {
    "max_epochs": (lambda count: count >= -1, "must not be negative; -1 has no end"),
    "max_steps": (lambda count: count >= -1, "must not be negative; -1 has no end"),
    "max_time": (
        lambda text: not isinstance(text, str) or re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text.strip()) is not None,
        "must be days, hours, minutes and seconds, such as 00:08:00:00",
    ),
    "accumulate_grad_batches": (lambda count: count >= 1, "must be at least 1"),
    "check_val_every_n_epoch": (lambda count: count >= 1, "must be at least 1"),
    "val_check_interval": (
        lambda every: isinstance(every, int | float) and every > 0,
        "must be a number above 0: of batches, or 0.25 for four validations an epoch; a time is not the same on all "
        "processes, nor after a resume",
    ),
    "gradient_clip_val": (lambda value: value >= 0, "must not be negative; 0 does not clip"),
    "log_every_n_steps": (lambda count: count >= 0, "must not be negative; 0 logs no steps"),
    "num_sanity_val_steps": (lambda count: count >= -1, "must not be negative; -1 takes all"),
    "num_nodes": (lambda count: count >= 1, "must be at least 1"),
    "devices": (_fits_a_machine, f"must be at most {MOST_PROCESSES}, those of one machine"),
    "limit_train_batches": _SHARE,
    "limit_val_batches": _SHARE,
    "overfit_batches": _SHARE,
    "barebones": (
        lambda given: not given,
        "must be false: it forbids the log, the checkpoints and the lines that a run here consists of",
    ),
}


def trainer_problems(trainer: Mapping[str, Any]) -> list[str]:
    """What is wrong with the flags of the Trainer, before anything is loaded.

    Args:
        trainer: flag -> value, as the parser gives them.
    """
    from lightning.pytorch.accelerators import AcceleratorRegistry
    from lightning.pytorch.strategies import StrategyRegistry

    problems = broken_rules(trainer, _RULES, "trainer")
    names: dict[str, Collection[str]] = {
        "profiler": ("simple", "advanced", "pytorch", "xla"),
        "accelerator": ("auto", "gpu", *AcceleratorRegistry.available_accelerators()),
        "strategy": ("auto", *StrategyRegistry.available_strategies()),
        "gradient_clip_algorithm": ("norm", "value"),
    }
    for flag, known in names.items():
        given = trainer.get(flag)
        if isinstance(given, str) and given.lower() not in known:
            hint = did_you_mean(given, known) or f"; there are {', '.join(known)}"
            problems.append(f"--trainer.{flag} {given}: there is none of that name{hint}")
    return problems


def callback_problems(
    callbacks: Iterable[Any], logged: Collection[str], validates: bool, devices: int, loggers: int
) -> list[str]:
    """What is wrong with callbacks, before data is prepared.

    Args:
        callbacks: those of the Trainer.
        logged: names of all that the module may log.
        validates: whether there is validation; without it nothing named ``val/...`` is logged.
        devices: number of processes.
        loggers: number of loggers.
    """
    from lightning.pytorch.callbacks import (
        BatchSizeFinder,
        DeviceStatsMonitor,
        GradientAccumulationScheduler,
        LearningRateMonitor,
    )

    every = list(callbacks)
    problems = monitor_problems(every, logged, validates)
    for callback in every:
        flag = f"--trainer.callbacks {type(callback).__name__}"
        if isinstance(callback, DeviceStatsMonitor) and find_spec("psutil") is None:
            problems.append(f"{flag} needs the package psutil; run pip install psutil")
        if isinstance(callback, (DeviceStatsMonitor, LearningRateMonitor)) and not loggers:
            problems.append(f"{flag} writes to a logger, and there is none; leave it out, or --trainer.logger false")
        if isinstance(callback, BatchSizeFinder) and devices > 1:
            problems.append(f"{flag} works on one device; find the size with --trainer.devices 1 first")
        if isinstance(callback, GradientAccumulationScheduler):
            problems.append(
                f"{flag} changes how many batches a step has, which the learning rate and a resume count on; pass "
                "--trainer.accumulate_grad_batches instead"
            )
    return problems


def monitor_problems(callbacks: Iterable[Any], logged: Collection[str], validates: bool) -> list[str]:
    """A line for each callback that waits for a value that nothing logs.

    A callback from elsewhere may log names of its own: with one of these, every name may come.

    Args:
        callbacks, logged, validates: see `callback_problems`.
    """
    every = list(callbacks)
    if any(not type(callback).__module__.startswith(("lightning.", "qa_lightning.")) for callback in every):
        return []
    problems = []
    for callback in every:
        name, flag = getattr(callback, "monitor", None), f"--trainer.callbacks {type(callback).__name__}"
        if not isinstance(name, str) or type(callback).__module__.startswith("qa_lightning."):
            continue  # this package's own follows what there is
        if name not in logged:
            hint = did_you_mean(name, logged) or f"; there are {', '.join(logged)}"
            problems.append(f"{flag} monitors {name}, which is not logged{hint}")
        elif name.startswith("val/") and not validates:
            problems.append(f"{flag} monitors {name}, which is not logged with --trainer.limit_val_batches 0")
    return problems


@contextmanager
def lightning_refusals() -> Iterator[None]:
    """Turn what Lightning and its parser refuse, and packages that are missing, into an `InputError` of one line.

    What they raise on purpose, that is: another error within them, or one of a callback, keeps its traceback.
    """
    try:
        yield
    except (InputError, DivergedError):
        raise
    except ImportError as error:
        if needed := _missing_package(str(error), error):
            raise InputError(needed) from None
        raise
    except Exception as error:
        if not _is_refusal(error):
            raise
        raise InputError(refusal(str(error))) from None


def refusal(message: str) -> str:
    """A message of Lightning or its parser in one line."""
    reason = union_problem(message) or message
    line = " ".join(re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reason).split())
    return _missing_package(line) or line


def _is_refusal(error: Exception) -> bool:
    """Whether Lightning or jsonargparse raised this, in so many words."""
    if type(error).__name__ == "MisconfigurationException":
        return True
    if not isinstance(error, (ValueError, TypeError, RuntimeError, NotImplementedError)):
        return False
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return False
    module = str(place.tb_frame.f_globals.get("__name__", ""))
    line = linecache.getline(place.tb_frame.f_code.co_filename, place.tb_lineno)
    return module.startswith(("lightning.", "jsonargparse.")) and line.strip().startswith("raise ")


def _missing_package(message: str, error: ImportError | None = None) -> str | None:
    """What is missing and how to get it, where a message is about a package; else None."""
    if found := re.search(r"^(.*?)Requirement '([^']+)' not met\. HINT: Try running `(pip install [^`]+)`", message):
        before = found[1].strip().rstrip(".:")
        return f"{before + ': ' if before else ''}the package {found[2]} is missing; run {found[3]}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("qa_lightning"):
        return f"{message}; run pip install {error.name.partition('.')[0]}, or correct the name"
    return None


def union_problem(message: str) -> str | None:
    """What jsonargparse says of a value that may be of several types, without the types that nobody meant.

    Returns:
        The reason, with the flag before it where the message has one; None for other messages.
    """
    key = re.match(r'Parser key "([^"]+)":', message)
    listed = re.search(r"\n\s*Errors:\n(.*?)\n\s*Given value type:", message, re.DOTALL)
    if listed is None:
        return None
    reasons = [" ".join(part.split()) for part in re.split(r"(?m)^\s*- (?=[A-Z`'\"])", listed[1]) if part.strip()]
    telling = [
        reason
        for reason in reasons
        if not reason.startswith(("Expected a", "Expected <", "Not a valid subclass", "a class"))
    ]
    flag = f"--{key[1]}" if key else ""
    if telling:
        return _class_problem(telling[0], flag)
    if unknown := re.search(r"Expected a dot import path string: ([\w.]+)(?=\s|$)", listed[1]):
        known = _class_names(flag)
        hint = did_you_mean(unknown[1], known) or (f"; there are {', '.join(known)}" if known else "")
        return f"{flag} {unknown[1]}: there is no class of that name{hint}".strip()
    return None


def _class_problem(reason: str, flag: str) -> str:
    """What is wrong with the class or one of its arguments."""
    about = re.fullmatch(r"Problem with given class_path '([^']+)': (.*)", reason, re.DOTALL)
    if about is None:
        return f"{flag}: {reason}" if flag else reason
    path, what = about.groups()
    name = path.rpartition(".")[2]
    if unknown := re.fullmatch(r"Option '(.+)' is not accepted", what):
        return f"{flag}.{unknown[1]}: {name} has no such argument{did_you_mean(unknown[1], _arguments(path))}"
    if missing := re.fullmatch(r"the following arguments are required: (.*)", what):
        needed = ", ".join(f"{flag}.{argument}" for argument in missing[1].split(", "))
        return f"{flag} {name} needs {needed}"
    if inner := re.match(r'Parser key "([^"]+)": (.*)', what, re.DOTALL):
        return f"{flag}.{inner[1]}: {inner[2]}"
    if "No module named" in what or "has no attribute" in what:
        return f"{flag} {path}: {what}"
    return f"{flag} {name}: {what}".strip()


def _arguments(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _class_names(flag: str) -> list[str]:
    """Lightning's own classes for a flag that takes one."""
    modules = {"--trainer.callbacks": "callbacks", "--trainer.logger": "loggers", "--trainer.plugins": "plugins"}
    if flag not in modules:
        return []
    module = import_module(f"lightning.pytorch.{modules[flag]}")
    return [name for name in module.__all__ if inspect.isclass(getattr(module, name, None))]
