"""``ask``: answer a question from files of text, Markdown, HTML and PDF."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from qa_lightning.cli.console import print_json, quiet_libraries
from qa_lightning.cli.flags import MODELS_HELP, Flags, decimal, local_path, positive
from qa_lightning.errors import naming_flags
from qa_lightning.features.defaults import EVAL_BATCH_SIZE
from qa_lightning.wording import visible

if TYPE_CHECKING:
    from qa_lightning.documents.answers import DocumentAnswer

MARKS = (">>", "<<")  # around an answer in its sentence


@naming_flags(groups=False)
def ask(words: Sequence[str]) -> int:
    """Answer a question from files; returns the exit status."""
    options = _ask_options(words)
    from qa_lightning.documents.collection import Collection
    from qa_lightning.inference.asking import AskSettings
    from qa_lightning.inference.reader import Reader

    quiet_libraries()
    names = ("top_k", "candidates", "prior", "overlap", "min_score", "precision", "batch_size", "on_bad")
    given: dict[str, Any] = {name: options[name] for name in names if options[name] is not None}
    AskSettings(**given).check()
    with redirect_stdout(sys.stderr) if options.json else nullcontext():  # what is logged is no JSON
        collection = Collection.read([Path(name) for name in options.files], options.on_bad or "error")
        thresholds, raw = options.threshold_file, options.raw_scores
        reader = Reader.from_pretrained(options.model, threshold_file=thresholds, raw_scores=raw)
        answers = reader.ask(options.question, collection, **given)
    if options.json:
        print_json({"query": options.question, "answers": [answer.as_dict() for answer in answers]}, indent=1)
    elif answers:
        for number, answer in enumerate(answers, 1):
            print(_shown(number, answer))
    else:
        print("no answer has a score that is high enough")
    return 0


def _shown(number: int, answer: DocumentAnswer) -> str:
    """An answer on two lines: rank, score and where it is; the sentence with the answer marked."""
    rank = f"{number:>2}  {answer.score:.4f}  "
    if answer.document is None:
        return f"{rank}(no answer)"
    start, end = answer.start - answer.sentence_start, answer.end - answer.sentence_start
    parts = answer.sentence[:start], answer.text, answer.sentence[end:]
    before, marked, after = (visible(" ".join(f"|{part}|".split())[1:-1]) for part in parts)
    sentence = f"{before}{MARKS[0]}{marked}{MARKS[1]}{after}"
    return f"{rank}{visible(answer.place)}\n    {sentence}"


def _ask_options(words: Sequence[str]) -> Namespace:
    flags = Flags("ask", "Answer a question from files of text, Markdown, HTML and PDF.")
    flags.add_argument("question", type=str, metavar="QUESTION", help="what to ask, in quotes")
    flags.add_argument(
        "files", type=str, nargs="+", metavar="FILE", help="files, folders, or patterns in quotes, such as 'docs/*.md'"
    )
    flags.add_argument("--model", type=str, required=True, metavar="NAME", help=MODELS_HELP)
    flags.add_argument(
        "--threshold_file",
        type=local_path,
        metavar="FILE",
        help="threshold, temperature and precision from an evaluation",
    )
    flags.add_raw_scores()
    flags.add_argument("--top_k", type=positive, metavar="N", help="answers, at most  [3]")
    flags.add_argument(
        "--candidates",
        type=positive,
        metavar="N",
        help="passages to read, at most: those that share most words with the question  [20]",
    )
    flags.add_argument(
        "--prior",
        type=decimal,
        metavar="WEIGHT",
        help="of the shared words of a passage in the ranking; 0: the model alone  [1]",
    )
    flags.add_argument(
        "--overlap", type=decimal, metavar="SHARE", help="of an answer that may also be in another one, 0 to 1  [0]"
    )
    flags.add_argument("--min_score", type=decimal, metavar="SCORE", help="of an answer, 0 to 1; none is below it")
    flags.add_argument(
        "--precision",
        type=decimal,
        metavar="SHARE",
        help="of right answers, 0 to 1, as on validation data",
    )
    flags.add_argument("--batch_size", type=positive, metavar="N", help=f"windows per step  [{EVAL_BATCH_SIZE}]")
    flags.add_argument("--on_bad", choices=("error", "skip"), help="what a file that cannot be read does  [error]")
    flags.add_argument("--json", action="store_true", help="print one JSON object")
    return flags.read(words)
