"""The small BERT that most tests use: a tokenizer made from a list of words, and a configuration."""

from __future__ import annotations

from transformers import BertConfig, BertTokenizer

WORDS = """
[PAD] [UNK] [CLS] [SEP] [MASK] the a of in is was where who what lives works city baker paris rome oslo anna ben
carl dora . , ? ! ' - and at to for 1 2 3 19 20 ##s ##ed ##ing ##er ##1 ##2 ##3 ##9 ##0
""".split()


def small_tokenizer() -> BertTokenizer:
    """WordPiece with all letters and a few words, so that any Latin text splits into known pieces."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = dict.fromkeys([*WORDS, *letters, *("##" + letter for letter in letters)])
    vocab = {piece: index for index, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocab, do_lower_case=True, model_max_length=512)


def small_config(vocab_size: int, **changes) -> BertConfig:
    """BERT with two layers of 32 units and 128 positions; ``changes`` override fields."""
    return BertConfig(
        **{
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 128,
            **changes,
        }
    )
