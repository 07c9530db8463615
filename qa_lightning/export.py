"""A trained module -> a folder that any transformers user can load and ask."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from qa_lightning.models import quiet_transformers
from qa_lightning.pipeline import CONFIG_KEY, AnswerSettings


def save_model(model: Any, tokenizer: Any, settings: AnswerSettings, folder: Path) -> None:
    """Write config, safetensors and tokenizer, with how to ask the model under ``qa_lightning`` in ``config.json``.

    ``AutoModelForQuestionAnswering.from_pretrained(folder)`` loads it, with or without this package.
    """
    setattr(model.config, CONFIG_KEY, asdict(settings))
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
