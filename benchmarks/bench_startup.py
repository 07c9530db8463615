"""Start-up time until ``--help`` and ``--help_all`` are printed, to the first answer, and to the first training step.

    python benchmarks/bench_startup.py --data train.json --vocab bert-base-uncased-vocab.txt

Wall time from the start of the process, imports included. One run before the first fills the cache and is not counted.
``imports`` is a Python that imports torch and what transformers needs to load the same model, and does nothing with it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import harness
import material

TRAIN = Path(__file__).resolve().parents[1] / "scripts" / "train.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    material.add_data_flags(parser, None)
    material.add_shape_flag(parser)


def timed(*words: str) -> harness.Figures:
    """Seconds that Python takes for these words."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], stdout=subprocess.DEVNULL, check=True)
    return {"seconds": time.perf_counter() - started}


def imports(options: argparse.Namespace) -> harness.Figures:
    classes = "from transformers import AutoTokenizer; from transformers.models.bert import BertForQuestionAnswering"
    return timed("-c", f"import torch; {classes}")


def first_answer(options: argparse.Namespace) -> harness.Figures:
    asked = ["--question", "Where does Ada live?", "--context", "Ada lives in London."]
    return timed("-m", "qa_lightning", "predict", "--model", material.model_folder(options), *asked)


def first_step(options: argparse.Namespace) -> harness.Figures:
    folder, path = material.model_folder(options), material.question_file(options)
    command = [sys.executable, str(TRAIN), "--model.model_name", folder]
    command += ["--data.dataset", path, "--data.validation", path, "--trainer.default_root_dir", str(options.scratch)]
    command += ["--trainer.num_sanity_val_steps", "0", "--trainer.callbacks+=first_step.FirstStep"]
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])

    def run() -> float:
        started = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}
        ) as process:
            assert process.stdout is not None
            if not any(line.startswith("first step") for line in process.stdout):
                sys.exit(f"no first step: status {process.wait()}")
            seconds = time.perf_counter() - started
            process.kill()
        return seconds

    marker = options.scratch / "prepared"
    if not marker.exists():
        run()
        marker.touch()
    return {"seconds": run()}


VARIANTS: dict[str, harness.Variant] = {
    "short-help": lambda options: timed(str(TRAIN), "--help"),
    "help": lambda options: timed(str(TRAIN), "--help_all"),
    "imports": imports,
    "first-answer": first_answer,
    "first-step": first_step,
}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "seconds", add_arguments, rounds=5)
