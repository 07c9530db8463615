"""The layers of a model: which of its modules they are, how deep each parameter is, and compiling one for all."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from torch import nn

_MOST_CASES = 32  # of one layer's code


_WRAPPED = "base_model.model."  # before the names in a model that peft has wrapped


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


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Name of each parameter -> its depth: 0 for embeddings, 1 to L for the L layers, L + 1 for the head.

    In the encoder (transformers' ``base_model_prefix``), embedding tables have depth 0. Outside of tables and layers, a
    norm has the depth of the parameter before it, that after a table the table's; the rest has that of the highest
    layer before it. Everything outside the encoder is the head.
    """
    layers = [f"{name}." for name in layer_names(model)]
    encoder = f"{getattr(model, 'base_model_prefix', '')}."
    modules = dict(model.named_modules())
    depths: dict[str, int] = {}
    below = highest = 0
    for name, _ in model.named_parameters():
        module = modules[name.rpartition(".")[0]]
        layer = next((depth for depth, layer in enumerate(layers, 1) if name.startswith(layer)), None)
        if isinstance(module, nn.Embedding):
            below = 0
        elif layer is not None:
            below = layer
        elif "Norm" not in type(module).__name__:
            below = highest
        highest = max(highest, below)
        within = name.removeprefix(_WRAPPED).startswith(encoder)
        depths[name] = below if within else len(layers) + 1
    return depths


def compile_layers(model: Any, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile a model with ``torch.compile``, in place, for batches of any size: each layer by itself.

    Layers that are alike share what was compiled for the first of them, so that compiling takes as long for 24 layers
    as for one. A model without layers is compiled as a whole. Weights keep their names.

    Args:
        model: a transformers model.
        backend: of ``torch.compile``. Inductor does not try out which kernels are fastest, as their sums would differ
            in the last bits from one process to the next.
    """
    import torch._dynamo.config as dynamo  # these take a while
    import torch._inductor.config as inductor

    # It warns of shapes that it cannot tell apart, which costs nothing.
    logging.getLogger("torch.fx.experimental.symbolic_shapes").setLevel(logging.ERROR)
    # Its own limit is 8; each kind of layer has training, validation, and batches of one window in both.
    limit = "recompile_limit" if hasattr(dynamo, "recompile_limit") else "cache_size_limit"  # before torch 2.6
    setattr(dynamo, limit, max(_MOST_CASES, getattr(dynamo, limit)))
    settled = backend == "inductor" and hasattr(inductor, "deterministic")  # since torch 2.9
    if "use_cache" in inspect.signature(model.base_model.forward).parameters:
        # A cache of keys, which only generation needs, would make every layer a case of its own.
        model.base_model.register_forward_pre_hook(_without_cache, with_kwargs=True)
    for layer in [model.get_submodule(name) for name in layer_names(model)] or [model]:
        layer.compile(dynamic=True, backend=backend, options={"deterministic": True} if settled else None)


def is_compiled(model: nn.Module) -> bool:
    """Whether a model, or a part of it, was compiled with ``torch.compile``."""
    parts = [model, *model.modules()]
    return any(part._compiled_call_impl is not None or hasattr(part, "_orig_mod") for part in parts)


def _without_cache(module: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return args, {**options, "use_cache": False}
