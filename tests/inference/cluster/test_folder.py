"""Test a folder of answers: what is complete or absent, which pieces are done, and what is refused."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.rows import AnswerRows
from qa_lightning.inference.cluster import folder as module
from qa_lightning.inference.cluster.folder import AnswerFolder

MADE_WITH = {
    **{"model": "m", "model_fingerprint": "1", "input": "q.jsonl", "input_fingerprint": "2"},
    "settings": {"batch_size": 1},
}
PIECES = {1: 16, 17: 32, 33: 40}


def answers(first, last, bad=()):
    rows = [
        {"row": row, "id": f"q{row}"} | ({"error": "empty"} if row in bad else {}) for row in range(first, last + 1)
    ]
    return pa.Table.from_pylist(rows, pa.schema([("row", pa.int64()), *AnswerRows.schema]))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["path", "address", "not at once"])
def begun(request, tmp_path, monkeypatch):
    """A folder with the first two of three pieces; two of its rows are bad."""
    if request.param == "path":
        made = AnswerFolder(str(tmp_path / "a"))
    else:
        monkeypatch.setattr(module, "_WHOLE_OR_NOT", ("local",) if request.param == "address" else ())
        made = AnswerFolder(f"file://{tmp_path}/a")
    with made.locked():
        made.begin(MADE_WITH, overwrite=False)
        made.write(1, 16, answers(1, 16, bad=(3, 16)))
        made.write(17, 32, answers(17, 32))
    return made


def test_names_say_which_pieces_are_done(begun, tmp_path):
    assert names(tmp_path / "a") == [
        *("_run.json", "rows-000000000001-000000000016.parquet", "rows-000000000017-000000000032.parquet")
    ]
    assert begun.done(PIECES) == {1: 2, 17: 0}
    assert begun.recorded(MADE_WITH) == MADE_WITH | {"finished": None}
    table = pyarrow.dataset.dataset(tmp_path / "a").to_table().sort_by("row")
    assert table["row"].to_pylist() == list(range(1, 33))


def test_a_piece_that_is_written_twice_is_there_once(begun, tmp_path):
    begun.write(17, 32, answers(17, 32, bad=(20,)))
    assert begun.done(PIECES) == {1: 2, 17: 1}
    assert len(names(tmp_path / "a")) == 3


@pytest.mark.parametrize("damage", ["cut", "empty", "other rows"])
def test_a_file_that_is_not_whole_is_not_done(damage, begun, tmp_path):
    """Not every filesystem keeps the promise that a file is whole or absent."""
    path = tmp_path / "a" / "rows-000000000001-000000000016.parquet"
    if damage == "other rows":
        pq.write_table(answers(1, 9), path)
    else:
        path.write_bytes(path.read_bytes()[:200] if damage == "cut" else b"")
    assert begun.done(PIECES) == {17: 0}


def test_a_write_that_fails_leaves_nothing_and_is_one_line(begun, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    if "://" not in begun.name:
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(module, "filesystem_of", lambda address: (_Full(), str(tmp_path / "a")))
    with pytest.raises(InputError, match=r"--output .* cannot be written \(No space left on device\); free some space"):
        begun.write(33, 40, answers(33, 40))
    assert not [name for name in names(tmp_path / "a") if "33" in name and not name.startswith(".")]


class _Full:
    type_name = "full"

    def open_output_stream(self, path):
        raise OSError(28, "No space left on device")


def test_a_record_that_may_not_be_read_is_one_line(begun, monkeypatch):
    def closed(self, path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(
        AnswerFolder, "_place", lambda self: (SimpleNamespace(open_input_stream=partial(closed, 0)), "x")
    )
    with pytest.raises(InputError, match=r"_run.json cannot be read as the record of a run \(PermissionError"):
        begun.recorded(MADE_WITH)


def test_another_run_or_other_values_are_refused(begun):
    with begun.locked():
        if "://" not in begun.name:
            with pytest.raises(InputError, match="another run is writing it"), begun.locked():
                pass
    with pytest.raises(InputError, match="--batch_size 2, was 1"):
        begun.recorded(MADE_WITH | {"settings": {"batch_size": 2}})
    with pytest.raises(InputError, match="--model m has changed since then"):
        begun.recorded(MADE_WITH | {"model_fingerprint": "3"})
    with pytest.raises(InputError, match=r"rows-000000000017-000000000032.parquet is not a part of this run"):
        begun.done({1: 16, 17: 40})


def test_starting_over_removes_answers_and_nothing_else(begun, tmp_path):
    (tmp_path / "a" / "notes.txt").write_text("mine")
    begun.begin(MADE_WITH, overwrite=True)
    assert names(tmp_path / "a") == ["_run.json", "notes.txt"]


def test_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    made = AnswerFolder(str(tmp_path / "a"))
    assert made.recorded(MADE_WITH) is None
    with pytest.raises(InputError, match=r"already exists, and no run of this command wrote it \(_run.json is missing"):
        made.begin(MADE_WITH, overwrite=False)
    (tmp_path / "a" / "_run.json").write_text("[]")
    with pytest.raises(InputError, match=r"_run.json cannot be read as the record of a run"):
        made.recorded(MADE_WITH)


@pytest.mark.parametrize("form", ["{}", "file://{}"])
@pytest.mark.parametrize("mine", ["notes.txt", "notes/", ".notes", None])
def test_a_folder_that_was_there_stays_with_all_that_is_in_it(mine, form, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    if mine is not None:
        (folder / mine).mkdir() if mine.endswith("/") else (folder / mine).write_text("mine")
    before = names(folder)
    made = AnswerFolder(form.format(folder))
    for record in (False, True):
        with made.locked():
            if record:
                made.write_record(MADE_WITH, None)
            made.discard_if_empty()
        assert names(folder) == before


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_folder_that_a_run_made_goes_unless_something_is_in_it(form, tmp_path):
    folder = tmp_path / "a"
    made = AnswerFolder(form.format(folder))
    with made.locked():
        made.begin(MADE_WITH, overwrite=False)
        made.discard_if_empty()
    assert not folder.exists()
    with made.locked():
        made.begin(MADE_WITH, overwrite=False)
        (folder / ".notes").write_text("mine")
        made.discard_if_empty()
    assert names(folder) == [".notes"]


def test_a_file_or_the_folder_of_the_input_is_refused(tmp_path):
    (tmp_path / "a").write_text("mine")
    with (
        pytest.raises(InputError, match="is a file; --engine ray writes a folder"),
        AnswerFolder(str(tmp_path / "a")).locked(),
    ):
        pass
    for name in (str(tmp_path), f"file://{tmp_path}/", f"file://{tmp_path}?setting=1"):
        file = f"{name.partition('?')[0].rstrip('/')}/q.jsonl"
        with pytest.raises(InputError, match="a file of --input; name another folder"):
            AnswerFolder(name).refuse_input([file])
        AnswerFolder(f"{name.partition('?')[0].rstrip('/')}/answers").refuse_input([file])


def test_a_finished_run_says_so(begun):
    begun.write_record(MADE_WITH, {"rows": 40, "answered": 38, "bad_rows": 2})
    assert begun.recorded(MADE_WITH)["finished"] == {"rows": 40, "answered": 38, "bad_rows": 2}
