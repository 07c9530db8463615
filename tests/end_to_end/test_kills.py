"""Runs that are killed with SIGKILL at random moments and resumed end as runs that were never stopped."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs the signals of POSIX")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_runs_killed_at_random_moments_end_as_whole_ones(devices: int) -> None:
    script = ROOT / "tests" / "helpers" / "kill_and_resume.py"
    words = ["--kills", "1", "--devices", str(devices), "--accumulate", "2", "--seed", "5"]
    ended = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1 of 1 equal" in ended.stdout
