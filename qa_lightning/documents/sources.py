"""Read documents: texts, dictionaries, and files of text, Markdown, HTML and PDF, by name, folder or pattern.

A ``str`` is a text and a ``Path`` is a file, a folder or a pattern, always: a text from a stranger never becomes the
name of a file. Text and Markdown are read as they are, so that offsets and lines are those of the file; line ends
become ``\\n``. Of HTML and PDF it is the text inside that counts (`markup`).
"""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from qa_lightning.data.answers import has_surrogates
from qa_lightning.documents.markup import PAGE_END, html_text, pdf_text
from qa_lightning.errors import InputError, install_extra, one_line
from qa_lightning.wording import counted, shown

log = logging.getLogger("qa_lightning")

OnBad = Literal["error", "skip"]
TEXT_SUFFIXES = (".txt", ".text", ".md", ".markdown", ".rst")
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
DOCUMENT_SUFFIXES = (*TEXT_SUFFIXES, *HTML_SUFFIXES, ".pdf")
MAX_FILE = 1 << 28  # bytes
_TEXT_KEYS = ("text", "content")
_KEYS = (*_TEXT_KEYS, "id", "meta")


@dataclass(frozen=True)
class Document:
    """A text to find answers in.

    Attributes:
        id: tells it from the others: the name of its file, the id that was given, or its number from 0.
        text: offsets of answers count in it.
        meta: what was given with it; answers bring it back.
        path: of its file; None if it is not from a file.
        has_lines: the lines of ``text`` are those of the file.
    """

    id: str
    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    has_lines: bool = False


def read_documents(given: Any, on_bad: OnBad = "error") -> list[Document]:
    """Read documents.

    Args:
        given: one or several of: a text; a dict of ``text`` (or ``content``), and perhaps ``id`` and ``meta``; a
            `Document`; a ``Path`` of a file, of a folder (its files of known kinds, also in folders below) or of a
            pattern such as ``Path("docs/*.md")``.
        on_bad: what a document that cannot be read does: ``error``, or ``skip`` with a line in the log.

    Raises:
        InputError: some cannot be read, all of them listed; two have one id; or there are none.
    """
    if on_bad not in ("error", "skip"):
        raise InputError(f"on_bad is {on_bad!r}; pass 'error' or 'skip'")
    several = [given] if isinstance(given, (str, bytes, PathLike, Mapping, Document)) else given
    if not isinstance(several, Iterable):
        raise InputError(f"documents are of type {type(given).__name__}; {_KINDS}")
    if type(given).__name__ == "DataFrame":  # whose items are the names of its columns
        rows = "df.to_dict('records')" if type(given).__module__.startswith("pandas") else "df.to_dicts()"
        raise InputError(f"documents are a DataFrame; pass its rows, {rows}")
    problems: list[str] = []
    found = list(_documents(several, problems))
    if problems and on_bad == "skip":
        for problem in problems:
            log.warning(f"skipped: {problem}")
    elif problems:
        raise InputError(problems)
    if not found:
        raise InputError("there are no documents with text; pass at least one")
    if repeated := _repeated([document.id for document in found]):
        raise InputError(
            [f"two documents have the id {one!r}; give each its own, or leave ids out" for one in repeated]
        )
    return found


_KINDS = "pass texts, dicts with text, id and meta, or Paths of files, folders and patterns"


def _documents(several: Iterable[Any], problems: list[str]) -> Iterator[Document]:
    seen: set[Path] = set()
    for number, one in enumerate(several):
        if isinstance(one, PathLike):
            for path in _files(Path(one), problems):
                if path.resolve() not in seen:  # a folder and a pattern may both hold it
                    seen.add(path.resolve())
                    yield from _of_file(path, problems)
            continue
        document = one if isinstance(one, Document) else _of_value(one, number, problems)
        if document is None:
            continue
        if problem := unaskable(document.text):
            problems.append(f"document {document.id} {problem}")
        else:
            yield document


def _of_value(one: Any, number: int, problems: list[str]) -> Document | None:
    """The document of a text or a dict; None, and a problem, if it is neither."""
    if isinstance(one, str):
        if _looks_like_file(one):
            problems.append(
                f"document {number}, {one!r}, looks like the name of a file; pass Path({one!r}) to read it, or "
                "{'text': ...} if it is the text itself"
            )
            return None
        return Document(str(number), one)
    if not isinstance(one, Mapping):
        problems.append(f"document {number} is of type {type(one).__name__}; {_KINDS}")
        return None
    texts = [one[name] for name in _TEXT_KEYS if one.get(name) is not None]
    wrong = [f"the key {name!r} is unknown; keys are {', '.join(_KEYS)}" for name in one if name not in _KEYS]
    if len(texts) != 1 or not isinstance(texts[0], str):
        wrong.append("it needs one text, under 'text' or 'content'")
    meta = one.get("meta")
    if meta is not None and not isinstance(meta, Mapping):
        wrong.append(f"its meta is of type {type(meta).__name__}; pass a dict")
    problems += [f"document {number}: {problem}" for problem in wrong]
    own = one.get("id")
    return None if wrong else Document(str(number if own is None else own), texts[0], meta or {})


def _looks_like_file(text: str) -> bool:
    """Whether a text is a name that ends as files do, or a pattern of such names; looks at no file."""
    return bool(re.fullmatch(r"\S+", text)) and text.lower().endswith(DOCUMENT_SUFFIXES)


def _files(path: Path, problems: list[str]) -> list[Path]:
    """The files of a name, a folder or a pattern, in order."""
    try:
        path = path.expanduser()
        if path.is_file():
            return [path]
        if path.is_dir():
            inside = _inside(path, problems)
            known = [one for one in inside if one.suffix.lower() in DOCUMENT_SUFFIXES]
            if len(known) < len(inside):
                others = sorted({one.suffix or one.name for one in inside} - {one.suffix for one in known})
                more = f"{', '.join(others[:5])}{', ...' if len(others) > 5 else ''}"
                log.info(f"{path}: {counted(len(inside) - len(known), 'file')} of other kinds left out ({more})")
            if not known:
                problems.append(f"{path}: has no files that end with {', '.join(DOCUMENT_SUFFIXES)}")
            return known
        if path.exists():  # a pipe, such as standard input
            return [path]
        if path.is_symlink():
            problems.append(f"{path}: is a link to something that is not there")
            return []
        matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True))  # noqa: PTH207 - also of absolute paths
    except (OSError, RuntimeError) as error:  # the latter: an unknown ~user
        problems.append(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})")
        return []
    if not matches:
        problems.append(f"{path}: there is no such file, folder or pattern of files")
    return [file for match in matches for file in ([match] if match.is_file() else _files(match, problems))]


def _inside(folder: Path, problems: list[str]) -> list[Path]:
    """The files in a folder and those below, also behind links, in order; without hidden ones."""
    found, seen = [], set()

    def refused(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")

    for name, below, names in os.walk(folder, followlinks=True, onerror=refused):
        real = os.path.realpath(name)
        if real in seen:  # a link to a folder above, or to one that was read
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(one for one in below if not one.startswith("."))
        for path in (Path(name, one) for one in names if not one.startswith(".")):
            if path.is_file():
                found.append(path)
            elif path.is_symlink() and path.suffix.lower() in ("", *DOCUMENT_SUFFIXES):
                problems.append(f"{path}: is a link to something that is not there")
    return sorted(found)


def _of_file(path: Path, problems: list[str]) -> Iterator[Document]:
    """The document of a file; none, and a problem, if it cannot be read."""
    suffix = path.suffix.lower()
    read: Callable[[bytes], str] = html_text if suffix in HTML_SUFFIXES else pdf_text if suffix == ".pdf" else _plain
    try:
        if (size := path.stat().st_size) > MAX_FILE:
            raise ValueError(f"has {size:,} bytes, more than {MAX_FILE:,}; split it")
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:  # of a pipe
            raise ValueError(f"has more than {MAX_FILE:,} bytes; split it")
        text = read(content)
        if problem := unaskable(text):
            raise ValueError(problem)
    except ImportError:
        problems.append(f"{path}: reading PDF files needs pypdf: `{install_extra('documents')}`")
    except UnicodeDecodeError as error:
        problems.append(f"{path}: is not {error.encoding} (byte {error.start:,}); save it as UTF-8")
    except ValueError as error:
        problems.append(f"{path}: {one_line(error)}")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror or error})")
    else:
        if read is pdf_text and (empty := sum(not page.strip() for page in text.split(PAGE_END))):
            pages = counted(text.count(PAGE_END) + 1, "page")
            log.warning(
                f"{path}: {empty:,} of {pages} without text, perhaps pictures; recognise their text first (OCR)"
            )
        yield Document(str(path), text, {}, path, has_lines=read is _plain)


def _plain(content: bytes) -> str:
    if b"\0" in content:
        raise ValueError("is not a text: it has NUL bytes")
    return re.sub("\r\n?", "\n", content.decode().removeprefix("\ufeff"))


def unaskable(text: Any) -> str | None:
    """Why a text cannot be asked, or asked about, for a message that begins with its name; None if it can."""
    if not isinstance(text, str):
        return f"is of type {type(text).__name__}, {shown(text)}; pass a str"
    if not text.strip():
        return "is empty"
    return "holds half of a surrogate pair; pass it as valid UTF-8" if has_surrogates(text) else None


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    return list(dict.fromkeys(twice))
