"""Out-of-fold answers are joined by id, whatever the order in the files, and each question must be there once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qa_lightning import SquadDataModule
from qa_lightning.crossval.joined import join_folds
from qa_lightning.data.division import Groups
from qa_lightning.decoding.saved import write_spans
from qa_lightning.decoding.spans import Scaling, Spans
from qa_lightning.errors import InputError
from qa_lightning.metrics.calibration import TEMPERATURES
from qa_lightning.metrics.squad import SquadMetric, answer_scores
from tests.helpers.data import make_rows, write_json

ROWS = make_rows(12, unanswerable=3)


@pytest.fixture(scope="module")
def data(tmp_path_factory, model_folder) -> SquadDataModule:
    folder = tmp_path_factory.mktemp("joined")
    lengths = {"max_length": 48, "doc_stride": 12, "max_question_length": 12}
    source = write_json(folder / "rows.json", ROWS)
    made = SquadDataModule(source, fold="all", model_name=model_folder, cache_dir=str(folder / "cache"), **lengths)
    made.prepare_data()
    made.setup("fit")
    return made


def answered(rows: list[dict]) -> Spans:
    """One span of each question, a word of its own context; "no answer" has its own score."""
    begin = np.array([row["context"].index("lives") for row in rows], np.int32)
    number = np.array([int(row["id"][1:]) for row in rows], float)
    score = number / 10
    log_spans = np.stack([score / temperature for temperature in TEMPERATURES], axis=1)
    null = np.where(number >= 10, score + 1, score - 1)
    return Spans(np.ones(len(rows), np.int32), begin, begin + 5, score, score / 9, null, null / 9, log_spans, score - 1)


def write_folds(folder: Path, data: SquadDataModule, leave_out: str = "", twice: str = "") -> tuple[list[Path], dict]:
    """The files of three folds, each in another order than the data's; and id -> fold."""
    folds = Groups.of(data.validation_set.examples).folds(3, data.seed)
    files = [folder / f"{number}.npz" for number in (1, 2, 3)]
    for number, path in enumerate(files, 1):
        own = [row for row, fold in zip(ROWS, folds, strict=True) if fold == number and row["id"] != leave_out][::-1]
        own += [row for row in ROWS if row["id"] == twice]
        write_spans(path, [row["id"] for row in own], answered(own))
    return files, {row["id"]: int(fold) for row, fold in zip(ROWS, folds, strict=True)}


def test_answers_and_scores_are_those_of_each_question(data, tmp_path) -> None:
    files, folds = write_folds(tmp_path, data)
    joined = join_folds(data, files, "m", Scaling(threshold=0.5), False, 30)
    predictions = {row["id"]: "" if int(row["id"][1:]) >= 10 else "lives" for row in ROWS}
    assert joined.result.predictions == predictions
    assert dict(zip(predictions, joined.fold.tolist(), strict=True)) == folds
    metric = SquadMetric(version_2=True)
    scores = np.array([answer_scores(predictions[r["id"]], r["answers"]["text"], metric.scoring) for r in ROWS])
    metric.update_scores(*scores.T.astype(float), [bool(row["answers"]["text"]) for row in ROWS])
    for name, value in metric.compute().items():
        assert joined.result.metrics[name] == pytest.approx(value, abs=1e-9)
    by_fold = [100 * scores[joined.fold == number].mean(axis=0) for number in (1, 2, 3)]
    np.testing.assert_allclose(joined.by_fold, by_fold)
    np.testing.assert_allclose(joined.spread, np.std(by_fold, axis=0, ddof=1))
    values = joined.as_json()
    assert sum(one["questions"] for one in values["folds"]) == 12
    assert (values["interval"]["resampled"], values["interval"]["units"]) == ("contexts", 12)


@pytest.mark.parametrize("fault", [{"leave_out": "q4"}, {"twice": "q4"}])
def test_answers_that_are_missing_or_there_twice_are_an_error(data, tmp_path, fault) -> None:
    files, _ = write_folds(tmp_path, data, **fault)
    with pytest.raises(InputError, match=r"not each of the 12 of the data once"):
        join_folds(data, files, "m", Scaling(), False, 30)


def test_folds_of_the_data_module_share_no_context_and_leave_nothing_out(data, model_folder) -> None:
    assert data.describe().keys() == {"train"}
    seen: list[str] = []
    for number in (1, 2, 3):
        lengths = {name: data.hparams[name] for name in ("max_length", "doc_stride", "max_question_length")}
        given = {"model_name": model_folder, "cache_dir": str(data.cache_dir), "max_train_examples": 10}
        one = SquadDataModule(data.dataset, fold=f"{number}/3", **lengths, **given)
        one.prepare_data()
        one.setup("fit")
        train, held_out = one.train_set.examples, one.validation_set.examples
        assert not set(train["context"]) & set(held_out["context"])
        assert sorted([*train["id"], *held_out["id"]]) == sorted(f"q{number}" for number in range(10))
        assert one.describe()["validation"]["held_out"] == pytest.approx(1 / 3)
        seen += held_out["id"]
    assert sorted(seen) == sorted(f"q{number}" for number in range(10))


def test_a_fold_goes_with_no_other_validation(model_folder) -> None:
    with pytest.raises(InputError, match=r"--data.fold says which questions validate; leave --data.validation out"):
        SquadDataModule("synthetic", "synthetic", model_name=model_folder, fold="1/3")
    with pytest.raises(InputError, match=r"--data.fold is '3'"):
        SquadDataModule("synthetic", model_name=model_folder, fold="3")
