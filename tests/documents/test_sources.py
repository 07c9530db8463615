"""Documents are read from texts, dicts and files of every kind; what cannot be read is said, all of it at once."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

import pandas as pd
import pytest

from qa_lightning.documents.sources import MAX_FILE, Document, read_documents
from qa_lightning.errors import InputError
from tests.helpers.documents import pdf


def problems(given, **options) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_documents(given, **options)
    return caught.value.problems


def test_texts_get_their_number_and_dicts_keep_id_and_meta() -> None:
    own = Document("own", "Four.")
    assert read_documents(["One.", {"text": "Two.", "id": 7, "meta": {"year": 1900}}, {"content": "Three."}, own]) == [
        Document("0", "One."),
        Document("7", "Two.", {"year": 1900}),
        Document("2", "Three."),
        own,
    ]
    assert read_documents("Alone.") == [Document("0", "Alone.")]
    assert read_documents({"text": "Alone."}) == [Document("0", "Alone.")]


def test_a_text_never_becomes_the_name_of_a_file(tmp_path) -> None:
    file = tmp_path / "secret.txt"
    file.write_text("secret")
    assert problems([str(file)]) == [
        f"document 0, {str(file)!r}, looks like the name of a file; pass Path({str(file)!r}) to read it, or "
        "{'text': ...} if it is the text itself"
    ]
    assert read_documents([{"text": str(file)}])[0].text == str(file)
    assert read_documents("/etc/passwd")[0].text == "/etc/passwd"


def test_a_folder_gives_its_files_of_known_kinds_in_order(tmp_path, said) -> None:
    for name in ("b.md", "a.txt", "sub/c.html", ".hidden/d.txt", "e.png", "f"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"text of {name}")
    found = read_documents(tmp_path)
    assert [document.id for document in found] == [str(tmp_path / name) for name in ("a.txt", "b.md", "sub/c.html")]
    assert [document.has_lines for document in found] == [True, True, False]
    assert f"{tmp_path}: 2 files of other kinds left out (.png, f)" in said.text


def test_patterns_and_names_that_meet_give_a_file_once(tmp_path) -> None:
    for name in ("a.txt", "b.txt", "c.md"):
        (tmp_path / name).write_text(name)
    found = read_documents([tmp_path / "*.txt", tmp_path / "b.txt", tmp_path])
    assert [Path(document.id).name for document in found] == ["a.txt", "b.txt", "c.md"]
    (tmp_path / "[odd].log").write_text("a name that is no pattern")
    assert [document.text for document in read_documents(tmp_path / "[odd].log")] == ["a name that is no pattern"]


def test_a_table_is_not_read_as_the_names_of_its_columns() -> None:
    frame = pd.DataFrame({"id": ["a", "b"], "text": ["Anna lives in Rome .", "Ben ."]})
    with pytest.raises(InputError, match=r"documents are a DataFrame; pass its rows, df.to_dict\('records'\)"):
        read_documents(frame)
    assert [one.id for one in read_documents(frame.to_dict("records"))] == ["a", "b"]


def test_a_text_file_is_read_as_it_is(tmp_path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffOne\r\nTwo\rTh\u00e9ee\f".encode())
    assert read_documents(file) == [Document(str(file), "One\nTwo\nTh\u00e9ee\f", {}, file, has_lines=True)]


def test_all_that_cannot_be_read_is_listed(tmp_path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "empty.md").write_text(" \n")
    (tmp_path / "none").mkdir()
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate(MAX_FILE + 1)
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9")
    (tmp_path / "marked.html").write_bytes(b"\xef\xbb\xbf<p>caf\xe9")
    names = ["latin.txt", "marked.txt", "marked.html", "binary.txt", "empty.md", "none", "large.txt", "absent.txt"]
    given = [
        *(tmp_path / name for name in names),
        "",
        3,
        {"text": "a", "txet": "b"},
        {"id": 1},
        {"text": "a", "meta": 2},
    ]
    assert problems(["Good.", *given]) == [
        f"{tmp_path}/latin.txt: is not utf-8 (byte 3); save it as UTF-8",
        f"{tmp_path}/marked.txt: is not utf-8 (byte 6); save it as UTF-8",
        f"{tmp_path}/marked.html: is not utf-8 (byte 9); save it as UTF-8",
        f"{tmp_path}/binary.txt: is not a text: it has NUL bytes",
        f"{tmp_path}/empty.md: is empty",
        f"{tmp_path}/none: has no files that end with .txt, .text, .md, .markdown, .rst, .html, .htm, .xhtml, .pdf",
        f"{tmp_path}/large.txt: has 268,435,457 bytes, more than 268,435,456; split it",
        f"{tmp_path}/absent.txt: there is no such file, folder or pattern of files",
        "document 9 is empty",
        "document 10 is of type int; pass texts, dicts with text, id and meta, or Paths of files, folders and patterns",
        "document 11: the key 'txet' is unknown; keys are text, content, id, meta",
        "document 12: it needs one text, under 'text' or 'content'",
        "document 13: its meta is of type int; pass a dict",
    ]
    assert problems(["a", {"text": "b", "id": "0"}]) == [
        "two documents have the id '0'; give each its own, or leave ids out"
    ]
    assert problems([]) == ["there are no documents with text; pass at least one"]
    assert "are of type int" in problems(3)[0]
    assert "holds half of a surrogate pair" in problems(["\ud800"])[0]


def test_what_cannot_be_read_is_skipped_and_said_if_asked_for(tmp_path, said) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "good.txt").write_text("good")
    assert [document.text for document in read_documents(tmp_path, "skip")] == ["good"]
    assert f"skipped: {tmp_path}/latin.txt: is not utf-8" in said.text
    assert problems(tmp_path / "latin.txt", on_bad="skip") == ["there are no documents with text; pass at least one"]
    assert problems("a", on_bad="leave") == ["on_bad is 'leave'; pass 'error' or 'skip'"]


def test_the_pages_of_a_pdf_are_split_by_form_feeds(tmp_path) -> None:
    pytest.importorskip("pypdf")
    file = tmp_path / "two.pdf"
    file.write_bytes(pdf("Anna lives in Rome.", "Ben lives in Oslo."))
    assert read_documents(file) == [Document(str(file), "Anna lives in Rome.\fBen lives in Oslo.", {}, file)]


def test_small_faults_of_a_pdf_are_mended_without_a_word(tmp_path, caplog, monkeypatch) -> None:
    pytest.importorskip("pypdf")
    logger = logging.getLogger("pypdf")
    monkeypatch.setattr(logger, "level", logging.WARNING)
    file = tmp_path / "a.pdf"
    file.write_bytes(pdf("Anna lives in Rome.").replace(b"startxref\n", b"startxref\n9"))
    assert read_documents(file)[0].text == "Anna lives in Rome."
    assert caplog.records == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pdf(""), "has no text: its pages may be pictures"),
        (pdf("Anna lives in Rome.")[:200], "is damaged"),
        (b"%PDF-1.4\nno such thing", "is damaged"),
        (b"", "is damaged"),
    ],
)
def test_a_pdf_that_cannot_be_read_is_said(tmp_path, content, words) -> None:
    pytest.importorskip("pypdf")
    file = tmp_path / "bad.pdf"
    file.write_bytes(content)
    assert problems(file)[0].startswith(f"{file}: {words}")


def test_a_pdf_with_a_password_is_said(tmp_path) -> None:
    pypdf = pytest.importorskip("pypdf")
    file = tmp_path / "closed.pdf"
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("word", algorithm="RC4-128")
    writer.write(file)
    assert problems(file) == [f"{file}: needs a password; save it without one"]


def test_a_pdf_that_takes_another_library_is_said(tmp_path, monkeypatch) -> None:
    errors = pytest.importorskip("pypdf.errors")

    def closed(content) -> None:
        raise errors.DependencyError("cryptography>=3.1 is required for AES algorithm")

    monkeypatch.setattr("pypdf.PdfReader", closed)
    (tmp_path / "a.pdf").write_bytes(pdf("Anna"))
    assert problems(tmp_path / "a.pdf") == [
        f"{tmp_path}/a.pdf: is encrypted (cryptography>=3.1 is required for AES algorithm); save it without encryption"
    ]


def test_a_name_that_no_system_takes_is_said() -> None:
    assert problems(Path("a" * 5000))[0].endswith(": cannot be read (File name too long)")
    assert problems(Path("~no-such-user/a.txt"))[0].startswith("~no-such-user/a.txt: cannot be read (")


def test_without_pypdf_a_pdf_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pypdf", None)
    file = tmp_path / "a.pdf"
    file.write_bytes(pdf("Anna"))
    assert problems(file) == [f'{file}: reading PDF files needs pypdf: `pip install "qa-lightning[documents]"`']


def test_a_pipe_is_read_and_a_link_to_nothing_is_a_line(tmp_path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("Anna lives in Rome.",))
    writer.start()
    assert [document.text for document in read_documents(pipe)] == ["Anna lives in Rome."]
    writer.join()
    (tmp_path / "gone.md").symlink_to(tmp_path / "nothing")
    gone = f"{tmp_path}/gone.md: is a link to something that is not there"
    for name in ("gone.md", "*.md"):
        assert problems(tmp_path / name) == [gone]
    (tmp_path / "good.md").write_text("Good.")
    pipe.unlink()
    (tmp_path / "latest.log").symlink_to(tmp_path / "nothing")  # a log that is there would not be read either
    assert problems(tmp_path) == [gone]
    assert len(read_documents(tmp_path, "skip")) == 1


def test_folders_behind_links_are_read_once_and_closed_ones_are_said(tmp_path, monkeypatch) -> None:
    for name in ("docs", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.md").write_text(name)
    (tmp_path / "docs" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "docs" / "round").symlink_to(tmp_path / "docs")
    assert [document.text for document in read_documents(tmp_path / "docs")] == ["docs", "elsewhere"]
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "linked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert problems(tmp_path / "docs") == [f"{tmp_path}/docs/linked: cannot be read (Permission denied)"]


def test_pages_of_a_pdf_without_text_are_counted(tmp_path, said) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "scan.pdf").write_bytes(pdf("Anna lives in Rome.", "", ""))
    assert len(read_documents(tmp_path / "scan.pdf")) == 1
    assert f"{tmp_path}/scan.pdf: 2 of 3 pages without text" in said.text
