"""The answers of a pipeline call, chosen from random logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qa_lightning.decoding.spans import Scaling
from qa_lightning.features.batching import PaddingCollator
from qa_lightning.features.windows import WindowSettings
from qa_lightning.inference.cutting import Windowers
from qa_lightning.inference.engine import BestAnswers, RankedAnswers, answer_all
from qa_lightning.inference.settings import CallSettings
from qa_lightning.models.loading import load_tokenizer
from qa_lightning.models.settings import AnswerSettings

CONTEXTS = [
    "Anna lives in Oslo, Ben works in Rome. anna Anna ANNA, in oslo in Rome (in Rome).",
    "Rome, " * 60 + "Anna lives",  # several windows
]


@pytest.fixture(scope="module")
def cut(model_folder):
    """The windows of the same question to each context, and the collator of their batches."""
    tokenizer = load_tokenizer(model_folder)
    items = [{"question": "Where does Anna live?", "context": context} for context in CONTEXTS]
    return Windowers(tokenizer).cut(items, WindowSettings(48, 12, 16)), PaddingCollator(tokenizer)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 0.3, 1.0, 2.0, 4.0, 10.0]),
    words=st.booleans(),
    impossible=st.booleans(),
)
def test_fewer_answers_are_the_first_of_more(cut, seed: int, scale: float, words: bool, impossible: bool) -> None:
    """With their scores to the last bit: those of one text are sums, which more spans must not change."""
    questions, collate = cut
    random = np.random.default_rng(seed)
    shape = (len(questions.store), 48)
    logits = {name: torch.tensor(random.normal(size=shape) * scale, dtype=torch.float32) for name in ("start", "end")}

    def forward(batch):
        width = batch["input_ids"].shape[1]
        return tuple(logits[name][batch["feature"], :width] for name in ("start", "end"))

    def answers(top_k: int):
        own = CallSettings(top_k, 8, handle_impossible_answer=impossible, align_to_words=words)
        return answer_all(RankedAnswers(questions, own), forward, collate, 4)

    for number, every in enumerate(answers(40)):
        assert [answer["score"] for answer in every] == sorted((answer["score"] for answer in every), reverse=True)
        for top_k in (1, 2, 3, 4, 7, 15):
            assert answers(top_k)[number] == every[:top_k]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    words=st.booleans(),
    above=st.sampled_from([-0.5, -1e-9, 0.0, 1e-9, 0.5]),
)
def test_no_answer_comes_first_where_the_threshold_says_so(cut, seed: int, scale: float, words: bool, above) -> None:
    """As the other policy decides, though spans that read alike may be likelier together; and nothing else moves."""
    questions, collate = cut
    random = np.random.default_rng(seed)
    shape = (len(questions.store), 48)
    logits = [torch.tensor(random.normal(size=shape) * scale, dtype=torch.float32) for _ in range(2)]

    def forward(batch):
        return tuple(one[batch["feature"], : batch["input_ids"].shape[1]] for one in logits)

    def best(threshold: float):
        own = AnswerSettings(48, 12, 16, 8, version_2=True, null_score_diff_threshold=threshold)
        return answer_all(BestAnswers(None, own, questions.items, questions.store), forward, collate, 4)

    for number, answer in enumerate(best(0.0)):
        threshold = answer.null_odds - above
        own = CallSettings(40, 8, align_to_words=words, scaling=Scaling(threshold=threshold))
        plain, listed = (
            answer_all(RankedAnswers(questions, replace(own, handle_impossible_answer=may)), forward, collate, 4)[
                number
            ]
            for may in (False, True)
        )
        assert bool(listed[0]["answer"]) == bool(best(threshold)[number].text)
        rest = [one for one in listed if one["answer"]]
        assert [one["answer"] for one in rest] == [one["answer"] for one in plain][: len(rest)]
        scores = [one["score"] for one in listed]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) <= 1 + 1e-9
