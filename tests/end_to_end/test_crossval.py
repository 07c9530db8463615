"""A cross-validation from a file of questions to its final model, killed in the middle of a fold and not."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from torchmetrics.functional.text import squad

from qa_lightning.crossval.run import _WRITTEN
from qa_lightning.errors import InputError, LostProcessError
from qa_lightning.runs.record import last_start
from qa_lightning.studies import processes
from tests.helpers import commands
from tests.helpers.data import make_rows
from tests.helpers.processes import Forked
from tests.helpers.training import train_flags

ROWS = make_rows(40)
RUN = Path("lightning_logs") / "version_0"


def write_table(path: Path) -> str:
    """A spreadsheet with two questions about each context."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "question", "context", "answer"])
        for row in ROWS:
            answer = row["answers"]["text"][0]
            table.writerow([row["id"], row["question"], row["context"], answer])
            table.writerow([f"{row['id']}-again", f"And {row['question']}", row["context"], answer])
    return str(path)


def flags_for(folder: Path, model: str) -> list[str]:
    """Two folds of one epoch, and the process of a fold is killed once, after its third step."""
    usual = train_flags(folder, model, write_table(folder / "questions.csv"), "")
    own = [
        (flag, value)
        for flag, value in zip(usual[::2], usual[1::2], strict=True)
        if flag not in ("--data.validation", "--trainer.default_root_dir")
    ]
    return [
        *(word for pair in own for word in pair),
        *("--trainer.max_epochs", "1", "--save_every_minutes", "0", "--folds", "2"),
        *("--trainer.callbacks", "tests.helpers.killing.KillOnce", "--trainer.callbacks.epoch", "0"),
        *("--trainer.callbacks.batch", "2", "--trainer.callbacks.marker", str(folder / "killed")),
    ]


@pytest.fixture(scope="module")
def studies(tmp_path_factory, model_folder) -> tuple[Path, Path]:
    """Two studies with the same flags: one was killed in its first fold and went on, the other ran side by side."""
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "Popen", Forked)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("QA_LIGHTNING_CACHE", str(folder / "cache"))
        given = flags_for(folder, model_folder)
        stopped = [*given, "--study", str(folder / "stopped")]
        with pytest.raises(LostProcessError, match=r"fold-1 was killed by signal 9 .*The same command goes on"):
            commands.crossval(stopped)
        assert (folder / "stopped" / "fold-1" / RUN / "checkpoints" / "last.ckpt").is_file()
        assert not (folder / "stopped" / "fold-2").exists()
        assert commands.crossval(stopped) == 0
        assert commands.crossval([*given, "--study", str(folder / "whole"), "--parallel", "2"]) == 0
    return folder / "stopped", folder / "whole"


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_what_a_study_writes_is_what_it_refuses_to_replace(studies) -> None:
    for study in studies:
        assert {path.name for path in study.iterdir() if path.is_file()} <= {"study.json", *_WRITTEN}


def test_a_killed_fold_goes_on_and_nothing_differs(studies) -> None:
    stopped, whole = studies
    starts = read(stopped / "fold-1" / RUN / "run.json")
    assert [bool(start["resumed_from"]) for start in starts] == [False, True]
    for name in ("crossval.json", "predictions.json", "nbest_predictions.json", "folds.json", "metrics.json"):
        assert read(stopped / name) == read(whole / name), name
    for name in ("fold-1", "fold-2", "final"):
        weights = [(study / name / RUN / "model" / "model.safetensors").read_bytes() for study in studies]
        assert weights[0] == weights[1]


def test_each_question_is_answered_once_by_the_model_that_did_not_see_it(studies, tmp_path, capsys) -> None:
    _, whole = studies
    folds, predictions = read(whole / "folds.json"), read(whole / "predictions.json")
    names = [name for row in ROWS for name in (row["id"], f"{row['id']}-again")]
    assert list(predictions) == names
    assert sorted(folds) == sorted(names)
    assert all(folds[row["id"]] == folds[f"{row['id']}-again"] for row in ROWS)
    assert list(read(whole / "nbest_predictions.json")) == names
    rows = {row["id"]: row for row in ROWS} | {f"{row['id']}-again": row for row in ROWS}
    for fold in (1, 2):
        held_out = [rows[name] | {"id": name} for name in names if folds[name] == fold]
        for row in held_out:
            row["question"] = f"And {row['question']}" if row["id"].endswith("again") else row["question"]
        (tmp_path / "held_out.json").write_text(json.dumps({"data": held_out}))
        model = whole / f"fold-{fold}" / RUN / "model"
        given = [
            "--model",
            str(model),
            "--data",
            str(tmp_path / "held_out.json"),
            "--output_dir",
            str(tmp_path / "out"),
        ]
        assert commands.evaluate(given) == 0
        assert read(tmp_path / "out" / "predictions.json") == {row["id"]: predictions[row["id"]] for row in held_out}
        record = last_start(whole / f"fold-{fold}" / RUN / "run.json")["data"]
        assert (record["validation"]["questions"], record["train"]["questions"]) == (len(held_out), 80 - len(held_out))


def test_the_figures_are_the_official_scorers(studies) -> None:
    _, whole = studies
    folds, predictions, found = (read(whole / f"{name}.json") for name in ("folds", "predictions", "crossval"))
    golds = {name: row["answers"] for row in ROWS for name in (row["id"], f"{row['id']}-again")}

    def official(names: list[str]) -> dict[str, float]:
        asked = [{"id": name, "prediction_text": predictions[name]} for name in names]
        scores = squad(asked, [{"id": name, "answers": golds[name]} for name in names])
        return {name: float(score) for name, score in scores.items()}

    for one in found["folds"]:
        scores = official([name for name, fold in folds.items() if fold == one["fold"]])
        assert (one["exact_match"], one["f1"]) == pytest.approx((scores["exact_match"], scores["f1"]), rel=1e-5)
    whole_scores = official(list(folds))
    assert 0 < whole_scores["f1"] < 100
    for name, score in whole_scores.items():
        assert found["all_questions"][name]["score"] == pytest.approx(score, rel=1e-5)
        assert found["all_questions"][name]["low"] <= score <= found["all_questions"][name]["high"]
        each = [one[name] for one in found["folds"]]
        assert found["mean_over_folds"][name] == pytest.approx(sum(each) / 2)
        assert found["standard_deviation_over_folds"][name] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    assert found["interval"] == {"level": 0.95, "resampled": "contexts", "units": 40}


def test_the_final_model_saw_all_questions_and_has_what_was_fitted_out_of_fold(studies, capsys) -> None:
    _, whole = studies
    run, found = whole / "final" / RUN, read(whole / "crossval.json")["final"]
    record = last_start(run / "run.json")
    assert record["data"]["train"]["questions"] == 80
    assert record["scores"] == {}
    settings = read(run / "model" / "config.json")["qa_lightning"]
    assert settings["fitted_to"] == found["fitted_to"]
    assert re.fullmatch(r"out of 2 folds of [0-9a-f]{20}", settings["fitted_to"])
    assert (settings["temperature"], settings["null_score_diff_threshold"]) == (
        found["temperature"],
        found["threshold"],
    )
    assert found["epochs"] == 1
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "2 folds of" in page
    assert commands.evaluate(["--model", str(run / "model"), "--data", str(whole.parent / "questions.csv")]) == 0
    assert "were fitted to" in capsys.readouterr().out


def test_a_finished_study_trains_nothing_again(studies, model_folder, capsys, monkeypatch) -> None:
    stopped, _ = studies
    monkeypatch.setenv("QA_LIGHTNING_CACHE", str(stopped.parent / "cache"))
    before = read(stopped / "crossval.json")
    given = [*flags_for(stopped.parent, model_folder), "--study", str(stopped)]
    assert commands.crossval(given) == 0
    assert capsys.readouterr().out.count("finished before") == 3
    assert read(stopped / "crossval.json") == before
    with pytest.raises(InputError, match=r"begun with other flags or data: --data.max_length was 48, is 44"):
        commands.crossval([*given, "--data.max_length", "44"])


def test_flags_that_make_no_sense_are_refused_together(tmp_path, model_folder) -> None:
    data = write_table(tmp_path / "questions.csv")
    with pytest.raises(InputError) as refused:
        commands.crossval(
            [
                *("--data.dataset", data, "--model.model_name", model_folder, "--ckpt_path", "last"),
                *("--data.validation", data, "--data.max_validation_examples", "5", "--data.batch_size", "0"),
                *("--trainer.default_root_dir", str(tmp_path), "--trainer.limit_val_batches", "0.5"),
                *("--study", str(tmp_path / "study")),
            ]
        )
    problems = "\n".join(refused.value.problems)
    for flag in ("ckpt_path last", "data.validation", "data.max_validation_examples 5", "data.batch_size is 0"):
        assert f"--{flag}" in problems
    assert "--trainer.default_root_dir" in problems
    assert "the folds say which questions validate" in problems
    assert not (tmp_path / "study").exists()
    with pytest.raises(InputError, match=r"--folds is 1.*\n.*--parallel is 0"):
        commands.crossval(["--folds", "1", "--parallel", "0"])
    few = ["--data.dataset", data, "--model.model_name", model_folder, "--data.max_length", "48"]
    few += ["--data.doc_stride", "12", "--data.max_question_length", "12", "--folds", "41"]
    with pytest.raises(InputError, match=r"has 40 contexts, too few for 41 folds"):
        commands.crossval([*few, "--study", str(tmp_path / "study")])
