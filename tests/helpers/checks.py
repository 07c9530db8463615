"""Rows for tests of the data check, and the counts of its findings."""

from __future__ import annotations

from qa_lightning.checks.bad_rows import Report
from qa_lightning.features.windows import WindowSettings
from tests.helpers.data import make_rows

SETTINGS = WindowSettings(48, 12, 12)


def row(number: int, **changes) -> dict:
    return make_rows(number + 1)[number] | changes


def found(report: Report) -> dict[str, int]:
    return {finding.kind: finding.count for finding in report.findings}


def answers(text: str, start: object) -> dict:
    return {"text": [text], "answer_start": [start]}
