"""Which parameters decay, and how the learning rate moves over a run."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import get_linear_schedule_with_warmup


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters by weight decay and learning rate.

    Weight decay for matrices alone: biases and the gains of norm layers are vectors and get none (BERT's rule).

    Args:
        model: with a head on an encoder.
        weight_decay: of matrices.
        learning_rate: of the head.
        layer_decay: what each layer below learns at, as a part of what the one above it does (ELECTRA's rule; Clark et
            al., 2020); 1.0 is the same rate for all, in two groups without names.
    """
    depths = layer_depths(model) if layer_decay != 1.0 else {}
    top = max(depths.values(), default=0)
    groups: defaultdict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[depths.get(name, top), parameter.ndim < 2].append(parameter)
    named = {0: "embeddings", top: "head"} if depths else {}
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if vectors else weight_decay,
            "lr": learning_rate * layer_decay ** (top - depth),
            **({"name": named.get(depth, f"layer{depth}") + ("_vectors" if vectors else "")} if depths else {}),
        }
        for (depth, vectors), parameters in sorted(groups.items(), key=lambda group: (-group[0][0], group[0][1]))
    ]


def layer_depths(model: nn.Module) -> dict[str, int]:
    """How far up each parameter of a model stands: 0 for embeddings, 1 to L for the L layers, L + 1 for the head.

    Layers are the entries of the model's lists of modules, in order; lists within a layer, and lists of lists, do not
    count. What stands behind a layer belongs to it, tables of embeddings to the embeddings, and what is outside the
    encoder (transformers' ``base_model_prefix``) to the head.
    """
    layers: list[str] = []
    for name, module in model.named_modules():
        holds_lists = any(isinstance(child, nn.ModuleList) for child in module.children())
        if isinstance(module, nn.ModuleList) and not holds_lists and not name.startswith(tuple(layers)):
            layers += [f"{name}.{child}." for child, _ in module.named_children()]
    encoder = f"{getattr(model, 'base_model_prefix', '')}."
    tables = {name for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    depths, below = {}, 0
    for name, _ in model.named_parameters():
        below = next((place for place, layer in enumerate(layers, 1) if name.startswith(layer)), below)
        if not name.startswith(encoder):
            depths[name] = len(layers) + 1
        else:
            depths[name] = 0 if name.rpartition(".")[0] in tables else below
    return depths


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019); fused it takes a quarter of the time of the plain loops on a CPU."""
    groups = parameter_groups(model, weight_decay, learning_rate, layer_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=fused)


def linear_schedule(optimizer: torch.optim.Optimizer, total_steps: int, warmup_ratio: float) -> LambdaLR:
    """Rise linearly from 0 over the first ``warmup_ratio`` of the steps, then fall linearly to 0 at ``total_steps``."""
    warmup = math.ceil(total_steps * warmup_ratio)
    schedule: LambdaLR = get_linear_schedule_with_warmup(optimizer, warmup, total_steps)
    return schedule
