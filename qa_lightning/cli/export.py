"""``export``: write a trained model as ONNX or a checkpoint as a model, or publish a model on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import MODEL_HELP, READING, Flags, decimal, local_path, positive, reading_of
from qa_lightning.errors import InputError, naming_flags


@naming_flags(groups=False)
def export(words: Sequence[str]) -> int:
    """Write a model, publish one on the Hub, or both; returns the exit status."""
    options = _export_options(words)
    if problems := _export_problems(options):
        raise InputError(problems)
    quiet_libraries()
    write = {"onnx": _export_onnx, "transformers": _export_checkpoint}
    model = write[options.format](options) if options.format else options.model
    if not options.push_to_hub:
        return 0
    from qa_lightning.export import hub as publishing

    return publishing.push_to_hub(model, options.push_to_hub, options.private, options.dry_run)


def _export_options(words: Sequence[str]) -> Namespace:
    flags = Flags("export", "Write a trained model as an ONNX folder, a checkpoint as a model, or publish a model.")
    flags.add_argument("--model", type=str, required=True, metavar="NAME", help=MODEL_HELP)
    onnx = flags.add_argument_group("a folder")
    onnx.add_argument(
        "--format",
        choices=("onnx", "transformers"),
        help="what to write: onnx is first compared with PyTorch; transformers makes a model of a .ckpt in --model",
    )
    onnx.add_argument(
        "--output", type=local_path, metavar="DIR", help="folder to write  [beside the model, its name and -onnx]"
    )
    onnx.add_argument("--overwrite", action="store_true", help="replace the folder in --output and everything in it")
    onnx.add_argument("--quantize", choices=("int8",), help="weights in 8 bits, for CPUs; needs --data")
    onnx.add_argument(
        "--data", type=str, metavar="FILE", help="questions to compare on  [some of the embedded dataset]"
    )
    onnx.add_argument("--max_examples", type=positive, metavar="N", help="only the first N of them")
    onnx.add_argument(
        "--max_f1_drop", type=decimal, metavar="X", help="F1 points that int8 may lose on --data at most  [1.0]"
    )
    flags.add_reading()
    hub = flags.add_argument_group("the Hub")
    hub.add_argument(
        "--push_to_hub", type=str, metavar="USER/NAME", help="publish the model, or with --format the exported one"
    )
    hub.add_argument("--private", action="store_true", help="make the repository private")
    hub.add_argument("--dry_run", action="store_true", help="only show what would be sent")
    return flags.read(words)


def _export_problems(options: Namespace) -> list[str]:
    """A line for each flag that has no effect without another one, and for a value out of range."""
    problems = []
    if not options.format and not options.push_to_hub:
        problems.append("nothing to do: choose --format onnx, to write a folder, or --push_to_hub USER/NAME, or both")
    is_checkpoint = options.model.endswith(".ckpt")
    if options.format == "transformers":
        if not is_checkpoint:
            problems.append(f"--format transformers makes a model of a checkpoint; --model {options.model} is no .ckpt")
        problems += [
            f"--{flag} is of no use with --format transformers; leave it out"
            for flag in ("quantize", "data")
            if options[flag] is not None
        ]
    for needed, flags in (
        ("format", ("output", "overwrite", "quantize", "data")),
        ("quantize", ("max_f1_drop",)),
        ("data", ("max_examples", *READING)),
        ("push_to_hub", ("private", "dry_run")),
    ):
        problems += [
            f"--{flag} is of no use without --{needed}; add that, or leave it out"
            for flag in flags
            if not options[needed] and options[flag] is not None and options[flag] is not False
        ]
    if options.max_f1_drop is not None and not 0 <= options.max_f1_drop <= 100:
        problems.append(f"--max_f1_drop is {options.max_f1_drop:g}; it must be from 0 to 100, in F1 points")
    return problems


def _export_checkpoint(options: Namespace) -> str:
    """Write the model of a checkpoint; returns its folder."""
    from qa_lightning.training.finish import save_checkpoint_as_model

    return str(save_checkpoint_as_model(Path(options.model), options.output, options.overwrite))


def _export_onnx(options: Namespace) -> str:
    """Write the ONNX folder; returns its path."""
    from qa_lightning.export.onnx import MAX_F1_DROP, export_onnx

    folder = export_onnx(
        options.model,
        options.output,
        options.quantize,
        options.data,
        MAX_F1_DROP if options.max_f1_drop is None else options.max_f1_drop,
        options.overwrite,
        options.max_examples,
        reading_of(options),
    )
    return str(folder)
