"""The flags of the commands but `train`: both spellings, texts as they are, refusals in one line, files of flags."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path

import pytest

from qa_lightning.cli import check_data, evaluate, export, flags, predict
from qa_lightning.cli.flags import READING, Flags, decimal, positive, reading_of
from qa_lightning.data.columns import Columns, ReadSettings
from qa_lightning.errors import InputError
from tests.helpers import commands

COLUMNS = tuple(field.name for field in fields(Columns))


def example() -> Flags:
    made = Flags("evaluate", "An example.")
    made.add_argument("--data", type=str, help="a text")
    made.add_argument("--text", type=str, help="another")
    made.add_argument("--output_dir", type=Path)
    made.add_argument("--batch_size", type=positive, default=32, help="windows a step")
    made.add_argument("--max_f1_drop", type=decimal, help="points")
    made.add_argument("--dry_run", action="store_true")
    made.add_argument("--dtype", choices=("float32", "bfloat16"))
    made.add_reading()
    return made


@pytest.mark.parametrize("flag", ["--data", "--dataset", "--data.dataset"])
def test_data_that_are_named_without_a_flag_are_told_so(flag, capsys) -> None:
    with pytest.raises(SystemExit):
        check_data.check_data([flag, "questions.csv"])
    assert capsys.readouterr().err.endswith("check-data FILE\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--batch_size", "3", "--output_dir", "a-b", "--dry_run", "--max_f1_drop=0.5"],
        ["--batch-size", "3", "--output-dir", "a-b", "--dry-run", "--max-f1-drop=0.5"],
        ["--batch-size=3", "--output_dir=a-b", "--dry-run", "--max-f1_drop", ".5"],
    ],
)
def test_dashes_and_underscores_are_the_same_flag(words: list[str]) -> None:
    options = example().read(words)
    values = (options.batch_size, options.output_dir, options.dry_run, options.max_f1_drop)
    assert values == (3, Path("a-b"), True, 0.5)


def test_a_word_that_ends_as_a_flag_is_none() -> None:
    options = example().read(["--text", "mytext", "--data", "__data", "--output_dir", "--dry-run"[2:]])
    assert (options.text, options.data, options.output_dir) == ("mytext", "__data", Path("dry-run"))


@pytest.mark.parametrize("prefix", ["--columns", "--data.columns"])
@pytest.mark.parametrize("column", COLUMNS)
def test_columns_go_by_both_names(prefix: str, column: str) -> None:
    for words in ([f"{prefix}.{column}", "my-name"], [f"{prefix}.{column}=my-name"]):
        columns = reading_of(example().read(["--data", "d", *words])).columns
        assert {name: getattr(columns, name) for name in COLUMNS} == dict.fromkeys(COLUMNS) | {column: "my-name"}


@pytest.mark.parametrize("separator", ["|", ";", "//", " / ", "#", "- ", "null;", "~", "&", "*", "[", ": ", "%s"])
def test_encoding_and_separator_go_by_both_names_and_any_mark_comes_through(separator: str) -> None:
    for words in (
        ["--encoding", "cp1252", f"--answer_separator={separator}"],
        ["--data.encoding=cp1252", f"--data.answer_separator={separator}"],
        ["--data.encoding", "cp1252", f"--answer-separator={separator}"],
    ):
        reading = reading_of(example().read(words))
        assert (reading.encoding, reading.answer_separator) == ("cp1252", separator)
        assert reading.columns == Columns()


def test_settings_that_cannot_be_used_are_refused_together() -> None:
    with pytest.raises(InputError) as caught:
        reading_of(example().read(["--encoding", "nonsense", "--answer_separator", "and"]))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "true",
        "1e3",
        "[1, 2]",
        "{a: b}",
        "a: b",
        "~",
        "",
        " ",
        "- a --b",
        "--why not?",
        "@f",
        "%s",
        "é\n",
        "12:30",
    ],
)
def test_a_text_comes_through_as_it_is(text: str) -> None:
    options = example().read(["--text", text, "--data=" + text, "--columns.question", text])
    assert (options.text, options.data, options.columns.question) == (text, text, text)


def refused(capsys, words: list[str], made: Flags | None = None) -> list[str]:
    """The lines of the refusal."""
    with pytest.raises(SystemExit) as ended:
        (made or example()).read(words)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("error: ")
    return err.removeprefix("error: ").splitlines()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--bach_size", "3"], "there is no flag --bach_size; did you mean --batch_size?"),
        (["--bach-size=3"], "there is no flag --bach-size; did you mean --batch_size?"),
        (["--batch", "3"], "there is no flag --batch; did you mean --batch_size?"),
        (["--colums.question", "q"], "there is no flag --colums.question; did you mean --columns.question?"),
        (["--data.columns.quesion", "q"], "there is no flag --columns.quesion; did you mean --columns.question?"),
        (["--data.x", "1", "--data", "d"], "there is no flag --data.x; did you mean --data?"),
        (["--zzzzzz"], "there is no flag --zzzzzz"),
        (["--batch_size", "0"], "--batch_size: 0 is less than 1"),
        (["--batch_size", "9" * 20], f"--batch_size: {'9' * 20} is more than 4294967295"),
        (["--batch-size", "x"], "--batch_size: x is not a whole number"),
        (["--batch_size", "2.5"], "--batch_size: 2.5 is not a whole number"),
        (["--max_f1_drop", "x"], "--max_f1_drop: x is not a number"),
        (["--text"], "--text: expected one argument"),
        (["two", "words"], "'two words' belongs to no flag; a text with spaces goes in quotes"),
        (["--dry_run", "true"], "'true' belongs to no flag; a text with spaces goes in quotes"),
        (["--config", "gone.yaml"], f"--config: File does not exist: '{Path.cwd()}/gone.yaml'"),
    ],
)
def test_a_wrong_flag_is_one_line_with_the_right_one(capsys, words: list[str], line: str) -> None:
    assert refused(capsys, words) == [line]


def test_a_wrong_choice_lists_the_right_ones(capsys) -> None:
    (line,) = refused(capsys, ["--dtype", "int4"])
    assert line == "--dtype is 'int4'; it must be float32 or bfloat16"


def test_all_unknown_flags_are_told_at_once(capsys) -> None:
    lines = refused(capsys, ["--bach_size", "3", "--ouput-dir", "x", "--text", "t"])
    assert [line.split()[4] for line in lines] == ["--bach_size;", "--ouput-dir;"]


@pytest.mark.parametrize(
    ("command", "words", "needed"),
    [
        (evaluate.evaluate, ["--model", "m"], "--data: required"),
        (predict.predict, ["--question", "q", "--context", "c"], "--model: required"),
        (export.export, [], "--model: required"),
        (check_data.check_data, [], "data: required"),
    ],
)
def test_what_is_needed_is_named(capsys, command, words, needed: str) -> None:
    with pytest.raises(SystemExit) as ended:
        command(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {needed}\n"


def test_flags_that_do_not_go_together_are_told_at_once(capsys) -> None:
    words = ["--predictions", "p", "--data", "d", "--official", "--mixed-script", "--threshold-file", "t"]
    with pytest.raises(SystemExit):
        commands.evaluate([*words, "--model", "m", "--null-odds", "o"])
    assert len(capsys.readouterr().err.splitlines()) == 2  # the model or the predictions, and the official scorer
    with pytest.raises(SystemExit):
        commands.evaluate(words)
    assert capsys.readouterr().err.splitlines() == [
        "error: --official compares with the SQuAD scorer, which knows no --mixed_script",
        "--threshold_file goes with --model, whose threshold it replaces",
    ]
    with pytest.raises(SystemExit):
        commands.predict(["--model", "m", "--question", "q", "--batch_size", "3"])
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_help_shows_defaults_and_one_spelling(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        example().read(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "windows a step [32]" in text
    assert "points --" in text  # no default, and so none is shown
    assert "--batch_size" in text
    assert "--batch-size" not in text


def test_flags_come_from_a_file_and_the_command_line_overrides_it(tmp_path, capsys) -> None:
    file = tmp_path / "flags.yaml"
    file.write_text("batch_size: 5\ntext: one\ndry_run: true\ncolumns:\n  question: frage\n")
    options = example().read(["--config", str(file), "--text", "two"])
    assert (options.batch_size, options.text, options.dry_run, options.columns.question) == (5, "two", True, "frage")
    for content, line in (
        ("batch_size: 2.5", "--batch_size: 2.5 is not a whole number"),
        ("batch_size: 0", "--batch_size: 0 is less than 1"),
        ("bach_size: 3", "there is no flag --bach_size; did you mean --batch_size?"),
        ("columns: {quesion: q}", "there is no flag --columns.quesion; did you mean --columns.question?"),
        ("text: 5", "--text is 5; it must be a text"),
    ):
        file.write_text(content)
        assert refused(capsys, ["--config", str(file)]) == [line]


def test_evaluate_runs_from_a_file_of_flags(tmp_path, capsys) -> None:
    (tmp_path / "questions.csv").write_text("id,frage,text,answer\n1,Who ?,Ben lives .,Ben\n")
    (tmp_path / "predictions.json").write_text('{"1": "Ben"}')
    given = {"predictions": str(tmp_path / "predictions.json"), "data": str(tmp_path / "questions.csv")}
    (tmp_path / "flags.json").write_text(json.dumps({**given, "columns": {"question": "frage"}}))
    assert commands.evaluate(["--config", str(tmp_path / "flags.json")]) == 0
    assert "exact_match    100.0000" in capsys.readouterr().out


@pytest.mark.parametrize("made", [positive, decimal])
def test_a_bad_value_is_told_by_the_command_line_and_by_files_alike(made) -> None:
    for kind in (argparse.ArgumentTypeError, ValueError):
        with pytest.raises(kind):
            made("x")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data.bach_size", "3"], "there is no flag --data.bach_size; did you mean --data.batch_size?"),
        (["--batch_size", "3"], "there is no flag --batch_size; did you mean --data.batch_size?"),
        (["--trainer.bla", "3"], "there is no flag --trainer.bla; did you mean --trainer.benchmark?"),
        (["--data.batch_size", "x"], "--data.batch_size is 'x'; it must be a whole number or auto"),
        (["--trainer.max_epochs", "x"], "--trainer.max_epochs is 'x'; it must be a whole number or null"),
        (["--data.train_answers", "both"], "--data.train_answers is 'both'; it must be first or all"),
        (["--data.batching=null"], "--data.batching is None; it must be length or random"),
        (
            ["--data.on_bad_rows", "skp"],
            "--data.on_bad_rows is 'skp'; it must be one of error, skip, repair or repair_or_skip; did you mean skip?",
        ),
        (
            ["--model.mixed_script", "kanna"],
            "--model.mixed_script is 'kanna'; it must be one of true, false, mlqa, kana or korquad; did you mean kana?",
        ),
        (["--config", "data: {bach_size: 3}"], "there is no flag --data.bach_size; did you mean --data.batch_size?"),
    ],
)
def test_training_refuses_in_one_line_too(capsys, words: list[str], line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.train(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_the_columns_are_those_of_the_data() -> None:
    assert flags.COLUMN_NAMES == COLUMNS == tuple(field.name for field in fields(Columns))
    assert {name.split(".")[0] for name in READING} == {field.name for field in fields(ReadSettings)}


def test_check_data_refuses_what_has_no_effect_without_a_model(capsys) -> None:
    words = ["--max-length", "48", "--doc_stride", "12", "--max_question_length", "12", "--max_answer_length", "8"]
    with pytest.raises(InputError) as refused:
        commands.check_data(["questions.csv", *words, "--mixed_script", "kana", "--rows", "3"])
    assert refused.value.problems == [
        f"--{name} is of no use without --model; add that, or leave it out"
        for name in ("max_length", "doc_stride", "max_question_length", "max_answer_length", "mixed_script")
    ]
    with pytest.raises(InputError, match="no such file"):
        commands.check_data(["none.csv", *words, "--model", "tiny"])


def test_check_data_lists_at_least_one_row(capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.check_data(["questions.csv", "--rows", "-1"])
    assert (ended.value.code, capsys.readouterr().err) == (2, "error: --rows: -1 is less than 1\n")
