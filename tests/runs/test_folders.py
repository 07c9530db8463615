"""A run has one folder of its own, whatever logs, and whoever else starts at the same moment."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from qa_lightning.errors import InputError
from qa_lightning.files import hold_folder
from qa_lightning.models.folder import weights_digest
from qa_lightning.training import run as training
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.pairs_of_runs import pair
from tests.helpers.paths import ROOT
from tests.helpers.processes import TRAIN, Started, environment, finished, short_run
from tests.helpers.training import Crash, crash

LEFT = {"checkpoints", "confidence", "config.yaml", "model", "report.html", "report.jsonl", "run.json"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_json(tmp_path_factory.mktemp("data") / "train.json", make_rows(40))


class ElsewhereLogger(CSVLogger):
    """Like the loggers of tracking services: neither TensorBoard's nor the CSV logger itself."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="experiment")


def loggers(root: Path) -> dict[str, list[str]]:
    elsewhere = [
        "--trainer.logger",
        f"{__name__}.ElsewhereLogger",
        "--trainer.logger.save_dir",
        str(root / "elsewhere"),
    ]
    several = f'[{{"class_path": "CSVLogger", "init_args": {{"save_dir": "{root}/csv"}}}}, '
    several += f'{{"class_path": "TensorBoardLogger", "init_args": {{"save_dir": "{root}/board"}}}}]'
    return {
        "none": ["--trainer.logger", "false"],
        "elsewhere": elsewhere,
        "several": ["--trainer.logger", several],
    }


@pytest.mark.parametrize("kind", ["none", "elsewhere", "several"])
def test_a_run_has_one_folder_whatever_logs_and_last_finds_it(tmp_path, model_folder, data, monkeypatch, kind) -> None:
    flags = short_run(tmp_path / "runs", model_folder, data, *loggers(tmp_path)[kind])
    crash(monkeypatch, Crash("batch", 1, 2), flags)
    assert commands.train([*flags, "--ckpt_path", "last"]) == 0
    (run,) = (tmp_path / "runs" / "lightning_logs").iterdir()
    assert {path.name for path in run.iterdir()} == LEFT
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    starts = json.loads((run / "run.json").read_text())
    assert len(starts) == 2
    assert starts[1]["resumed_from"] == str(run / "checkpoints" / "last.ckpt")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["lightning_logs"]
    written = {path.name for path in tmp_path.iterdir()} - {"runs"}
    assert written == {"none": set(), "elsewhere": {"elsewhere"}, "several": {"csv", "board"}}[kind]
    assert commands.train([*flags, "--trainer.max_steps", "1"]) == 0  # and another run does not write over this one
    assert sorted(path.name for path in run.parent.iterdir()) == ["version_0", "version_1"]


def test_a_run_stopped_before_its_first_checkpoint_begins_where_it_did(
    tmp_path, model_folder, data, monkeypatch
) -> None:
    """At the checkpoint that its start was given, not at the first step."""
    flags = short_run(tmp_path, model_folder, data)
    assert commands.train([*flags, "--trainer.max_epochs", "1"]) == 0
    crash(monkeypatch, Crash("batch", 1, 1), [*flags, "--ckpt_path", "last"])
    assert commands.train([*flags, "--ckpt_path", "last"]) == 0
    runs = tmp_path / "lightning_logs"
    assert sorted(path.name for path in runs.iterdir()) == ["version_0", "version_1"]
    first, second = json.loads((runs / "version_1" / "run.json").read_text())
    assert first["resumed_from"] == second["resumed_from"] == str(runs / "version_0" / "checkpoints" / "last.ckpt")
    assert "finished" in second


def test_a_run_that_is_still_trained_is_not_resumed(tmp_path, model_folder, data, monkeypatch) -> None:
    flags = short_run(tmp_path, model_folder, data)
    crash(monkeypatch, Crash("batch", 1, 1), flags)
    monkeypatch.setattr(training, "_SECONDS_TO_END", 0.3)
    run = tmp_path / "lightning_logs" / "version_0"
    before = (run / "run.json").read_bytes()
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path\n"
    script += f"from qa_lightning.files import hold_folder; hold_folder(Path({str(run)!r})); print(1, flush=True)\n"
    command = [sys.executable, "-c", script + "sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        with pytest.raises(
            InputError, match=r"--ckpt_path last: .*version_0 is being trained by another process; wait"
        ):
            commands.train([*flags, "--ckpt_path", "last"])
        other.kill()
    assert (run / "run.json").read_bytes() == before
    assert hold_folder(run) is not None


def test_bad_data_leaves_no_folder(tmp_path, model_folder) -> None:
    bad = write_json(tmp_path / "bad.json", [make_rows(1)[0] | {"question": " "}])
    with pytest.raises(InputError, match="question is empty"):
        commands.train(short_run(tmp_path, model_folder, bad))
    assert not (tmp_path / "lightning_logs").exists()


@pytest.mark.slow
def test_two_runs_that_start_in_one_moment_have_folders_and_models_of_their_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    assert pair(tmp_path / "runs", {0, 1}) == []


def of_torchrun(count: int) -> list[dict[str, str]]:
    """What torchrun sets in the environments of so many processes on one machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0, "TORCHELASTIC_RUN_ID": "none"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    each = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    return [{name: str(value) for name, value in one.items()} for one in each]


@pytest.mark.slow
def test_the_processes_of_torchrun_share_one_folder(tmp_path, model_folder, data) -> None:
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
    words += ["--rdzv-endpoint", "localhost:0", str(TRAIN), "--trainer.devices", "2"]
    flags = short_run(tmp_path, model_folder, data)
    ended = finished([*words, *flags])
    assert ended.returncode == 0, ended.stderr
    again = [TRAIN, "--trainer.devices", "2", *flags, "--trainer.max_epochs", "3", "--ckpt_path", "last"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "spare": False}
    both = [Started(again, env=environment() | own, **streams) for own in of_torchrun(2)]
    said = [process.communicate(200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    runs = tmp_path / "lightning_logs"
    assert sorted(path.name for path in runs.iterdir()) == ["version_0", "version_1"]  # the first is finished
    for run in runs.iterdir():
        assert {path.name for path in run.iterdir() if not path.name.startswith("events")} == LEFT | {"hparams.yaml"}
        (start,) = json.loads((run / "run.json").read_text())
        assert start["weights"] == weights_digest(run / "model")
