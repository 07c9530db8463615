"""One, two and three processes give the same answers and scores, and two train as one does."""

from __future__ import annotations

import json
import multiprocessing
import re
from pathlib import Path

import pytest
import torch

from qa_lightning import SquadDataModule
from tests.helpers.data import make_rows, mixed_rows, write_json
from tests.helpers.paths import ROOT
from tests.helpers.processes import TRAIN, finished

SCRIPT = ROOT / "tests" / "helpers" / "several_processes.py"


def run(folder: Path, devices: int, scenario: str, **options) -> list[dict]:
    """Run a scenario; returns what each process saw in its last validation."""
    folder.mkdir()
    options = {"scenario": scenario, "devices": devices, "folder": str(folder), "limit_val_batches": 1.0} | options
    ended = finished([SCRIPT, json.dumps(options)])
    assert ended.returncode == 0, ended.stderr[-3000:]
    last = max(int(path.name.split("-")[1]) for path in folder.glob("validation-*"))
    seen = [json.loads(path.read_text()) for path in sorted(folder.glob(f"validation-{last}-rank-*.json"))]
    assert len(seen) == devices
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "limit", "numbers"),
    [
        ({"count": 23, "unanswerable": 5, "long": 4}, 1.0, (2, 3)),  # a prime number of examples, and many windows
        ({"count": 2}, 1.0, (3,)),  # fewer examples than processes
        ({"count": 23, "long": 3}, 0.6, (2,)),  # only some windows are seen, and not all windows of some examples
    ],
)
def test_any_number_of_processes_gives_the_same_predictions_and_scores(
    tmp_path, model_folder, rows, limit, numbers
) -> None:
    path = write_json(tmp_path / "validation.json", mixed_rows(**rows))
    common = {
        "train": path,
        "validation": path,
        "model": model_folder,
        "cache": str(tmp_path / "cache"),
        "batch_size": 6,
        "limit_val_batches": limit,
    }
    single = run(tmp_path / "1", 1, "validate", **common)[0]
    ids = [answer["id"] for answer in single["predictions"]]
    assert len(set(ids)) == len(ids) > 0
    if limit == 1.0:
        assert len(ids) == rows["count"]
    else:
        assert len(ids) < rows["count"]
    for devices in numbers:
        first, *others = run(tmp_path / str(devices), devices, "validate", **common)
        assert first == single  # answers, offsets and scores of all kinds, to the last digit
        for seen in others:
            assert seen["scores"] == single["scores"]
            assert [answer for answer in single["predictions"] if answer in seen["predictions"]] == seen["predictions"]
            assert len(seen["predictions"]) == len(seen["judged"])
        assert sum(len(seen["judged"]) for seen in others) <= len(ids)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, model_folder) -> tuple[dict, dict, Path]:
    """A fit by one process in steps of 8 windows: its options, what it saw, and its folder."""
    root = tmp_path_factory.mktemp("alone")
    common = {
        "train": write_json(root / "train.json", make_rows(40, unanswerable=6, long=3)),
        "validation": write_json(root / "validation.json", make_rows(13, long=2)),
        "model": model_folder,
        "cache": str(root / "cache"),
        "batch_size": 8,
    }
    return common, run(root / "1", 1, "fit", **common)[0], root / "1"


def assert_close(*folders: Path) -> None:
    """The weights that two fits ended with."""
    one, other = (torch.load(folder / "weights.pt", weights_only=True) for folder in folders)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0.02, atol=5e-3)


@pytest.mark.slow
def test_two_processes_with_half_the_batch_train_as_one_does(tmp_path, alone) -> None:
    """Also: several processes run a sanity check before the first step, and log the same values."""
    common, single, folder = alone
    first, second = run(tmp_path / "2", 2, "fit", **common)
    assert first["scores"] == second["scores"]
    assert len(single["losses"]) == len(first["losses"]) > 10
    assert first["losses"] == pytest.approx(single["losses"], rel=2e-3)
    assert_close(folder, tmp_path / "2")


@pytest.mark.slow
def test_two_processes_take_the_windows_that_fit_in_both(tmp_path, alone) -> None:
    """One has room for 1 window, the other for 3; a step has 8, four of each."""
    common, single, folder = alone
    for seen in run(tmp_path / "2", 2, "fit", rooms=[3, 1], **common):
        assert (seen["batch_size"], seen["accumulated"]) == (1, 4)
        assert seen["scores"].keys() == single["scores"].keys()
    assert_close(folder, tmp_path / "2")


@pytest.mark.slow
def test_a_loss_that_is_no_number_on_one_process_ends_all_with_its_questions(tmp_path, model_folder) -> None:
    data = write_json(tmp_path / "data.json", make_rows(40))
    options = {"train": data, "validation": data, "model": model_folder, "cache": str(tmp_path / "cache")}
    options |= {"scenario": "diverge", "devices": 2, "batch_size": 8, "limit_val_batches": 1.0}
    options |= {"folder": str(tmp_path)}
    ended = finished([SCRIPT, json.dumps(options)], timeout=100)  # no process waits for ever
    assert ended.returncode != 0
    (said,) = set(re.findall(r"DivergedError: (the loss is nan at step 2 \(questions 'q.*)", ended.stderr))
    assert said.count("'q") == 4  # the questions of that process's batch alone


@pytest.mark.slow
def test_bad_data_is_one_error_on_two_processes(tmp_path, model_folder) -> None:
    data = write_json(tmp_path / "data.json", [make_rows(1)[0] | {"question": " "}])
    words = ["--data.dataset", data, "--model.model_name", model_folder, "--trainer.accelerator", "cpu"]
    words += ["--trainer.devices", "2", "--data.max_length", "48", "--data.doc_stride", "12"]
    ended = finished([TRAIN, *words, "--data.max_question_length", "12"], cwd=tmp_path, timeout=100)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("question is empty") == 1
    assert "Traceback" not in ended.stderr


def _prepare(train: str, model: str, cache: str, queue) -> None:
    data = SquadDataModule(train, train, model, max_length=48, doc_stride=12, max_question_length=12, cache_dir=cache)
    data.prepare_data()
    data.setup("fit")
    counts = (len(data.train_set), len(data.validation_set))
    queue.put((data.train_set.store.input_ids.sum(), *counts))


def test_processes_that_race_on_an_empty_cache_build_it_once(tmp_path, model_folder) -> None:
    train = write_json(tmp_path / "train.json", make_rows(300))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_prepare, args=(train, model_folder, str(tmp_path / "cache"), queue)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    seen = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
        assert process.exitcode == 0
    ((_, *counts),) = seen
    folders = [path for path in (tmp_path / "cache" / "features").iterdir() if path.is_dir()]
    assert len(folders) == 2  # training and validation, once each, and nothing half done beside them
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in folders]
    assert sorted(summary["features"] for summary in summaries) == sorted(counts)
