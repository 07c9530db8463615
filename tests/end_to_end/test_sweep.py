"""A search from its space to its best model: killed in the middle of a trial and not, with a trial that is pruned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qa_lightning.runs.record import last_start
from qa_lightning.studies import processes
from tests.helpers import commands
from tests.helpers.data import make_rows
from tests.helpers.paths import ROOT
from tests.helpers.processes import Forked, Started, environment
from tests.helpers.training import train_flags

pytest.importorskip("optuna")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RUN = Path("lightning_logs") / "version_0"


def flags_for(folder: Path, model: str) -> list[str]:
    """Three trials of two epochs; the process of a trial is killed once, with the search, after its third step."""
    data = folder / "questions.json"
    data.write_text(json.dumps({"data": make_rows(32)}))
    (folder / "space.yaml").write_text("model.learning_rate: [1.0e-7, 3.0e-3]\ndata.batch_size: {low: 7, high: 9}\n")
    usual = train_flags(folder, model, str(data), str(data))
    searched = ("--trainer.default_root_dir", "--model.learning_rate", "--data.batch_size", "--trainer.max_epochs")
    own = [pair for pair in zip(usual[::2], usual[1::2], strict=True) if pair[0] not in searched]
    return [
        *(word for pair in own for word in pair),
        *("--trainer.max_epochs", "2", "--save_every_minutes", "0", "--seed_everything", "4"),
        *("--trials", "3", "--space", str(folder / "space.yaml"), "--pruner", "halving"),
        *("--trainer.callbacks", "tests.helpers.killing.KillOnce", "--trainer.callbacks.epoch", "0"),
        *("--trainer.callbacks.batch", "2", "--trainer.callbacks.marker", str(folder / "killed")),
        *("--trainer.callbacks.parent", "true"),
    ]


@pytest.fixture(scope="module")
def studies(tmp_path_factory, model_folder) -> tuple[Path, Path]:
    """Two studies with the same flags: one was killed in its first trial, and the same command went on."""
    folder = tmp_path_factory.mktemp("searches")
    given = flags_for(folder, model_folder)
    stopped = [*given, "--study", str(folder / "stopped")]
    own = environment() | {"QA_LIGHTNING_CACHE": str(folder / "cache")}
    killed = Started(["-m", "qa_lightning", "sweep", *stopped], cwd=ROOT, env=own)
    assert killed.wait(timeout=200) in (-9, 137)
    assert (folder / "stopped" / "trial-0" / RUN / "checkpoints" / "last.ckpt").is_file()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "Popen", Forked)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("QA_LIGHTNING_CACHE", str(folder / "cache"))
        assert commands.sweep(stopped) == 0
        assert commands.sweep([*given, "--study", str(folder / "whole")]) == 0
    return folder / "stopped", folder / "whole"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_killed_search_resumes_its_trial_and_nothing_differs(studies) -> None:
    stopped, whole = studies
    starts = read(stopped / "trial-0" / RUN / "run.json")
    assert [bool(start["resumed_from"]) for start in starts] == [False, True]
    assert len(read(whole / "trial-0" / RUN / "run.json")) == 1
    assert read(stopped / "sweep.json")["trials"] == read(whole / "sweep.json")["trials"]
    best = read(whole / "sweep.json")["best"]["model"]
    assert (stopped / best / "model.safetensors").read_bytes() == (whole / best / "model.safetensors").read_bytes()


def test_a_trial_that_stays_behind_is_pruned_and_its_folder_says_so(studies) -> None:
    _, whole = studies
    trials = read(whole / "sweep.json")["trials"]
    pruned = [one for one in trials if one["state"] == "pruned"]
    assert pruned
    assert all(one["state"] in ("pruned", "complete") for one in trials)
    for one in pruned:
        run = whole / one["trial"] / RUN
        (score,) = one["f1_after_each_validation"]
        assert last_start(run / "run.json")["pruned"] == {"validation": 1, "score": score}
        assert (run / "checkpoints" / "last.ckpt").is_file()
        assert not (run / "model").exists()
    for one in trials:
        if one["state"] == "complete":
            assert len(one["f1_after_each_validation"]) == 2
            assert one["score"] == max(one["f1_after_each_validation"])


def test_compare_shows_the_trials_with_what_differs(studies, capsys, monkeypatch) -> None:
    from qa_lightning.cli.pages.compare import compare

    _, whole = studies
    monkeypatch.setenv("COLUMNS", "250")
    assert compare([str(whole)]) == 0
    out = capsys.readouterr().out
    for one in read(whole / "sweep.json")["trials"]:
        mark = " (pruned)" if one["state"] == "pruned" else ""
        assert f"{one['trial']}/{RUN}{mark} " in out
    assert "learning_rate" in out
    assert "batch_size" in out
    assert "validation_fraction" not in out
