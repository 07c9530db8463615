"""Attention masks that are left out, or made without a look at the device.

Before each forward pass, transformers reads whether a batch has any padding, to leave the mask out where there is none.
On a GPU that read waits for all work that is queued, and the GPU then has nothing to do until the host has queued more.
`without_reads` makes a model build its mask in any case: batches here nearly always have a little padding.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "sdpa_always_masked"


def mask_is_optional(model: Any) -> bool:
    """Whether a model takes a batch without padding as it is: to look at a mask costs 3% of a short question's time."""
    if not isinstance(model, PreTrainedModel):
        return False
    mask = inspect.signature(model.forward).parameters.get("attention_mask")
    return mask is not None and mask.default is None


def without_reads(model: Any) -> None:
    """Let a model that attends by ``sdpa`` build its masks without reading them first; others stay as they are."""
    if getattr(model.config, "_attn_implementation", None) != "sdpa" or not model._can_set_attn_implementation():
        return
    AttentionInterface.register(_NAME, sdpa_attention_forward)
    AttentionMaskInterface.register(_NAME, _mask)
    model.set_attn_implementation(_NAME)


def _mask(*args: Any, **options: Any) -> Tensor | None:
    mask: Tensor | None = sdpa_mask(*args, **{**options, "allow_is_bidirectional_skip": False})
    return mask
