"""Paths of the checkout and of the real SQuAD data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("QA_LIGHTNING_TEST_DATA", ROOT.parent / "shared" / "data"))  # real SQuAD data

needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no real SQuAD data in {SHARED}")
