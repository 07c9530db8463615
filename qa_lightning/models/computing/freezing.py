"""Freezes the embeddings and the lowest layers of an encoder: they keep their weights, and are not trained.

A frozen part needs no gradients and no optimizer state, and no backward pass, because nothing below it is trained
either. It computes in eval mode, as LightningModule's own ``freeze`` has it and as Lightning's documentation uses a
frozen encoder: without dropout it gives the same features in each epoch, and on a CPU most of the random numbers need
not be drawn. Lee et al. (2019), "What Would Elsa Do? Freezing Layers During Transformer Fine-Tuning", keep 90% of the
quality with a quarter of the layers trained.

Limits: a model that registers a norm of its embeddings after its layers (BART) trains it, so that the backward pass
goes down to it. Dropout between embeddings and layers that is no part of a frozen module (GPT-2, XLNet) stays on.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from qa_lightning.errors import InputError
from qa_lightning.models.computing.layers import layer_depths, layers_of, unknown_encoder
from qa_lightning.wording import counted


def freeze_lowest(model: Any, layers: int, name: str) -> list[str]:
    """Freeze the embeddings and the ``layers`` lowest layers of a model, in place.

    Args:
        model: a head on an encoder.
        layers: 0 freezes the embeddings alone.
        name: of the model, for messages.

    Returns:
        The names of the modules that are frozen as a whole, without those within them; they belong in eval mode.

    Raises:
        InputError: the model has fewer layers, or its encoder is not found.
    """
    count = len(layers_of(model))
    if layers > count:
        raise InputError(f"--model.freeze_layers {layers}: {name} has {counted(count, 'layer')}; pass at most {count}")
    below = {path for path, depth in layer_depths(model).items() if depth <= layers}
    if not below:
        raise InputError(unknown_encoder(f"--model.freeze_layers {layers}", model, name))
    for path, parameter in model.named_parameters():
        if path in below:
            parameter.requires_grad_(False)
    return _whole(model, below, "")


def _whole(module: nn.Module, below: set[str], path: str) -> list[str]:
    """The outermost modules in ``module``, of the name ``path``, all of whose parameters are in ``below``."""
    found = []
    for name, child in module.named_children():
        inner = f"{path}{name}"
        own = [f"{inner}.{parameter}" for parameter, _ in child.named_parameters()]
        if own and below.issuperset(own):
            found.append(inner)
        elif own:
            found += _whole(child, below, f"{inner}.")
    return found
