"""A small tokenizer and an untrained model of every model family; vocabularies are trained here, without a network."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AlbertForQuestionAnswering,
    AlbertTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    BertTokenizer,
    DebertaV2Config,
    DebertaV2ForQuestionAnswering,
    DebertaV2Tokenizer,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    DistilBertTokenizer,
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2Tokenizer,
    ModernBertConfig,
    ModernBertForQuestionAnswering,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
    RobertaTokenizer,
    XLNetConfig,
    XLNetForQuestionAnsweringSimple,
    XLNetTokenizer,
)

from qa_lightning.models.load_errors import quiet_transformers

TEXTS = [
    "Where does Anna live? Anna lives in Oslo, and Ben works in Rome at the bakery in the city.",
    "The cost was £20,980 in 1999 (about 2,000 more than before). Who paid it, and where?",
    "Der Fluss heißt Donau – er ist 2.850 km lang; Größe zählt. naïve café déjà-vu 😀 👩‍👩‍👧",
    "تقع مدينة القاهرة في مصر. העיר ירושלים נמצאת בישראל.",
    "東京は日本の首都です。北京是中国的首都。กรุงเทพเป็นเมืองหลวงของประเทศไทย",
]
POSITIONS = 128


def _learned(tokenizer: Any, trainer: Any) -> dict[str, Any]:
    """Train with the normalizer and pre-tokenizer of ``tokenizer``; returns the ``model`` part of its tokenizer.json.

    Trainers number their pieces, and some break ties, differently in every process. So that failures reproduce, only
    single letters and the pieces that `TEXTS` use are kept, in sorted order.
    """
    empty = tokenizer.backend_tokenizer
    blank = {trainers.BpeTrainer: models.BPE, trainers.UnigramTrainer: models.Unigram}.get(type(trainer))
    learner = Tokenizer(blank() if blank else models.WordPiece(unk_token="[UNK]"))
    if empty.normalizer is not None:
        learner.normalizer = empty.normalizer
    learner.pre_tokenizer = empty.pre_tokenizer
    learner.train_from_iterator(TEXTS, trainer)
    learned = json.loads(learner.to_str())["model"]
    special = [token.content for token in trainer.special_tokens]
    used = {piece for encoding in learner.encode_batch(TEXTS) for piece in encoding.tokens}
    if isinstance(learned["vocab"], list):
        score = {piece: score for piece, score in learned["vocab"] if len(piece) == 1 or piece in used}
        kept = sorted(set(score) - set(special))
        learned["vocab"] = [(piece, 0.0) for piece in special] + [(piece, round(score[piece], 1)) for piece in kept]
    elif not learned.get("merges"):
        kept = sorted({piece for piece in learned["vocab"] if len(piece.removeprefix("##")) == 1} | used - set(special))
        learned["vocab"] = {piece: number for number, piece in enumerate([*special, *kept])}
    return learned


def _wordpiece(cls: Any, lower_case: bool) -> Any:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(special_tokens=special, vocab_size=400, show_progress=False)
    return cls(vocab=_learned(cls(do_lower_case=lower_case), trainer)["vocab"], do_lower_case=lower_case)


def _byte_level(cls: Any, special: list[str], **options: Any) -> Any:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=special, vocab_size=400, initial_alphabet=alphabet, show_progress=False
    )
    learned = _learned(cls(**options), trainer)
    return cls(vocab=learned["vocab"], merges=[tuple(pair) for pair in learned["merges"]], **options)


def _unigram(cls: Any, special: list[str], unk: str, **options: Any) -> Any:
    trainer = trainers.UnigramTrainer(special_tokens=special, unk_token=unk, vocab_size=300, show_progress=False)
    return cls(vocab=_learned(cls(**options), trainer)["vocab"], **options)


def _modernbert() -> Any:
    """Byte-level BPE after NFC, BERT's template, special tokens at the end of the vocabulary, no token types."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"])
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": f"[{name.upper()}]" for name in ("unk", "cls", "sep", "pad", "mask")},
    )


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def _encoder(model: Any, config: Any, **changes: Any) -> Callable[[Any], Any]:
    """A function from a tokenizer to a model; ``changes`` update a small configuration with BERT's field names."""
    settings = {**SIZES, "max_position_embeddings": POSITIONS, **changes}
    return lambda tokenizer: model(config(vocab_size=len(tokenizer), **settings))


def _gpt2(tokenizer: Any) -> Any:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
    return GPT2ForQuestionAnswering(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0, **sizes))


def _xlnet(tokenizer: Any) -> Any:
    sizes = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "initializer_range": 0.2}
    return XLNetForQuestionAnsweringSimple(XLNetConfig(vocab_size=len(tokenizer), **sizes))


@dataclass(frozen=True)
class Family:
    """A model family: how to make its tokenizer and model, and the inputs that they expect.

    Attributes:
        tokenizer: makes the tokenizer.
        model: makes a model for a tokenizer.
        template: the tokens of a pair; ``Q`` and ``C`` are the tokens of question and context.
        types: the token type of each part of the template; None if the models have no token types.
        cls: index of the token for "no answer"; -1 is the last token.
        positions: the longest input that the model takes, in tokens; None: any length.
    """

    tokenizer: Callable[[], Any]
    model: Callable[[Any], Any]
    template: str
    types: tuple[int, ...] | None = None
    cls: int = 0
    positions: int | None = POSITIONS

    @property
    def context_first(self) -> bool:
        parts = self.template.split()
        return parts.index("C") < parts.index("Q")


_BERT = "[CLS] Q [SEP] C [SEP]"
_BERT_TYPES = (0, 0, 0, 1, 1)
_ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_ROBERTA_MODEL = _encoder(
    RobertaForQuestionAnswering, RobertaConfig, type_vocab_size=1, pad_token_id=1, bos_token_id=0, eos_token_id=2
)

FAMILIES = {
    "bert cased": Family(
        lambda: _wordpiece(BertTokenizer, lower_case=False),
        _encoder(BertForQuestionAnswering, BertConfig),
        _BERT,
        _BERT_TYPES,
    ),
    "bert uncased": Family(
        lambda: _wordpiece(BertTokenizer, lower_case=True),
        _encoder(BertForQuestionAnswering, BertConfig),
        _BERT,
        _BERT_TYPES,
    ),
    "distilbert": Family(
        lambda: _wordpiece(DistilBertTokenizer, lower_case=True),
        lambda tokenizer: DistilBertForQuestionAnswering(
            DistilBertConfig(
                vocab_size=len(tokenizer),
                **{"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": POSITIONS},
            )
        ),
        _BERT,
    ),
    "roberta": Family(
        lambda: _byte_level(RobertaTokenizer, _ROBERTA),
        _ROBERTA_MODEL,
        "<s> Q </s> </s> C </s>",
        positions=POSITIONS - 2,  # numbered from the padding id + 1 on
    ),
    "roberta, prefix space, spaces in offsets": Family(
        lambda: _byte_level(RobertaTokenizer, _ROBERTA, add_prefix_space=True, trim_offsets=False),
        _ROBERTA_MODEL,
        "<s> Q </s> </s> C </s>",
        positions=POSITIONS - 2,
    ),
    "xlnet": Family(
        lambda: _unigram(
            XLNetTokenizer,
            ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"],
            "<unk>",
        ),
        _xlnet,
        "C <sep> Q <sep> <cls>",
        (0, 0, 1, 1, 2),
        cls=-1,
        positions=None,
    ),
    "albert": Family(
        lambda: _unigram(AlbertTokenizer, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], "<unk>"),
        _encoder(AlbertForQuestionAnswering, AlbertConfig, embedding_size=16),
        _BERT,
        _BERT_TYPES,
    ),
    "deberta-v3": Family(
        lambda: _unigram(DebertaV2Tokenizer, ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"], "[UNK]"),
        _encoder(
            DebertaV2ForQuestionAnswering,
            DebertaV2Config,
            **{"type_vocab_size": 0, "relative_attention": True, "position_buckets": 16, "share_att_key": True},
            **{"pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "position_biased_input": False},
        ),
        _BERT,
    ),
    "modernbert": Family(
        _modernbert,
        _encoder(
            ModernBertForQuestionAnswering,
            ModernBertConfig,
            **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        ),
        _BERT,
    ),
    "gpt2, no CLS": Family(lambda: _byte_level(GPT2Tokenizer, ["<|endoftext|>"]), _gpt2, "Q C"),
    "gpt2, BOS for CLS": Family(
        lambda: _byte_level(GPT2Tokenizer, ["<|endoftext|>"], add_bos_token=True),
        _gpt2,
        "<|endoftext|> Q <|endoftext|> C",
    ),
}


@cache
def tokenizer_of(name: str) -> Any:
    """The tokenizer of a family, made once and shared: do not modify it."""
    return FAMILIES[name].tokenizer()


def add_state(folder: Path, side: str = "right") -> None:
    """Have the tokenizer.json in a folder truncate and pad, as that of every sentence-transformers model does.

    Args:
        folder: of a tokenizer.
        side: that it pads on; transformers takes it for the tokenizer's own.
    """
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["truncation"] = {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 20}, "direction": side.title(), "pad_to_multiple_of": None}
    values["padding"] = pad | {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    path.write_text(json.dumps(values), encoding="utf-8")


@cache
def twin_of(name: str) -> Any:
    """The tokenizer of a family as `add_state` leaves it: it cuts the same windows. Not to be changed."""
    tokenizer = tokenizer_of(name)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        add_state(Path(folder), tokenizer.padding_side)
        twin = type(tokenizer).from_pretrained(folder)
    assert twin.backend_tokenizer.truncation
    assert twin.backend_tokenizer.padding
    return twin


def save(family: Family, folder: Path) -> str:
    """Write an untrained model of a family and its tokenizer as transformers does; returns the folder."""
    tokenizer = family.tokenizer()
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        family.model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
