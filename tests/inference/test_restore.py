"""The old task is there in programs that nobody can edit: by a line read at the interpreter's start, if asked for."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qa_lightning import pipeline
from tests.helpers.paths import ROOT

mlflow = pytest.importorskip("mlflow")

ASKED = {"question": "Where does Anna live?", "context": "Anna lives in Oslo, and Ben works in Rome at the bakery."}
START = "qa_lightning_restore.pth"
RESTORE = "QA_LIGHTNING_RESTORE_PIPELINE"

# A program that knows nothing of this package.
PROGRAM = """
import json, sys
early = [name for name in sys.modules if name == "torch" or name.startswith("transformers")]
from transformers import QuestionAnsweringPipeline, pipeline
import transformers.pipelines.question_answering
import mlflow, pandas
from mlflow.transformers import load_model
folder, one = sys.argv[1], json.loads(sys.argv[2])
loaded, predicts = load_model(folder), mlflow.pyfunc.load_model(folder)
print(json.dumps({
    "early": early,
    "class": type(loaded) is QuestionAnsweringPipeline,
    "answer": loaded(**one),
    "new": pipeline("question-answering", model=loaded.model, tokenizer=loaded.tokenizer)(**one),
    "dict": predicts.predict(one),
    "list": predicts.predict([one, one]),
    "frame": predicts.predict(pandas.DataFrame([one, one])),
}))
"""
WITHOUT = "import sys, qa_lightning; print('torch' in sys.modules, [type(one).__name__ for one in sys.meta_path])"


@pytest.fixture
def run(tmp_path):
    """Run a program in a process whose interpreter reads the package's file at its start, as an installed one does.

    It reads it twice: so does an interpreter whose folder of packages has two names.
    """
    folders = [tmp_path / name for name in ("site", "again")]
    for folder in folders:
        folder.mkdir()
        (folder / START).write_text((ROOT / START).read_text())
    lines = ["import site", *(f"site.addsitedir({str(folder)!r})" for folder in folders)]
    (tmp_path / "sitecustomize.py").write_text("\n".join(lines))

    def run(asked: str | None, code: str, *words: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != RESTORE}
        env |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"} | ({} if asked is None else {RESTORE: asked})
        done = subprocess.run(
            [sys.executable, "-c", code, *words], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]

    return run


@pytest.fixture
def _quiet(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(logging.getLogger("mlflow"), "disabled", True)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_loads_and_serves_the_pipeline_in_a_fresh_process(model_folder, tmp_path, run) -> None:
    ask = pipeline("question-answering", model=model_folder)
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run():
        logged = mlflow.transformers.log_model(ask, name="reader", pip_requirements=["qa-lightning"])
    folder = mlflow.artifacts.download_artifacts(logged.model_uri, dst_path=str(tmp_path / "logged"))
    found = json.loads(run("1", PROGRAM, folder, json.dumps(ASKED)))
    answer = ask(**ASKED)
    assert found["early"] == []  # nothing was imported before the program did
    assert found["class"]
    assert found["answer"] == found["new"] == answer
    assert found["dict"] == [answer["answer"]]
    assert found["list"] == found["frame"] == [answer["answer"]] * 2


def test_the_line_does_nothing_unless_asked_for(run) -> None:
    for asked, watching in ((None, False), ("0", False), ("1", True)):
        torch, finders = run(asked, WITHOUT).split(" ", 1)
        assert torch == "False"
        assert finders.count("'_Watch'") == watching
    line = (ROOT / START).read_text().splitlines()
    assert len(line) == 1  # each line of such a file is a program of its own
    assert Path(START).suffix == ".pth"
