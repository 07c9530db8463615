"""Open a file as text in UTF-8: unpacked if it is gzip, and recoded from the encoding that it is in.

A byte-order mark says UTF-8, UTF-16 or UTF-32 for certain, whatever encoding is given. Every other encoding must be
given: bytes that are not UTF-8 are refused, with what they would say in Windows-1252.
"""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from qa_lightning.data.formats.limits import Unpacked
from qa_lightning.errors import InputError
from qa_lightning.wording import shown

START = 4096  # bytes at the start of a file that its kind is recognized by
_BUFFER = 1 << 17  # bytes unpacked or recoded at a time
_NEAR = 40  # bytes around a wrong one that a message shows
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SIGNATURES = {
    b"\x1f\x8b": "is gzip; add .gz to its name",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet; unpack it, or end its name in .xlsx if it is a sheet of Excel",
    b"\xd0\xcf\x11\xe0": "is an old Office file; save the sheet as .xlsx or as CSV UTF-8",
    b"PAR1": "is Parquet; end its name in .parquet",
    b"ARROW1": "is Arrow; end its name in .arrow",
}


class EncodingError(InputError):
    """A file is not in the encoding that it is read in."""


def is_packed(path: Path) -> bool:
    """Whether a file's name ends in ``.gz``."""
    return path.suffix.lower() == ".gz"


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file, and unpack gzip.

    Raises:
        InputError: anything that goes wrong while the file is open, with a fix.
    """
    try:
        with path.open("rb") as file:
            yield cast(IO[bytes], io.BufferedReader(Unpacked(file, path), _BUFFER)) if is_packed(path) else file
    except (EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: the gzip file is cut off or damaged ({error}); create or download it again"
        ) from None
    except gzip.BadGzipFile as error:
        fix = "remove .gz from its name" if "Not a gzipped" in str(error) else "create or download it again"
        raise InputError(f"{path}: not a valid gzip file ({error}); {fix}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


@contextmanager
def opened_text(path: Path, encoding: str | None) -> Iterator[tuple[IO[bytes], bytes]]:
    """Open a text file; its bytes are UTF-8, if they were not in an encoding that is known.

    Args:
        path: the file; it must not be changed while it is open.
        encoding: of the file; None for UTF-8. A byte-order mark goes before it.

    Yields:
        The file, and its first bytes, at most `START`, which it gives once more.

    Raises:
        InputError: it is another kind of file than text, or the encoding is not the file's.
    """
    with opened(path) as raw:
        start = raw.read(START)
        raw.seek(0)
        marked = next((name for mark, name in _MARKS if start.startswith(mark)), None)
        known = "utf-8" if start.startswith(codecs.BOM_UTF8) else marked or encoding
        if known is None or codecs.lookup(known).name in ("utf-8", "utf-8-sig"):
            _refuse_other_kinds(path, start)
            yield raw, start
            return
        recoded = io.BufferedReader(_Recoded(raw, path, known), _BUFFER)
        start = recoded.peek(START)[:START]
        if b"\0" in start:
            fix = "it is not a text file" if marked else "another --data.encoding may be right"
            raise EncodingError(f"{path}: holds NUL characters when read as {known}; {fix}")
        yield cast(IO[bytes], recoded), start


def marked_encoding(path: Path) -> str | None:
    """The encoding that a file's byte-order mark names; None for none, and for that of UTF-8."""
    with opened(path) as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS if start.startswith(mark)), None)


def encoding_problem(encoding: str | None) -> str | None:
    """What is wrong with the name of an encoding; None if nothing is."""
    if encoding is None:
        return None
    try:
        known = codecs.lookup(encoding)
        known.incrementaldecoder().decode(b"", final=True)
        if isinstance(known.decode(b"")[0], str) and getattr(known, "_is_text_encoding", True):
            return None
    except (LookupError, TypeError, ValueError, UnicodeError):
        pass
    return f"--data.encoding {encoding}: there is no encoding of that name; there are utf-8, utf-16, cp1252, gbk, ..."


def wrong_byte(error: UnicodeDecodeError, start: bytes) -> str:
    """Say which byte of a text is not UTF-8, and the fix; without a mark, also what stands there in Windows-1252.

    Args:
        error: of decoding the text as ``utf-8``; ``utf-8-sig`` counts from behind the mark.
        start: the first bytes of the file.
    """
    wrong = f"not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})"
    if start.startswith(codecs.BOM_UTF8):  # no --data.encoding would change how it is read
        return f"{wrong}, though the file's byte-order mark says so; save the file as UTF-8"
    text = error.object[max(0, error.start - _NEAR) : error.start + _NEAR].decode("cp1252", "replace").strip()
    return (
        f"{wrong}. In Windows-1252 it says {shown(text, 2 * _NEAR + 8)}: if that is right, pass --data.encoding "
        "cp1252; otherwise name the encoding, or save the file as UTF-8"
    )


def _refuse_other_kinds(path: Path, start: bytes) -> None:
    """Check by a file's first bytes that it is text, in an encoding without NUL bytes."""
    for signature, fix in _SIGNATURES.items():
        if start.startswith(signature):
            raise InputError(f"{path}: not a text file: it {fix}")
    if b"\0" in start:
        likely = "utf-16-be" if start[:1] == b"\0" else "utf-16-le"
        raise EncodingError(
            f"{path}: holds NUL bytes, so it is UTF-16 or not a text file; pass --data.encoding {likely}, save it as "
            "UTF-8, or name the right file"
        )


class _Recoded(io.RawIOBase):
    """A file in some encoding, read as UTF-8.

    Args:
        file: opened, at its start.
        path: of the file.
        encoding: that it is in.
    """

    def __init__(self, file: IO[bytes], path: Path, encoding: str) -> None:
        self._file, self._path, self._encoding = file, path, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""
        self._lines = 0  # that were decoded whole
        self._ended = False

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer.

        Raises:
            InputError: the file is not in that encoding.
        """
        while not self._left and not self._ended:
            block = self._file.read(_BUFFER // 2)
            self._ended = not block
            try:
                text = self._decoder.decode(block, final=self._ended)
                self._left = text.encode()
            except (UnicodeError, ValueError) as error:
                reason = getattr(error, "reason", error)
                line = 1 + self._lines + _whole_lines(error, self._encoding)
                raise EncodingError(
                    f"{self._path}: cannot be read as {self._encoding}, from line {line:,} on ({reason}); "
                    "name its encoding with --data.encoding, or save it as UTF-8"
                ) from None
            self._lines += self._left.count(b"\n")
        taken = self._left[: len(buffer)]
        buffer[: len(taken)] = taken
        self._left = self._left[len(taken) :]
        return len(taken)


def _whole_lines(error: Exception, encoding: str) -> int:
    """How many lines of a block end before the bytes that cannot be decoded."""
    if not isinstance(error, UnicodeDecodeError):
        return 0
    return error.object[: error.start].decode(encoding, "ignore").count("\n")
