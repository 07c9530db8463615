"""Small models for the recorded pipeline cases, equal under transformers 4.57 and 5.

    python tests/helpers/v4_models.py    # writes tests/golden/v4_model; record the golden cases again after it

Weights are random float16 values, large enough that the scores of answers differ clearly. Models are loaded from the
tokenizer file and with their own class, so that the way a version guesses classes does not matter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from qa_lightning.data.synthetic import generate_examples

FOLDER = Path(__file__).parents[1] / "golden" / "v4_model"
NAMES = ("bert", "roberta", "bert-left")  # bert-left is bert with padding on the left
LENGTH = 96  # model_max_length of the tokenizers; POSITIONS is larger, because settings may ask for more
POSITIONS = 192
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
CLASSES = {"bert": BertForQuestionAnswering, "roberta": RobertaForQuestionAnswering}
TEXTS = (
    "The cost was £20,980 in 1999 (about 2,000 more than before). Who paid it, and where?",
    "Der Fluß heißt Donau – er ist 2.850 km lang; Größe zählt. naïve café déjà-vu 😀 İstanbul ΣΊΣΥΦΟΣ",
    "تقع مدينة القاهرة في مصر. 東京は日本の首都です。กรุงเทพเป็นเมืองหลวง",
)


def load(name: str) -> tuple[Any, Any]:
    """A model (float32, eval mode) and its tokenizer."""
    kind, _, side = name.partition("-")
    folder = FOLDER / kind
    model = CLASSES[kind].from_pretrained(folder, dtype=torch.float32).eval()
    special = json.loads((folder / "special_tokens.json").read_text())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=LENGTH,
        padding_side=side or "right",
        model_input_names=["input_ids", *(["token_type_ids"] if kind == "bert" else []), "attention_mask"],
        **special,
    )
    return model, tokenizer


def wordpiece(texts: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    """A tokenizer like BERT's uncased one."""
    special = {name: f"[{name[:-6].upper()}]" for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=[*special.values()], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return backend, special


def byte_level(texts: list[str]) -> tuple[Tokenizer, dict[str, str]]:
    """A tokenizer like RoBERTa's: byte-level, a space is part of the next word, two separators."""
    special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*special.values()],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return backend, special


def make() -> None:
    """Write the models' folders."""
    rows = list(generate_examples("train", 300))
    texts = [*TEXTS * 3, *(text for row in rows for text in (row["question"], row["context"]))]
    for number, (kind, learn, config) in enumerate(
        (("bert", wordpiece, BertConfig), ("roberta", byte_level, RobertaConfig))
    ):
        folder = FOLDER / kind
        folder.mkdir(parents=True, exist_ok=True)
        backend, special = learn(texts)
        (folder / "tokenizer.json").write_text(backend.to_str(), encoding="utf-8")
        (folder / "special_tokens.json").write_text(json.dumps(special, indent=1) + "\n")
        torch.manual_seed(number)
        pad = backend.token_to_id(special["pad_token"])
        model = CLASSES[kind](
            config(
                vocab_size=backend.get_vocab_size(),
                max_position_embeddings=POSITIONS,
                pad_token_id=pad,
                **({"type_vocab_size": 1} if kind == "roberta" else {}),
                **SIZES,
            )
        )
        enlarge(model)
        model.half().save_pretrained(folder)


def enlarge(model: Any) -> None:
    """Draw weights so that logits differ by some units; token types and positions get small ones, so that equal words
    score similarly.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                small = "position_embeddings" in name or "token_type" in name
                weight.normal_(0, 0.3 if small else 4.0 if "qa_outputs" in name else 0.7)


if __name__ == "__main__":
    make()
