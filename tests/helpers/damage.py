"""What can happen to a file that was whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def _flipped(at: float) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        place = min(int(at * len(content)), len(content) - 1)
        return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]

    return change


def _zeroed(content: bytes) -> bytes:
    """A block of zeros over the first bytes that are none."""
    begin = next((place for place, byte in enumerate(content) if byte), 0)
    block = content[begin : begin + 512]
    return content[:begin] + b"\0" * len(block) + content[begin + len(block) :]


CONTENT: dict[str, Callable[[bytes], bytes]] = {
    "flip at the start": _flipped(0),
    "flip in the middle": _flipped(0.5),
    "flip at the end": _flipped(1),
    "a block of zeros": _zeroed,
    "two halves exchanged": lambda content: content[len(content) // 2 :] + content[: len(content) // 2],
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "the last byte missing": lambda content: content[:-1],
    "a byte appended": lambda content: content + b"\0",
    "a block appended": lambda content: content + content[:4096] + b"\0",
}
PLACE = ("delete", "a folder", "a link to nowhere")


def damages(content: bytes) -> list[str]:
    """The damages that leave another file than one of this content."""
    changes = {kind: change for kind, change in CONTENT.items() if content or "appended" in kind}
    return [*(kind for kind, change in changes.items() if change(content) != content), *PLACE]


def inflict(path: Path, kind: str) -> None:
    """Damage a file."""
    if kind in CONTENT:
        path.write_bytes(CONTENT[kind](path.read_bytes()))
        return
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link to nowhere":
        path.symlink_to(path.parent / "nowhere")
    elif kind != "delete":
        raise ValueError(kind)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
