"""A run that is asked to stop does so at any moment, says what is saved, and can be resumed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from qa_lightning.runs.signals import Stop, Stopped, StopSignals
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.processes import AT_A_MOMENT, finished, short_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_json(tmp_path_factory.mktemp("data") / "train.json", make_rows(40))


def whole(run: Path) -> set[str]:
    """The names in a run's folder, which must hold nothing half written."""
    names = {path.name for path in run.rglob("*")}
    assert not [name for name in names if name.endswith(".part")]
    return names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "signals", "status", "said"),
    [
        ("claimed", "SIGTERM", 143, "stopped by SIGTERM before the first step: nothing is saved yet; begin it again"),
        ("caching", "SIGINT", 130, "stopped by Ctrl-C before the first step: nothing is saved yet; begin it again"),
        ("validating", "SIGHUP", 129, "stopped by SIGHUP (its terminal is gone) before the first step: nothing is"),
        ("training_step", "SIGTERM,SIGTERM,SIGHUP", 143, "stopped by SIGTERM after step 2: step 2 is saved in"),
        ("training_step", "SIGINT,SIGINT", 130, "stopped by Ctrl-C after step 1: nothing is saved yet; begin it again"),
        ("exporting", "SIGINT,SIGINT", 130, "stopped by Ctrl-C after step 10: step 10 is saved in"),
        (
            "noting",
            "SIGHUP,SIGTERM",
            129,
            "stopped by SIGHUP (its terminal is gone) after step 10: step 10 is saved in",
        ),
    ],
)
def test_a_signal_at_any_moment_stops_the_run_which_then_goes_on_and_finishes(
    tmp_path, model_folder, data, monkeypatch, moment, signals, status, said
) -> None:
    if moment == "caching":
        monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    more = ["--validate_first", "true"] if moment == "validating" else []
    flags = short_run(tmp_path / "runs", model_folder, data, *more)
    ended = finished([AT_A_MOMENT, moment, signals, "--", *flags])
    assert ended.returncode == status, ended.stdout + ended.stderr
    assert said in ended.stdout
    assert "--ckpt_path last" in ended.stdout.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    run = tmp_path / "runs" / "lightning_logs" / "version_0"
    assert ("model" in whole(run)) == (moment == "noting")
    if moment == "caching":
        whole(tmp_path / "cache")
    assert commands.train([*flags, "--ckpt_path", "last"]) == 0
    assert "model" in whole(run)
    assert "finished" in json.loads((run / "run.json").read_text())[-1]
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "exporting"])
def test_a_signal_to_the_first_of_two_processes_stops_both(tmp_path, model_folder, data, moment) -> None:
    flags = short_run(tmp_path, model_folder, data, "--trainer.devices", "2")
    ended = finished([AT_A_MOMENT, moment, "SIGTERM", "--", *flags], timeout=100)
    assert ended.returncode == 143, ended.stdout + ended.stderr
    assert ended.stdout.count("stopped by SIGTERM") == 1
    assert "process 1 ended with status 143" in ended.stdout  # it did as it was told to; if not, it is killed: -9
    assert "error" not in ended.stderr.lower()


@pytest.mark.slow
def test_a_signal_while_the_model_is_loaded_leaves_no_run(tmp_path, model_folder, data) -> None:
    ended = finished([AT_A_MOMENT, "loading", "SIGTERM", "--", *short_run(tmp_path, model_folder, data)])
    assert ended.returncode == 143
    assert "stopped by SIGTERM before training began: nothing was there to save" in ended.stdout
    assert not list(tmp_path.glob("lightning_logs/*"))


# What nohup does, and then the script that follows.
NOHUP = """
import runpy, signal, sys

signal.signal(signal.SIGHUP, signal.SIG_IGN)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_hang_up_that_nohup_ignores_stays_ignored(tmp_path, model_folder, data) -> None:
    """`test_console` has one under nohup itself."""
    (tmp_path / "nohup.py").write_text(NOHUP)
    flags = short_run(tmp_path, model_folder, data)
    ended = finished([tmp_path / "nohup.py", AT_A_MOMENT, "training_step", "SIGHUP", "--", *flags])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "epoch 2/2" in ended.stdout


@pytest.fixture
def signals():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    made = StopSignals()
    yield made
    made.restore()
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_a_signal_stops_at_once_and_while_held_at_the_next_check(signals) -> None:
    signals.listen()
    signals.hold()
    os.kill(os.getpid(), signal.SIGTERM)
    signals.release()
    with pytest.raises(Stopped) as caught:
        signals.check()
    assert (caught.value.stop, caught.value.code, caught.value.alone) == (Stop.TERMINATE, 143, True)
    signals.listen()
    with pytest.raises(Stopped) as caught:
        os.kill(os.getpid(), signal.SIGHUP)
    assert caught.value.code == 129
    os.kill(os.getpid(), signal.SIGHUP)  # on the way out: ignored
    assert signals.asked is Stop.HANG_UP


def test_signals_that_nobody_else_listens_to_are_taken_while_held_alone(signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    signals.hold()
    os.kill(os.getpid(), signal.SIGTERM)
    assert signals.asked is Stop.TERMINATE
    signals.release()
    assert signal.getsignal(signal.SIGTERM) is before
