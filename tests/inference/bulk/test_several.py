"""Rows with several contexts, or with ids of documents: one answer from all of them, and where it is."""

from __future__ import annotations

import json
import pickle

import pytest

from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.questions import Question
from qa_lightning.inference.bulk.several import SeveralTexts, read_document_file
from qa_lightning.inference.reader import Reader
from tests.helpers.bulk import lines_of, write
from tests.helpers.forms import as_lines, as_parquet, as_table

TEXTS = ["Anna lives in Rome .", "Ben is a baker in Oslo .", "Carl works in Paris . Dora lives in Rome ."]
DOCUMENTS = [{"id": name, "text": text} for name, text in zip("abc", TEXTS, strict=True)]
QUESTION = "Who lives in Rome ?"


def expected(model_folder, texts) -> dict:
    (best,) = Reader.load(model_folder).ask(QUESTION, texts, top_k=1)
    document = int(best.document.id)
    return {"answer": best.text, "document": document, "start": best.start, "end": best.end, "score": best.score}


def test_a_row_with_contexts_gets_the_best_answer_of_all(ask, model_folder, tmp_path) -> None:
    rows = [
        {"id": "all", "question": QUESTION, "contexts": TEXTS},
        {"id": "one", "question": QUESTION, "context": TEXTS[1]},
        {"id": "turned", "question": QUESTION, "contexts": TEXTS[::-1]},
        {"question": QUESTION, "contexts": [TEXTS[1]]},
    ]
    assert ask(write(tmp_path / "q.jsonl", as_lines(rows)), tmp_path / "a.jsonl", batch_size=4) == 0
    found = lines_of(tmp_path / "a.jsonl")
    for line, texts in ((found[0], TEXTS), (found[2], TEXTS[::-1]), (found[3], TEXTS[1:2])):
        best = expected(model_folder, texts)
        assert line["score"] == pytest.approx(best.pop("score"), abs=1e-6)
        assert {name: line[name] for name in best} == best
        assert texts[line["document"]][line["start"] : line["end"]] == line["answer"]
    alone = Reader.load(model_folder).answer([QUESTION], [TEXTS[1]])[0]
    assert (found[1]["answer"], found[1]["start"]) == (alone.text, alone.start)
    assert "document" not in found[1]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_rows_name_documents_of_a_second_file(ask, model_folder, tmp_path, form) -> None:
    rows = [{"id": "1", "question": QUESTION, "document_ids": ["c", "a"]}]
    content = {
        "jsonl": lambda rows: as_lines(rows),
        "csv": lambda rows: as_table([row | {"document_ids": json.dumps(row["document_ids"])} for row in rows]),
        "parquet": lambda rows: as_parquet(rows),
    }[form](rows)
    documents = write(tmp_path / "d.jsonl", as_lines(DOCUMENTS))
    assert ask(write(tmp_path / f"q.{form}", content), tmp_path / "a.jsonl", "--documents", documents) == 0
    (line,) = lines_of(tmp_path / "a.jsonl")
    best = expected(model_folder, [TEXTS[2], TEXTS[0]])
    assert (line["answer"], line["document"]) == (best["answer"], "ca"[best["document"]])
    assert (line["start"], line["end"]) == (best["start"], best["end"])


@pytest.mark.parametrize("empty", ["", "  "])
def test_a_table_leaves_the_other_columns_of_contexts_empty(ask, tmp_path, empty) -> None:
    several = {"contexts": json.dumps(TEXTS), "context": empty, "document_ids": empty}
    rows = [
        {"id": "1", "question": QUESTION} | several,
        {"id": "2", "question": QUESTION, "contexts": empty, "context": TEXTS[1], "document_ids": empty},
        {"id": "3", "question": QUESTION, "contexts": empty, "context": empty, "document_ids": empty},
    ]
    assert ask(write(tmp_path / "q.csv", as_table(rows)), tmp_path / "a.jsonl") == 0
    assert [line["row"] for line in lines_of(tmp_path / "a.jsonl")] == [1, 2]
    (error,) = lines_of(tmp_path / "a.jsonl.errors.jsonl")
    assert "context" in error["problem"]
    assert "keep one" not in error["problem"]


def test_an_empty_list_is_an_empty_cell_of_a_table(ask, tmp_path) -> None:
    rows = [
        {"question": QUESTION, "context": TEXTS[1], "contexts": [], "document_ids": []},
        {"question": QUESTION, "context": None, "contexts": TEXTS, "document_ids": []},
        {"question": QUESTION, "context": None, "contexts": [], "document_ids": ["a"]},
        {"question": QUESTION, "context": None, "contexts": [], "document_ids": []},
        {"question": QUESTION, "context": TEXTS[1], "contexts": ["a"], "document_ids": []},
    ]
    documents = write(tmp_path / "d.jsonl", as_lines(DOCUMENTS))
    cells = [
        {name: json.dumps(value) if isinstance(value, list) else value or "" for name, value in row.items()}
        for row in rows
    ]
    for name, content in (("q.parquet", as_parquet(rows)), ("q.csv", as_table(cells))):
        output = tmp_path / f"{name}.jsonl"
        assert ask(write(tmp_path / name, content), output, "--documents", documents) == 0
        assert [line["row"] for line in lines_of(output)] == [1, 2, 3]
        problems = [line["problem"] for line in lines_of(tmp_path / f"{name}.jsonl.errors.jsonl")]
        assert "context" in problems[0]
        assert problems[1:] == ["has 'contexts', 'context'; keep one"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_documents_may_have_the_encoding_of_the_questions_or_utf_8(tmp_path, encoding) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes("id,text\n1,Zo\u00eb lives in K\u00f6ln.\n".encode(encoding))
    assert read_document_file(str(path), "cp1252") == {"1": "Zo\u00eb lives in K\u00f6ln."}
    if encoding == "cp1252":
        with pytest.raises(InputError, match=r"--documents .*not UTF-8"):
            read_document_file(str(path))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_byte_order_mark_of_documents_is_no_row(tmp_path, suffix) -> None:
    path, row = tmp_path / f"d{suffix}", {"id": "1", "text": "Zo\u00eb lives in Rome."}
    path.write_bytes(
        (as_lines([row]).decode() if suffix == ".jsonl" else f"id,text\n1,{row['text']}\n").encode("utf-16")
    )
    assert read_document_file(str(path)) == {"1": row["text"]}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_documents_that_can_be_read_are_not_read_in_another_encoding(tmp_path, suffix) -> None:
    """Its message would hide what is wrong with them."""
    rows = [{"id": "1", "text": "Anna."}, {"id": "1", "text": "Ben."}]
    path = tmp_path / f"d{suffix}"
    path.write_bytes(as_lines(rows) if suffix == ".jsonl" else b"id,text\n1,Anna.\n1,Ben.\n")
    with pytest.raises(InputError, match=r"^--documents .*document 1 is there twice; give each its own id$"):
        read_document_file(str(path), "utf-16")
    path.write_bytes(path.read_bytes().decode().encode("utf-16-le"))
    with pytest.raises(InputError, match=r"^--documents .*document 1 is there twice; give each its own id$"):
        read_document_file(str(path), "utf-16-le")


def test_rows_that_cannot_be_asked_are_listed_with_the_reason(ask, tmp_path) -> None:
    rows = [
        {"question": QUESTION, "contexts": TEXTS},
        {"question": QUESTION, "contexts": []},
        {"question": QUESTION, "contexts": ["a", 3]},
        {"question": QUESTION, "contexts": ["a", " "]},
        {"question": QUESTION, "contexts": ["a"], "context": "b"},
        {"question": QUESTION, "document_ids": ["a", "z"]},
        {"question": QUESTION, "document_ids": "a"},
        {"question": "", "contexts": TEXTS},
    ]
    source, documents = write(tmp_path / "q.jsonl", as_lines(rows)), write(tmp_path / "d.jsonl", as_lines(DOCUMENTS))
    assert ask(source, tmp_path / "a.jsonl", "--documents", documents) == 0
    assert [line["row"] for line in lines_of(tmp_path / "a.jsonl")] == [1]
    assert [line["problem"] for line in lines_of(tmp_path / "a.jsonl.errors.jsonl")] == [
        "contexts must be a list of texts, with at least one",
        "contexts must be a list of texts, with at least one",
        "contexts[1] is empty",
        "has 'contexts', 'context'; keep one",
        "document_ids: --documents has no z",
        "document_ids must be a list of ids, with at least one",
        "question is empty; fill it in or leave the row out",
    ]
    assert ask(source, tmp_path / "b.jsonl") == 0
    problems = [line["problem"] for line in lines_of(tmp_path / "b.jsonl.errors.jsonl")]
    assert problems[4] == "document_ids needs --documents FILE, with the id and text of each document"


def test_answers_are_not_resumed_with_other_documents(ask, tmp_path) -> None:
    source = write(tmp_path / "q.jsonl", as_lines([{"question": QUESTION, "document_ids": ["a"]}]))
    documents = write(tmp_path / "d.jsonl", as_lines(DOCUMENTS))
    assert ask(source, tmp_path / "a.jsonl", "--documents", documents) == 0
    assert ask(source, tmp_path / "a.jsonl", "--documents", documents) == 0
    write(documents, as_lines([{"id": "a", "text": "Ben lives in Rome ."}]))
    with pytest.raises(InputError, match=r"was started with other values(.|\n)*--documents: fingerprint .*, was "):
        ask(source, tmp_path / "a.jsonl", "--documents", documents)


def test_all_problems_of_a_file_of_documents_are_listed(tmp_path) -> None:
    rows = [{"id": "a", "text": "Anna"}, {"id": "b"}, {"text": "c"}, {"id": "a", "text": "d"}, {"id": 5, "text": " "}]
    source = write(tmp_path / "d.jsonl", as_lines(rows))
    with pytest.raises(InputError) as caught:
        read_document_file(str(source))
    assert [problem.partition(": ")[2] for problem in caught.value.problems] == [
        "needs an id and a text; it has 'id'",
        "needs an id and a text; it has 'text'",
        "document a is there twice; give each its own id",
        "the text of document 5 is empty",
    ]
    assert read_document_file(str(write(tmp_path / "d.csv", as_table([{"doc_id": "7", "passage": "Anna"}])))) == {
        "7": "Anna"
    }


def test_an_offset_belongs_to_the_text_that_it_is_in() -> None:
    several = SeveralTexts.of([("a", "xx"), ("b", "yyy"), ("c", "z")])
    assert several == "xxyyyz"
    assert [several.place(offset) for offset in range(6)] == [
        *(("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("c", 0))
    ]
    sent = pickle.loads(pickle.dumps(Question(1, "1", QUESTION, several)))  # as to another process
    assert (sent.context.texts, sent.context.names) == (several.texts, several.names)


def test_a_folder_of_texts_is_told_what_answers_from_it(ask, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("Anna lives in Rome.")
    source = write(tmp_path / "q.jsonl", as_lines([{"question": QUESTION, "document_ids": ["a"]}]))
    words = r"^--documents .*docs is a folder; it takes a table with columns id and text. `ask` answers from"
    with pytest.raises(InputError, match=words):
        read_document_file(str(folder))
    with pytest.raises(InputError, match=words):
        ask(source, tmp_path / "a.jsonl", "--documents", folder)
    with pytest.raises(InputError, match=r"^--documents .*none\.jsonl: no such file"):
        ask(source, tmp_path / "a.jsonl", "--documents", tmp_path / "none.jsonl")
