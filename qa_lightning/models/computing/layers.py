"""The layers of a model: which of its modules they are, and compiling one of them for all."""

from __future__ import annotations

from typing import Any

from torch import nn


def layer_names(model: nn.Module) -> list[str]:
    """The names of a model's layers, from the first to the last: the entries of its module lists.

    Lists within a layer do not count, and of lists of lists the inner ones do.
    """
    names: list[str] = []
    for name, module in model.named_modules():
        holds_lists = any(isinstance(child, nn.ModuleList) for child in module.children())
        within = name.startswith(tuple(f"{layer}." for layer in names))
        if isinstance(module, nn.ModuleList) and not holds_lists and not within:
            names += [f"{name}.{child}" for child, _ in module.named_children()]
    return names


def compile_layers(model: Any, **options: Any) -> None:
    """Compile a model with ``torch.compile``, in place, for batches of any size: each layer by itself.

    Layers that are alike share what was compiled for the first of them, so that compiling takes as long for 24 layers
    as for one. A model without layers is compiled as a whole. Weights keep their names.

    Args:
        model: a transformers model.
        **options: arguments of ``torch.compile``; without a ``backend``, inductor does not try out which kernels are
            fastest, as their sums would differ in the last bits from one process to the next.
    """
    from torch._inductor import config as inductor  # takes a while

    if "backend" not in options and hasattr(inductor, "deterministic"):  # since torch 2.9
        options = {"options": {"deterministic": True}, **options}
    # A cache of keys, which only generation needs, would make every layer a case of its own.
    model.config.use_cache = False
    for layer in [model.get_submodule(name) for name in layer_names(model)] or [model]:
        layer.compile(dynamic=True, **options)
