"""Windows are cut in many threads at once: no tokenizer is shared, and the cached ones are few."""

from __future__ import annotations

import pickle

import pytest

from qa_lightning import QuestionAnsweringPipeline
from qa_lightning.features.windows import WindowSettings
from qa_lightning.inference import cutting
from qa_lightning.inference.cutting import MAX_WINDOWERS, Windowers
from tests.helpers import v4_models
from tests.helpers.soak_threads import alike, calls, pipelines, soak

ITEMS = [{"question": "Who?", "context": "Ada lives in Oslo."}]


@pytest.mark.parametrize("number", [0, 1], ids=["default", "v4"])
def test_many_threads_with_mixed_settings_get_what_serial_calls_get(number) -> None:
    ask = pipelines()[number]
    tally = soak(ask, seconds=2.5)
    assert not tally.wrong, tally.wrong[:3]
    assert tally.calls > 50
    assert tally.windowers == (0 if ask.compat else MAX_WINDOWERS)


@pytest.mark.parametrize("number", [0, 1], ids=["default", "v4"])
def test_the_pipelines_own_tokenizer_is_not_touched(number) -> None:
    """Whatever another part of a program does with it, even truncate; and the other way round."""
    ask = pipelines()[number]
    texts, settings = calls()[4]
    wanted = ask(**texts, **settings)
    backend = ask.tokenizer.backend_tokenizer
    backend.enable_truncation(7)
    backend.enable_padding(length=50)
    before = backend.truncation, backend.padding
    assert ask(**texts, **settings) == wanted
    assert (backend.truncation, backend.padding) == before


def test_the_least_recently_used_windower_goes_first(monkeypatch) -> None:
    made = []

    class Noted(cutting.Windower):
        def __init__(self, tokenizer, settings, **keywords) -> None:
            made.append(settings.max_length)
            super().__init__(tokenizer, settings, **keywords)

    monkeypatch.setattr(cutting, "Windower", Noted)
    _, tokenizer = v4_models.load("bert")
    windowers = Windowers(tokenizer)
    lengths = list(range(40, 40 + MAX_WINDOWERS))
    for length in [*lengths, 40, 99, 40, 41]:  # 99 takes the place of 41, since 40 was used again; 41 then that of 42
        windowers.cut(ITEMS, WindowSettings(length, 0, 8))
    assert made == [*lengths, 99, 41]
    assert len(windowers) == MAX_WINDOWERS


@pytest.mark.parametrize("compat", [None, "v4"])
def test_a_pipeline_can_be_sent_to_another_process(compat) -> None:
    model, tokenizer = v4_models.load("bert")
    ask = QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, compat=compat)
    texts, settings = calls()[2]
    wanted = ask(**texts, **settings)
    other = pickle.loads(pickle.dumps(ask))
    assert alike(other(**texts, **settings), wanted)
