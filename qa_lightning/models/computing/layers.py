"""The layers of a model: which of its modules they are, how deep each parameter is, and compiling one for all."""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from torch import nn

_MOST_CASES = 32  # of one layer's code


_HEAD = "qa_outputs."  # before the names in the head of most models
_WRAPPED = "base_model.model."  # before the names in a model that peft has wrapped


def layers_of(model: nn.Module) -> list[tuple[str, ...]]:
    """The layers of a model, from the first to the last: for each the names of its modules, entries of module lists.

    Lists within a layer do not count, and of lists of lists the inner ones do. Where a module has several lists of one
    length, the entries of one place are one layer: in FlauBERT and XLM attention, feed-forward part and both norms.
    """
    names: list[str] = []
    alike: defaultdict[tuple[str, int], list[list[str]]] = defaultdict(list)
    for name, module in model.named_modules():
        holds_lists = any(isinstance(child, nn.ModuleList) for child in module.children())
        within = name.startswith(tuple(f"{layer}." for layer in names))
        if isinstance(module, nn.ModuleList) and not holds_lists and not within:
            entries = [f"{name}.{child}" for child, _ in module.named_children()]
            names += entries
            parent = name.rpartition(".")[0]
            if isinstance(model.get_submodule(parent), nn.ModuleList):  # a list of lists has them one after another
                parent = name
            alike[parent, len(entries)].append(entries)
    return [layer for lists in alike.values() for layer in zip(*lists, strict=True)]


def layer_names(model: nn.Module) -> list[str]:
    """The names of the modules in all layers of a model; see `layers_of`."""
    return [name for layer in layers_of(model) for name in layer]


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Name of each parameter -> its depth: 0 for embeddings, 1 to L for the L layers, L + 1 for the head.

    In the encoder (transformers' ``base_model_prefix``), embedding tables have depth 0. Outside of tables and layers, a
    norm has the depth of the parameter before it, that after a table the table's; the rest has that of the highest
    layer before it. Everything outside the encoder is the head. T5 has no module of the prefix: there, all but
    ``qa_outputs`` is the encoder. Where the two cannot be told apart, everything is the head.
    """
    layers = [tuple(f"{name}." for name in layer) for layer in layers_of(model)]
    encoder = f"{getattr(model, 'base_model_prefix', '')}."
    modules = dict(model.named_modules())
    paths = {name: name.removeprefix(_WRAPPED) for name, _ in model.named_parameters()}
    has_encoder = any(path.startswith(encoder) for path in paths.values())
    has_head = any(path.startswith(_HEAD) for path in paths.values())
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
        within = paths[name].startswith(encoder) if has_encoder else has_head and not paths[name].startswith(_HEAD)
        depths[name] = below if within else len(layers) + 1
    return depths


def unknown_encoder(flag: str, model: nn.Module, name: str) -> str:
    """A line that refuses a flag for a model in which `layer_depths` finds no encoder.

    Args:
        flag: with its value.
        model: a head on an encoder.
        name: of the model.
    """
    return f"{flag}: in {name} ({type(model).__name__}), the encoder cannot be told from the head; leave it out"


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
