"""The code of docs/clusters.md works, and the search with Ray of docs/sweep.md, with two processes where it wants more.

What needs Ray, Spark or Dask is skipped where they are not installed, as in CI."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from qa_lightning import AnswerRows, Reader
from tests.helpers import commands
from tests.helpers.bulk import ROWS, bare, lines_of
from tests.helpers.data import make_rows
from tests.helpers.paths import ROOT
from tests.helpers.processes import finished

PAGES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("clusters.md", "sweep.md")]
PAGE = PAGES[0]
BLOCKS = [block for page in PAGES for block in re.findall(r"```(\w+)\n(.*?)```", page, flags=re.S)]


def block(word: str, language: str = "python") -> str:
    """The block of the pages with a word in it."""
    (found,) = (text for kind, text in BLOCKS if kind == language and word in text)
    return found


@pytest.fixture
def here(tmp_path, monkeypatch, model_folder) -> Path:
    """A folder with what the page names: a model and a file of questions."""
    monkeypatch.chdir(tmp_path)
    Path("my-model").symlink_to(model_folder)
    pd.DataFrame([bare(row) for row in ROWS[:40]]).to_parquet("questions.parquet")
    return tmp_path


def expected() -> pd.DataFrame:
    return AnswerRows("my-model")(pd.read_parquet("questions.parquet"))


def assert_answers(found: pd.DataFrame) -> None:
    """These are the answers, in whatever order; other batches may change the last digits of scores."""
    found, wanted = (frame.sort_values("id", ignore_index=True) for frame in (found, expected()))
    assert len(found) == 40
    for name in ("id", "answer", "start", "end"):
        assert found[name].tolist() == wanted[name].tolist()
    assert found["score"].tolist() == pytest.approx(wanted["score"].tolist(), rel=1e-4)
    assert found["error"].isna().all()


def test_a_frame_is_joined_with_its_answers(here) -> None:
    names: dict = {}
    exec(block("import pandas"), names)
    assert_answers(names["answers"])
    assert (names["answers"]["question"] == [row["question"] for row in ROWS[:40]]).all()


def test_the_files_of_a_slurm_array_are_put_together(here) -> None:
    script = block("#SBATCH", "bash").replace("/8", "/3")
    one, command = re.search(r"^(part=.*)\nsrun (.*)$", script, flags=re.M).groups()  # type: ignore[union-attr]
    for task in "123":
        words = subprocess.run(
            ["bash", "-c", f"set -eu; {one}; echo {command}"],
            env={"SLURM_ARRAY_TASK_ID": task},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert words[:2] == ["qa-lightning", "predict"]
        assert commands.predict([*words[2:], "--batch_size", "1"]) == 0
    (join,) = re.findall(r"`(cat [^`]*)`", PAGE)
    subprocess.run(["bash", "-c", join], check=True)
    assert [line["row"] for line in lines_of(Path("answers.jsonl"))] == list(range(1, 41))
    assert len(list(here.glob("answers.00?.jsonl"))) == 3


def small(code: str, model: str) -> str:
    """Training code for a model of 128 positions, in one epoch, on CPUs."""
    code = code.replace('"bert-base-cased"', repr(model)).replace("batch_size=16", "batch_size=4, max_length=100")
    code = code.replace("max_length=100", "max_length=100, doc_stride=10").replace("/shared/", "")
    quiet = "max_epochs=1, accelerator='cpu', logger=False, enable_progress_bar=False, enable_checkpointing=False"
    assert "max_epochs=3" in code
    return code.replace("max_epochs=3", quiet).replace("use_gpu=True", "use_gpu=False")


@pytest.mark.slow
def test_lightning_starts_the_second_process(here, model_folder) -> None:
    pd.DataFrame(make_rows(24)).to_parquet("questions.parquet")
    Path("my-model").unlink()
    Path("train.py").write_text(small(block("# train.py"), model_folder))
    done = finished([here / "train.py"], spare=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"epoch 1/1 .* EM +\d", done.stdout)
    assert Reader.load("my-model").answer(["Who?"], ["Anna lives in Rome."])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # their own
def test_dask_sends_rows(here) -> None:
    dask = pytest.importorskip("dask")
    with dask.config.set(scheduler="threads", num_workers=2):
        exec(block("dask.dataframe"), {})
    assert_answers(pd.read_parquet("answers"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_spark_sends_rows(here, monkeypatch) -> None:
    pytest.importorskip("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    code = block("pyspark.sql").replace("builder.", "builder.master('local[2]').")
    names: dict = {}
    exec(code, names)
    names["spark"].stop()
    assert_answers(pd.read_parquet("answers"))


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two CPUs on this machine."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "120")
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_data_sends_rows(here, cluster) -> None:
    exec(block("ray.data.read_parquet").replace("num_gpus=1, concurrency=8", "num_cpus=1, concurrency=2"), {})
    assert_answers(pd.read_parquet("answers"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_trains(here, model_folder, cluster) -> None:
    pd.DataFrame(make_rows(24)).to_parquet("questions.parquet")
    Path("my-model").unlink()
    code = small(block("ray.train"), model_folder)
    code = code.replace('"questions.parquet"', repr(str(here / "questions.parquet")))
    code = code.replace('"my-model"', repr(str(here / "my-model")))
    exec(code, {})
    assert Reader.load("my-model").answer(["Who?"], ["Anna lives in Rome."])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_searches_and_goes_on(here, model_folder, cluster) -> None:
    """Each trial fails after one epoch; the same program goes on with the second one, from the checkpoint."""
    pd.DataFrame(make_rows(24)).to_parquet("questions.parquet")
    Path("my-model").unlink()
    code = small(block("ray import tune").replace(", **bare", ""), model_folder)
    code = code.replace('"cpu": 4, "gpu": 1', '"cpu": 1')
    code = code.replace('FOLDER, SEARCH = "/shared"', f"FOLDER, SEARCH = {str(here)!r}")
    assert "num_samples=20" in code
    code = code.replace("num_samples=20", "num_samples=2")
    fails = code.replace("\n\n\ntrial =", "\n    raise RuntimeError('the power fails')\n\n\ntrial =")
    names: dict = {}
    exec(fails, names)
    assert [result.metrics["training_iteration"] for result in names["results"]] == [1, 1]
    assert names["results"].num_errors >= 1  # the other one may be pruned
    exec(code.replace("max_epochs=1", "max_epochs=2"), names)
    assert not names["results"].errors
    assert max(result.metrics["training_iteration"] for result in names["results"]) == 2
    assert all(set(result.config) == {"learning_rate", "layer_decay"} for result in names["results"])
    assert names["best"].metrics["f1"] == max(result.metrics["f1"] for result in names["results"])
    assert Reader.load("my-model").answer(["Who?"], ["Anna lives in Rome."])
