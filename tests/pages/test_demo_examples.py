"""The questions that the page to ask in begins with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qa_lightning.pages.demo.examples import openings_for
from qa_lightning.training.datamodule import SquadDataModule
from tests.helpers.data import make_rows, write_json


def record(tmp_path, **validation) -> str:
    """The model's folder of a run whose record describes this validation data."""
    model = tmp_path / "version_0" / "model"
    model.mkdir(parents=True)
    (model.parent / "run.json").write_text(json.dumps([{"data": {"validation": validation}}]), encoding="utf-8")
    return str(model)


def test_prepared_data_is_found_wherever_its_source_is(tmp_path, model_folder) -> None:
    source = tmp_path / "validation.json"
    rows = make_rows(30, unanswerable=5)
    write_json(source, rows)
    data = SquadDataModule(str(source), validation=str(source), model_name=model_folder, max_length=96, doc_stride=12)
    data.prepare_data()
    data.setup("validate")
    described = data.describe()["validation"]
    source.unlink()
    found = openings_for(record(tmp_path, **described), version_2=True)
    assert found.source == "from the model's validation data"
    assert len(found.questions) == len({one.context for one in found.questions}) == 5
    known = {(row["question"], row["context"]): bool(row["answers"]["text"]) for row in rows}
    assert [known[one.question, one.context] for one in found.questions] == [True] * 4 + [False]


def test_a_file_is_read_again(tmp_path) -> None:
    source = write_json(tmp_path / "validation.json", make_rows(30, unanswerable=5))
    found = openings_for(record(tmp_path, kind="files", source=str(source), held_out=None), version_2=False)
    assert found.source == "from the model's validation data"
    known = {row["context"] for row in make_rows(30, unanswerable=5) if row["answers"]["text"]}
    assert len(found.questions) == 5
    assert {one.context for one in found.questions} <= known


def test_each_text_is_shown_once(tmp_path) -> None:
    rows = [row | {"id": f"{row['id']}{name}"} for row in make_rows(3) for name in "abcd"]
    source = write_json(tmp_path / "validation.json", rows)
    found = openings_for(record(tmp_path, kind="files", source=str(source), held_out=None), version_2=False)
    assert [one.context for one in found.questions] == [row["context"] for row in rows[::4]]


@pytest.mark.parametrize(
    "validation",
    [
        {"kind": "files", "source": "gone.json", "held_out": None},
        {"kind": "files", "source": "questions.json", "held_out": 0.1},  # which rows, the file does not say
        {"kind": "hub", "source": "rajpurkar/squad", "held_out": None},
        {"kind": "object", "source": "dataset", "fingerprint": "../../x"},
        {"source": 7},
    ],
    ids=["gone", "held out", "hub", "object", "damaged"],
)
def test_without_it_there_are_embedded_questions(tmp_path, monkeypatch, validation) -> None:
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "questions.json", make_rows(30))
    model = record(tmp_path, **validation)
    answered, some_not = (openings_for(model, version_2) for version_2 in (False, True))
    assert answered.source == some_not.source == "of the embedded dataset"
    assert len(answered.questions) == len(some_not.questions) == 5


def test_a_record_beside_a_model_of_another_name_is_not_read(tmp_path) -> None:
    source = write_json(tmp_path / "validation.json", make_rows(30))
    model = record(tmp_path, kind="files", source=str(source), held_out=None)
    assert openings_for(model, False).source == "from the model's validation data"
    assert (
        openings_for(str(Path(model).rename(Path(model).with_name("mine"))), False).source == "of the embedded dataset"
    )


def test_a_model_without_a_run_has_embedded_questions(model_folder) -> None:
    assert openings_for(model_folder, False).source == "of the embedded dataset"
    assert openings_for("deepset/roberta-base-squad2", False).source == "of the embedded dataset"
