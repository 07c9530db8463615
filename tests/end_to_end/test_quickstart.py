"""The README's first command: the scores it reaches, and that it needs the questions to reach them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qa_lightning import Reader
from qa_lightning.data.sources import EMBEDDED_SIZES
from qa_lightning.data.synthetic import generate_examples
from qa_lightning.metrics.squad import SquadMetric
from tests.helpers.paths import ROOT

EPOCHS = 2  # of the five that the config has, for time
EM = 75.0  # that they reach; the five reach 98

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The quickstart run, shortened: its folder and its output."""
    folder = tmp_path_factory.mktemp("quickstart")
    script, config = ROOT / "scripts" / "train.py", ROOT / "configs" / "quickstart.yaml"
    words = [sys.executable, str(script), "--config", str(config), "--trainer.max_epochs", str(EPOCHS)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "lightning_logs" / "version_0", done.stdout


def test_em_starts_near_zero_and_rises_to_its_best_checkpoint(quickstart) -> None:
    before = re.search(r"before training +EM +([\d.]+)", quickstart[1])
    best = re.search(r"best checkpoint +EM +([\d.]+)", quickstart[1])
    epochs = [float(em) for em in re.findall(r"epoch \d+/\d+ +EM +([\d.]+)", quickstart[1])]
    assert before is not None
    assert best is not None
    assert float(before[1]) < 10
    assert len(epochs) == EPOCHS
    assert max(epochs) == float(best[1]) >= EM


def blank_em(model: Path, question: str | None) -> float:
    rows = list(generate_examples("validation", EMBEDDED_SIZES["validation"]))
    answers = Reader.load(str(model)).answer(
        [question or row["question"] for row in rows], [row["context"] for row in rows], batch_size=128
    )
    metric = SquadMetric()
    metric.update([{"id": row["id"], "prediction_text": a.text} for row, a in zip(rows, answers, strict=True)], rows)
    return metric.compute()["exact_match"]


def test_without_the_question_the_model_only_guesses(quickstart) -> None:
    model = quickstart[0] / "model"
    assert blank_em(model, None) >= EM
    assert blank_em(model, "?") < 40


def test_the_printed_command_answers_its_question(quickstart) -> None:
    (line,) = (line for line in quickstart[1].splitlines() if line.startswith("ask it:"))
    command = line.removeprefix("ask it:").strip()
    shell, folder = f"{command} --json", quickstart[0].parents[1]
    done = subprocess.run(shell, shell=True, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer, words = json.loads(done.stdout), shlex.split(command)
    context = words[words.index("--context") + 1]
    assert context[answer["start"] : answer["end"]] == answer["answer"]
    question = words[words.index("--question") + 1]
    gold = {
        (row["question"], row["context"]): row["answers"]["text"][0]
        for row in generate_examples("validation", EMBEDDED_SIZES["validation"])
    }
    assert answer["answer"] == gold[question, context]
