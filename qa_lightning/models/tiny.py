"""Creates ``tiny``: a small untrained model and its tokenizer. It learns the embedded dataset in a minute on a CPU."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RoFormerConfig, RoFormerForQuestionAnswering

from qa_lightning.caching import build_once, default_cache_dir
from qa_lightning.data import sources, synthetic
from qa_lightning.models.load_errors import quiet_transformers

TINY = "tiny"  # untrained weights and a vocabulary learned from the embedded dataset; not on the Hub
_TINY_VERSION = 3  # increase it when the files of create_tiny_model change
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


def tiny_folder() -> Path:
    """The folder of the tiny model in the cache; the first call creates it."""
    parts = [_TINY_VERSION, TINY_CONFIG, sources.EMBEDDED_VERSION, sources.EMBEDDED_SIZES]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    folder = default_cache_dir() / "models" / f"{TINY}-{key}"
    build_once(folder, create_tiny_model)
    return folder


def create_tiny_model(folder: Path) -> None:
    """Write an untrained three-layer RoFormer and a WordPiece tokenizer learned from the embedded dataset's texts.

    It learns in a minute on a CPU what plain BERTs of its size did not learn in several minutes. There are two reasons:
    rotary positions (RoFormer, Su et al., 2021), and equal initial weights for query and key in the first layer, so
    that every token there attends to equal tokens. A name in the context can then tell from the start whether the
    question contains it. The model still has to learn which words matter and which span to choose.
    """
    rows = synthetic.generate_examples("train", sources.EMBEDDED_SIZES["train"])
    tokenizer = _train_wordpiece([text for row in rows for text in (row["question"], row["context"])])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = RoFormerForQuestionAnswering(RoFormerConfig(vocab_size=len(tokenizer), **TINY_CONFIG))
    attention = model.roformer.encoder.layer[0].attention.self
    with torch.no_grad():
        attention.key.weight.copy_(attention.query.weight)
    try:
        with quiet_transformers():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # safetensors and tokenizers raise other classes if the disk is full
        raise OSError(str(error)) from error


def _train_wordpiece(texts: list[str]) -> Any:
    """A lower-casing WordPiece tokenizer in BERT's format, its vocabulary learned from ``texts``.

    The trainer numbers pieces and breaks ties differently in every process. So only the pieces that the texts use and
    the alphabet are kept, sorted: equal texts give an equal tokenizer.
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
        model_input_names=[
            "input_ids",
            "token_type_ids",
            "attention_mask",
        ],  # question and context have different types
        **{f"{name.strip('[]').lower()}_token": name for name in special},
    )


def _bert_backend(model: models.WordPiece) -> Tokenizer:
    backend = Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return backend
