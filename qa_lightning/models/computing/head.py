"""A question answering head on any base model of transformers: a linear layer from each token's vector to two logits.

A copy of this file lies in the folder of each model with this head, as ``load_model.py``: it needs nothing but torch
and transformers, and runs no code of the Hub::

    from load_model import load  # in the folder of the model, or with that folder in sys.path

    model = load("FOLDER")

The folder's ``config.json`` is that of the base model. So ``AutoModel.from_pretrained`` loads the base model from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.modeling_outputs import QuestionAnsweringModelOutput

ARCHITECTURE = "EncoderForQuestionAnswering"  # in ``config.json``


class SpanHead:
    """The part that all classes of `head_class` share.

    Attention is bidirectional if the config has ``is_causal`` false, or is that of an encoder; else causal.
    """

    config: Any
    base_model_prefix: str

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        encoder = AutoModel.from_config(config)
        if getattr(config, "is_causal", None) is False:
            for module in encoder.modules():
                if getattr(module, "is_causal", None) is True:
                    module.is_causal = False
        setattr(self, self.base_model_prefix, encoder)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        kind: Any = type(encoder)
        self._takes = _arguments(kind)
        self.post_init()  # type: ignore[attr-defined]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **options: Any,
    ) -> QuestionAnsweringModelOutput:
        """Compute the logits of a batch.

        Args:
            input_ids: [B, T]; ids beyond the vocabulary are read as padding.
            attention_mask: [B, T], 0 at padding; None for no padding.
            token_type_ids: [B, T]; ignored if the base model has no token types.
            **options: further arguments of the base model, such as ``output_attentions``.

        Returns:
            ``start_logits`` and ``end_logits``, [B, T] each.
        """
        if "token_type_ids" in self._takes and token_type_ids is not None:
            options["token_type_ids"] = token_type_ids
        if "use_cache" in self._takes:
            options.setdefault("use_cache", False)  # of use for generation alone
        size = self.config.vocab_size
        known = torch.where(input_ids < size, input_ids, getattr(self.config, "pad_token_id", None) or 0)
        output = getattr(self, self.base_model_prefix)(input_ids=known, attention_mask=attention_mask, **options)
        logits = self.qa_outputs(output.last_hidden_state)
        return QuestionAnsweringModelOutput(
            start_logits=logits[..., 0].contiguous(),
            end_logits=logits[..., 1].contiguous(),
            hidden_states=getattr(output, "hidden_states", None),
            attentions=getattr(output, "attentions", None),
        )

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle and copy by the config's class, as the model's own class has no module to be found in."""
        return _blank, (type(self.config),), self.__dict__


def head_class(config: Any) -> Any:
    """The class of models with this head, for the kind of base model that a config describes.

    It is a subclass of the kind's own pre-trained class, as transformers' heads are: names of weights, initial values
    and attention are the kind's own.

    Raises:
        KeyError: transformers has no base model of this kind.
    """
    kind: Any = type(config)
    return _class_for(kind)


def load(folder: str, **options: Any) -> Any:
    """Load a model with this head in eval mode.

    Args:
        folder: a folder, or a name on the Hub.
        **options: further arguments of ``from_pretrained``.
    """
    config = options.pop("config", None) or AutoConfig.from_pretrained(folder)
    return head_class(config).from_pretrained(folder, config=config, **options).eval()


@cache
def _class_for(config_class: Hashable) -> Any:
    encoder = base_class(config_class)
    parents = [parent for parent in encoder.__mro__[1:] if issubclass(parent, PreTrainedModel)]
    base = next(parent for parent in parents if parent.__name__.endswith("PreTrainedModel"))
    names = {"base_model_prefix": base.base_model_prefix or "encoder", "config_class": config_class}
    return type(ARCHITECTURE, (SpanHead, base), {"__module__": __name__, "__doc__": SpanHead.__doc__, **names})


def base_class(config_class: Any) -> Any:
    """The class of the base model for a class of configs.

    Raises:
        KeyError: transformers has none.
    """
    found = AutoModel._model_mapping[config_class]
    return found[0] if isinstance(found, tuple | list) else found


@cache
def _arguments(encoder: Hashable) -> frozenset[str]:
    return frozenset(inspect.signature(encoder.forward).parameters)  # type: ignore[attr-defined]


def _blank(config_class: Any) -> Any:
    cls = _class_for(config_class)
    return cls.__new__(cls)
