"""A model's name or folder -> its tokenizer and its weights, refused early where they cannot do the task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RoFormerConfig,
    RoFormerForQuestionAnswering,
)
from transformers.utils import logging as transformers_logging

from qa_lightning.data import sources, synthetic
from qa_lightning.errors import InputError
from qa_lightning.files import build_once, default_cache_dir

TINY = "tiny"  # a name of ours: untrained weights and a vocabulary learned from the embedded dataset
_TINY_VERSION = 2  # raise it when create_tiny_model writes something else
TINY_CONFIG: dict[str, Any] = {
    "hidden_size": 128,
    "embedding_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """Load the fast tokenizer of a model.

    transformers 5 forgot of some tokenizers (ALBERT's, XLNet's, RoFormer's) that their models read token types, which
    tell question and context apart (huggingface/transformers#48128). Where a model has weights for them and the
    tokenizer's own template tells the texts apart, its ``model_input_names`` name them, also once it is saved.

    Args:
        name: a name on the Hub, a folder, or ``tiny``.
        trust_remote_code: run code that comes with it.

    Raises:
        InputError: not to be had, or a slow tokenizer.
    """
    with loading(name), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of {name!r} ({type(tokenizer).__name__}) is a slow one and gives no character offsets; "
            "choose a model that has a fast tokenizer (a tokenizer.json)"
        )
    if _lacks_token_types(tokenizer) and (model := _planned_model(name)) is not None:
        name_token_types(tokenizer, model)
    return tokenizer


def name_token_types(tokenizer: Any, model: Any) -> None:
    """Have the tokenizer name token types among its model's inputs, where the model has weights for them; see above."""
    if _lacks_token_types(tokenizer) and _reads_token_types(model):
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names


def _lacks_token_types(tokenizer: Any) -> bool:
    """Whether a tokenizer gives question and context types of their own, but not to its model, and nobody said so."""
    if "token_type_ids" in tokenizer.model_input_names or "model_input_names" in tokenizer.init_kwargs:
        return False
    return len(set(tokenizer("a", "a", return_token_type_ids=True)["token_type_ids"])) > 1


def _planned_model(name: str) -> Any:
    """A model without its weights; None where there is none to be had."""
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
            return AutoModelForQuestionAnswering.from_config(config, trust_remote_code=False)
    except Exception:  # a folder without a model, or a model that `load_model` refuses and says why
        return None


def _reads_token_types(model: Any) -> bool:
    """Whether a model has weights for more than one token type."""
    return any(
        len(weight) > 1 and any(word in path for word in ("token_type_embeddings", "seg_embed"))
        for path, weight in model.named_parameters()
    )


def load_model(name: str, attn_implementation: str | None = None, attention_dropout: float | None = None) -> Any:
    """Load a model with a question answering head, in float32 and in training mode.

    Checkpoints keep their own dtype and come in eval mode otherwise: half-precision training, and no dropout.

    Args:
        name: a name on the Hub, a folder, or ``tiny``.
        attn_implementation: ``sdpa``, ``flash_attention_2``, ``eager``; None leaves the choice to transformers.
        attention_dropout: 0-1, of attention's weights; None leaves the model's own.

    Raises:
        InputError: not to be had, no such head, or an attention or dropout that it does not have here.
    """
    with loading(name, attn_implementation), quiet_transformers():
        # trust_remote_code: and no question on the terminal whether to
        config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
        if attention_dropout is not None:
            _set_attention_dropout(config, attention_dropout, name)
        model = AutoModelForQuestionAnswering.from_pretrained(
            resolve(name),
            config=config,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation=attn_implementation,
        )
    for module in model.modules():
        if "Sinusoidal" in type(module).__name__:  # a table of constants, which from_pretrained marks as trained
            module.requires_grad_(False)
    for path, weight in model.named_parameters():
        if path.endswith("mask_emb") or ".pooler." in path:  # of pre-training (XLNet, FNet): DDP wants all used
            weight.requires_grad_(False)
    return model.train()


def _set_attention_dropout(config: Any, value: float, name: str) -> None:
    for known in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        if hasattr(config, known):
            setattr(config, known, value)
            return
    raise InputError(
        f"--model.attention_dropout {value}: {type(config).__name__} of {name!r} has no dropout of attention alone; "
        "leave the flag out"
    )


def max_positions(model: Any) -> int | None:
    """The longest input, in tokens, that a loaded model has positions for; None where it has no such limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    # RoBERTa's family starts to count positions after the padding id: its table has that many rows less to give.
    skipped = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return limit - max(skipped, default=0)


def vocabulary_problem(model: Any, tokenizer: Any) -> str | None:
    """Why a loaded model cannot read what a tokenizer writes: ids that it has no embedding for; None where it can."""
    known = getattr(model.config.get_text_config(), "vocab_size", None)
    needed = max(tokenizer.get_vocab().values(), default=-1) + 1
    if not isinstance(known, int) or needed <= known:
        return None
    return (
        f"model {model.name_or_path!r} has a vocabulary of {known:,} tokens, its {type(tokenizer).__name__} one of "
        f"{needed:,}: they do not belong together. Put the tokenizer that the model was trained with beside it; "
        "if tokens were added, save the model again after model.resize_token_embeddings(len(tokenizer))"
    )


def resolve(name: str) -> str:
    """The folder or Hub name to load; makes the folder of ``tiny`` when it is first asked for."""
    if name != TINY:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    parts = [_TINY_VERSION, TINY_CONFIG, sources.EMBEDDED_VERSION, sources.EMBEDDED_SIZES]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    folder = default_cache_dir() / "models" / f"{TINY}-{key}"
    build_once(folder, create_tiny_model)
    return str(folder)


def create_tiny_model(folder: Path) -> None:
    """Write an untrained three-layer RoFormer and a WordPiece tokenizer learned from the embedded dataset's texts.

    Two things make it learn in a minute on a CPU what plain BERTs of its size did not learn in several: positions
    that are rotary (RoFormer, Su et al., 2021), and a first layer whose query and key weights start out equal, so
    that there every token attends to its like. A name in the context then sees at once whether the question names
    it; which words matter, and what to point at, is all left to learn.
    """
    rows = synthetic.generate_examples("train", sources.EMBEDDED_SIZES["train"])
    tokenizer = _train_wordpiece([text for row in rows for text in (row["question"], row["context"])])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RoFormerForQuestionAnswering(RoFormerConfig(vocab_size=len(tokenizer), **TINY_CONFIG))
    attention = model.roformer.encoder.layer[0].attention.self
    with torch.no_grad():
        attention.key.weight.copy_(attention.query.weight)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _train_wordpiece(texts: list[str]) -> Any:
    """A lower-casing WordPiece tokenizer in BERT's format, its vocabulary learned from ``texts``.

    The trainer numbers its pieces, and breaks ties between them, differently in every process. Of what it learned
    only the pieces that the texts need and the alphabet are kept, in order: equal texts give an equal tokenizer.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learned = _bert_backend(models.WordPiece(unk_token="[UNK]"))
    trainer = trainers.WordPieceTrainer(vocab_size=2000, min_frequency=2, special_tokens=special, show_progress=False)
    learned.train_from_iterator(texts, trainer)
    used = {token for encoding in learned.encode_batch(texts, add_special_tokens=False) for token in encoding.tokens}
    alphabet = {token for token in learned.get_vocab() if len(token.removeprefix("##")) == 1}
    pieces = [*special, *sorted((used | alphabet) - set(special))]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = _bert_backend(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.add_special_tokens(special)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=TINY_CONFIG["max_position_embeddings"],
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],  # question and context must be told apart
        **{f"{name.strip('[]').lower()}_token": name for name in special},
    )


def _bert_backend(model: models.WordPiece) -> Tokenizer:
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend


@contextmanager
def loading(name: str, attn_implementation: str | None = None) -> Iterator[None]:
    """Turn whatever goes wrong while a model or tokenizer is loaded into one `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the Hub's client, the config and the weights each raise kinds of their own
        reason = str(error).strip().split("\n")[0][:300]
        if attn_implementation and any(word in reason.lower() for word in ("attn_implementation", "flash", "sdpa")):
            raise InputError(
                f"--model.attn_implementation {attn_implementation}: not to be had for model {name!r} here; choose "
                f"sdpa or eager, or leave the flag out ({type(error).__name__}: {reason})"
            ) from None
        if "Unrecognized configuration class" in reason:
            cure = "this kind of model has no question answering head; choose an encoder such as bert-base-cased"
        elif Path(name).expanduser().is_dir():
            cure = "the folder needs config.json, model.safetensors and tokenizer.json"
        else:
            cure = (
                "it is no folder here and not in the Hub's cache. Check the name and the network; without a network "
                "pass the folder of a model, or run `make quickstart`, which needs none"
            )
        raise InputError(f"model {name!r} cannot be loaded: {cure} ({type(error).__name__}: {reason})") from None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from reporting the new head's missing weights, and from drawing bars over a line or two."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
