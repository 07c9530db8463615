"""Check whole sources and prepared data, and show the reports: on a terminal, as JSON, as a few lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qa_lightning.caching import build_once
from qa_lightning.checks.bad_rows import Report, RowCheck, context_hashes
from qa_lightning.checks.tokens import TokenCheck
from qa_lightning.data.columns import ReadSettings, with_usual_columns
from qa_lightning.data.examples import NO_QUESTIONS, write_examples
from qa_lightning.data.formats import PlacedRow
from qa_lightning.data.objects import Split
from qa_lightning.data.sources import count_rows, has_split, has_validation, read_rows
from qa_lightning.errors import InputError, worded
from qa_lightning.features.cache import PreparedSplit, cut_examples, open_examples
from qa_lightning.features.defaults import MAX_ANSWER_LENGTH
from qa_lightning.features.store import FeatureStore, write_features
from qa_lightning.features.windows import Windower, WindowSettings, vocabulary_size
from qa_lightning.files import temporary_folder
from qa_lightning.metrics.squad import MixedScript, Scoring
from qa_lightning.progress import tracked
from qa_lightning.wording import counted, visible

AT_START = 100_000  # rows of a split that are checked, at most, when training begins
_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
_LOGGED_ELSEWHERE = ("cut_question", "unheld")  # `features.cache.describe_split` logs lines about these
_FORMAT = 4  # of the cached reports; raise it when the checks change


def check_source(
    source: str,
    validation: str | None = None,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
    tokenizer: Any = None,
    settings: WindowSettings = WindowSettings(),  # noqa: B008 - frozen
    max_answer_length: int = MAX_ANSWER_LENGTH,
    max_rows: int = 5,
    mixed_script: bool | MixedScript = False,
) -> Report:
    """Check all rows of a source's training and validation splits, of those that there are.

    Facts are those of the training split, those of the validation split stand under ``validation``; if there is only
    one split, they are its own. ``tokens_unchecked`` says why there are none of tokens. Findings are those of both.

    Args:
        source: what to check, as for ``--data.dataset``.
        validation: the validation data, whose rows are checked like those of the source; tokens are not. None takes the
            source's own validation split, if it has one beside a training split.
        reading: names of the columns, encoding, separator of answers.
        tokenizer: cuts the windows; None leaves out all checks of tokens.
        settings: how contexts are cut into windows.
        max_answer_length: in tokens.
        max_rows: rows to list for each finding.
        mixed_script: see `squad.Scoring`.

    Raises:
        InputError: the source cannot be read, or has no rows.
    """
    if validation is None and has_validation(source, reading) and has_split(source, "train", reading):
        validation = source
    alone = has_split(source, "validation", reading) and not has_split(source, "train", reading)
    lines: dict[Split, list[str]] = {"train": [], "validation": []}

    def rows_of(data: str, split: Split, of: Split, what: str) -> Iterator[PlacedRow]:
        read = tracked(read_rows(data, split, reading), count_rows(data, split), what=what)
        return with_usual_columns(read, reading, lines[of].append)

    with closing(RowCheck(max_rows)) as held_out, temporary_folder() as folder, ExitStack() as opened:
        if validation is not None:
            for _ in held_out.valid(rows_of(validation, "validation", "validation", "validation")):
                pass
            if not held_out.rows:
                raise InputError(f"{validation}: {NO_QUESTIONS}")
        check = opened.enter_context(closing(RowCheck(max_rows, held_out.contexts)))
        rows = rows_of(source, "validation" if alone else "train", "train", "checking")
        kept = write_examples(check.valid(rows), folder / "examples.arrow")
        if not check.rows:
            raise InputError(f"{source}: {NO_QUESTIONS}")
        others = [f"validation: {line}" for line in lines["validation"] if line not in lines["train"]]
        report = Report(source, {"read": lines["train"] + others, **check.facts()})
        if validation is not None:
            report.facts["validation"] = held_out.facts()
        check.findings.join(held_out.findings.found())
        report.add(check.findings.found())
        if tokenizer is None:
            report.facts["tokens_unchecked"] = "name a model with --model"
        elif not kept:
            report.facts["tokens_unchecked"] = "no row is without an error"
        else:
            examples = open_examples(folder)
            with closing(cut_examples(examples, Windower(tokenizer, settings))) as batches:
                write_features(batches, folder, vocabulary_size(tokenizer))
            tokens = TokenCheck(
                FeatureStore.open(folder),
                examples,
                tokenizer,
                settings,
                max_answer_length,
                Scoring(version_2=True, mixed_script=mixed_script),
                max_rows,
            )
            report.facts |= tokens.run()
            report.add(tokens.findings.found())
            check.add_places(report.findings)
    return report


def check_prepared(
    splits: Sequence[PreparedSplit], max_answer_length: int, mixed_script: bool | MixedScript = False
) -> dict[str, Report]:
    """Check the data of a run: the first `AT_START` rows of each split, and the features of validation.

    The reports are cached beside the prepared data, so each combination of splits is checked once.

    Args:
        splits: prepared; validation must be among them, training may be.
        max_answer_length: in tokens.
        mixed_script: see `squad.Scoring`.

    Returns:
        Name of the split -> report.
    """
    scoring = Scoring(version_2=True, mixed_script=mixed_script)
    names = [one.features_folder.name for one in splits]
    unknown = str(splits[0].tokenizer.unk_token_id)  # is counted, and does not decide windows
    key = "-".join([str(_FORMAT), str(max_answer_length), unknown, *filter(None, [scoring.script]), *names])
    folder = splits[0].cache_dir / "checks" / key
    build_once(folder, lambda part: _write_checks(part, splits, max_answer_length, scoring))
    return {
        one.split: Report.of_json(json.loads((folder / f"{one.split}.json").read_text(encoding="utf-8")))
        for one in splits
    }


def _write_checks(folder: Path, splits: Sequence[PreparedSplit], max_answer_length: int, scoring: Scoring) -> None:
    opened = {one.split: one.open() for one in splits}
    hashes = context_hashes(_placed(opened["validation"][1])) if len(splits) > 1 else frozenset()
    for prepared in splits:
        store, examples, _ = opened[prepared.split]
        split, report = prepared.split, Report(str(prepared.source))
        with closing(RowCheck(other_contexts=hashes if split == "train" else frozenset())) as check:
            total = min(len(examples), AT_START)
            for _ in check.valid(tracked(_placed(examples), total, what=f"{split}: checking")):
                pass
            report.facts |= check.facts()
            report.add(check.findings.found())
        if split == "validation":
            tokens = TokenCheck(store, examples, prepared.tokenizer, prepared.settings, max_answer_length, scoring)
            report.facts |= tokens.run()
            report.add(tokens.findings.found())
        (folder / f"{split}.json").write_text(json.dumps(report.as_json()), encoding="utf-8")


def _placed(examples: Any) -> Iterator[PlacedRow]:
    """The first `AT_START` prepared examples as rows with places."""
    return ((f"row {number}", row) for number, row in enumerate(islice(examples, AT_START), 1))


def short_lines(reports: dict[str, Report]) -> Iterator[str]:
    """Lines to log before training: one per warning, and the best possible score if it is below 100.

    Args:
        reports: name of the split -> report.
    """
    for split, report in reports.items():
        for finding in report.findings:
            if finding.severity == "warning" and finding.kind not in _LOGGED_ELSEWHERE:
                first = finding.rows[0]
                yield (
                    f"{split}: {finding.title}: {finding.count:,} (the first: id {first['id']}, {first['what']}); "
                    f"{finding.fix}"
                )
        ceiling = report.facts.get("ceiling")
        if ceiling and ceiling["exact_match"] - report.facts["limits"]["max_answer_length"]["exact_match"] < 99.95:
            yield f"{split}: at best {_ceiling_line(report.facts)}"


def _ceiling_line(facts: dict[str, Any]) -> str:
    """The best scores that any model can reach, and what each limit costs."""
    found, costs = facts["ceiling"], facts["limits"]
    line = f"EM {found['exact_match']:.2f}, F1 {found['f1']:.2f} with this tokenizer and these windows"
    apart = [
        f"{what} {_points(costs[name])} ({fix})"
        for name, what, fix in (
            ("windows", "windows cost", "raise --data.doc_stride or --data.max_length"),
            ("tokens", "tokens cost", "answers begin or end within a token"),
        )
        if max(costs[name].values()) >= 0.005
    ]
    line += f": {', '.join(apart)}" if apart else ""
    if max((cost := costs["max_answer_length"]).values()) >= 0.005:
        length = facts["max_answer_length"]
        line += f"; max_answer_length {length} costs {_points(cost)} of it (raise --model.max_answer_length)"
    return line


def _points(cost: dict[str, float]) -> str:
    em, f1 = (max(cost[name], 0.0) for name in ("exact_match", "f1"))  # a rounding error below 0 would read "-0.00"
    return f"EM {em:.2f}, F1 {f1:.2f}"


def print_report(report: Report, console: Console) -> None:
    """Print a report: counts, then the findings, then the first rows of each finding."""
    console.print(f"[bold]{_cell(report.source)}[/bold]", highlight=False)
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in _fact_lines(report.facts):
        facts.add_row(_cell(name), _cell(value))
    console.print(facts)
    if not report.findings:
        console.print("nothing was found that is wrong", style="green")
        return
    table = Table(title="what was found", title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("fix", overflow="fold")
    for finding in report.findings:
        level = f"[{_COLOURS[finding.severity]}]{finding.severity}[/]"
        table.add_row(level, f"{finding.count:,}", finding.title, _cell(finding.fix))
    console.print(table)
    for finding in report.findings:
        whole = "the row" if finding.count == 1 else f"all {finding.count:,}"
        part = f"the first {len(finding.rows):,} of {finding.count:,}"
        title = f"{finding.title}: {whole if len(finding.rows) == finding.count else part}"
        rows = Table(title=title, title_justify="left")
        for header in ("place", "id", "what"):
            rows.add_column(header, overflow="fold")
        for row in finding.rows:
            rows.add_row(*(_cell(row[name]) for name in ("place", "id", "what")))
        console.print(rows)


def _cell(text: str) -> str:
    """A text for ``rich``, which reads markup in it, and for the terminal behind that."""
    return escape(visible(text))


def _fact_lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Facts as pairs of a name and a text."""
    for line in facts.get("read", []):
        yield "read as", line
    yield "questions", _questions_line(facts)
    if "validation" in facts:
        yield "to validate on", _questions_line(facts["validation"])
    for name in ("scripts", "languages"):
        total = sum(facts[name].values()) or 1
        shares = [f"{kind} {count / total:.0%}" for kind, count in list(facts[name].items())[:8]]
        yield name, ", ".join(shares) or "none"
    if reason := facts.get("tokens_unchecked"):
        yield "tokens", f"not checked; {reason}"
        return
    for name, spread in facts["tokens"].items():
        yield f"tokens per {name}", _spread_line(spread)
    yield "windows per question", _spread_line(facts["windows_per_question"])
    yield "at best", worded(_ceiling_line(facts))
    if facts["unknown"]:
        unknown = [f"{text!r} {count:,}" for text, count in list(facts["unknown"].items())[:10]]
        yield "unknown", ", ".join(unknown)


def _questions_line(facts: dict[str, Any]) -> str:
    answers = f"{counted(facts['answers'], 'answer')}, {counted(facts['unanswerable'], 'question')} without an answer"
    return f"{facts['rows']:,} about {counted(facts['contexts'], 'context')}; {answers}"


def _spread_line(spread: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in spread.items())
