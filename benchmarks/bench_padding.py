"""Share of padding in the batches of an epoch of training, against windows padded to 384 tokens; no model runs.

    python benchmarks/bench_padding.py --data dev-v1.1.json --vocab bert-base-uncased-vocab.txt

``padding_share`` is 1 - real tokens / computed tokens, over all windows.
"""

from __future__ import annotations

import argparse
import logging

import harness
import material
import peers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    material.add_data_flags(parser, None)
    parser.set_defaults(shape="tiny")


def ours(options: argparse.Namespace, batch_size: int) -> harness.Figures:
    """The batches of ``SquadDataModule``, as training gets them."""
    from qa_lightning import SquadDataModule
    from qa_lightning.cli.console import quiet_libraries

    quiet_libraries()
    logging.getLogger("qa_lightning").setLevel(logging.WARNING)
    path = material.question_file(options)
    data = SquadDataModule(path, path, material.model_folder(options), batch_size=batch_size)
    data.prepare_data()
    data.setup("fit")
    masks = [batch["attention_mask"] for batch in data.train_dataloader()]
    tokens, computed = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
    return {"padding_share": 1 - tokens / computed, "windows": sum(map(len, masks))}


def padded(options: argparse.Namespace) -> harness.Figures:
    """The peer: every window has 384 tokens."""
    rows = material.questions(options)
    columns = {name: [row[name] for row in rows] for name in rows[0]}  # type: ignore[literal-required]
    features = peers.padded_features(material.load_tokenizer(options), columns, training=True, pad=False)
    lengths = [len(ids) for ids in features["input_ids"]]
    return {"padding_share": 1 - sum(lengths) / (len(lengths) * peers.MAX_LENGTH), "windows": len(lengths)}


VARIANTS: dict[str, harness.Variant] = {
    "padded-384": padded,
    "ours-8": lambda options: ours(options, 8),
    "ours-32": lambda options: ours(options, 32),
}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "padding_share", add_arguments, rounds=1)
