"""Training steps as CUDA graphs: a GPU that is given a whole step at once does not wait for the host.

A step of BERT-base is some 1,500 small operations; queueing them takes the host 15 to 20 ms, in which an H200 could
compute several batches of 8. A graph is recorded when a shape of batch comes for the second time, and is from then on
queued as one operation. It does the same operations, in the same order, as are done without it.

The price: batches are padded to multiples of `LENGTHS_APART` tokens, so that there are few shapes; gradients stay in
memory between steps. Limits: one device, float32 or bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from qa_lightning.errors import InputError, one_line
from qa_lightning.models.computing.memory import is_out_of_memory

LENGTHS_APART = 16  # tokens: at most 24 lengths up to 384
_MOST_GRAPHS = 64  # shapes beyond these are computed without a graph

_Inputs = dict[str, Tensor]


def graph_problems(trainer: Trainer, given: Mapping[str, Any]) -> list[str]:
    """A line for each reason why CUDA graphs, if they are asked for, cannot hold the steps of a Trainer.

    Args:
        trainer: which fits.
        given: arguments of the module.
    """
    if not given["cuda_graphs"]:
        return []
    problems = []
    if (kind := trainer.strategy.root_device.type) != "cuda":
        problems.append(f"it needs a CUDA GPU, and this run is on the device {kind!r}")
    if not isinstance(trainer.strategy, SingleDeviceStrategy):
        problems.append("it trains on one device, without a --trainer.strategy for several")
    if str(trainer.precision).startswith("16"):
        problems.append(f"it cannot scale losses, as --trainer.precision {trainer.precision} does; use bf16-mixed")
    if any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        problems.append("it cannot take in weights that a callback thaws in mid-run")
    if given["compile"]:
        problems.append("it does not go together with --model.compile true")
    return [f"--model.cuda_graphs true: {problem}; leave it out" for problem in problems]


def shape_problems(given: Mapping[str, Any], finds_batch_size: bool) -> list[str]:
    """A line if CUDA graphs cannot foresee the shapes of batches.

    Args:
        given: arguments of the module.
        finds_batch_size: whether memory decides how many windows a batch has.
    """
    if not (given["cuda_graphs"] and finds_batch_size):
        return []
    return [
        "--model.cuda_graphs true keeps memory for each shape of batch, which --data.batch_size auto cannot foresee; "
        "leave one out"
    ]


@dataclass(frozen=True)
class _Recorded:
    inputs: _Inputs
    losses: Tensor
    graph: torch.cuda.CUDAGraph


class StepGraphs:
    """Computes the losses of batches and adds up the gradients, by one graph per shape of batch.

    Random numbers are those of the current CUDA seed.

    Args:
        losses: the loss of each feature, [B], of a batch on the device.
        parameters: those that are trained; their ``grad`` is kept from step to step.
    """

    def __init__(self, losses: Callable[[Mapping[str, Tensor]], Tensor], parameters: list[torch.nn.Parameter]) -> None:
        self._losses = losses
        self._parameters = parameters
        self._gradients = [torch.zeros_like(parameter) for parameter in parameters]
        self._graphs: dict[tuple[tuple[str, torch.Size], ...], _Recorded | None] = {}  # None: seen once
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def zero(self) -> None:
        """Set all gradients to zero. The graphs add to these very tensors, so nothing may replace or free them."""
        torch._foreach_zero_(self._gradients)
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def losses(self, batch: Mapping[str, Tensor], weights: Tensor) -> Tensor:
        """The losses, [B], of a batch; the gradients of their weighted sum are added to the parameters' own.

        Args:
            batch: on the device.
            weights: [B], of each loss.
        """
        inputs: _Inputs = {**batch, "weights": weights}
        shape = tuple((name, tensor.shape) for name, tensor in inputs.items())
        recorded = self._graphs.get(shape)
        if recorded is None:
            if shape not in self._graphs or len(self._graphs) > _MOST_GRAPHS:
                self._graphs.setdefault(shape, None)
                return self._computed(inputs)
            recorded = self._graphs[shape] = self._record(inputs)
        for name, tensor in inputs.items():
            recorded.inputs[name].copy_(tensor, non_blocking=True)
        recorded.graph.replay()
        return recorded.losses.clone()  # the next replay overwrites them

    def _computed(self, inputs: _Inputs) -> Tensor:
        losses = self._losses(inputs)
        (losses * inputs["weights"]).sum().backward()  # type: ignore[no-untyped-call]
        return losses.detach()

    def _record(self, inputs: _Inputs) -> _Recorded:
        """Record the step; nothing is computed."""
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        # What autocast has cast so far, it would not cast again: the graph must, in each replay.
        torch.clear_autocast_cache()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Not `torch.cuda.graph`, which collects garbage and empties the allocator's cache before each recording.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                losses = self._computed(own)
            except RuntimeError as error:  # out of memory too: whoever handles it needs a stream that records nothing
                with suppress(RuntimeError):
                    graph.capture_end()
                if is_out_of_memory(error):
                    raise
                raise InputError(
                    f"--model.cuda_graphs true: this model cannot be recorded ({one_line(error)}); leave it out"
                ) from None
            graph.capture_end()
        torch.cuda.current_stream().wait_stream(self._stream)
        torch.clear_autocast_cache()
        return _Recorded(own, losses, graph)
