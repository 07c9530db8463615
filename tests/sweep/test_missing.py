"""Without Optuna, ``sweep`` is one error that names the extra."""

from __future__ import annotations

import sys

import pytest

from qa_lightning.errors import InputError
from tests.helpers import commands


def test_without_optuna_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r'sweep needs the package optuna .*; run pip install "qa-lightning\[sweep\]"'):
        commands.sweep(["--trials", "1"])
