"""Data and models of the benchmarks: questions of a SQuAD file, and models of a known shape with random weights."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from qa_lightning.data.examples import Example, read_examples
from qa_lightning.data.sources import read_rows

BARE_TRAINER: dict[str, Any] = {  # only the training loop
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
SHAPES: dict[str, dict[str, int]] = {  # hidden units, layers, heads, inner units
    "tiny": {  # to try a benchmark
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "minilm-l6": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "bert-base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "bert-large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}


def existing_file(text: str) -> Path:
    """Parse the value of a flag that must be an existing file."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no such file: {text}")
    return path


def add_data_flags(parser: argparse.ArgumentParser, questions: int | None) -> None:
    """Add ``--data``, ``--vocab`` and ``--questions``."""
    parser.add_argument("--data", type=existing_file, required=True, help="SQuAD v1.1 JSON file, such as dev-v1.1.json")
    parser.add_argument("--vocab", type=existing_file, required=True, help="BERT's vocab.txt")
    parser.add_argument("--questions", type=int, default=questions, help="size of the random sample; None: all")


def add_shape_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--shape``."""
    parser.add_argument(
        "--shape", choices=list(SHAPES), default="minilm-l6", help="shape of the model; its weights are random"
    )


def questions(options: argparse.Namespace) -> list[Example]:
    """The questions of ``--data``, or a seeded sample of ``--questions`` of them."""
    rows = list(read_examples(read_rows(str(options.data), "validation"), "error"))
    count = options.questions
    return rows if count is None or count >= len(rows) else random.Random(0).sample(rows, count)


def question_file(options: argparse.Namespace) -> str:
    """The path of the same questions as JSON lines, written once per benchmark."""
    path: Path = options.scratch / "questions.jsonl"
    if not path.exists():
        path.write_text("".join(json.dumps(row) + "\n" for row in questions(options)), encoding="utf-8")
    return str(path)


def load_tokenizer(options: argparse.Namespace) -> Any:
    """A fast BERT tokenizer of ``--vocab``; it lower-cases if the vocabulary has no "The"."""
    from transformers import BertTokenizer

    lower = not any(line.strip() == "The" for line in options.vocab.open(encoding="utf-8"))
    return BertTokenizer(vocab=str(options.vocab), do_lower_case=lower, model_max_length=512)


def model_folder(options: argparse.Namespace) -> str:
    """The folder of a model of ``--shape`` with random weights, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder: Path = options.scratch / options.shape
    if not folder.exists():
        tokenizer = load_tokenizer(options)
        torch.manual_seed(0)
        config = BertConfig(vocab_size=len(tokenizer), **SHAPES[options.shape])
        BertForQuestionAnswering(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return str(folder)


def predictions_of(logits: Any, store: Any, examples: Any, version_2: bool, n_best: int = 1) -> Any:
    """Predictions from logits that were all collected, decoded in one call."""
    from qa_lightning.decoding.decoder import BestSpans, Decoder
    from qa_lightning.decoding.predictions import Predictions

    decoder = Decoder(store, BestSpans(n_best, max_answer_length=30))
    decoder.add(logits)
    decoded = decoder.take()
    return Predictions(examples, decoded.index, decoded.spans, version_2)
