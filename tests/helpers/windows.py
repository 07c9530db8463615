"""Four kinds of tokenizers trained here, and helpers that read windows out of batches and stores.

The tokenizers of real model families are in families.py.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from qa_lightning.features.store import FeatureStore

GOLD = ("gold_start", "gold_end")  # arrays of a batch with all labels of windows that have several
CONTEXT = "In 1999 Ben paid £20,980. " + "Anna lives in Oslo and works there. " * 12 + "Carl moved to Rome in 2001."
_ALPHABET = st.characters(codec="utf-8", exclude_characters="\x00")
texts = st.text(st.one_of(st.sampled_from("ab .,é😀ß東\u0301\u200d\u00a0\t\n "), _ALPHABET), min_size=1, max_size=120)

TEXTS = [
    "Where does Anna live? Anna lives in Oslo, and Ben works in Rome at the bakery.",
    "The cost was £20,980 in 1999 (about 2,000 more than before). Who paid it?",
    "Der Fluss heißt Donau – er ist 2.850 km lang; Größe zählt.",
    "naïve café déjà-vu 😀 emoji 👩‍👩‍👧 東京は日本の首都です。",
]


def lengths(count: int, seed: int = 0) -> np.ndarray:
    """Lengths of windows, in tokens."""
    return np.random.default_rng(seed).integers(20, 384, count)


def wordpiece() -> PreTrainedTokenizerFast:
    """BERT, cased: question first, [CLS] first."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], vocab_size=300)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]"
    )


def byte_level() -> PreTrainedTokenizerFast:
    """RoBERTa: byte-level BPE, two separators, no token types; a letter outside ASCII is several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            special_tokens=["<s>", "<pad>", "</s>"],
            vocab_size=300,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        bos_token="<s>",
        model_input_names=["input_ids", "attention_mask"],
    )


def unigram_left() -> PreTrainedTokenizerFast:
    """XLNet: SentencePiece-like Unigram; pads on the left, so the context comes first; <cls> is last."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(special_tokens=["<pad>", "<sep>", "<cls>", "<unk>"], unk_token="<unk>", vocab_size=200),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A:0 <sep>:0 <cls>:2",
        pair="$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2",
        special_tokens=[("<sep>", 1), ("<cls>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<cls>",
        sep_token="<sep>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
    )


def without_cls() -> PreTrainedTokenizerFast:
    """Words and a separator, no CLS token: the first token stands for "no answer"."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=["<pad>", "<unk>", "</s>"]))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


TOKENIZERS = {
    "wordpiece": wordpiece,
    "byte_level": byte_level,
    "unigram_left": unigram_left,
    "without_cls": without_cls,
}


def rows_of(batch):
    """Yield each window with its slices of the flat arrays: token ids, start and end offsets of context tokens."""
    store = FeatureStore.of_batch(batch)
    for index, window in enumerate(store.windows):
        tokens = slice(store.token_offset[index], store.token_offset[index] + window["length"])
        context = slice(store.context_offset[index], store.context_offset[index] + window["context_length"])
        yield window, store.input_ids[tokens], store.char_start[context], store.char_end[context]


def windows_gold(store: FeatureStore) -> list[list[tuple[int, int]]]:
    """The distinct labels of each window; an empty list if its label is the CLS token."""
    found = []
    for index, window in enumerate(store.windows):
        gold = store.gold(index)
        own = [(int(window["start"]), int(window["end"]))] if gold is None else list(zip(*map(list, gold), strict=True))
        assert own[0] == (window["start"], window["end"])
        found.append([] if own == [(window["cls"], window["cls"])] else own)
    return found
