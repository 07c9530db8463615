"""The space of a search: which flags of ``train`` it varies, and the values that they may have; read from YAML.

A flag has a range, ``{low: 1.0e-5, high: 3.0e-4, log: true}`` or ``{low: 8, high: 32, step: 8}``, or a list of values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any

import yaml  # type: ignore[import-untyped]

from qa_lightning.data.columns import Columns
from qa_lightning.errors import InputError, one_line
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.training.datamodule import SquadDataModule, takes_all
from qa_lightning.training.flags import ParsedFlags
from qa_lightning.wording import did_you_mean, shown

_RANGE = ("low", "high", "step", "log")
_TOKENS = "data.tokens_per_batch"
_OTHER_QUESTIONS = "scores of other questions do not compare"
_OTHER_SCORES = "scores by other rules do not compare"
_OTHER_READING = "it decides which gold answers are read, and scores by others do not compare"
_WINDOWS = (
    "data.eval_batch_size",
    "data.max_length",
    "data.doc_stride",
    "data.max_question_length",
    "model.model_name",
)
_FIXED = {  # flags that no search may vary -> why
    "ckpt_path": "each trial begins at its first step",
    "seed_everything": "one seed is that of the search and of all trials: another one is luck, not a better setting",
    "data.dataset": _OTHER_QUESTIONS,
    "data.validation": _OTHER_QUESTIONS,
    "data.validation_fraction": _OTHER_QUESTIONS,
    "data.max_validation_examples": _OTHER_QUESTIONS,
    "data.fold": _OTHER_QUESTIONS,
    "data.on_bad_rows": _OTHER_QUESTIONS,
    "data.answer_separator": _OTHER_READING,
    "data.encoding": _OTHER_READING,
    **{f"data.columns.{one.name}": _OTHER_READING for one in fields(Columns)},
    "model.mixed_script": _OTHER_SCORES,
    "trainer.limit_val_batches": _OTHER_QUESTIONS,
    "trainer.overfit_batches": _OTHER_QUESTIONS,
    "trainer.default_root_dir": "each trial has a folder of its own below --study",
    "trainer.devices": "--parallel gives each trial devices of its own",
    "trainer.num_nodes": "a trial runs on one machine",
    "trainer.fast_dev_run": "it leaves no scores",
}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included.

    Args:
        low, high: integers, if the flag takes integers.
        step: distance of two values; None for all numbers between.
        log: as likely between 1 and 10 as between 10 and 100.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False


@dataclass(frozen=True)
class Choices:
    """Some values, in no order.

    Args:
        values: numbers, texts, truth values, None.
    """

    values: tuple[Any, ...]


Space = Mapping[str, Range | Choices]  # flag, without dashes -> its values


def read_space(path: Path, flags: ParsedFlags) -> Space:
    """Read and check a space.

    Args:
        path: a YAML file.
        flags: of the trials, without those that are searched.

    Raises:
        InputError: the file cannot be read, or no trial could run with what it says; all problems together.
    """
    entries = list(_entries(path))
    space: dict[str, Range | Choices] = {}
    problems: list[str] = []
    known, searched = flags.names, {name for _, name, _ in entries}
    for line, name, value in entries:
        where = f"--space {path}, line {line}"
        if name in space:
            found: Range | Choices | list[str] = [f"--{name} is there twice"]
        elif name in _FIXED:
            found = [f"--{name} cannot be searched: {_FIXED[name]}"]
        elif name == "data.max_train_examples" and flags.config.data.fold is not None:
            found = [f"--{name} cannot be searched beside --data.fold: {_OTHER_QUESTIONS}"]
        elif name == "data.batch_size" and (flags.config.data.tokens_per_batch is not None or _TOKENS in searched):
            found = [f"--{name} has no effect beside --{_TOKENS}; search that, or leave it out"]
        elif name in _WINDOWS and not takes_all(flags.config.trainer.limit_val_batches):
            found = [
                f"--{name} cannot be searched beside --trainer.limit_val_batches, as it decides which questions are in "
                f"these batches: {_OTHER_QUESTIONS}; leave one out, or pass --data.max_validation_examples"
            ]
        elif name not in known:
            within = next((f"{name}.{inner}" for inner in _inner(value) if f"{name}.{inner}" in known), None)
            fix = f"; did you mean {within}: ...?" if within else did_you_mean(name, known)
            found = [f"there is no flag --{name}{fix}"]
        else:
            found = _dimension(name, value, flags)
        if isinstance(found, list):
            problems += [f"{where}: {problem}" for problem in found]
        else:
            space[name] = found
    if not entries:
        problems.append(f"--space {path} names no flag; write, say, `model.layer_decay: [0.8, 0.9, 1.0]`")
    if problems:
        raise InputError(problems)
    return space


def space_misfits(path: Path, space: Space, flags: ParsedFlags) -> list[str]:
    """A line for each value that does not go together with the flags of all trials.

    Args:
        path: of the space, for messages.
        space: as it was read.
        flags: of the trials, without those that are searched.
    """
    problems = []
    for name, values in space.items():
        for value in _ends(values):
            where = f"--space {path}: --{name} {_word(value)}: "
            problems += [where + problem for problem in flags.misfits_with(name, value)]
    return problems


def roomiest(space: Space) -> dict[str, Any]:
    """The arguments of a data module that a search varies, with those values that leave most room for the context.

    Of several models it has the first, whose tokenizer stands for those of the others.
    """
    names = [one.name for one in fields(WindowSettings)]
    found = {name: _ends(space[f"data.{name}"]) for name in names if f"data.{name}" in space}
    lengths = {name: max(ends) if name == "max_length" else min(ends) for name, ends in found.items()}
    models = space.get("model.model_name")
    return lengths | ({"model_name": models.values[0]} if isinstance(models, Choices) else {})


def length_misfits(path: Path, space: Space, data: SquadDataModule) -> list[str]:
    """A line for each length of windows that leaves no room for the context, whatever else a trial has.

    Args:
        path: of the space, for messages.
        space: as it was read.
        data: with the flags of all trials, and otherwise the roomiest: beside other lengths that are searched, a value
            has the most room that these can leave it.
    """
    problems = []
    for name in (one.name for one in fields(WindowSettings)):
        for value in _ends(space[f"data.{name}"]) if f"data.{name}" in space else ():
            try:
                Windower(data.tokenizer, replace(data.settings, **{name: value}))
            except InputError as error:
                where = f"--space {path}: --data.{name} {value}: "
                problems += [where + problem for problem in error.problems]
    return problems


def _ends(values: Range | Choices) -> Sequence[Any]:
    return values.values if isinstance(values, Choices) else (values.low, values.high)


def flag_words(values: Mapping[str, Any]) -> list[str]:
    """The flags of ``train`` that give a trial its values."""
    return [f"--{name}={_word(value)}" for name, value in values.items()]


def _word(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _entries(path: Path) -> Iterator[tuple[int, str, Any]]:
    """Line, flag and value of each entry, as the file has them.

    Raises:
        InputError: the file cannot be read, or is no mapping.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return
        if not isinstance(node, yaml.MappingNode):
            raise InputError(f"--space {path}: it must name flags and their values, as `model.layer_decay: [0.8, 1.0]`")
        for key, value in node.value:
            yield key.start_mark.line + 1, str(loader.construct_object(key)), loader.construct_object(value, deep=True)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"--space {path} cannot be read ({reason})") from None


def _inner(value: Any) -> list[str]:
    return list(map(str, value)) if isinstance(value, Mapping) else []


def _dimension(name: str, value: Any, flags: ParsedFlags) -> Range | Choices | list[str]:
    """The values that an entry allows, or what is wrong with it."""
    if isinstance(value, Mapping):
        return _range(name, value, flags)
    if isinstance(value, list):
        return _choices(name, value, flags)
    return [
        f"--{name}: {shown(value)} is one value; give a list, [{value}, ...], or a range, "
        "{low: ..., high: ...}; what does not vary goes on the command line"
    ]


def _choices(name: str, values: Sequence[Any], flags: ParsedFlags) -> Choices | list[str]:
    problems = []
    if len(values) < 2:
        problems.append(f"--{name}: a list needs at least 2 values; what does not vary goes on the command line")
    parsed: list[Any] = []
    for value in values:
        if isinstance(value, (list, Mapping)):
            problems.append(f"--{name}: {shown(value)} is no number, text, true, false or null, as a list may have")
            continue
        read, found = flags.with_value(name, _word(value))
        if not found and not isinstance(read, (bool, int, float, str, NoneType)):
            return [f"--{name}: a search gives it no values, as it takes objects; name one on the command line"]
        problems += found
        # 1 batch is not 1.0, all of them
        if not found and any(read == one and type(read) is type(one) for one in parsed):
            problems.append(f"--{name}: {_word(value)} is there twice")
        parsed.append(read)
    return problems or Choices(tuple(parsed))


def _range(name: str, given: Mapping[Any, Any], flags: ParsedFlags) -> Range | list[str]:
    problems = [
        f"--{name}: a range has no {key}{did_you_mean(str(key), _RANGE) or '; it has low, high, step and log'}"
        for key in given
        if key not in _RANGE
    ]
    problems += [f"--{name}: a range needs {key}" for key in ("low", "high") if key not in given]
    log = given.get("log", False)
    if not isinstance(log, bool):
        problems.append(f"--{name}: log is {shown(log)}; it must be true or false")
    numbers: dict[str, Any] = {}
    for key in ("low", "high"):
        if key in given:
            numbers[key], found = flags.with_value(name, _word(given[key]))
            problems += found
            if not found and (isinstance(numbers[key], bool) or not isinstance(numbers[key], (int, float))):
                problems.append(f"--{name}: {key} is {shown(given[key])}; a range is of numbers: give a list of values")
    if problems:
        return problems
    step = _number(given.get("step"))
    whole = all(isinstance(number, int) for number in numbers.values())
    return _range_problems(name, given, numbers["low"], numbers["high"], step, log, whole) or Range(
        numbers["low"], numbers["high"], step, log
    )


def _range_problems(
    name: str, given: Mapping[Any, Any], low: float, high: float, step: Any, log: bool, whole: bool
) -> list[str]:
    """What is wrong with a range whose ends the flag may have."""
    problems = []
    if not low < high:
        problems.append(f"--{name}: low is {low}, high is {high}; low must be below high")
    if not all(map(math.isfinite, (low, high))):
        problems.append(f"--{name}: low and high must be finite")
    if log and low <= 0:
        problems.append(f"--{name}: low is {low}; with log: true it must be above 0")
    if step is None:
        return problems
    kind = "whole number" if whole else "number"
    if isinstance(step, (str, bool)) or not step > 0 or (whole and not isinstance(step, int)):
        problems.append(f"--{name}: step is {shown(given['step'])}; it must be a {kind} above 0")
    elif log:
        problems.append(f"--{name}: step and log: true do not go together; leave one out")
    elif step > high - low:
        problems.append(f"--{name}: step is {step}, more than from low {low} to high {high}")
    elif abs((high - low) / step - round((high - low) / step)) > 1e-6:
        problems.append(f"--{name}: steps of {step} from low {low} do not end at high {high}; change one of the three")
    return problems


def _number(value: Any) -> Any:
    """A number that YAML reads as a text, as ``1e-5`` is; anything else as it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
