"""Test batches of rows, as pandas, Spark, Dask and Ray give them: the answers of predict, and bad rows."""

from __future__ import annotations

import json
import pickle
import threading

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from qa_lightning import AnswerRows
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk import rows as module
from qa_lightning.inference.reader import Reader
from qa_lightning.models.computing.device import usable_device
from tests.helpers.bulk import BATCH, ROWS, bare, lines_of, write
from tests.helpers.forms import as_lines

NAMES = ["id", "answer", "start", "end", "score", "null_odds", "document", "error"]


@pytest.fixture(scope="module")
def answers(model_folder):
    """Answers rows as the command does in these tests."""
    return AnswerRows(model_folder, batch_size=BATCH)


@pytest.fixture
def loads(monkeypatch):
    """Notes each model that is loaded; none is there from before."""
    monkeypatch.setattr(module, "_loaded", type(module._loaded)())
    noted = []
    load = Reader.from_pretrained.__func__

    def noting(cls, *given):
        noted.append(given[0])
        return load(cls, *given)

    monkeypatch.setattr(Reader, "from_pretrained", classmethod(noting))
    return noted


def frame_of(rows):
    return pd.DataFrame([bare(row) for row in rows])


def approximately(rows: list[dict]) -> list[dict]:
    """Answers whose scores may differ in their last digits: other windows were computed together."""
    return [row | {"score": pytest.approx(row["score"], rel=1e-5)} for row in rows]


def test_a_frame_gets_the_answers_of_predict(answers, ask, tmp_path):
    rows = [bare(row) for row in ROWS]
    source = write(tmp_path / "q.jsonl", as_lines(rows))
    assert ask(source, tmp_path / "a.jsonl") == 0
    frame = pd.DataFrame(rows, index=[f"r{number}" for number in range(len(rows))])
    found = answers(frame)
    assert list(found.columns) == NAMES
    assert list(found.index) == list(frame.index)
    assert found[["null_odds", "document", "error"]].isna().all(axis=None)
    expected = lines_of(tmp_path / "a.jsonl")
    for name in ("id", "answer", "start", "end", "score"):
        assert found[name].tolist() == [line[name] for line in expected]


def test_smaller_batches_get_the_same_answers(answers):
    whole = answers(frame_of(ROWS))
    parts = pd.concat(answers.each(frame_of(ROWS[begin : begin + 7]) for begin in range(0, 75, 7)), ignore_index=True)
    exact = ["id", "answer", "start", "end"]
    pd.testing.assert_frame_equal(parts[exact], whole[exact])
    np.testing.assert_allclose(parts["score"], whole["score"], rtol=1e-5)


def test_a_bad_row_does_not_stop_the_batch_and_has_the_problem_that_predict_lists(answers, whole):
    rows = [bare(row) for row in ROWS[:24]]
    rows[20]["context"] = " "
    rows[3]["question"] = None
    rows[4]["question"] = "\ud800"
    found = answers(rows)
    bad = [number for number, row in enumerate(found) if row["error"] is not None]
    assert bad == [3, 4, 20]
    listed = json.loads(whole["errors"].splitlines()[0])
    assert (listed["row"], found[20]["error"]) == (21, listed["problem"])
    assert found[3]["error"] == "question is None, not a text"
    assert "surrogate" in found[4]["error"]
    for number in bad:
        assert found[number] == dict.fromkeys(NAMES) | {"id": rows[number]["id"], "error": found[number]["error"]}
    good = [row for number, row in enumerate(rows) if number not in bad]
    assert [row for number, row in enumerate(found) if number not in bad] == approximately(answers(good))


def test_every_row_may_be_bad(answers):
    found = answers(pd.DataFrame({"question": ["Who?", None], "context": [" ", "Anna."]}))
    assert found["error"].notna().all()
    assert found.dtypes.equals(answers(frame_of(ROWS[:2])).dtypes.where(found.dtypes.index != "id", found.dtypes))


@pytest.mark.parametrize("count", [0, 5])
def test_each_kind_of_batch_comes_back_as_the_same_kind(count, answers):
    frame = frame_of(ROWS[:count]) if count else frame_of(ROWS[:1]).head(0)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    expected = answers(table)
    assert expected.schema == AnswerRows.schema
    assert expected.num_rows == count
    part = table.to_batches()[0] if count else pa.RecordBatch.from_pylist([], table.schema)
    assert answers(part) == pa.RecordBatch.from_pylist(expected.to_pylist(), AnswerRows.schema)
    assert answers(table.to_pydict()) == expected.to_pydict()
    arrays = {name: frame[name].to_numpy() for name in frame}  # as Ray gives them
    assert answers(arrays) == expected.to_pydict()
    assert answers(table.to_pylist()) == expected.to_pylist()
    assert pa.Table.from_pandas(answers(frame), AnswerRows.schema, preserve_index=False).equals(expected)


def test_an_empty_batch_loads_nothing(model_folder, loads):
    """Dask asks for the columns of the result with one."""
    assert list(AnswerRows(model_folder)(frame_of(ROWS[:1]).head(0)).columns) == NAMES
    assert loads == []


def test_numbers_of_rows_are_handed_through(answers):
    frame = frame_of(ROWS[:3]).assign(row=[7, 9, 8])
    rows = frame.to_dict("records")
    assert answers(frame)["row"].tolist() == [7, 9, 8]
    assert list(answers(frame).columns) == ["row", *NAMES]
    assert answers(frame.to_dict("list"))["row"] == [7, 9, 8]
    assert [row["row"] for row in answers(rows)] == [7, 9, 8]
    assert answers(pa.Table.from_pandas(frame))["row"].to_pylist() == [7, 9, 8]


def test_an_object_is_cheap_to_send_and_each_process_loads_the_model_once(model_folder, loads, tmp_path, monkeypatch):
    made = AnswerRows(model_folder, batch_size=BATCH)
    sent = pickle.dumps(made)
    assert len(sent) < 2000
    assert loads == []
    copies = [pickle.loads(sent) for _ in range(3)]
    threads = [threading.Thread(target=copy, args=(frame_of(ROWS[:3]),)) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == [model_folder]
    assert len(pickle.dumps(copies[0])) == len(sent)
    AnswerRows(model_folder).load()  # a new one may find another model in the folder
    assert len(loads) == 2
    for _ in range(module._MAX_MODELS):
        AnswerRows(model_folder).load()
    assert len(module._loaded) == module._MAX_MODELS


def test_a_path_means_the_same_in_another_folder(model_folder, tmp_path, monkeypatch):
    (tmp_path / "model").symlink_to(model_folder)
    monkeypatch.chdir(tmp_path)
    made = AnswerRows("model")
    monkeypatch.chdir("/")
    assert repr(made) == f"AnswerRows('{tmp_path}/model', batch_size=32, dtype='float32')"
    assert len(made(frame_of(ROWS[:2]))) == 2


def test_threads_get_the_answers_of_one_thread(answers):
    frames = [frame_of(ROWS[begin : begin + 15]) for begin in range(0, 75, 15)]
    expected = [answers(frame) for frame in frames]
    found = {}
    threads = [
        threading.Thread(target=lambda number=number: found.update({number: answers(frames[number])}))
        for number in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, frame in enumerate(expected):
        pd.testing.assert_frame_equal(found[number], frame)


def test_rows_may_have_several_contexts_or_documents_and_tables_all_columns(model_folder, tmp_path, ask):
    documents = [{"id": "a", "text": ROWS[0]["context"]}, {"id": "b", "text": ROWS[1]["context"]}]
    write(tmp_path / "d.jsonl", as_lines(documents))
    rows = [
        {"question": ROWS[0]["question"], "context": ROWS[0]["context"]},
        {"question": ROWS[0]["question"], "contexts": [ROWS[1]["context"], ROWS[0]["context"]]},
        {"question": ROWS[0]["question"], "document_ids": ["a", "b"]},
        {"question": ROWS[0]["question"], "document_ids": ["c"]},
        {"question": ROWS[0]["question"], "context": ROWS[0]["context"], "contexts": [ROWS[1]["context"]]},
    ]
    source = write(tmp_path / "q.jsonl", as_lines(rows))
    assert ask(source, tmp_path / "a.jsonl", "--documents", tmp_path / "d.jsonl") == 0
    made = AnswerRows(model_folder, batch_size=BATCH, documents=tmp_path / "d.jsonl")
    for batch in (pd.DataFrame(rows), pa.Table.from_pylist(rows, pa.Table.from_pandas(pd.DataFrame(rows)).schema)):
        found = made(batch)
        found = found if isinstance(found, pa.Table) else pa.Table.from_pandas(found, AnswerRows.schema)
        lines = found.to_pylist()
        for line, expected in zip(lines, lines_of(tmp_path / "a.jsonl"), strict=False):
            assert {name: line[name] for name in ("id", "answer", "start", "end", "score")} == {
                name: expected[name] for name in ("id", "answer", "start", "end", "score")
            }
            document = expected.get("document")
            assert line["document"] == (None if document is None else str(document))
        assert [line["error"] is not None for line in lines] == [False, False, False, True, True]
        assert "--documents has no c" in lines[3]["error"]


def test_columns_can_be_named_and_are_guessed_otherwise(answers, model_folder):
    frame = frame_of(ROWS[:3])
    other = frame.rename(columns={"question": "asked", "context": "passage"})
    with pytest.raises(InputError, match=r"batch.iloc\[0\]: no column 'question'"):
        answers(other)
    named = AnswerRows(model_folder, batch_size=BATCH, columns={"question": "asked"})
    pd.testing.assert_frame_equal(named(other), answers(frame))


def test_null_odds_are_there_where_the_model_knows_no_answer(tmp_path, model_folder):
    reader = Reader.load(model_folder)
    reader.model.config.qa_lightning = {"version_2": True}
    reader.model.save_pretrained(tmp_path / "model")
    reader.tokenizer.save_pretrained(tmp_path / "model")
    found = AnswerRows(tmp_path / "model")([bare(ROWS[0]), {"id": "x", "question": "What?", "context": "\u200b"}])
    assert isinstance(found[0]["null_odds"], float)
    assert (found[1]["answer"], found[1]["null_odds"], found[1]["error"]) == ("", None, None)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dtype": "int8"}, "--dtype is 'int8'; it must be one of float32, bfloat16 or float16"),
        ({"batch_size": 0}, "batch_size is 0; pass an int of at least 1"),
        ({"columns": {"quesion": "q"}}, "columns: there is no 'quesion'; did you mean question?"),
        ({"device": "gpu"}, "device is 'gpu'; pass 'cpu', 'cuda' or, for one of several GPUs, 'cuda:1'"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_where_the_object_is_made(given, words):
    with pytest.raises(InputError) as caught:
        AnswerRows("m", **given)
    assert words in str(caught.value)


def test_a_device_that_is_not_here_is_refused(monkeypatch, model_folder):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"device is cuda:7; there is no GPU here: pass cpu, or leave it out"):
        Reader.from_pretrained(model_folder, device="cuda:7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for count, here in ((1, "the GPU here is cuda:0"), (4, "the GPUs here are cuda:0 to cuda:3")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        with pytest.raises(InputError, match=f"device is cuda:7; {here}"):
            Reader.from_pretrained(model_folder, device="cuda:7")
        assert usable_device(f"cuda:{count - 1}").index == count - 1
    assert AnswerRows("m", device="cuda:7")  # for another machine
    for device in ("mps", "xpu", "hpu"):  # each fails in its own way
        with pytest.raises(InputError, match=f"device is {device}, which this machine does not have .*; pass cpu"):
            Reader.from_pretrained(model_folder, device=device)
    with pytest.raises(InputError, match="device is 'meta'; pass 'cpu', 'cuda' or"):
        AnswerRows("m", device="meta")


def test_what_is_no_batch_of_rows_is_refused(answers):
    with pytest.raises(InputError, match=r"a batch of rows is a pandas DataFrame.* of type str"):
        answers("Who?")
    with pytest.raises(InputError, match="differ in length"):
        answers({"question": ["Who?"], "context": []})


def test_running_out_of_memory_names_what_helps_here(model_folder, monkeypatch):
    def answer(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Reader, "answer", answer)
    with pytest.raises(InputError, match=r"out of memory on cpu at rows 1 to 3 .*what helps: --batch_size 4") as caught:
        AnswerRows(model_folder, batch_size=8)(frame_of(ROWS[:3]))
    assert "--output" not in str(caught.value)
