"""What `qa_lightning` gives: names before first use, a version, and objects that say what they hold."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys

import pytest

import qa_lightning
from qa_lightning import Reader, SquadDataModule, pipeline
from tests.helpers.data import make_rows, write_json
from tests.helpers.paths import ROOT

VERSION = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), flags=re.MULTILINE)


def test_names_are_listed_before_anything_is_loaded() -> None:
    code = "import sys, qa_lightning; print(*dir(qa_lightning)); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    names, loaded = done.stdout.splitlines()
    assert [name for name in names.split() if not name.startswith("__")] == sorted(
        name for name in qa_lightning.__all__ if not name.startswith("__")
    )
    assert "__version__" in names.split()
    assert loaded == "False"


def test_every_public_name_is_there_and_listed_once() -> None:
    assert len(set(qa_lightning.__all__)) == len(qa_lightning.__all__)
    assert set(qa_lightning._MODULES) | {"__version__"} == set(qa_lightning.__all__)
    for name in qa_lightning.__all__:
        assert getattr(qa_lightning, name) is not None


def test_the_version_is_known_installed_or_not(monkeypatch, tmp_path) -> None:
    def nowhere(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    assert VERSION is not None
    assert qa_lightning.__version__ == VERSION[1]
    monkeypatch.setattr(importlib.metadata, "version", nowhere)
    assert qa_lightning.__version__ == VERSION[1]
    monkeypatch.setattr("qa_lightning.wording.CHECKOUT", tmp_path)
    assert qa_lightning.__version__ == "unknown"


@pytest.fixture
def unused(monkeypatch):
    """Whoever loads data or runs a model fails."""

    def fail(*args, **keywords):
        raise AssertionError("something is loaded")

    monkeypatch.setattr("qa_lightning.training.datamodule.SquadDataModule._loader", fail)
    monkeypatch.setattr("qa_lightning.training.datamodule.SquadDataModule.prepared", fail)
    monkeypatch.setattr("torch.nn.Module.__call__", fail)


def test_a_data_module_says_where_questions_come_from_and_how_many_there_are(tmp_path, model_folder, request) -> None:
    train, validation = (write_json(tmp_path / f"{n}.json", make_rows(n, long=3)) for n in (30, 12))
    sizes = {"max_length": 48, "doc_stride": 12, "max_question_length": 12, "batch_size": 4}
    data = SquadDataModule(train, validation, model_name=model_folder, **sizes)
    first, second = repr(data).splitlines()
    for said in (repr(train), f"validation={validation!r}", f"model_name={model_folder!r}", "max_length=48"):
        assert said in first
    assert ("batch_size=4" in first, second) == (True, "  not set up yet)")
    data.prepare_data()
    data.setup("fit")
    assert data.train_set is not None
    windows = len(data.train_set)
    request.getfixturevalue("unused")
    assert (
        repr(data).splitlines()[1].startswith(f"  train: 30 questions in {windows:,} windows, validation: 12 questions")
    )
    assert str(data) == repr(data)


def test_a_reader_says_which_model_it_asks_and_how(model_folder, unused) -> None:
    first, second = repr(Reader.load(model_folder, device="cpu")).splitlines()
    assert first.startswith(f"Reader(BertForQuestionAnswering {model_folder!r}, 0.0 M parameters, float32 on cpu;")
    for said in ("max_length=128", "max_answer_length=30", "version_2=False", "null_score_diff_threshold=0"):
        assert said in second


def test_a_pipeline_says_which_model_it_asks_and_what_was_set(model_folder, unused) -> None:
    asked = pipeline(model_folder, device="cpu", batch_size=7, top_k=3)
    first, second = repr(asked).splitlines()
    assert first.startswith(f"QuestionAnsweringPipeline(BertForQuestionAnswering {model_folder!r}, ")
    assert first.endswith("float32 on cpu;")
    assert second == "  batch_size=7, top_k=3)"
    assert repr(pipeline(model_folder, device="cpu", compat="v4")).splitlines()[1] == "  batch_size=16, compat='v4')"


def test_a_reader_waits_for_no_library_that_it_does_not_use() -> None:
    code = "import sys, qa_lightning as q; q.Reader; print([name for name in sys.argv[1:] if name in sys.modules])"
    heavy = ["datasets", "torchmetrics", "lightning", "matplotlib", "evaluate", "tensorboard"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
