"""Starts pairs of runs in one moment and in one place, and looks whether each has a folder and a model of its own.

python tests/helpers/pairs_of_runs.py --pairs 10

Exits with status 1 unless all have.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[2]))  # where tests are

from qa_lightning.models.folder import weights_digest
from tests.helpers.processes import TRAIN, Started


def command(root: Path, seed: int) -> list[str]:
    """A run of two steps."""
    return [
        *(str(TRAIN), "--data.dataset", "synthetic", "--model.model_name", "tiny"),
        *("--data.max_train_examples", "40", "--data.max_validation_examples", "8", "--data.batch_size", "4"),
        *("--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(root)),
        # Two seeds may order the few batches alike; two learning rates give two models for certain.
        *("--seed_everything", str(seed), "--model.learning_rate", str(1e-3 / (seed + 1))),
    ]


def problems(root: Path, seeds: set[int]) -> list[str]:
    """What is not as it should be after two runs."""
    runs = sorted((root / "lightning_logs").iterdir())
    if [run.name for run in runs] != ["version_0", "version_1"]:
        return [f"folders: {[run.name for run in runs]}"]
    found = []
    starts = [json.loads((run / "run.json").read_text()) for run in runs]
    if {start["seed"] for (start,) in starts} != seeds:
        found.append("seeds")
    for run, (start,) in zip(runs, starts, strict=True):
        if f"seed_everything: {start['seed']}" not in (run / "config.yaml").read_text():
            found.append(f"config.yaml of {run.name}")
        if start.get("weights") != weights_digest(run / "model"):
            found.append(f"model of {run.name}")
        if not (run / "checkpoints" / "last.ckpt").is_file() or len(list(run.glob("events*"))) == 0:
            found.append(f"files of {run.name}")
    if starts[0][0].get("weights") == starts[1][0].get("weights"):
        found.append("both models are the same")
    return found


def pair(root: Path, seeds: set[int]) -> list[str]:
    """Start two runs in one moment; returns what is not as it should be when they have ended."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    runs = [Started(command(root, seed), **streams) for seed in sorted(seeds)]
    said = [run.communicate()[0] for run in runs]
    failed = [text[-500:] for run, text in zip(runs, said, strict=True) if run.returncode]
    return failed or problems(root, seeds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    options = parser.parse_args()
    right = 0
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"OMP_NUM_THREADS": "1", "QA_LIGHTNING_CACHE": str(Path(name) / "cache")}
        for number in range(options.pairs):
            root, seeds = Path(name) / f"pair-{number}", {2 * number, 2 * number + 1}
            found = pair(root, seeds)
            right += not found
            print(f"pair {number + 1:>2}: {', '.join(found) or 'each has its own folder and model'}", flush=True)
    print(f"{right} of {options.pairs} pairs have folders and models of their own")
    return int(right < options.pairs)


if __name__ == "__main__":
    sys.exit(main())
