"""``report``: write a page about the errors of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import DATA_HELP, MODELS_HELP, Flags, local_path, positive, reading_of
from qa_lightning.cli.pages import check_output, writing
from qa_lightning.errors import InputError, naming_flags, renaming
from qa_lightning.layout import REPORT
from qa_lightning.pages import MAX_QUESTIONS
from qa_lightning.wording import visible


@naming_flags(groups=False, names={"data.validation": "data", "data.dataset": "data"})
def report(words: Sequence[str]) -> int:
    """Score a model, maybe against another one, and write the report of its errors."""
    options = _options(words)
    from qa_lightning.evaluation.report import report_on
    from qa_lightning.models.loading import is_in_model
    from qa_lightning.pages.report import would_replace

    if problem := would_replace(options.output, options.data):
        raise InputError(f"--output {problem}")
    for flag in ("model", "against"):
        with renaming(model=flag):
            if options[flag] and is_in_model(options.output, options[flag]):
                raise InputError(f"--output {options.output} is in the folder of --{flag}; name a file outside of it")
    quiet_libraries()
    found = report_on(
        options.model,
        options.data,
        options.against,
        options.batch_size,
        options.max_examples,
        options.mixed_script or False,
        reading_of(options),
        options.on_bad_rows,
        options.dtype,
    )
    for line in found.lines:
        print(visible(line))
    with writing(options.output):
        written = found.write(options.output, options.questions)
    print(visible(f"written to {options.output.parent}: {', '.join(path.name for path in written)}"))
    return 0


def _options(words: Sequence[str]) -> Namespace:
    flags = Flags(
        "report",
        "Write a page about a model's errors: one HTML file that opens offline, and all questions as JSON lines.",
    )
    flags.add_argument("--model", type=str, required=True, metavar="NAME", help=MODELS_HELP)
    flags.add_argument("--data", type=str, required=True, metavar="DATA", help=DATA_HELP)
    flags.add_argument("--against", type=str, metavar="NAME", help="another model, compared on the same questions")
    flags.add_argument(
        "--output", type=local_path, default=Path(REPORT), metavar="FILE", help="the page, ending in .html"
    )
    flags.add_argument(
        "--questions", type=positive, default=MAX_QUESTIONS, metavar="N", help="questions in the page, at most"
    )
    flags.add_evaluation()
    flags.add_reading()
    options = flags.read(words)
    check_output(flags, options.output)
    return options
