"""Texts that would do something if they were not shown as text: scripts, markup of all kinds, control characters."""

from __future__ import annotations

import json

from tests.helpers.paths import ROOT

PAYLOADS: list[str] = json.loads((ROOT / "tests" / "pages" / "payloads.json").read_text("utf-8"))
