"""AdamW: which parameters decay, each layer's learning rate, and the schedule of a run."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from qa_lightning.models.computing.layers import layer_depths


def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Group the parameters by weight decay and learning rate.

    Only matrices decay: biases and the gains of norm layers are vectors and do not (BERT's rule).

    Args:
        model: a head on an encoder.
        weight_decay: of matrices.
        learning_rate: of the head.
        layer_decay: a layer's learning rate divided by that of the layer above (ELECTRA's rule; Clark et al., 2020);
            1.0 gives all the same rate, in two groups without names.

    Returns:
        Groups as ``torch.optim`` takes them, from the head down.
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


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, 2019). On a CPU, ``fused`` takes a quarter of the time of the plain loops.

    Groups that callbacks add later decay by ``weight_decay``, too.
    """
    groups = parameter_groups(model, weight_decay, learning_rate, layer_decay)
    return torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay, fused=fused)


class LinearSchedule(LRScheduler):
    """Rise linearly from 0 over the first ``warmup_ratio`` of the steps, then fall linearly to 0 at ``total_steps``.

    Groups of parameters may join the optimizer in mid-run, and the rate of a group may be changed from outside, as
    Lightning's ``BackboneFinetuning`` and ``LearningRateFinder`` do: such a group goes on from the rate that it got.

    Args:
        optimizer: whose rates it sets.
        total_steps: steps of the whole run; see `plan`. Infinite, the rate does not fall.
        warmup_ratio: 0-1; of no effect where the steps are infinite.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, total_steps: float, warmup_ratio: float) -> None:
        self.total_steps, self.warmup_ratio = total_steps, warmup_ratio
        super().__init__(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """The state, without what the run's flags decide: a run that goes on may be longer than it was to be."""
        return {
            name: value for name, value in super().state_dict().items() if name not in ("total_steps", "warmup_ratio")
        }

    def plan(self, total_steps: float) -> None:
        """Have so many steps in the whole run, from the next step on: one that goes on had the rate 0 at its end."""
        self.total_steps = total_steps
        part = self.part(self.last_epoch)
        for place, (group, highest) in enumerate(zip(self.optimizer.param_groups, self.base_lrs, strict=False)):
            if group["lr"] == self._last_lr[place]:  # others were changed from outside
                group["lr"] = self._last_lr[place] = highest * part

    def part(self, step: int) -> float:
        """What part of its highest value the rate is at, 0-1, after ``step`` steps."""
        if math.isinf(self.total_steps):
            return 1.0
        warmup = math.ceil(self.total_steps * self.warmup_ratio)
        if step < warmup:
            return max(0, step) / max(1, warmup)
        return max(0.0, (self.total_steps - step) / max(1, self.total_steps - warmup))

    def get_lr(self) -> list[float | torch.Tensor]:
        """The rate of each group for the next step."""
        given = [group["lr"] for group in self.optimizer.param_groups]
        own = getattr(self, "_last_lr", given)  # none before the first step
        for place, rate in enumerate(given[len(self.base_lrs) :], len(self.base_lrs)):
            self.optimizer.param_groups[place]["initial_lr"] = rate
            self.base_lrs.append(rate)
        before = self.part(self.last_epoch - 1)
        for place, rate in enumerate(given):
            if place >= len(own) or rate != own[place]:
                self.base_lrs[place] = rate / (before or 1.0)
        part = self.part(self.last_epoch)
        return [rate * part for rate in self.base_lrs]
