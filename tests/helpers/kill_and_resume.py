"""Kill training runs with SIGKILL at random moments, resume each, and compare the results with a run never killed.

python tests/helpers/kill_and_resume.py --kills 20 --devices 2 --accumulate 2

Exits with status 1 unless everything is equal: weights, optimizer, curves, sample tables, scores and predictions.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[2]))  # so that `tests` can be imported

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import BertForQuestionAnswering

from qa_lightning.evaluation.model import score_model
from qa_lightning.runs.record import last_start
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.families import add_state
from tests.helpers.models import small_config, small_tokenizer
from tests.helpers.processes import TRAIN, Started

STATE = ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch")
OF_A_MEAN = ("current_model_state", "averaging_state")  # of a run with --ema_decay: the weights beside their mean
MEASURED = ("features_per_second", "tokens_per_second", "utilization")  # differ from run to run


def command(
    folder: Path, model: str, devices: int, accumulate: int, accelerator: str = "cpu", questions: int = 700
) -> list[str]:
    """The command of a run of a few seconds: 4 epochs with validation, and checkpoints within epochs; its data too."""
    write_json(folder / "train.json", make_rows(questions, unanswerable=30, long=10))
    write_json(folder / "validation.json", make_rows(questions * 3 // 7, long=10))
    return [
        *(str(TRAIN), "--data.dataset", str(folder / "train.json")),
        *("--data.validation", str(folder / "validation.json"), "--model.model_name", model),
        *("--data.max_length", "48", "--data.doc_stride", "12", "--data.max_question_length", "12"),
        *("--data.batch_size", str(8 // devices // accumulate), "--model.learning_rate", "1e-3"),
        *("--trainer.accelerator", accelerator, "--trainer.devices", str(devices)),
        *("--trainer.accumulate_grad_batches", str(accumulate), "--trainer.log_every_n_steps", "4"),
        *("--trainer.max_epochs", "4", "--save_every_minutes", "0.004"),
    ]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of every scalar and text curve; of measured speed only the steps, because the values vary."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    points = {}
    for tag in events.Tags()["scalars"]:
        values = [(point.step, point.value) for point in events.Scalars(tag)]
        points[tag] = [(step, 0.0) for step, _ in values] if tag.endswith(MEASURED) else values
    for tag in events.Tags()["tensors"]:
        if tag.startswith("val/"):
            points[tag] = [(point.step, point.tensor_proto.string_val[0].decode()) for point in events.Tensors(tag)]
    return points


def same(one: object, other: object) -> bool:
    """Equal to the last bit, tensors included."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other


def differences(whole: Path, resumed: Path) -> list[str]:
    """Names of what differs between the folders of two runs."""
    found = []
    for name in ("last", "best"):
        one, other = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for run in (whole, resumed))
        found += [f"{name}.ckpt: {key}" for key in (*STATE, *OF_A_MEAN) if not same(one.get(key), other.get(key))]
    if (whole / "model" / "model.safetensors").read_bytes() != (resumed / "model" / "model.safetensors").read_bytes():
        found.append("model.safetensors")
    one, other = curves(whole), curves(resumed)
    found += [f"curve {tag}" for tag in sorted(one.keys() | other.keys()) if one.get(tag) != other.get(tag)]
    one, other = (json.loads((run / "run.json").read_text())[-1]["scores"] for run in (whole, resumed))
    return found + (["scores"] if one != other else [])


def predictions(run: Path, data: Path) -> dict[str, str]:
    """The predictions of the model that a run wrote: id -> answer."""
    return score_model(str(run / "model"), str(data)).files["predictions.json"]


def killed_at(run: Path, said: str) -> str:
    """How far a killed run had come, as seen from its output and files."""
    where = f"after {len(re.findall('^epoch ', said, re.MULTILINE))} epochs"
    if list(run.glob("checkpoints/.*.part")):
        where += ", while writing a checkpoint"
    if not (run / "checkpoints" / "last.ckpt").exists():
        where += ", before the first checkpoint"
    return where


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu", help="cpu or gpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", help="folder of a small model; an untrained one is made otherwise")
    parser.add_argument(
        "--tokenizer-state", action="store_true", help="the model's tokenizer.json truncates and pads, as many do"
    )
    options = parser.parse_args()
    random.seed(options.seed)
    commands.quiet_libraries()
    for noisy in ("tensorboard", "qa_lightning"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["QA_LIGHTNING_CACHE"] = str(folder / "cache")
        model = options.model or make_model(folder / "untrained")
        if options.tokenizer_state:
            add_state(Path(shutil.copytree(model, folder / "with state")))
            model = str(folder / "with state")
        words = command(folder, model, options.devices, options.accumulate, options.accelerator)
        return compare(words, folder, options.kills)


def make_model(folder: Path) -> str:
    tokenizer = small_tokenizer()
    torch.manual_seed(0)
    BertForQuestionAnswering(small_config(len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def start(words: list[str], root: Path, *more: str) -> Started:
    """Start a run in its own process group, so that a kill reaches all its processes."""
    words = [*words, "--trainer.default_root_dir", str(root), *more]
    return Started(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)


def training(process: Started, run: Path) -> None:
    """Wait until a run begins to train."""
    while "data" not in last_start(run / "run.json"):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)


def compare(words: list[str], folder: Path, kills: int) -> int:
    whole = folder / "whole" / "lightning_logs" / "version_0"
    process = start(words, folder / "whole")
    training(process, whole)
    started = time.monotonic()
    said, _ = process.communicate()
    assert process.returncode == 0, said
    seconds = time.monotonic() - started
    expected = predictions(whole, folder / "validation.json")
    equal = 0
    for number in range(kills):
        root = folder / f"killed-{number}"
        run = root / "lightning_logs" / "version_0"
        moment = random.uniform(0.02, seconds)
        process = start(words, root)
        training(process, run)
        time.sleep(moment)
        ended = process.poll() is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        where = killed_at(run, said)
        found = [] if ended else resumed(words, root)
        if not found:
            found = differences(whole, run)
            if predictions(run, folder / "validation.json") != expected:
                found.append("predictions")
        equal += not found
        print(f"kill {number + 1:>2} at {moment:5.2f} s, {where}: {', '.join(found) or 'equal'}", flush=True)
    print(f"{equal} of {kills} equal; a whole run trains for {seconds:.1f} s")
    return int(equal < kills)


def resumed(words: list[str], root: Path) -> list[str]:
    """Resume a run; returns why that failed, or nothing."""
    process = start(words, root, "--ckpt_path", "last")
    said, _ = process.communicate()
    if process.returncode == 2 and "that run is finished" in said:
        return []
    return [] if process.returncode == 0 else [f"exit status {process.returncode}: {said[-2000:]}"]


if __name__ == "__main__":
    sys.exit(main())
