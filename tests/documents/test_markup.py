"""The text of HTML pages: what people see of it, in paragraphs."""

from __future__ import annotations

import pytest

from qa_lightning.documents import markup
from qa_lightning.documents.markup import html_text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Anna  lives\nin <b>Rome</b>.</p><p>Ben</p>", "Anna lives in Rome.\n\nBen"),
        ("<html><head><title>Not this</title><style>p {}</style></head><body>This</body></html>", "This"),
        ("<script>var a = '<p>no</p>';</script>Yes<noscript>no</noscript>", "Yes"),
        ("<head><title>An open head</title><body>This", "This"),
        ("<head><title>An open head</title><meta name=a><p>This", "This"),
        ("<title>No head</title><p>This", "This"),
        ("A&amp;B &#8211; caf&eacute;&nbsp;1<br>next", "A&B \u2013 caf\u00e9 1\nnext"),
        ("<pre>a  b\n  c</pre>d  e", "a b\nc\n\nd e"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a\n\nb"),
        ("<!-- no --><p>a<p>b</div></p></pre>c", "a\n\nb\n\nc"),
        ("no tags < at all & none", "no tags < at all & none"),
        ("a\fb", "a b"),
    ],
)
def test_the_text_of_a_page(page, text) -> None:
    assert html_text(page.encode()) == text


def test_the_encoding_is_the_one_that_the_page_names() -> None:
    assert html_text(b'<meta charset="iso-8859-1"><p>caf\xe9') == "caf\u00e9"
    assert html_text(b"\xef\xbb\xbf<meta charset=latin-1><p>caf\xc3\xa9") == "caf\u00e9"
    with pytest.raises(UnicodeDecodeError):
        html_text(b"<p>caf\xe9")
    with pytest.raises(ValueError, match="unknown encoding klingon"):
        html_text(b"<meta charset=klingon><p>a")


@pytest.mark.parametrize(
    ("named", "content", "text"),
    [
        ("iso-8859-1", "It\u2019s \u201cquoted\u201d \u20ac".encode("cp1252"), "It\u2019s \u201cquoted\u201d \u20ac"),
        ("ISO-8859-1", b"a\x81b\xe9 \x93c\x94", "a\x81b\u00e9 \u201cc\u201d"),
        ("windows-1252", b"a\x81b\x80", "a\x81b\u20ac"),
        ("iso-8859-9", b"\x8e\xfe", "\x8e\u015f"),
        ("windows-1255", b"\xd9\xe0", "\xd9\u05d0"),
        ("utf-16", "Z\u00fcrich".encode(), "Z\u00fcrich"),
        ("gb2312", "\u9555\u57fa".encode("gbk"), "\u9555\u57fa"),
        ("shift_jis", "\u2460".encode("cp932"), "\u2460"),
    ],
)
def test_encodings_are_read_as_browsers_do(named, content, text) -> None:
    assert html_text(f'<meta charset="{named}"><p>'.encode() + content) == text


@pytest.mark.parametrize("begin", ["<p ", "<!-- ", "<a href='", "</", "<!", "<?"])
def test_beginnings_of_tags_without_an_end_become_text(begin) -> None:
    """The parser takes quadratic time for them."""
    kept = markup._without_endless("<p>Anna</p>" + begin * 2000)
    assert "<p" not in kept.removeprefix("<p>Anna</p>")
    assert html_text(b"<p>Anna</p>" + begin.encode() * 2000).startswith("Anna")


def test_pages_whose_tags_end_are_parsed_as_they_are() -> None:
    page = "<p title='a<b'>1 < 2 <!-- a > b --></p>" * 300
    assert markup._without_endless(page) == page
