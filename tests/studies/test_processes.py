"""Devices of folds that train at a time; what happens when a fold fails."""

from __future__ import annotations

import sys

import pytest

from qa_lightning.errors import InputError
from qa_lightning.studies import processes
from qa_lightning.studies.processes import TrainJob, run_jobs, slots_for

CPU = {"devices": 1, "accelerator": "cpu"}


def test_threads_are_shared_on_a_cpu(monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "usable_cores", lambda: 8)
    assert slots_for(1, CPU) == [{}]
    assert slots_for(3, CPU) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert slots_for(16, CPU) == [{"OMP_NUM_THREADS": "1"}] * 16


def test_each_fold_has_gpus_of_its_own_while_there_are_enough(monkeypatch) -> None:
    monkeypatch.setattr(processes, "_gpus", lambda: ["4", "5", "6", "7"])

    def gpus(parallel: int, devices: object) -> list[str]:
        slots = slots_for(parallel, {"devices": devices, "accelerator": "auto"})
        return [slot["CUDA_VISIBLE_DEVICES"] for slot in slots]

    assert gpus(4, 1) == ["4", "5", "6", "7"]
    assert gpus(2, "2") == ["4,5", "6,7"]
    assert gpus(5, 1) == ["4", "5", "6", "7", "4"]
    with pytest.raises(InputError, match=r"--trainer.devices 5: there are 4 GPUs here"):
        gpus(2, 5)
    for named in ("auto", "[0]", -1):
        with pytest.raises(InputError, match=r"--parallel 2 gives each run devices of its own"):
            gpus(2, named)


@pytest.fixture
def python(monkeypatch, tmp_path):
    """Jobs run a Python script, in place of a training."""
    script = tmp_path / "job.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "print('slot', os.environ['SLOT'], flush=True)\n"
        "if sys.argv[1] == 'killed': os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(len(sys.argv) - 2)\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    monkeypatch.setattr(processes, "_COMMAND", ("-S", str(script)))


def test_lines_have_the_name_of_their_fold_before_them(python, capsys) -> None:
    assert run_jobs([TrainJob("fold-1", ["0"]), TrainJob("fold-2", ["0"])], [{"SLOT": "a"}]) == {
        "fold-1": 0,
        "fold-2": 0,
    }
    assert capsys.readouterr().out == "fold-1 | slot a\nfold-2 | slot a\n"


@pytest.mark.parametrize(("end", "status"), [("3", 3), ("killed", -9)])
def test_after_a_failure_no_other_fold_begins(python, end, status) -> None:
    jobs = [TrainJob("fold-1", ["0"]), TrainJob("fold-2", [end]), TrainJob("fold-3", ["0"])]
    assert run_jobs(jobs, [{"SLOT": "a"}]) == {"fold-1": 0, "fold-2": status}


def test_a_fold_that_left_all_it_was_to_has_not_failed_whatever_its_status(python) -> None:
    jobs = [TrainJob("fold-1", ["1"]), TrainJob("fold-2", ["3"]), TrainJob("fold-3", ["0"])]
    done = {"fold-1"}
    assert run_jobs(jobs, [{"SLOT": "a"}], done.__contains__) == {"fold-1": 1, "fold-2": 3}


def test_a_fold_that_left_nothing_has_failed_also_with_status_0(python) -> None:
    jobs = [TrainJob("fold-1", ["0"]), TrainJob("fold-2", ["0"])]
    assert run_jobs(jobs, [{"SLOT": "a"}], lambda name: False) == {"fold-1": 0}


def test_a_fold_finds_the_modules_that_the_command_finds(monkeypatch, tmp_path, capsys) -> None:
    (tmp_path / "mine.py").write_text("print('found')\n")
    (tmp_path / "qa_lightning.py").write_text("raise ImportError\n")
    script = tmp_path / "job" / "script.py"
    script.parent.mkdir()
    script.write_text("import qa_lightning.errors, mine\n")
    monkeypatch.setattr(processes, "_COMMAND", (str(script),))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one not in ("", str(tmp_path))])
    assert run_jobs([TrainJob("fold-1", [])], [{}]) == {"fold-1": 1}
    monkeypatch.syspath_prepend("")
    assert run_jobs([TrainJob("fold-1", [])], [{}]) == {"fold-1": 0}
    assert capsys.readouterr().out.endswith("fold-1 | found\n")


def test_folds_that_run_beside_one_that_fails_come_to_their_end(python, capsys) -> None:
    jobs = [TrainJob("fold-1", ["3"]), TrainJob("fold-2", ["0", "in a second"]), TrainJob("fold-3", ["0"])]
    assert run_jobs(jobs, [{"SLOT": "a"}, {"SLOT": "b"}]) == {"fold-1": 3, "fold-2": 0}
    assert sorted(capsys.readouterr().out.splitlines()) == ["fold-1 | slot a", "fold-2 | slot b"]
