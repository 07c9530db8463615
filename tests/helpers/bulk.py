"""Files of questions for tests, and readers for the files that a run writes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from tests.helpers.data import make_rows

ROWS = make_rows(75, long=3)
BATCH = 1  # the batch size; a chunk then has 16 rows


def bare(row: dict) -> dict:
    return {name: row[name] for name in ("id", "question", "context")}


def written(output: Path) -> dict[str, bytes]:
    errors = output.with_name(f"{output.name}.errors.jsonl")
    return {"answers": output.read_bytes(), "errors": errors.read_bytes() if errors.exists() else b""}


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


BARE = [bare(row) for row in ROWS[:7]]
