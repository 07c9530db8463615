"""Reads what runs left in their folders, to compare them: settings, scores, speed, memory.

A figure comes from the record, ``run.json``, where the run wrote it at its end; otherwise from the run's curves
(TensorBoard's, or those of a CSVLogger). What neither holds is not known.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from qa_lightning.errors import is_finite, one_line
from qa_lightning.layout import CURVE_FILES, CURVE_TABLE, FLAGS, HPARAMS, LOGS, RECORD, STUDY
from qa_lightning.runs import SORTS
from qa_lightning.runs.record import PastRun, is_run, newest_run, past_run

_NO_SETTINGS = ("ckpt_path", "_instantiator", "trainer.default_root_dir", "trainer.logger", "cache_dir", "config")
_SPEED, _VALIDATIONS = "train/features_per_second", ("val/best_f1", "val/f1", "val/exact_match")
_LAST = Path("last")  # the newest run

Curves = Mapping[str, Sequence[float]]  # name -> its values, in order of steps


@dataclass(frozen=True)
class RunSummary:
    """One run that came to its end, or was pruned by a search.

    Attributes:
        name: of its folder, as it was given.
        model: the model that was fine-tuned.
        exact, f1: scores of the best checkpoint, 0-100; NaN if they are not known, as the other numbers.
        best_epoch: the epoch of that checkpoint, counted from 1.
        minutes: from the last start to the end.
        speed: windows per second in training, over all devices.
        memory: GiB at most, of the first process.
        settings: flag -> value, without the groups ``model`` and ``data``.
        pruned: whether a search pruned it; its scores are then those of its best validation so far.
        best_f1: F1 at the best threshold; NaN if every question has an answer.
    """

    name: str
    model: str
    exact: float = math.nan
    f1: float = math.nan
    best_epoch: float = math.nan
    minutes: float = math.nan
    speed: float = math.nan
    memory: float = math.nan
    settings: Mapping[str, Any] = field(default_factory=dict)
    pruned: bool = False
    best_f1: float = math.nan

    @property
    def judged(self) -> float:
        """What its best checkpoint was chosen by: F1, at the best threshold if some questions have no answer."""
        return self.f1 if math.isnan(self.best_f1) else self.best_f1


def runs_of(folder: Path) -> list[Path]:
    """The newest run of each fold and the final model of a cross-validation, of each trial of a search; else itself.

    A study in which no run has begun is itself, too. Of a folder of runs, and of one that holds ``lightning_logs``, it
    is all of them. ``last``, if there is no such
    folder, is the newest run in ``lightning_logs``.
    """
    if folder == _LAST and not folder.exists() and (newest := newest_run(Path(LOGS))) is not None:
        return [newest.folder]
    if not (folder / STUDY).is_file():
        above = folder / LOGS if (folder / LOGS).is_dir() else folder
        inside = [] if is_run(folder) else sorted(above.glob("version_*"), key=lambda run: _number_of(run.name))
        return [run for run in inside if is_run(run)] or [folder]
    logs = sorted(folder.glob(f"*/{LOGS}"), key=lambda logs: (_number_of(logs.parent.name), logs.parent.name))
    return [run.folder for each in logs if (run := newest_run(each)) is not None] or [folder]


def _number_of(name: str) -> float:
    """The number at the end of a name; infinity for a name without one, which so comes last."""
    found = re.search(r"\d+$", name)
    return float(found[0]) if found else math.inf


def read_runs(folders: Iterable[Path]) -> tuple[list[RunSummary], list[str]]:
    """The runs in some folders, and a line for each folder that holds none that came to its end."""
    runs, problems = [], []
    for folder in folders:
        found = _read(folder)
        if isinstance(found, str):
            problems.append(f"{folder}: {found}")
        else:
            runs.append(found)
    return runs, problems


def sorted_runs(runs: Sequence[RunSummary], by: str) -> list[RunSummary]:
    """Runs with the best scores, the shortest, fastest or smallest first, unknown ones last; or as they are.

    Args:
        runs: to be sorted.
        by: one of `SORTS`.
    """
    figure, sign = SORTS[by]
    if figure is None:
        return list(runs)
    return sorted(runs, key=lambda run: (math.isnan(getattr(run, figure)), sign * getattr(run, figure)))


def differing(runs: Sequence[RunSummary]) -> list[str]:
    """The settings that are not the same in all runs that have them, in the order of the first run that does."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [name for name in names if len({repr(run.settings[name]) for run in runs if name in run.settings}) > 1]


def _read(folder: Path) -> RunSummary | str:
    """The run in a folder, or why there is none to show."""
    if folder == _LAST and not folder.exists():
        return f"there is no run in {LOGS} here; name the folder of one"
    if not folder.is_dir():
        return "it is a file; name the folders of runs" if folder.exists() else "there is no such folder"
    if (folder / STUDY).is_file() and not is_run(folder):
        return "a study in which no run has begun yet, or whose runs were removed; start its command again"
    of_python = not is_run(folder) and (folder / HPARAMS).is_file()
    if not is_run(folder) and not of_python:
        return f"not a run of qa-lightning: it has neither {RECORD} nor {FLAGS} of one"
    try:
        settings = _settings(folder)
    except (OSError, ValueError, yaml.YAMLError) as error:
        return f"its settings cannot be read ({one_line(error)})"
    if of_python and "model_name" not in settings:
        return f"not a run of qa-lightning: its {HPARAMS} names no model"
    curves = _curves(folder)
    run = past_run(folder)
    if not of_python and not run.finished and not run.pruned:
        return _unfinished(run, curves)
    if not of_python and run.problem and not run.starts:
        return f"its {RECORD} {run.problem}"
    summary = _summary(folder, settings, curves, dict(run.starts[-1]) if run.starts else {})
    return replace(summary, pruned=not run.finished) if run.pruned else summary


def _unfinished(run: PastRun, curves: Curves) -> str:
    if run.problem:
        return f"its {RECORD} {run.problem}, and there is no model"
    began = f", started {run.starts[-1]['started']}" if run.starts and "started" in run.starts[-1] else ""
    scores = curves.get("val/f1", ())
    return f"unfinished{began}" + (f"; best F1 so far {max(scores):.2f}" if scores else "; no score so far")


def _summary(folder: Path, settings: Mapping[str, Any], curves: Curves, start: Mapping[str, Any]) -> RunSummary:
    scores, measured, base = (_mapping(start.get(name)) for name in ("scores", "measured", "base_model"))
    best = _best_validation(curves)

    def of_curve(name: str) -> float:
        values = curves.get(name, ())
        return values[best] if 0 <= best < len(values) else math.nan

    speeds = curves.get(_SPEED, ())
    usual = settings.get("trainer.val_check_interval") is None and settings.get("trainer.check_val_every_n_epoch") == 1
    return RunSummary(
        str(folder),
        str(base.get("name") or settings.get("model_name", "")),
        _number(scores.get("best/exact_match"), of_curve("val/exact_match")),
        _number(scores.get("best/f1"), of_curve("val/f1")),
        _number(measured.get("best_epoch"), best + 1 if usual and best >= 0 else math.nan),
        _minutes(start),
        _number(measured.get("windows_per_second"), sum(speeds) / len(speeds) if speeds else math.nan),
        _number(measured.get("peak_memory_bytes")) / 2**30,
        settings,
        best_f1=_number(scores.get("best/best_f1"), of_curve("val/best_f1")),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _best_validation(curves: Curves) -> int:
    """The validation with the highest score; -1 without one."""
    values = next((curves[name] for name in _VALIDATIONS if curves.get(name)), ())
    return max(range(len(values)), key=values.__getitem__, default=-1)


def _number(*values: Any) -> float:
    """The first of some values that is a finite number; NaN if none is."""
    for value in values:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and is_finite(value):
            return float(value)
    return math.nan


def _minutes(start: Mapping[str, Any]) -> float:
    try:
        ends = [datetime.fromisoformat(str(start[name])) for name in ("started", "finished")]
        return (ends[1] - ends[0]).total_seconds() / 60
    except (KeyError, ValueError, TypeError):
        return math.nan


def _settings(folder: Path) -> dict[str, Any]:
    """Flag -> value from ``config.yaml``, or from ``hparams.yaml``; empty without both.

    Raises:
        OSError, ValueError, yaml.YAMLError: the file cannot be read.
    """
    path = next((folder / name for name in (FLAGS, HPARAMS) if (folder / name).is_file()), None)
    if path is None:
        return {}
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, Mapping):
        raise ValueError(f"{path.name} holds no settings")
    flat = dict(_flattened(values))
    return {name: value for name, value in flat.items() if not name.startswith(_NO_SETTINGS)}


def _flattened(values: Mapping[Any, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping):
            yield from _flattened(value, "" if name in ("model", "data") else f"{name}.")
        else:
            yield name, value


def _curves(folder: Path) -> Curves:
    """The curves that a run wrote; empty where there are none, or they cannot be read."""
    try:
        return _csv_curves(folder / CURVE_TABLE) if (folder / CURVE_TABLE).is_file() else _tensorboard_curves(folder)
    except Exception:  # a damaged file can raise anything in TensorBoard's reader; its figures are not known then
        return {}


def _csv_curves(path: Path) -> Curves:
    curves: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value:
                    curves.setdefault(name, []).append(float(value))
    return curves


def _tensorboard_curves(folder: Path) -> Curves:
    if not any(folder.glob(CURVE_FILES)):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second to import

    events = EventAccumulator(str(folder), {"scalars": 0, "tensors": 1, "images": 1})
    events.Reload()
    names = set(events.Tags()["scalars"])
    return {name: [point.value for point in events.Scalars(name)] for name in (*_VALIDATIONS, _SPEED) if name in names}
