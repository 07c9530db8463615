"""A trained module -> a folder that any transformers user can load and ask."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from qa_lightning.inference.reader import CONFIG_KEY, AnswerSettings
from qa_lightning.models.loading import quiet_transformers
from qa_lightning.runs.checkpoints import new_file_mode


def save_model(
    model: Any,
    tokenizer: Any,
    settings: AnswerSettings,
    folder: Path,
    weights: Mapping[str, Tensor],
    prefix: str = "",
) -> None:
    """Write config, safetensors and tokenizer, with how to ask the model under ``qa_lightning`` in ``config.json``.

    ``AutoModelForQuestionAnswering.from_pretrained(folder)`` loads it, with or without this package.

    Args:
        model: its configuration is written.
        tokenizer, settings: what it is asked with.
        folder: to write to.
        weights: whole, where the model itself may hold a shard of them.
        prefix: of the names in ``weights`` that are the model's.
    """
    setattr(model.config, CONFIG_KEY, asdict(settings))
    part = folder.with_name(f".{folder.name}.part")  # a folder that is there is whole
    shutil.rmtree(part, ignore_errors=True)
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    try:
        with quiet_transformers():
            model.save_pretrained(part, state_dict=own)
        tokenizer.save_pretrained(part)
        for file in part.iterdir():
            file.chmod(new_file_mode())  # safetensors lets the owner alone read
        if folder.exists():
            shutil.rmtree(folder)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
