"""``check-data``: report what is wrong with data before training on it."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace

from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import Flags, local_path, positive, reading_of
from qa_lightning.errors import InputError, naming_flags
from qa_lightning.features.defaults import DOC_STRIDE, MAX_ANSWER_LENGTH, MAX_LENGTH, MAX_QUESTION_LENGTH
from qa_lightning.wording import visible


@naming_flags(groups=False, names={"data.dataset": "data"})
def check_data(words: Sequence[str]) -> int:
    """Report what is wrong with data; returns status 1 if training would stop at it."""
    options = _check_options(words)
    from rich.console import Console

    from qa_lightning.checks import report as reports
    from qa_lightning.data.sources import also_read
    from qa_lightning.features.windows import WindowSettings
    from qa_lightning.files import explained_writes, write_json
    from qa_lightning.models.loading import is_in_model, load_tokenizer
    from qa_lightning.paths import is_special

    if options.json:
        if options.json.is_dir() or is_special(options.json):
            raise InputError(f"--json {options.json}: is no file, but a folder, a pipe or a device; name a file")
        named = {"the data": options.data, "--validation": options.validation}
        for _, flag in also_read([options.json], {flag: name for flag, name in named.items() if name}):
            raise InputError(f"--json {options.json}: is a file of {flag}; name another file")
        if options.model and is_in_model(options.json, options.model):
            raise InputError(f"--json {options.json} is in the folder of --model; name a file outside of it")
    quiet_libraries()
    report = reports.check_source(
        options.data,
        options.validation,
        reading_of(options),
        load_tokenizer(options.model) if options.model else None,
        WindowSettings(options.max_length, options.doc_stride, options.max_question_length),
        options.max_answer_length,
        options.rows,
        options.mixed_script or False,
    )
    reports.print_report(report, Console())
    if options.json:
        with explained_writes(f"--json {options.json}:", "free some space, or name another file"):
            write_json(options.json, report.as_json())
        print(visible(f"written to {options.json}"))
    return 1 if report.errors else 0


def _check_options(words: Sequence[str]) -> Namespace:
    flags = Flags(
        "check-data",
        "Check questions before training on them: what is wrong, how often, where, and how to fix it.",
    )
    flags.add_argument("data", type=str, help="file, files or dataset, as --data.dataset of train takes them")
    flags.add_argument(
        "--validation", type=str, metavar="DATA", help="data to validate on: is checked too, and for contexts in both"
    )
    flags.add_argument(
        "--model", type=str, metavar="NAME", help="name or folder; its tokenizer shows what is cut, lost or unknown"
    )
    flags.add_argument("--json", type=local_path, metavar="FILE", help="write the whole report as JSON")
    flags.add_argument("--rows", type=positive, default=5, metavar="N", help="rows to list per finding")
    for name, default, help in (
        ("max_length", MAX_LENGTH, "tokens per window, question included"),
        ("doc_stride", DOC_STRIDE, "tokens of context that two neighbouring windows share"),
        ("max_question_length", MAX_QUESTION_LENGTH, "longest question, in tokens; longer ones are cut"),
        ("max_answer_length", MAX_ANSWER_LENGTH, "longest predicted answer, in tokens"),
    ):
        flags.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help)
    flags.add_mixed_script()
    flags.add_reading()
    options = flags.read(words)
    problems = [
        f"--{name} is of no use without --model; add that, or leave it out"
        for name in ("max_length", "doc_stride", "max_question_length", "max_answer_length", "mixed_script")
        if not options.model and options[name] != flags.get_default(name)
    ]
    if problems:
        raise InputError(problems)
    return options
