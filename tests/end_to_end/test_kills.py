"""Runs that are killed with SIGKILL at random moments and resumed end as runs that were never stopped."""

from __future__ import annotations

import random
import sys

import pytest

from tests.helpers.kill_and_resume import command, compare

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_runs_killed_at_random_moments_end_as_whole_ones(tmp_path, model_folder, monkeypatch, capsys, devices) -> None:
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(tmp_path / "cache"))
    random.seed(1)  # a kill early in its time, while it still trains
    words = [*command(tmp_path, model_folder, devices, accumulate=2, questions=240), "--trainer.max_epochs", "2"]
    status = compare(words, tmp_path, kills=1)
    assert status == 0, capsys.readouterr().out
