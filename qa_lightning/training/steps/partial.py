"""Training a part of a model, adapters or upper layers: what a run says of it, and what does not go with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from qa_lightning.models.adapters import ALPHA, DROPOUT

_FLAGS = ("lora_rank", "freeze_layers")
_LOW_RATE = 1e-4  # Hu et al. (2021, appendix D) trained those of RoBERTa at 2e-4 to 5e-4; MiniLM needs 2e-3


def partial_lines(model: nn.Module, given: Mapping[str, Any]) -> list[str]:
    """What a run says about the part of the model that it trains; nothing if that is all.

    Args:
        model: as it is trained.
        given: arguments of the module.
    """
    flags = [f"--model.{flag} {given[flag]}" for flag in _FLAGS if given.get(flag) is not None]
    usual = {"lora_alpha": ALPHA, "lora_dropout": DROPOUT}
    idle = [f"--model.{flag} {given[flag]}" for flag, value in usual.items() if given.get(flag, value) != value]
    if idle and given.get("lora_rank") is None:
        # A search may vary them beside the rank, so they are not refused.
        return [f"note: {', '.join(idle)}: without effect, as there is no --model.lora_rank"]
    if not flags:
        return []
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    trained, there = sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
    lines = [f"trains: {trained:,} of {there:,} parameters ({', '.join(flags)})"]
    if given.get("lora_rank") is not None and given["learning_rate"] < _LOW_RATE:
        lines.append(
            f"trains: adapters usually need --model.learning_rate 1e-4 to 2e-3, not {given['learning_rate']:g}"
        )
    return lines


def partial_problems(trainer: Trainer, given: Mapping[str, Any]) -> list[str]:
    """A line for each reason why a Trainer cannot train a part of the model, if one is asked for.

    Args:
        trainer: which fits.
        given: arguments of the module.
    """
    problems = []
    for flag in _FLAGS:
        if given.get(flag) is None:
            continue
        if not isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy):
            problems.append(
                f"--model.{flag} {given[flag]}: it trains on one device or with --trainer.strategy ddp, and "
                f"{type(trainer.strategy).__name__} shards weights that train together with those that do not; leave "
                "one out"
            )
        problems += [
            f"--model.{flag} {given[flag]}: --trainer.callbacks {type(callback).__name__} chooses what trains, too; "
            "leave one out"
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, BaseFinetuning)
        ]
    return problems
