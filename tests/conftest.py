"""Hermetic fixtures: tokenizers trained here, two-layer models, no network, a cache of its own."""

from __future__ import annotations

import gc
import logging
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face library is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a fork of a process with threads of OpenMP hangs

import pytest
import torch
from transformers import BertForQuestionAnswering, BertTokenizer

from qa_lightning.errors import naming_flags
from tests.helpers.disk import DiskCalls
from tests.helpers.models import small_config, small_tokenizer
from tests.helpers.paths import SHARED
from tests.helpers.pictures import empty_pictures

# Under nohup, or in the background of a shell, these are ignored, and so they would be in what the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


MEMORY = Path("/dev/shm")  # a folder in memory, on Linux
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30:
    # Runs wait for the disk whenever they save, as they must: in tests, that is a third of the time.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


# A long file that began last would keep one worker busy alone; these take the most time, the longest first.
LONGEST = (
    *("runs/test_resume", "end_to_end/test_quickstart", "training/test_averages", "end_to_end/test_benchmarks"),
    *("runs/test_lost", "end_to_end/test_kills", "training/test_partial", "runs/test_signals", "runs/test_folders"),
    *("features/test_cache", "end_to_end/test_processes", "pages/test_demo", "models/test_layers"),
    "end_to_end/test_train",
)
# Files that look at figures; in the others, and in what they fork, pictures are empty.
DRAWING = ("metrics/test_plots", "metrics/test_confidence", "runs/test_curves", "end_to_end/test_train")


def place_of(path: Path) -> str:
    """A test file as its folder and its name, without the suffix."""
    return "/".join(path.with_suffix("").parts[-2:])


def pytest_configure(config: pytest.Config) -> None:
    """Keep the order of files: pytest-xdist would put those with many tests first, which are not the long ones."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_finish() -> None:
    """What is loaded by now stays: nobody need look through it for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, then those with many slow tests."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    places = {path: place_of(path) for path in {item.path for item in items}}
    rank = {path: LONGEST.index(place) if place in LONGEST else len(LONGEST) for path, place in places.items()}
    items.sort(key=lambda item: (rank[item.path], -slow[item.path]))


@pytest.fixture(scope="module", autouse=True)
def _empty_pictures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Draw nothing, but write and log pictures as ever."""
    if place_of(request.path) in DRAWING:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qa_lightning.metrics.plots.draw", empty_pictures)
        yield


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """For the whole session, so that fixtures of any scope, too, find nothing that an earlier run prepared."""
    os.environ["QA_LIGHTNING_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real SQuAD data; tests that ask for it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real data in {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def _fresh_log(monkeypatch) -> None:
    """A command binds the log to the standard output of its test: without this, also that of the tests after it."""
    logger = logging.getLogger("qa_lightning")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Collects what the package logs."""
    caplog.set_level(logging.INFO, logger="qa_lightning")
    return caplog


@pytest.fixture
def disk_calls(monkeypatch) -> DiskCalls:
    """Notes every ``os.fsync``, ``os.replace`` and ``Path.replace`` from now on."""
    calls = DiskCalls()
    fsync, replace = os.fsync, os.replace

    def noting_fsync(handle) -> None:
        calls.append(("synced", calls.identity(handle if isinstance(handle, int) else handle.fileno())))
        fsync(handle)

    def noting_replace(source, target, **options) -> None:
        replace(source, target, **options)
        calls.append(("replaced", Path(target)))

    def noting_path_replace(self, target) -> Path:
        noting_replace(self, target)
        return Path(target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    monkeypatch.setattr(Path, "replace", noting_path_replace)
    return calls


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    """The small WordPiece tokenizer."""
    return small_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> str:
    """An untrained two-layer BERT and its tokenizer, as a folder that from_pretrained loads."""
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForQuestionAnswering(small_config(len(tokenizer))).save_pretrained(folder)
    tokenizer.backend_tokenizer.no_padding()  # the state of its last call is saved, too
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def _messages_as_a_command_shows_them(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests hold messages as they read on a command line; `test_errors` has those for Python callers."""
    if request.module.__name__.endswith("test_errors"):
        yield
        return
    with naming_flags():
        yield
