"""A process of several that is lost is told with what is known of it, and how the run goes on."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from qa_lightning.runs.failures import connection_reason
from tests.helpers.data import make_rows, write_json
from tests.helpers.processes import AT_A_MOMENT, TRAIN, environment, finished, short_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def flags(tmp_path, model_folder) -> list[str]:
    data = write_json(tmp_path / "train.json", make_rows(80))
    return short_run(tmp_path / "runs", model_folder, data, "--trainer.devices", "2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "what", "known", "saved"),
    [
        ("loading", "SIGKILL", r"was killed by SIGKILL \(the system does so", "nothing is saved yet; begin it again"),
        ("training_step", "SIGKILL", "was killed by SIGKILL", r"step 1 is saved in \S*last.ckpt; resume"),
        (
            "training_step",
            "raise",
            r'ended with status 1; its last message: "\S* ?RuntimeError: something broke here"',
            r"step 1 is saved in \S*last.ckpt; resume",
        ),
    ],
)
def test_a_lost_process_is_told_with_what_is_known_and_the_run_is_resumed(flags, moment, what, known, saved) -> None:
    flags = [*flags, "--save_every_minutes", "0"]
    ended = finished([AT_A_MOMENT, moment, what, "1", "--", *flags], timeout=100)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert re.match(rf"error: process 1 of this run \(counted from 0\) {known}.*; {saved} .*--ckpt_path last$", last), (
        last
    )
    if what != "raise":
        assert "Traceback" not in ended.stderr
    again = finished([TRAIN, *flags, "--ckpt_path", "last"])
    assert again.returncode == 0, again.stderr


@pytest.mark.slow
def test_the_loss_of_the_first_process_is_told_by_the_other_which_does_not_stay(flags) -> None:
    command = [sys.executable, str(AT_A_MOMENT), "training_step", "SIGKILL", "0", "--", *flags]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    ) as first:
        said, _ = first.communicate(timeout=100)  # which waits for the other one too: it could still write
        assert first.returncode == -signal.SIGKILL
    assert "error: the first process of this run was killed, or broke down; nothing is saved yet" in said


@pytest.mark.slow
def test_a_lost_process_of_another_launcher_is_told_too(flags, tmp_path) -> None:
    """torchrun starts the processes, and ends the others when one fails."""
    script = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    ended = finished([*script, "localhost:0", AT_A_MOMENT, "training_step", "SIGKILL", "1", "--", *flags], timeout=100)
    assert ended.returncode != 0
    assert "the last" not in ended.stdout
    assert sorted(path.name for path in (tmp_path / "runs" / "lightning_logs").iterdir()) == ["version_0"]


def test_the_reason_of_a_broken_connection_is_free_of_the_librarys_places() -> None:
    error = RuntimeError(
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:3754. This is "
        "typically caused by a remote worker crashing."
    )
    assert connection_reason(error) == "Connection closed by peer [10.0.0.2]:3754"
