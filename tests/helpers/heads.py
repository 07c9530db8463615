"""Small untrained base models of kinds that transformers has no question answering class for, with odd tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from qa_lightning.models.load_errors import quiet_transformers
from tests.helpers.families import TEXTS, tokenizer_of

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 16}
EYES = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
ENCODERS = {"eurobert": GROUPED, "gte": SIZES, "nomic_bert": SIZES}
DECODERS = {"gemma3_text": GROUPED, "phi3": SIZES}
# Those that transformers has a class for: two that do not find their base model's weights, and one that does.
WITH_CLASS = {"qwen3": GROUPED, "llama": GROUPED, "mistral": GROUPED}
FEATURES = {
    "all": ("<bos>", "<eos>", "<pad>"),
    "no BOS": (None, "<eos>", "<pad>"),
    "no pad token": ("<bos>", "<eos>", None),
    "EOS alone": (None, "<eos>", None),
}
# Loads a folder, its first argument, where this package is not, and saves the logits of a question to the second one.
LOADS = """import sys
sys.modules["qa_lightning"] = None  # importing it fails
import torch
from transformers import AutoTokenizer
sys.path.insert(0, sys.argv[1])
from load_model import load
model, tokenizer = load(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
with torch.inference_mode():
    output = model(**tokenizer("Who lives in Oslo?", "Anna lives in Oslo.", return_tensors="pt"))
torch.save((output.start_logits, output.end_logits), sys.argv[2])
"""


def decoders_tokenizer(bos: str | None, eos: str | None, pad: str | None, side: str = "right") -> Any:
    """A byte-level BPE tokenizer without CLS and SEP, such as those of Llama 3 (no pad token) and Qwen3 (no BOS)."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = [token for token in (bos, eos, pad) if token]
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    bytes_ = processors.ByteLevel(trim_offsets=False)
    backend.post_processor = bytes_
    if bos:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, backend.token_to_id(bos))]
        )
        backend.post_processor = processors.Sequence([bytes_, template])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        padding_side=side,
        model_input_names=["input_ids", "attention_mask"],
    )


def kinds_tokenizer(kind: str) -> Any:
    """A tokenizer as models of a kind have: BERT's for encoders; without CLS, and often padding left, for decoders."""
    if kind in ("nomic_bert", "modernvbert", "gte"):
        return tokenizer_of("bert uncased" if kind == "nomic_bert" else "modernbert")
    names = {"qwen3": "no BOS", "llama": "no pad token", "phi3": "EOS alone"}
    return decoders_tokenizer(*FEATURES[names.get(kind, "all")], side="left" if kind == "gemma3_text" else "right")


def save_base(kind: str, folder: Path, tokenizer: Any = None) -> str:
    """Write a base model of a kind, as it is pre-trained, and its tokenizer; returns the folder."""
    tokenizer = tokenizer or kinds_tokenizer(kind)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {"vocab_size": len(tokenizer), **special}
    if kind in ("modernvbert", "gemma3"):
        sizes = {"text_config": text | (GROUPED if kind == "gemma3" else SIZES), "vision_config": EYES}
    else:
        sizes = text | {**ENCODERS, **DECODERS, **WITH_CLASS}[kind]
    config = AutoConfig.for_model(kind, **sizes)
    make = AutoModelForCausalLM if kind in {**DECODERS, **WITH_CLASS} else AutoModel
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        make.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
