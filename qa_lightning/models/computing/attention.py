"""Attention masks that are left out, or made without a look at the device; attention in training on a CPU.

Before each forward pass, transformers reads whether a batch has any padding, to leave the mask out where there is none.
On a GPU that read waits for all work that is queued, and the GPU then has nothing to do until the host has queued more.
`without_reads` makes a model build its mask in any case: batches here nearly always have a little padding.

On a CPU, PyTorch's attention draws its dropout slowly, and transformers' eager one also computes the softmax in float32
in memory. `use_fast_attention` computes it in the dtype of the scores, whose sums PyTorch keeps in float32.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from qa_lightning.models.computing.dropout import dropped

_ALWAYS_MASKED = "sdpa_always_masked"
_FAST = "sdpa_fast_training"
_LONGEST = 512  # tokens; for longer inputs without dropout, PyTorch's attention, which keeps no T x T scores


def mask_is_optional(model: Any) -> bool:
    """Whether a model takes a batch without padding as it is: to look at a mask costs 3% of a short question's time."""
    if not isinstance(model, PreTrainedModel):
        return False
    mask = inspect.signature(model.forward).parameters.get("attention_mask")
    return mask is not None and mask.default is None


def without_reads(model: Any) -> None:
    """Let a model that attends by ``sdpa`` build its masks without reading them first; others stay as they are."""
    if _attends_by_sdpa(model):
        model.set_attn_implementation(_ALWAYS_MASKED)


def use_fast_attention(model: Any) -> None:
    """Let a model that attends by ``sdpa`` train faster on a CPU; others stay as they are, and so does eval mode."""
    if _attends_by_sdpa(model):
        model.set_attn_implementation(_FAST)


def use_usual_attention(model: Any) -> None:
    """Undo `without_reads` and `use_fast_attention`."""
    if _attends_by_sdpa(model):
        model.set_attn_implementation("sdpa")


def _attends_by_sdpa(model: Any) -> bool:
    """Whether it does, or did before one of the functions above."""
    if not isinstance(model, PreTrainedModel):
        return False
    by_sdpa = getattr(model.config, "_attn_implementation", None) in ("sdpa", _ALWAYS_MASKED, _FAST)
    return by_sdpa and bool(model._can_set_attn_implementation())


def _mask(*args: Any, **options: Any) -> Tensor | None:
    mask: Tensor | None = sdpa_mask(*args, **{**options, "allow_is_bidirectional_skip": False})
    return mask


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it.

    Args:
        module: the layer's attention, whose mode counts.
        query, key, value: [B, H, T, D] each; key and value may have fewer heads.
        attention_mask: [B, 1, T, T], true where a token attends to another; None: everywhere.
        dropout: of the attention weights.
        scaling: of the scores; None: 1 / sqrt(D).
        **options: what else PyTorch's attention would be given.

    Returns:
        [B, T, H, D].
    """
    if not _is_ours(module, query, key, attention_mask, dropout, options):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return found
    if torch.is_autocast_enabled("cpu"):  # rotary positions leave query and key in float32
        query, key, value = (part.to(torch.get_autocast_dtype("cpu")) for part in (query, key, value))
    with torch.autocast("cpu", enabled=False):  # which would have the softmax compute, and keep, float32
        scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(2, 3)
        if attention_mask is not None:
            nothing, lowest = (scores.new_tensor(number) for number in (0.0, torch.finfo(scores.dtype).min))
            scores += torch.where(attention_mask, nothing, lowest)
        weights = scores.softmax(-1)
        return (dropped(weights, dropout) @ value).transpose(1, 2).contiguous(), None


def _is_ours(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, dropout: float, options: dict[str, Any]
) -> bool:
    """Whether `_attend` computes it itself: in training on a CPU, with nothing more than heads and a mask."""
    if not module.training or query.device.type != "cpu" or query.shape[1] != key.shape[1]:
        return False
    if any(options.get(name) is not None for name in ("position_bias", "softcap", "cache")):
        return False
    if mask is None:
        is_causal = options.get("is_causal")
        if getattr(module, "is_causal", True) if is_causal is None else is_causal:
            return False
    elif mask.dtype != torch.bool:
        return False
    return dropout > 0 or query.shape[2] <= _LONGEST


AttentionInterface.register(_ALWAYS_MASKED, sdpa_attention_forward)
AttentionMaskInterface.register(_ALWAYS_MASKED, _mask)
AttentionInterface.register(_FAST, _attend)
AttentionMaskInterface.register(_FAST, sdpa_mask)
