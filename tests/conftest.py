"""Hermetic fixtures: tokenizers trained here, two-layer models, no network, a cache of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face library is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork

import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, BertTokenizer

from qa_lightning.errors import naming_flags

SHARED = Path(os.environ.get("QA_LIGHTNING_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))

WORDS = """
[PAD] [UNK] [CLS] [SEP] [MASK] the a of in is was where who what lives works city baker paris rome oslo anna ben
carl dora . , ? ! ' - and at to for 1 2 3 19 20 ##s ##ed ##ing ##er ##1 ##2 ##3 ##9 ##0
""".split()


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


class DiskCalls(list):
    """What was made durable and what was put into place, in order: ``("synced", file)``, ``("replaced", path)``.

    A file is told by its inode and its size, as they are at that moment: what was not flushed yet does not count.
    """

    @staticmethod
    def identity(file: int | Path) -> tuple[int, int | None]:
        found = os.stat(file)  # noqa: PTH116 - of a handle, too
        return found.st_ino, None if stat.S_ISDIR(found.st_mode) else found.st_size

    def synced(self, path: Path) -> tuple[str, tuple[int, int | None]]:
        """The event that makes ``path`` durable, whole as it is now."""
        return "synced", self.identity(path)

    def sizes_synced(self, path: Path) -> list[int | None]:
        """How long a file was each time that it was made durable."""
        return [about[1] for kind, about in self if kind == "synced" and about[0] == path.stat().st_ino]

    def hold_in_order(self, wanted: Iterable[object]) -> bool:
        """Whether these events came in this order, with whatever between them."""
        events = iter(self)
        return all(event in events for event in wanted)


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


def small_tokenizer() -> BertTokenizer:
    """WordPiece with the letters and a few words: any Latin text splits into known pieces."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = dict.fromkeys([*WORDS, *letters, *("##" + letter for letter in letters)])
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=512)


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    """The small WordPiece tokenizer."""
    return small_tokenizer()


def small_config(vocab_size: int, **changes) -> BertConfig:
    return BertConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            **changes,
        }
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> str:
    """An untrained two-layer BERT and its tokenizer, as a folder that from_pretrained loads."""
    folder = tmp_path_factory.mktemp("model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForQuestionAnswering(small_config(len(tokenizer))).save_pretrained(folder)
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
