"""Fixtures: a Hub on this machine, the model folder of a training run, and a model folder without a run."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import jinja2
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.hub_server import TOKEN, HubServer


@pytest.fixture
def printed_lines() -> None:
    """Silence the libraries as the commands do."""
    commands.quiet_libraries()


@pytest.fixture(autouse=True)
def _every_value_of_a_card_is_given(monkeypatch) -> None:
    """Jinja shows nothing for a name that it does not know; here it is an error."""
    monkeypatch.setattr(jinja2, "Template", partial(jinja2.Template, undefined=jinja2.StrictUndefined))


@pytest.fixture
def hub(monkeypatch):
    """A Hub that accepts one token, `HF_TOKEN`; the Hub's client is pointed to it."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server.hub
        close_session()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, model_folder) -> Path:
    """The model folder of a training run."""
    folder = tmp_path_factory.mktemp("run")
    train = write_json(folder / "train.json", make_rows(40, long=2))
    validation = write_json(folder / "validation.json", make_rows(12, long=1))
    flags = {
        "data.dataset": train,
        "data.validation": validation,
        "data.max_length": 48,
        "data.doc_stride": 12,
        "data.max_question_length": 12,
        "model.model_name": model_folder,
        "model.warmup_ratio": 0.1,
        "model.layer_decay": 0.8,
        "model.attention_dropout": 0.0,
        "ema_decay": 0.5,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.accumulate_grad_batches": 2,
        "trainer.default_root_dir": folder,
    }
    assert commands.train([word for name, value in flags.items() for word in (f"--{name}", str(value))]) == 0
    return folder / "lightning_logs" / "version_0" / "model"


@pytest.fixture
def folder(tmp_path, model_folder) -> Path:
    """A model folder without a run."""
    return Path(shutil.copytree(model_folder, tmp_path / "model"))
