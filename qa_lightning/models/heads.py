"""Which class a model is loaded as, and whether it attends in both directions.

transformers has a question answering class for some kinds of models. The other kinds get the head of `head`, if their
base model takes ``input_ids`` and ``attention_mask`` and returns a vector for each token. Of models that also read
images or sound, the text part is taken.

Decoders are trained before on what comes next: a token attends to those before it. The start of an answer is easier to
see with what follows it, so a decoder is fine-tuned with attention in both directions, where transformers can do so
(``is_causal`` false in its config, which is saved with it), unless the caller asks for causal attention.
"""

from __future__ import annotations

import inspect
import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoModelForQuestionAnswering
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_QUESTION_ANSWERING_MAPPING

from qa_lightning.errors import InputError
from qa_lightning.features.windows import PairLayout, plain_tokenizer
from qa_lightning.models.computing import head
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.wording import counted

log = logging.getLogger("qa_lightning")

LOADER = "load_model.py"  # the copy of `head` in a model's folder


def has_own_head(model: Any) -> bool:
    """Whether a model has this package's head, in PyTorch or exported."""
    return isinstance(model, head.SpanHead) or head.ARCHITECTURE in (getattr(model.config, "architectures", None) or ())


def write_loader(folder: Path) -> None:
    """Write `LOADER` into a folder."""
    shutil.copyfile(head.__file__, folder / LOADER)


def answering_class(config: Any, name: str) -> Any:
    """The class whose ``from_pretrained`` loads a model with a question answering head.

    Raises:
        InputError: neither transformers nor this package has a head for this kind of model.
    """
    if head.ARCHITECTURE in (getattr(config, "architectures", None) or ()):
        return head.head_class(config)
    remote = getattr(config, "auto_map", None) or {}
    if type(config) in MODEL_FOR_QUESTION_ANSWERING_MAPPING or AutoModelForQuestionAnswering.__name__ in remote:
        return AutoModelForQuestionAnswering
    if reason := _why_none(config):
        raise InputError(
            f"model {name!r} cannot be loaded: this kind of model ({config.model_type}) has no question answering head "
            f"and can get none, as {reason}; choose an encoder such as bert-base-cased"
        )
    return head.head_class(config)


def _why_none(config: Any) -> str | None:
    """Why a base model cannot have this package's head; None if it can, as far as its class tells."""
    if config.is_encoder_decoder:
        return "it is an encoder with a decoder"
    try:
        taken = inspect.signature(head.base_class(type(config)).forward).parameters
    except (KeyError, ValueError):
        return "transformers has no base model of its kind"
    if "input_ids" not in taken:
        return "it reads no texts"
    if "attention_mask" not in taken:
        return "it cannot leave out padding"
    return None if hasattr(config.get_text_config(), "hidden_size") else "its config names no hidden size"


def planned(config: Any, name: str) -> Any:
    """The model with its head, without weights: on the meta device."""
    config = config.get_text_config()
    with quiet_transformers(), torch.device("meta"):
        cls = answering_class(config, name)
        if cls is AutoModelForQuestionAnswering:
            return cls.from_config(config, trust_remote_code=False)
        return cls(config)


def is_trained(config: Any) -> bool:
    """Whether a config is that of a model with a question answering head: it stays as it was trained."""
    return any("QuestionAnswering" in str(kind) for kind in getattr(config, "architectures", None) or ())


def is_decoder(config: Any) -> bool:
    """Whether a base model of this kind is one in which, usually, a token attends to earlier tokens alone."""
    told = _told(config)
    return True in told or (not told and type(config.get_text_config()) in MODEL_FOR_CAUSAL_LM_MAPPING)


def _told(config: Any) -> set[bool]:
    """What the parts of a base model say of themselves: whether they are causal; empty if transformers cannot turn it.

    An encoder with a decoder counts as an encoder.
    """
    text = config.get_text_config()
    if config.is_encoder_decoder or text.is_encoder_decoder:
        return {False}
    try:
        with quiet_transformers(), torch.device("meta"):
            model = AutoModel.from_config(text, trust_remote_code=False)
    except Exception:  # no base model, or one that loading rejects with a reason
        return {False}
    return {told for module in model.modules() if (told := getattr(module, "is_causal", None)) is not None}


def load_pretrained(name: str, folder: str, config: Any, bidirectional: bool | None, **options: Any) -> Any:
    """Load a model to be trained, with a new head if it has none.

    Args:
        name: of the model, for messages.
        folder: what to load from.
        config: of the model; changed.
        bidirectional: what the caller asks for; None: both directions for a decoder without a question answering head,
            if transformers can turn it; as it was trained for one with a head.
        **options: further arguments of ``from_pretrained``.

    Raises:
        InputError: there is no head for this kind of model, or it cannot be made to attend as asked.
    """
    text = config.get_text_config()
    turned = not is_trained(config) and True in _told(config)
    if turned:
        text.is_causal = bidirectional is False
    if text is config or config.is_encoder_decoder:
        cls = answering_class(config, name)
        model, found = cls.from_pretrained(folder, config=config, output_loading_info=True, **options)
        missing = base_weights(model, missing_weights(model, found["missing_keys"]))
        if missing and not is_trained(config):
            model = _around(config, name, folder, config, options)
        else:
            _tell_missing(name, missing)
    else:
        answering_class(config, name)  # rejects those that read no texts
        model = _around(text, name, folder, config, options)
    if has_own_head(model):
        _check(model, name)
        log.info(f"head:      this package's, as transformers has none for {type(model.base_model).__name__}")
    if turned or bidirectional is not None:
        _settle(model, name, bidirectional)
    return model


def _settle(model: Any, name: str, bidirectional: bool | None) -> None:
    """Find out how a model attends, and refuse it if that is not what the caller asks for."""
    found = _sees_ahead(model)
    if bidirectional not in (None, found):
        raise InputError(
            f"--model.bidirectional {str(bidirectional).lower()}: {name!r} ({type(model).__name__}) has "
            f"{'attention in both directions' if found else 'causal attention'}, which "
            f"{'it was trained with' if is_trained(model.config) else 'transformers cannot change'}; leave the flag out"
        )
    if getattr(model.config, "is_causal", None) is False and not found:
        model.config.is_causal = True
    log.info(f"attention: {'in both directions' if found else 'causal'}")


def missing_weights(model: Any, missing: Iterable[str]) -> list[str]:
    """Those of the names that are weights which question answering reads, in order.

    Args:
        model: as ``from_pretrained`` made it.
        missing: what it did not find in the files; also buffers, which are constants that the code makes.
    """
    weights = {path for path, _ in model.named_parameters()}
    return sorted(path for path in missing if path in weights and is_read(path))


def base_weights(model: Any, paths: Iterable[str]) -> list[str]:
    """Those of the paths that are in the base model; the others are the head's."""
    return [path for path in paths if path.startswith(f"{model.base_model_prefix}.")]


def is_read(path: str) -> bool:
    """Whether question answering reads the weight at a path; some are for pre-training only (XLNet, FNet)."""
    return not path.endswith("mask_emb") and ".pooler." not in f".{path}"


def _tell_missing(name: str, missing: Sequence[str]) -> None:
    if missing:
        what = counted(len(missing), "tensor")
        log.warning(
            f"{name}: {what} of the base model not in its files, random at the beginning; the first: {missing[0]}"
        )


def _around(text: Any, name: str, folder: str, config: Any, options: dict[str, Any]) -> Any:
    """A model with a new head on a base model that transformers loads by itself, or on that one's text part.

    Some of transformers' classes (Llama, Qwen3, SmolLM3) do not find the weights of a base model in its files, as they
    have another name for it, and begin with random ones.

    Args:
        text: config of the base model to read texts with.
        name, folder, options: see `load_pretrained`.
        config: of all that the folder holds.
    """
    whole, found = AutoModel.from_pretrained(folder, config=config, output_loading_info=True, **options)
    parts = [whole, *whole.children()]
    part = next((one for one in parts if isinstance(getattr(one, "config", None), type(text))), None)
    if part is None:
        raise InputError(
            f"model {name!r} cannot be loaded: {type(whole).__name__} has no part that reads texts alone; choose an "
            "encoder such as bert-base-cased"
        )
    _tell_missing(name, missing_weights(whole, found["missing_keys"]))
    cls = answering_class(text, name)
    make = cls.from_config if cls is AutoModelForQuestionAnswering else cls._from_config
    model = make(part.config, dtype=options.get("dtype"), attn_implementation=options.get("attn_implementation"))
    weights = part.state_dict()
    own = model.base_model.state_dict()
    model.base_model.load_state_dict({key: weights[key] for key in weights if key in own or is_read(key)})
    model.name_or_path = model.config._name_or_path = folder
    return model


def _check(model: Any, name: str) -> None:
    """Reject a base model that does not return a vector for each token."""
    ids = torch.tensor([[1, 2, 3, 4]])
    try:
        shape = tuple(_vectors(model, ids, torch.ones_like(ids)).shape)
        wrong = "" if shape == (1, 4, model.config.hidden_size) else f"vectors of the shape {shape} for 4 tokens"
    except Exception as error:  # it needs more than ids and a mask, or has other outputs
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        raise InputError(
            f"model {name!r} cannot get a question answering head: {type(model.base_model).__name__} must take "
            f"input_ids and attention_mask and return a vector for each token ({wrong}); choose an encoder such as "
            "bert-base-cased"
        )


def _sees_ahead(model: Any) -> bool:
    """Whether the first token's vector depends on the last token, with and without a mask."""
    pair = [torch.tensor([[1, 2, 3, last]]) for last in (4, 5)]
    for mask in (None, torch.ones_like(pair[0])):
        first, second = (_vectors(model, ids, mask)[0, 0] for ids in pair)
        if torch.allclose(first, second, rtol=1e-5, atol=1e-6):
            return False
    return True


def _vectors(model: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    """[B, T, H] what the base model returns, in eval mode."""
    encoder, training = model.base_model, model.training
    chosen = str(getattr(model.config, "_attn_implementation", None))
    if chosen.startswith("flash"):  # it needs a GPU, where the model is not yet
        model.set_attn_implementation("sdpa")
    encoder.eval()
    try:
        with torch.inference_mode():
            found: Tensor = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    finally:
        encoder.train(training)
        if chosen.startswith("flash"):
            model.set_attn_implementation(chosen)
    return found


def prepare_tokenizer(tokenizer: Any) -> None:
    """Give the tokenizer of a decoder that is to be trained what question answering needs, if it has no CLS token.

    EOS follows question and context, so that the model sees where the question ends. The last EOS becomes the CLS
    token, which stands for "no answer": whatever the attention, it has seen the whole window. Padding is on the right,
    so that the question comes first: with causal attention, the context would not see it otherwise. The pad token is
    EOS if there is none. All of that is saved with the tokenizer.
    """
    eos = tokenizer.eos_token
    if tokenizer.cls_token_id is not None or eos is None:
        return
    begin = PairLayout.of(plain_tokenizer(tokenizer)).special[0]
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "right"  # a class may have another default
    for setting, value in (("add_bos_token", begin == [tokenizer.bos_token_id]), ("add_eos_token", True)):
        setattr(tokenizer, setting, value)  # which writes the template anew
        tokenizer.init_kwargs[setting] = value
    tokenizer.cls_token = eos
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = eos
