"""Get the text of HTML and PDF files.

Offsets of answers count in the text that comes out. Limits: HTML is read without its styles, so that hidden parts are
read too; the text of a PDF is what its authors stored in it, so scanned pages have none.
"""

from __future__ import annotations

import codecs
import io
import logging
import re
from html.parser import HTMLParser

PAGE_END = "\f"  # stands between two pages

_UNSEEN = frozenset(["script", "style", "template", "noscript", "head", "title", "svg"])
_BLOCKS = frozenset(
    "address article aside blockquote body dd div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 h5 h6 "
    "header hr html li main nav ol p pre section table tbody td tfoot th thead tr ul".split()
)
_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]+)""", re.IGNORECASE)
_HEAD = 4096  # bytes in which an encoding is named
_AS_CONTROL = "qa_lightning.as_control"  # name of an error handler of codecs
# What browsers read where a page names another encoding (the WHATWG's Encoding Standard): supersets, mostly.
_READ_AS = {
    **dict.fromkeys(("iso-8859-1", "iso8859-1", "latin1", "latin-1", "l1", "ascii", "us-ascii"), "cp1252"),
    **dict.fromkeys(("iso-8859-9", "latin5"), "cp1254"),
    **dict.fromkeys(("iso-8859-11", "tis-620"), "cp874"),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis", "x-sjis"), "cp932"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "ksc5601"), "cp949"),
    **dict.fromkeys(("big5", "big5-hkscs", "x-x-big5"), "big5hkscs"),
    **dict.fromkeys(("utf-16", "utf-16le", "utf-16be"), "utf-8"),  # the name could be read, so it is not in these
}
_FEW = 100  # beginnings of tags and comments without an end, which the parser takes quadratic time for


def html_text(content: bytes) -> str:
    """The text of an HTML page: blocks as paragraphs, without scripts and styles.

    Raises:
        ValueError: it names an unknown encoding, or is not in the one that it names (UTF-8 if none).
    """
    found = None if content.startswith(b"\xef\xbb\xbf") else _CHARSET.search(content[:_HEAD])
    named = found[1].decode("ascii") if found else "utf-8"
    encoding = _READ_AS.get(named.lower(), named)
    try:
        is_windows = codecs.lookup(encoding).name.startswith(("cp125", "cp874"))
        page = content.decode(encoding, _AS_CONTROL if is_windows else "strict").removeprefix("\ufeff")
    except LookupError:
        raise ValueError(f"names the unknown encoding {named}") from None
    parser = _PageParser()
    parser.feed(_without_endless(page))
    parser.close()
    return parser.text()


def _as_control(error: UnicodeError) -> tuple[str, int]:
    """A byte that an encoding of Windows has no character for, as browsers read it."""
    assert isinstance(error, UnicodeDecodeError)
    return chr(error.object[error.start]), error.start + 1


codecs.register_error(_AS_CONTROL, _as_control)


def _without_endless(page: str) -> str:
    """A page whose tags and comments end, mostly: where many do not, their beginnings become text."""
    if page.count("<!--") > 2 * page.count("-->") + _FEW:
        page = page.replace("<!--", "&lt;!--")
    if page.count("<") > 2 * page.count(">") + _FEW:
        page = re.sub(r"<(?![^<>]*>)", "&lt;", page)
    return page


class _PageParser(HTMLParser):
    """Collects paragraphs; white space within a paragraph becomes one blank, except in ``pre``."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._paragraphs: list[list[str]] = [[]]
        self._unseen: list[str] = []  # open elements whose text nobody sees
        self._pre = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "body" or (tag in _BLOCKS and self._unseen == ["head"]):
            self._unseen.clear()  # a head may end without a tag
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag == "br":
            self._paragraphs[-1].append("\n")
        elif tag in _BLOCKS:
            self._begin_block(tag, 1)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif tag in _BLOCKS:
            self._begin_block(tag, -1)

    def _begin_block(self, tag: str, step: int) -> None:
        self._paragraphs.append([])
        if tag == "pre":
            self._pre = max(0, self._pre + step)

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            self._paragraphs[-1].append(data if self._pre else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        """The paragraphs, with a blank line between them."""
        texts = (re.sub(r" *\n *", "\n", re.sub(r" +", " ", "".join(parts))).strip() for parts in self._paragraphs)
        return "\n\n".join(text.replace(PAGE_END, " ") for text in texts if text)


def pdf_text(content: bytes) -> str:
    """The text of a PDF file, with a form feed between two pages.

    Raises:
        ImportError: pypdf is not installed.
        ValueError: it needs a password, is damaged, or has no text.
    """
    from pypdf import PdfReader
    from pypdf.errors import DependencyError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # tells of every small fault that it mends
    pages: list[str] | None = None
    try:
        reader = PdfReader(io.BytesIO(content))
        if not reader.is_encrypted or reader.decrypt(""):
            pages = [page.extract_text().replace(PAGE_END, " ") for page in reader.pages]
    except DependencyError as error:
        raise ValueError(f"is encrypted ({error}); save it without encryption") from None
    except Exception as error:  # a damaged file can raise anything in the parser
        raise ValueError(f"is damaged ({type(error).__name__}: {error})") from None
    if pages is None:
        raise ValueError("needs a password; save it without one")
    if not any(page.strip() for page in pages):
        raise ValueError("has no text: its pages may be pictures; recognise their text first (OCR)")
    return PAGE_END.join(_valid(page) for page in pages)


def _valid(text: str) -> str:
    """The text without halves of surrogate pairs, which fonts with broken tables give."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
