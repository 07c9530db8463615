"""F1 by minutes of training, for recipes of a small model, of a larger one, and of one that learns from the other.

    python benchmarks/bench_recipes.py --data FOLDER --small MODEL --large MODEL --runs FOLDER

``--data`` is a folder with the training and validation articles of SQuAD v1.1 and v2.0 (`FILES`). Each recipe is a run
of ``qa-lightning train`` from the command line; its minutes are those from the start of the process to its end,
validations and report included. Every eighth training article, by title, is left out of training. This third part, by
which no flag was chosen, is scored when the run has ended, with the threshold and calibrator that it fitted to
the validation articles.

An ``ensemble`` is no run: the models of a recipe, one of each of ``--seeds``, answer together.

The ``long`` recipes train on contexts of five paragraphs, with fewer of the windows that hold no answer
(``--data.keep_no_answer``) and so for more epochs: all of them take the same number of steps.

A run stays in ``--runs``: a later command with the same recipe reads its figures there. One that was stopped is begun
anew, so that its minutes are known.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import harness
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from qa_lightning.files import write_json
from qa_lightning.layout import CONFIDENCE, CONFIDENCE_FOLDER, LOGS
from qa_lightning.runs.record import PastRun, newest_run

MEASURES = {  # name here -> name in confidence.json; each is a value with the ends of its interval
    "ece": "expected_calibration_error",
    "auroc": "auroc",
    "at_90": "answered_at_90_precision",
}
WORDS = (
    "version",
    "model",
    "flags",
    "f1_by_minute",
    *(f"{part}{name}" for part in ("", "third_") for name in MEASURES),
)
FILES = {  # version -> articles for training, for validation, and all of them with the answers of all annotators
    "1.1": ("train-40-articles.json", "validation-8-articles.json", "dev-v1.1.json"),
    "2.0": ("train-v2-articles.json", "validation-v2-articles.json", "dev-v2.0.json"),
}
BF16 = ["--trainer.precision", "bf16-mixed"]
SMALL = ["--config", "small_data", "--model.attention_dropout", "0", *BF16]
LARGE = ["--config", "small_data_base", "--model.attention_dropout", "0", *BF16]
LONG = [
    *("--config", "fast_cpu", "--data.max_length", "256", "--data.doc_stride", "64"),
    *("--trainer.max_steps", "720", "--trainer.max_epochs", "-1"),
    *("--trainer.val_check_interval", "720", "--trainer.check_val_every_n_epoch", "null"),  # at the end alone
]


@dataclass(frozen=True)
class Recipe:
    """A run.

    Args:
        flags: of ``qa-lightning train``.
        version: of SQuAD.
        large: whether the large model is trained, not the small one.
        teacher: the recipe whose run teaches; it is trained first.
        paragraphs: of an article that make one context, in all three parts.
        share: the part of the training articles that is trained on, every (1 / ``share``)-th of them.
        of: the recipe whose models of all seeds answer together; nothing is trained.
    """

    flags: Sequence[str]
    version: str = "1.1"
    large: bool = False
    teacher: str | None = None
    paragraphs: int = 1
    share: float = 1
    of: str | None = None


RECIPES: dict[str, Recipe] = {
    "plain": Recipe(["--config", "fast_cpu", "--model.attention_dropout", "0.1"]),
    "fast-cpu": Recipe(["--config", "fast_cpu"]),
    "lora": Recipe(["--config", "fast_cpu", "--model.lora_rank", "8", "--model.learning_rate", "5e-4"]),
    "lora-2e-3": Recipe(["--config", "fast_cpu", "--model.lora_rank", "8", "--model.learning_rate", "2e-3"]),
    "ema": Recipe(["--config", "fast_cpu", "--ema_decay", "0.99"]),
    "average-3": Recipe(["--config", "fast_cpu", "--average_best", "3", "--trainer.val_check_interval", "0.25"]),
    "ensemble": Recipe(["--config", "fast_cpu"], of="fast-cpu"),
    "freeze-3": Recipe(["--config", "fast_cpu", "--model.freeze_layers", "3"]),
    "small-data": Recipe(SMALL),
    "large": Recipe([*LARGE, "--trainer.max_steps", "1400"], large=True),
    "taught": Recipe([*SMALL, "--trainer.max_epochs", "2", "--model.teacher_weight", "0.7"], teacher="large"),
    "v2-small-data": Recipe([*SMALL, "--trainer.max_epochs", "4"], "2.0"),
    "v2-large": Recipe([*LARGE, "--trainer.max_steps", "1400"], "2.0", large=True),
    **{
        f"long-{kept}": Recipe([*LONG, "--data.keep_no_answer", kept], paragraphs=5, share=1 / 3)
        for kept in ("1", "0.3", "0.1", "0")
    },
}


def main() -> None:
    """Run the recipes of ``--only`` and print their figures."""
    parser = harness.parser_of(__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the articles")
    parser.add_argument("--small", required=True, help="a small pretrained encoder, such as MiniLM")
    parser.add_argument("--large", required=True, help="a larger one, such as MPNet")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--only", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="run only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], help="run each recipe with these seeds")
    options = parser.parse_args()
    print(f"{__doc__.splitlines()[0]}\n{harness.machine()}", flush=True)
    record = harness.Record(options.output)
    for number, seed in enumerate(options.seeds, 1):
        for name in options.only:
            if RECIPES[name].of and number > 1:
                continue  # it was that of all seeds
            figures = measured(name, seed, options)
            record.add(name, figures, number)
            numbers = {key: value for key, value in figures.items() if key not in WORDS}
            print(f"{name}: {harness.shown(numbers)}", flush=True)


def measured(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of a recipe with a seed, which is run unless it has been."""
    recipe = RECIPES[name]
    if recipe.of:
        return ensemble(name, recipe, options)
    train, validation, third = articles(recipe, options)
    flags = [*recipe.flags, "--data.dataset", str(train), "--data.validation", str(validation)]
    flags += ["--model.model_name", options.large if recipe.large else options.small]
    if recipe.teacher:
        measured(recipe.teacher, seed, options)
        flags += ["--model.teacher", str(run_of(recipe.teacher, seed, options).folder)]
    folder = options.runs / f"{name}-{seed}"
    run = newest_run(folder / LOGS)
    if run is None or not run.finished:
        words = [*flags, "--seed_everything", str(seed), "--trainer.default_root_dir", str(folder)]
        ours("train", *words)
    run = run_of(name, seed, options)
    unseen = folder / "third"
    if not (unseen / CONFIDENCE).exists() or _answered(unseen) != _asked(third):
        words = ["--model", str(run.folder), "--data", str(third), "--output_dir", str(unseen)]
        ours("evaluate", *words, "--dtype", "bfloat16")  # as the run validates
    (start,) = run.starts
    began, ended = (datetime.fromisoformat(start[name]) for name in ("started", "finished"))
    return {
        "version": recipe.version,
        "model": "MPNet" if recipe.large else "MiniLM",
        "minutes": (ended - began).total_seconds() / 60,
        "seed": seed,
        "flags": shlex.join(recipe.flags),
        **validated(run),
        **evaluated(unseen, "third_"),
        "peak_rss_mb": start["measured"]["peak_memory_bytes"] / 2**20,
        "f1_by_minute": f1_by_minute(run),
    }


def ensemble(name: str, recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of the models of a recipe, one of each seed, that answer together."""
    _, *parts = articles(recipe, options)
    runs = [run_of(str(recipe.of), seed, options) for seed in options.seeds]
    figures: dict[str, Any] = {}
    for prefix, data in zip(("", "third_"), parts, strict=True):
        folder = options.runs / f"{name}-{'-'.join(map(str, options.seeds))}" / data.stem
        if not (folder / CONFIDENCE).exists():
            models = ",".join(str(run.folder) for run in runs)
            ours("evaluate", "--model", models, "--data", str(data), "--output_dir", str(folder), "--dtype", "bfloat16")
        figures |= evaluated(folder, prefix)
    head = {"version": recipe.version, "model": "MiniLM", "flags": shlex.join(recipe.flags)}
    return {**head, "models": len(runs), **figures}


def evaluated(folder: Path, prefix: str) -> dict[str, Any]:
    """The figures that an evaluation wrote into a folder; each name begins with ``prefix``."""
    scores = json.loads((folder / "metrics.json").read_text())
    measures = json.loads((folder / CONFIDENCE).read_text())["measures_as_given"]
    figures = {"em": scores.get("exact_match", scores.get("exact")), "f1": scores["f1"]}
    figures |= {short: measures[long] for short, long in MEASURES.items()}
    return {prefix + name: value for name, value in figures.items()}


def _answered(folder: Path) -> int:
    """The number of questions that an evaluation in a folder scored."""
    return len(json.loads((folder / "predictions.json").read_text()))


def _asked(path: Path) -> int:
    """The number of questions in a file of articles."""
    return sum(len(one["qas"]) for article in _articles(path).values() for one in article["paragraphs"])


def validated(run: PastRun) -> dict[str, Any]:
    """The scores on the validation articles: on v2.0 under thresholds of other articles."""
    found = json.loads((run.folder / CONFIDENCE_FOLDER / CONFIDENCE).read_text())
    scores = run.starts[-1]["scores"]
    measures = found["measures"][found["scores_from"]]
    return {
        "em": found.get("exact_held_out", scores["best/exact_match"]),
        "f1": found.get("f1_held_out", scores["best/f1"]),
        **{short: measures[long] for short, long in MEASURES.items()},
    }


def f1_by_minute(run: PastRun) -> list[list[float]]:
    """Minutes since the start, and F1, of each validation, from the run's curves; on v2.0 under the best threshold."""
    curves = EventAccumulator(str(run.folder))
    curves.Reload()
    known = curves.Tags()["scalars"]
    tag = next((tag for tag in ("val/best_f1", "val/f1") if tag in known), None)
    began = datetime.fromisoformat(run.starts[0]["started"]).timestamp()
    return [[(point.wall_time - began) / 60, point.value] for point in curves.Scalars(tag)] if tag else []


def articles(recipe: Recipe, options: argparse.Namespace) -> list[Path]:
    """The files of the articles for training, for validation, and of the third part."""
    training, validation, everything = (_articles(options.data / name) for name in FILES[recipe.version])
    third = set(sorted(training)[3::8])
    kept = sorted(set(training) - third)[:: round(1 / recipe.share)]
    parts = {
        "train": [article for title, article in training.items() if title in kept],
        "validation": list(validation.values()),
        "third": [article for title, article in everything.items() if title in third],
    }
    name = f"v{recipe.version}" if recipe.share == 1 else f"v{recipe.version}-{len(kept)}-articles"
    if recipe.paragraphs > 1:
        name += f"-{recipe.paragraphs}-paragraphs"
        parts = {part: [joined(one, recipe.paragraphs) for one in parts[part]] for part in parts}
    paths = {part: options.runs / f"{name}-{part}.json" for part in parts}
    for part, path in paths.items():
        write_json(path, {"version": recipe.version, "data": parts[part]})
    return list(paths.values())


def joined(article: dict[str, Any], count: int) -> dict[str, Any]:
    """An article with contexts of ``count`` paragraphs each, the last perhaps fewer, with blank lines between them."""
    contexts = []
    for first in range(0, len(article["paragraphs"]), count):
        text, asked = "", []
        for paragraph in article["paragraphs"][first : first + count]:
            text += "\n\n" if text else ""
            for question in paragraph["qas"]:
                moved = [{**one, "answer_start": len(text) + one["answer_start"]} for one in question["answers"]]
                asked.append({**question, "answers": moved})
            text += paragraph["context"]
        contexts.append({"context": text, "qas": asked})
    return {**article, "paragraphs": contexts}


def _articles(path: Path) -> dict[str, Any]:
    return {article["title"]: article for article in json.loads(path.read_text(encoding="utf-8"))["data"]}


def run_of(name: str, seed: int, options: argparse.Namespace) -> PastRun:
    """The run of a recipe with a seed, which has ended."""
    folder = options.runs / f"{name}-{seed}"
    run = newest_run(folder / LOGS)
    if run is None or not run.finished:
        sys.exit(f"error: {name}: the run in {folder} has not ended")
    return run


def ours(*words: str) -> None:
    """Run ``qa-lightning`` with these words; its output goes to this one's."""
    ended = subprocess.run([sys.executable, "-m", "qa_lightning", *words], check=False)
    if ended.returncode:
        sys.exit(f"error: qa-lightning {words[0]} exited with status {ended.returncode}")


if __name__ == "__main__":
    main()
