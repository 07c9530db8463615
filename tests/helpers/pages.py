"""A page to ask in, served on the loopback address in a thread, whose model's logits are steered by words."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from qa_lightning.features.batching import Batch, PaddingCollator
from qa_lightning.features.windows import Windower
from qa_lightning.inference.asking import AskedModel
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.pages.demo.answers import Asker
from qa_lightning.pages.demo.bounds import quiet_gradio
from qa_lightning.pages.demo.examples import Opening, Openings
from qa_lightning.pages.demo.limits import Limits
from qa_lightning.pages.demo.page import Page
from qa_lightning.pages.demo.server import Server, address_of, bound_socket, hosts_of
from tests.helpers.models import small_tokenizer

# Logit of the start and of the end of an answer, by the word that the question begins with; "no answer" has 0.
WORDS = {
    "where": {"rome": 3.0, "paris": 2.0, "oslo": 1.0},
    "who": {"anna": 3.0, "ben": 2.5, "carl": 2.0, "dora": 1.5},
}
OTHER = -4.0  # of every other token
SETTINGS = AnswerSettings(max_length=64, doc_stride=16, max_question_length=24, max_answer_length=5, version_2=True)
OPENINGS = Openings(
    [Opening("Where is Anna?", "Ben is in Oslo. Anna is in Paris."), Opening("Who works?", "Dora works.")], "of a test"
)


def steered_model(settings: AnswerSettings = SETTINGS) -> AskedModel:
    """A model without weights: answers "where" with a city, and "who" with a person."""
    tokenizer = small_tokenizer()
    vocabulary = tokenizer.get_vocab()

    def forward(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        ids = batch["input_ids"]
        logits = torch.full(ids.shape, OTHER)
        for word, known in WORDS.items():
            asked = (ids[:, 1] == vocabulary[word])[:, None]
            for name, logit in known.items():
                logits[(ids == vocabulary[name]) & asked] = logit
        logits[:, 0] = 0.0
        return logits, logits.clone()

    return AskedModel(Windower(tokenizer, settings.windows), settings, forward, PaddingCollator(tokenizer), 32)


@contextmanager
def served(
    asker: Asker, openings: Openings = OPENINGS, name: str = "steered", report: Path | None = None
) -> Iterator[str]:
    """The address of a page that is served while the context lasts."""
    ready = threading.Event()
    with quiet_gradio():
        bound = bound_socket("127.0.0.1", 0)
        page = Page(asker, name, openings, report)
        server = Server(page.app(hosts_of("127.0.0.1", None)), bound, ready.set)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            yield address_of(bound, "127.0.0.1")
        finally:
            server.stop()
            thread.join(10)
            assert not thread.is_alive()


def steered_asker(limits: Limits = Limits(), settings: AnswerSettings = SETTINGS) -> Asker:  # noqa: B008 - frozen
    """An asker of `steered_model`."""
    return Asker(steered_model(settings), limits)
