"""Loads several models that answer together: the probabilities of each span are averaged, see `decoding.pairs`.

The models must read the same windows: their tokenizers and lengths must be the same. Each batch goes through one model
after the other, so activations are in memory for one model at a time, and the weights of all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qa_lightning.decoding.pairs import mean_of
from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.features.windows import windowing_key
from qa_lightning.models.load_errors import NoMemoryError
from qa_lightning.models.loading import load_answering_model, max_positions, model_names
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings

_SAME = ("max_length", "doc_stride", "max_question_length", "max_answer_length", "version_2")
_RULES = "rules for cutting texts into tokens"
_TOKENIZER: Mapping[str, Callable[[Any], Any]] = {
    "vocabulary": lambda tokenizer: tokenizer.get_vocab(),
    "padding side": lambda tokenizer: tokenizer.padding_side,
    "padding token": lambda tokenizer: (tokenizer.pad_token_id, tokenizer.pad_token_type_id),
    _RULES: windowing_key,
}

log = logging.getLogger("qa_lightning")


@dataclass(frozen=True)
class EnsembleSettings(AnswerSettings):
    """The settings for answering with an ensemble. They are not saved: each model has its own.

    The threshold is the mean of the models' thresholds, and ``temperature`` that of their temperatures, which changes
    nothing about the mean of their probabilities; both may be fitted anew. There are no scores at precisions, as those
    of one model are not those of the ensemble.

    Args:
        of_models: the temperature at which each model is normalised on its own.
    """

    of_models: tuple[float, ...] = ()

    @classmethod
    def of_each(cls, models: Sequence[AnswerSettings]) -> EnsembleSettings:
        """Those of models whose lengths are the same."""
        first = models[0]
        fitted_to = {one.fitted_to for one in models}
        heats = tuple(one.temperature for one in models)
        return cls(
            **{name: getattr(first, name) for name in _SAME},
            null_score_diff_threshold=mean_of([one.null_score_diff_threshold for one in models]),
            temperature=mean_of(heats),
            fitted_to=first.fitted_to if len(fitted_to) == 1 else "",
            of_models=heats,
        )

    @property
    def scaling(self) -> Scaling:
        """The settings for turning scores into probabilities."""
        return replace(super().scaling, of_models=self.of_models)


class Ensemble(nn.Module):
    """Several models as one: with what `Reader`, a transformers pipeline and a validation need of a model.

    Args:
        names: of the models.
        models: loaded for answering; ONNX models, too.
        takes_types: whether each takes ``token_type_ids``, as its tokenizer says.
        settings: how they are asked.

    Attributes:
        config: that of the first model, with as many positions as all models have.
    """

    input_modalities = "text"

    def __init__(
        self, names: Sequence[str], models: Sequence[Any], takes_types: Sequence[bool], settings: EnsembleSettings
    ) -> None:
        super().__init__()
        self.models = list(models)
        self.torch_models = nn.ModuleList(model for model in models if isinstance(model, nn.Module))
        self.settings = settings
        self.name_or_path = ",".join(names)
        self._takes_types = list(takes_types)
        self.config = deepcopy(models[0].config)
        limits = [(limit, model.config.max_position_embeddings) for model in models if (limit := max_positions(model))]
        if limits:  # `max_positions` takes off again what some models do not use of theirs
            unused = max(every - limit for limit, every in limits)
            self.config.max_position_embeddings = min(limit for limit, _ in limits) + unused
        if any(hasattr(model.config, CONFIG_KEY) for model in models):
            setattr(self.config, CONFIG_KEY, {})  # the settings are those above

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        on_device: list[Any] = [*self.torch_models, *self.models]
        found: torch.device = on_device[0].device
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights of the first model."""
        found: torch.dtype = self.models[0].dtype
        return found

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> QuestionAnsweringModelOutput:
        """Compute the logits of a batch, by one model after the other.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 0 at padding; None for no padding.
            token_type_ids: [B, T]; only for the models that take them.

        Returns:
            ``start_logits`` and ``end_logits``, [B, T, M] float32 each, of M models.
        """
        inputs = {"input_ids": input_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        found = []
        for model, takes_types in zip(self.models, self._takes_types, strict=True):
            types = {"token_type_ids": token_type_ids} if takes_types and token_type_ids is not None else {}
            output = model(**inputs, **types)
            found.append((output.start_logits.float(), output.end_logits.float()))
        start, end = (torch.stack(logits, -1) for logits in zip(*found, strict=True))
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)

    def can_generate(self) -> bool:
        """False: it gives logits, not texts."""
        return False


def models_of(model: Any) -> list[Any]:
    """The models of an ensemble; a model that is none, alone."""
    return model.models if isinstance(model, Ensemble) else [model]


def settings_of(model: Any, tokenizer: Any) -> AnswerSettings:
    """How a loaded model, or an ensemble, is asked; see `AnswerSettings.of_model`."""
    return model.settings if isinstance(model, Ensemble) else AnswerSettings.of_model(model, tokenizer)


def load_asked(
    name: str,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    use_safetensors: bool = True,
    tokenizer: Any = None,
    hub: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
    device: int | str | torch.device | None = None,
    lengths: Mapping[str, int] | None = None,
) -> tuple[Any, Any]:
    """Load a model, or an ensemble of several, for answering, and the tokenizer.

    Args:
        name: see `model_names`.
        dtype, trust_remote_code, use_safetensors, tokenizer, hub, model_options, device: of each model; see
            `load_answering_model`.
        lengths: in place of those of the models, which then need not be the same.

    Raises:
        InputError: a model cannot be loaded, or the models do not read the same windows; all problems are listed.
    """
    how = dtype, trust_remote_code, use_safetensors, tokenizer, hub, model_options, device
    names = model_names(name)
    if len(names) == 1:
        return load_answering_model(names[0], *how)
    loaded: dict[str, tuple[Any, Any, AnswerSettings]] = {}
    problems: list[str] = []
    for one in dict.fromkeys(names):  # a model that is named twice is loaded once
        try:
            model, own = load_answering_model(one, *how)
            changed: Any = lengths or {}
            loaded[one] = model, own, replace(AnswerSettings.of_model(model, own), **changed)
        except NoMemoryError:  # the next ones would not fit, either
            raise
        except InputError as error:
            problems += error.problems
    if not problems:
        problems = list(_differences({one: (own, settings) for one, (_, own, settings) in loaded.items()}))
    if problems:
        raise InputError(problems)
    # Sums depend on the order in their last digits; answers shall not depend on that of the names.
    models, tokenizers, settings = zip(*(loaded[one] for one in sorted(names)), strict=True)
    if any(one.calibrator for one in settings):
        log.info("ensemble: scores are probabilities, without the models' calibrators, each of which is of one model")
    takes_types = ["token_type_ids" in one.model_input_names for one in tokenizers]
    ensemble = Ensemble(names, models, takes_types, EnsembleSettings.of_each(settings))
    return ensemble.eval(), tokenizers[takes_types.index(True) if any(takes_types) else 0]


def _differences(models: Mapping[str, tuple[Any, AnswerSettings]]) -> Iterator[str]:
    """A line for each two models that do not read the same windows; one that equals an earlier one is left out."""
    kinds: dict[str, dict[str, Any]] = {}
    for name, (tokenizer, settings) in models.items():
        own = {what: part(tokenizer) for what, part in _TOKENIZER.items()}
        own |= {each: getattr(settings, each) for each in _SAME}
        if own not in kinds.values():
            kinds[name] = own
    for (one, first), (other, second) in combinations(kinds.items(), 2):
        differing = [what for what in first if first[what] != second[what]]
        about_tokens = [what for what in differing if what in _TOKENIZER]
        # Where another part differs, the rules, which hold all of them, differ too.
        found = [f"their tokenizers' {what}" for what in about_tokens if what != _RULES or len(about_tokens) == 1]
        found += [f"{what} ({first[what]} and {second[what]})" for what in differing if what in _SAME]
        yield (
            f"--model {one} and {other} differ in {', '.join(found)}: models that answer together must read the same "
            "windows; leave one out, or train it again with the other's tokenizer and lengths"
        )
