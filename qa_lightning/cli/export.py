"""``export``: write a trained model as ONNX, or publish it on the Hub."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qa_lightning.cli.console import COLUMN_NAMES, add_columns, columns_of, positive, quiet_libraries, run_command
from qa_lightning.errors import naming_flags


def export_main() -> None:
    """``scripts/export.py``."""
    run_command(export)


@naming_flags()
def export(args: Sequence[str] | None = None) -> int:
    """Write a trained model as ONNX, or publish it on the Hub, or both."""
    parser = argparse.ArgumentParser(
        prog="export.py", description="Write a trained model as an ONNX folder, or publish a model's folder on the Hub."
    )
    parser.add_argument("--model", required=True, help="folder of a trained model, or its name on the Hub")
    onnx = parser.add_argument_group("an ONNX folder")
    onnx.add_argument("--format", choices=["onnx"], help="what to write; it is compared with PyTorch first")
    onnx.add_argument("--output", type=Path, metavar="DIR", help="where to  [the model's name and -onnx, beside it]")
    onnx.add_argument("--overwrite", action="store_true", help="replace the model in --output with all that is in it")
    onnx.add_argument("--quantize", choices=["int8"], help="weights in 8 bits, for CPUs; needs --data")
    onnx.add_argument("--data", metavar="FILE", help="questions to compare on  [some of the embedded dataset]")
    onnx.add_argument("--max-examples", type=positive, metavar="N", help="only the first so many of them")
    onnx.add_argument("--max-f1-drop", type=float, metavar="X", help="F1 points that int8 may cost on --data  [1.0]")
    add_columns(parser)
    hub = parser.add_argument_group("the Hub")
    hub.add_argument("--push-to-hub", metavar="USER/NAME", help="publish the model, or with --format what it wrote")
    hub.add_argument("--private", action="store_true", help="make the repository a private one")
    hub.add_argument("--dry-run", action="store_true", help="only show what would be sent")
    options = parser.parse_args(args)
    from qa_lightning.errors import InputError

    if problems := _export_problems(options):
        raise InputError(problems)
    quiet_libraries()
    model = _export_onnx(options) if options.format else options.model
    if not options.push_to_hub:
        return 0
    from qa_lightning.export import hub as publishing

    return publishing.push_to_hub(model, options.push_to_hub, options.private, options.dry_run)


def _export_problems(options: argparse.Namespace) -> list[str]:
    """Flags that say too little, or what no other flag asks for."""
    problems = []
    if not options.format and not options.push_to_hub:
        problems.append("nothing to do: choose --format onnx, to write a folder, or --push-to-hub USER/NAME, or both")
    for needed, flags in (
        ("format", ("output", "overwrite", "quantize", "data")),
        ("quantize", ("max_f1_drop",)),
        ("data", ("max_examples", *COLUMN_NAMES)),
        ("push_to_hub", ("private", "dry_run")),
    ):
        for flag in flags if not getattr(options, needed) else ():
            if getattr(options, flag) is None or getattr(options, flag) is False:
                continue
            name = f"columns.{flag}" if flag in COLUMN_NAMES else flag.replace("_", "-")
            problems.append(f"--{name} is of no use without --{needed.replace('_', '-')}; add that, or leave it out")
    if options.max_f1_drop is not None and not 0 <= options.max_f1_drop <= 100:
        problems.append(f"--max-f1-drop is {options.max_f1_drop:g}; it must be from 0 to 100, in F1 points")
    return problems


def _export_onnx(options: argparse.Namespace) -> str:
    """Write the ONNX folder; returns where it is."""
    from qa_lightning.export.onnx import MAX_F1_DROP, export_onnx

    folder = export_onnx(
        options.model,
        options.output,
        options.quantize,
        options.data,
        MAX_F1_DROP if options.max_f1_drop is None else options.max_f1_drop,
        options.overwrite,
        options.max_examples,
        columns_of(options),
    )
    return str(folder)
